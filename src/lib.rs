//! Outrigger keeps sidecars beside the containers they serve.
//!
//! The way of a pod, front to back; a request never turns back and calls nobody:
//!
//! ```text
//! API server ─HTTPS─▶ admission::server ─▶ admission (routes) ─▶ admission::review   the review in, the answer out
//!                                                                      │
//!                                                              admission::pod        the steps, in order:
//!                                                                      ├─ readiness            gate
//!   files, watches ─▶ store (Objects ─▶ Snapshot of compiled sets) ─▶    ├─ sidecarset::select   which sets, which revision
//!                                                                      ├─ sidecarset::metadata annotations
//!                                                                      ├─ sidecarset::inject   containers, volumes, env
//!                                                                      ├─ launch               barriers by priority
//!                                                                      ├─ sidecarset::records  what was injected
//!                                                                      └─ admission::patch     edits ─▶ RFC 6902
//! ```
//!
//! Every path that takes reviews is a line of the table `admission::routes`; those of SidecarSets lead to
//! `admission::sidecarset`, those of ContainerRecreateRequests to `admission::recreate`, which asks the API server, and those
//! of images to `admission::pulljob`, `imagelist` and `nodeimage`.
//!
//! The way of a SidecarSet: `manifest` (documents) → `sidecarset::admit` (types, defaults, hashes, validation) →
//! `sidecarset::compiled` (everything that does not depend on a pod). How a change of it reaches running pods: [`rollout`]
//! decides, [`controllers`] acts. How single containers are restarted on request: [`recreate`] decides, on each node
//! [`daemon`] acts, through [`cri`]. How images come to nodes ahead of pods: [`images`] decides, [`daemon::images`] pulls.
//! Rules return [`edits`], and record [`facts`] where
//! they decide; warnings and `explain` are made of these. Arrows point one way: `admission`, `cli`, `app` → `store` →
//! `sidecarset`, `launch` → `pod`, `selector`, `quantity` → `api`.

pub mod admission;
pub mod api;
pub mod apiserver;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod controllers;
pub mod convert;
pub mod crds;
pub mod cri;
pub mod daemon;
pub mod edits;
pub mod explain;
pub mod facts;
pub mod gates;
pub mod health;
pub mod images;
pub mod launch;
pub mod manifest;
pub mod pod;
pub mod quantity;
pub mod readiness;
pub mod recreate;
pub mod rollout;
pub mod scan;
pub mod selector;
pub mod sidecarset;
pub mod store;
pub mod telemetry;
