//! Outrigger keeps sidecars beside the containers they serve.

pub mod admission;
pub mod quantity;
pub mod sidecarset;
