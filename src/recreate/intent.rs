//! That a container is about to be stopped, as it is written down before (WEAK-2).
//!
//! A condition of the request, since a node may write nothing else (DMN-20). Who does not know it lets it be.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Instance, Request, State};
use crate::api::json;

/// Type of the condition.
const TYPE: &str = "ContainerStopping";

/// An instance of a container that is about to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Intent {
    /// Name of the container.
    pub(super) container: String,
    /// Which instance of it.
    #[serde(flatten)]
    pub(super) instance: Identity,
    /// When it was decided, by the clock of the node.
    pub(super) since: Timestamp,
}

/// Which instance of a container (CRR-9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    /// The runtime's id.
    #[serde(rename = "containerID")]
    pub(super) id: String,
    /// For runtimes that restart in place.
    pub(super) restart_count: i32,
}

// === impl Intent ===

impl Intent {
    /// The one that a request has.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let condition = request.status.conditions.iter().find(|condition| condition.r#type == TYPE)?;
        serde_json::from_str(&condition.message).ok()
    }

    /// The conditions of a request with this one in the place of a former one, or with none.
    pub(super) fn conditions(request: &Request, intent: Option<&Self>) -> Vec<Value> {
        let others = request.status.conditions.iter().filter(|condition| condition.r#type != TYPE);
        let mut conditions: Vec<Value> = others.map(|condition| json!(condition)).collect();
        conditions.extend(intent.map(|intent| {
            json!({
                "type": TYPE, "status": "True", "reason": TYPE, "message": json::text(intent),
                "lastTransitionTime": intent.since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            })
        }));
        conditions
    }
}

// === impl Identity ===

impl Identity {
    pub(super) fn of(instance: &Instance) -> Self {
        Self { id: instance.id.clone(), restart_count: instance.restart_count }
    }

    /// Whether this instance runs no more, as the newest instance of its container tells.
    pub(super) fn is_over(&self, newest: Option<&Instance>) -> bool {
        newest.is_none_or(|newest| self.is_replaced_by(newest) || newest.state == State::Exited)
    }

    /// Whether this is an instance that came later (CRR-41.5).
    pub(super) fn is_replaced_by(&self, newest: &Instance) -> bool {
        newest.id != self.id || newest.restart_count > self.restart_count
    }
}
