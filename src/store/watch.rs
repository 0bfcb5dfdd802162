//! Objects from a cluster.
