//! The TLS listener: limits and drain.
