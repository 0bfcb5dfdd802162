//! What runs against a cluster.

pub mod missed;
