//! What a SidecarSet means.

pub mod expression;
