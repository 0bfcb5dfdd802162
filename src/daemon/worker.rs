//! Stub.
use super::node::{Key, Shared};
use std::sync::Arc;
use tokio::sync::Notify;

pub(super) struct Worker {
    shared: Arc<Shared>,
    pod: Key,
    signal: Arc<Notify>,
}
impl Worker {
    pub(super) fn new(shared: Arc<Shared>, pod: Key, signal: Arc<Notify>) -> Self {
        Self { shared, pod, signal }
    }
    pub(super) async fn run(self) {
        while !self.shared.is_over(&self.pod) {
            self.signal.notified().await;
        }
    }
}
