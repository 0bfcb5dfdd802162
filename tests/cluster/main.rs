//! Against a real API server with its controller manager, without nodes: `make test` builds or finds them.
//!
//! A module for each subject; its tests are `async fn(&Cluster, &Namespace) -> Result<()>`, listed in its `tests()`.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "helpers of tests fail the test")]

#[path = "../support/fleet/mod.rs"]
mod fleet;
#[path = "../support/cluster/mod.rs"]
mod harness;
#[path = "../support/cri/mod.rs"]
mod runtime;

mod crds;
mod daemon;
mod explain;
mod facts;
mod images;
mod launch;
mod manager;
mod missed;
mod pull;
mod pull_scale;
mod recreate;
mod registration;
mod rollout;
mod store;

use std::process::ExitCode;

use harness::Parts;

fn main() -> ExitCode {
    let subjects = [
        facts::tests(),
        // These two begin and end without the CRDs; what comes after them leaves the CRDs there.
        crds::tests(),
        registration::tests(),
        explain::tests(),
        images::tests(),
        daemon::tests(),
        launch::tests(),
        manager::tests(),
        missed::tests(),
        pull::tests(),
        pull_scale::tests(),
        recreate::tests(),
        rollout::tests(),
        store::tests(),
    ];
    harness::run::main(Parts::Controllers, subjects.into_iter().flatten())
}
