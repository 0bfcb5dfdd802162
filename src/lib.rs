//! Outrigger keeps sidecars beside the containers they serve.

pub mod admission;
pub mod api;
pub mod quantity;
pub mod selector;
pub mod sidecarset;
