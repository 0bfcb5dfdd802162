//! Images on nodes ahead of the pods that need them: what is decided about them, of values alone.
//!
//! ```text
//! ImageListPullJob ─▶ list ─▶ ImagePullJobs ─▶ job ──┐
//!                                                    ▼
//!                Nodes, NodeImages ─▶ node ─▶ board ─┬▶ one patch a node, of all that jobs want of it
//!                                                    ├▶ statuses of jobs
//!                 Secrets ─▶ secrets ─▶ copies ──────┴▶ what is due next
//!
//! NodeImage ─▶ tag: waits, attempts, ends ─▶ report ─▶ its status      credentials, disk, progress: for one pull
//! ```
//!
//! The controllers act on the first half (`controllers::images`), on each node the daemon on the second (`daemon::images`);
//! [`ask`] makes the job of `outrigger pull`, [`watch`] shows how far it is.

pub mod ask;
pub mod board;
pub mod credentials;
pub mod disk;
pub mod job;
pub mod list;
pub mod node;
pub mod progress;
pub mod report;
pub mod secrets;
pub mod tag;
pub mod watch;
