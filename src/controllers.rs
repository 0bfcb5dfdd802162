//! The loops that change a cluster on their own, under the Lease.
//!
//! ```text
//! watch of pods ─▶ sidecarset::pods (cache) ─┐ wakes             decides                 does
//! store (sets, namespaces, revisions) ───────┴─▶ worker of a set ─▶ rollout::plan ─▶ writer: one PATCH a pod and step
//!                                                     ▲                                 │
//!                                                     └────── the API server's answer ◀─┘
//! ```

pub mod events;
pub mod recreate;
pub mod sidecarset;
