//! The loops that change a cluster on their own, under the Lease.
//!
//! ```text
//! pods (one watch) ─┬─▶ sidecarset::pods (cache) ─┐ wakes        decides                 does
//! store (sets …) ───│─────────────────────────────┴─▶ worker of a set ─▶ rollout::plan ─▶ writer: one PATCH a pod and step
//!                   │                                      ▲                                 │
//!                   │                                      └────── the API server's answer ◀─┘
//!                   ├─▶ recreate: a pod whose containers are to be restarted ─▶ decide ─▶ pass: one step after the other
//!                   ├─▶ images: nodes of the pods that an ImagePullJob selects ─▶ board ─▶ one PATCH a NodeImage
//!                   ├─▶ launch: a pod whose containers wait for their turn
//!                   ├─▶ missed: a pod that should have been injected and was not
//!                   └─▶ readiness: a pod that waits for its gate
//! ```

pub mod events;
pub mod images;
pub mod launch;
pub mod missed;
pub mod pods;
pub mod queue;
pub mod readiness;
pub mod recreate;
pub mod sidecarset;
