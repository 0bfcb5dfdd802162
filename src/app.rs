//! The process, wired: [`standalone`] from files, [`cluster`] from an API server. What they have in common is here.

pub mod cluster;
mod loops;
pub mod standalone;

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::admission::pod::Ambient;

/// How long requests in flight may take once a signal came; below the kubelet's 30 s.
const DRAIN: Duration = Duration::from_secs(20);

/// Waits for SIGTERM or SIGINT.
pub async fn signalled() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// The clock and the dice, read at the edge only.
pub fn ambient() -> Ambient {
    Ambient { now: now(), random: fastrand::u64(..) }
}

/// The clock.
pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the edge: time enters here")]
    Timestamp::now()
}
