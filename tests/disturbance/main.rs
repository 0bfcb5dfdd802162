//! What takes minutes: 2,000 pods are created while everything around the webhook is disturbed. `make e2e` runs it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests fail the test; parts of other targets are shared"
)]

#[path = "../support/cluster/mod.rs"]
mod harness;

#[path = "../cluster/explain.rs"]
mod explain;
#[path = "../cluster/images.rs"]
mod images;
#[path = "../cluster/launch.rs"]
mod launch;
#[path = "../cluster/manager.rs"]
mod manager;
#[path = "../cluster/recreate.rs"]
mod recreate;
#[path = "../cluster/rollout.rs"]
mod rollout;

use std::process::ExitCode;

use harness::Parts;

fn main() -> ExitCode {
    harness::run::main(Parts::Controllers, manager::long_tests())
}
