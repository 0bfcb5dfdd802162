//! On a node: real containers of real images. Needs root; `make e2e`.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "helpers of tests fail the test")]

#[path = "../support/cluster/mod.rs"]
mod harness;

mod facts;
mod outrigger;
mod rollout;

use std::process::ExitCode;

use harness::Parts;

fn main() -> ExitCode {
    let subjects = [facts::tests(), outrigger::tests(), rollout::tests()];
    harness::run::main(Parts::Node, subjects.into_iter().flatten())
}
