//! From the socket to the answer.

pub mod certs;
pub mod server;
