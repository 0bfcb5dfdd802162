//! A pod of the node, as far as it is read to restart its containers.

use serde_json::Value;

/// Characters of a sentence of the kubelet that are told.
const DETAILS: usize = 200;

/// A pod of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Whether it is being deleted.
    pub is_going_away: bool,
    /// Its containers, and its native sidecars (WEAK-10).
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its `lifecycle.preStop`. WEAK-5: that of the live pod; a request knows only some kinds.
    pub hook: Option<Value>,
    /// When the kubelet starts it again: `Always`, `OnFailure`, `Never`, or what there may be one day.
    pub restart_policy: String,
    /// What the kubelet says of it.
    pub status: Option<Status>,
}

/// What the kubelet says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `runtime://id` of its instance.
    pub id: String,
    /// How often it was restarted.
    pub restart_count: i32,
    /// Whether it is ready.
    pub is_ready: bool,
    /// Why it waits, in a word; empty when it does not.
    pub waiting: String,
    /// The same in a sentence: which image, which exit, how long. Cut to what people read.
    pub details: String,
    /// How instances ended that the kubelet still tells of, the newest first: `runtime://id` and words for people.
    pub ends: Vec<(String, String)>,
}

// === impl Pod ===

impl Pod {
    /// Reads a pod, whatever is in it.
    pub fn read(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let natives = list(&spec["initContainers"]).filter(|container| container["restartPolicy"] == "Always");
        let natives = natives.map(|container| (container, &status["initContainerStatuses"]));
        let containers = list(&spec["containers"]).map(|container| (container, &status["containerStatuses"]));
        let read = |(container, statuses): (&Value, &Value)| Container {
            name: text(&container["name"]),
            restart_policy: text(match &container["restartPolicy"] {
                Value::Null => &spec["restartPolicy"],
                own => own,
            }),
            hook: Some(&container["lifecycle"]["preStop"]).filter(|hook| hook.is_object()).cloned(),
            status: list(statuses).find(|status| status["name"] == container["name"]).map(Status::read),
        };
        Self {
            uid: text(&pod["metadata"]["uid"]),
            is_going_away: pod["metadata"]["deletionTimestamp"].is_string(),
            containers: containers.chain(natives).map(read).collect(),
        }
    }

    /// A container by name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

// === impl Status ===

impl Status {
    fn read(status: &Value) -> Self {
        Self {
            id: text(&status["containerID"]),
            restart_count: status["restartCount"].as_i64().and_then(|count| count.try_into().ok()).unwrap_or_default(),
            is_ready: status["ready"] == true,
            waiting: text(&status["state"]["waiting"]["reason"]),
            details: status["state"]["waiting"]["message"].as_str().unwrap_or_default().chars().take(DETAILS).collect(),
            ends: [&status["state"], &status["lastState"]].into_iter().filter_map(end).collect(),
        }
    }
}

/// Which instance ended, and how.
fn end(state: &Value) -> Option<(String, String)> {
    let terminated = state["terminated"].as_object()?;
    let code = terminated.get("exitCode")?.as_i64()?;
    let id = terminated.get("containerID")?.as_str()?;
    let reason = match terminated.get("reason").and_then(Value::as_str).unwrap_or_default() {
        "" | "Error" | "Completed" => String::new(),
        reason => format!(" ({})", reason.chars().take(DETAILS).collect::<String>()),
    };
    Some((id.to_owned(), format!("exit code {code}{reason}")))
}
