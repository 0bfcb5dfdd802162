//! What a SidecarSet means.

pub mod defaults;
pub mod expression;
pub mod revision;
pub mod validate;
