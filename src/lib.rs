//! Outrigger keeps sidecars beside the containers they serve.

pub mod admission;
pub mod api;
pub mod app;
pub mod cli;
pub mod edits;
pub mod explain;
pub mod facts;
pub mod launch;
pub mod manifest;
pub mod pod;
pub mod quantity;
pub mod readiness;
pub mod scan;
pub mod selector;
pub mod sidecarset;
pub mod store;
pub mod telemetry;
