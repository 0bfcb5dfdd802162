//! On a node: real containers of real images. Needs root; `make e2e`.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "helpers of tests fail the test")]

#[path = "../support/cluster/mod.rs"]
mod harness;
#[path = "../support/registry/mod.rs"]
mod registry;

mod daemon;
mod facts;
mod image_secrets;
mod image_site;
mod image_trouble;
mod images;
mod launch;
mod outrigger;
mod pods;
mod recreate;
mod restart;
mod rollout;
mod storm;

use std::process::ExitCode;

use harness::Parts;

fn main() -> ExitCode {
    let subjects = [
        facts::tests(),
        outrigger::tests(),
        rollout::tests(),
        launch::tests(),
        recreate::tests(),
        restart::tests(),
        daemon::tests(),
        storm::tests(),
        images::tests(),
    ];
    harness::run::main(Parts::Node, subjects.into_iter().flatten())
}
