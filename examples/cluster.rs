//! A Kubernetes to play with: the one that the tests start.
//!
//! `cluster DIR` runs until SIGTERM or ctrl-c. Into `DIR` it writes `kubeconfig` once the cluster answers, a file `NAME.pid`
//! for each process, and the link `log`. As root with a node, otherwise the control plane alone. `make cluster-up` and
//! `make cluster-down` call it.

#![allow(clippy::print_stdout, reason = "talks to the person who started it")]

#[path = "../tests/support/cluster/mod.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::{Cluster, Parts};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).context("usage: cluster DIR")?;
    fs::create_dir_all(&dir)?;
    // Ours to catch from here on, so that nothing is left behind by one who is impatient.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let parts = if fs::metadata("/proc/self")?.uid() == 0 { Parts::Node } else { Parts::ControlPlane };
    let stopped = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::pin!(stopped);
    let cluster = tokio::select! {
        cluster = Cluster::start(parts) => cluster?,
        () = &mut stopped => return Ok(()),
    };

    // Outrigger itself is started here: `cluster.spawn("outrigger", &command)` with KUBECONFIG=cluster.kubeconfig().

    announce(&cluster, parts, &dir).await?;
    stopped.await;
    drop(cluster);
    Ok(fs::remove_dir_all(&dir)?)
}

async fn announce(cluster: &Cluster, parts: Parts, dir: &Path) -> Result<()> {
    for (name, id) in cluster.processes().await {
        fs::write(dir.join(format!("{name}.pid")), format!("{id}\n"))?;
    }
    symlink(cluster.logs(), dir.join("log"))?;
    // Last, and in one step: whoever waits for it may use it.
    fs::copy(cluster.kubeconfig(), dir.join("kubeconfig.next"))?;
    fs::rename(dir.join("kubeconfig.next"), dir.join("kubeconfig"))?;
    if parts == Parts::Node {
        println!("images for any name: push to {}", cluster.registry().await?);
    } else {
        println!("without root there is no node: pods stay pending");
    }
    Ok(())
}
