//! What a SidecarSet means.

pub mod admit;
pub mod audit;
pub mod compiled;
pub mod defaults;
pub mod expression;
pub mod inject;
pub mod metadata;
pub mod records;
pub mod resources;
pub mod revision;
pub mod select;
pub mod validate;
