//! What a node does about ContainerRecreateRequests: decided here, of values alone; done by the daemon.
//!
//! ```text
//! requests of a pod ─▶ choose ─▶ the one whose turn it is
//!                                  │     what the runtime and the pod say
//!                                  ▼     ▼
//!                                 step ─┬▶ Rest   until something happens
//!                                       ├▶ Write  its /status: phases, and what is about to be done
//!                                       ├▶ Hook   in the container that is to be stopped
//!                                       └▶ Stop   the container; the kubelet starts the new one
//! ```
//!
//! A container is stopped only after the API server has the [`Intent`](intent::Intent) to do so, with the identity of the
//! very instance. Whoever goes on after a kill finds it there: an instance that is gone was stopped, one that is still
//! there is stopped without its hook, which may have run (WEAK-2).

pub mod batch;
mod choose;
mod intent;
mod pod;
mod request;
mod step;
#[cfg(test)]
mod tests;
mod underway;

pub use self::choose::{Choice, choose, queued, waiting};
pub use self::pod::{Container, Pod, Status};
pub use self::request::Request;
pub use self::step::{Step, no_runtime, runtime, step};
pub use self::underway::Underway;

/// A container as the runtime knows it (CRI-5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Name of the container in its pod.
    pub name: String,
    /// The runtime's id, without the runtime's name.
    pub id: String,
    /// When it was made, in nanoseconds since 1970 by the clock of the node.
    pub created_at: i64,
    /// When it was started, likewise; 0 as long as it was not.
    pub started_at: i64,
    /// What it does.
    pub state: State,
    /// How often the container was restarted before (CRR-43).
    pub restart_count: i32,
}

/// What an instance of a container does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It is there and was not started.
    Created,
    /// It runs.
    #[default]
    Running,
    /// It has ended.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}
