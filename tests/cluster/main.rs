//! Against a real API server with its controller manager, without nodes: `make test` builds or finds them.
//!
//! A module for each subject; its tests are `async fn(&Cluster, &Namespace) -> Result<()>`, listed in its `tests()`.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "helpers of tests fail the test")]

#[path = "../support/cluster/mod.rs"]
mod harness;

mod facts;
mod store;

use std::process::ExitCode;

use harness::Parts;

fn main() -> ExitCode {
    let subjects = [facts::tests(), store::tests()];
    harness::run::main(Parts::Controllers, subjects.into_iter().flatten())
}
