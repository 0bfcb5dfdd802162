//! The API server, as far as requests and one pod name go: versions, conflicts, finalizers, and what its watches tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use outrigger::api::names;
use outrigger::recreate::{Pod, Request};
use serde_json::{Value, json};

/// A request in one version.
pub struct Stored {
    pub json: Value,
    pub read: Request,
}

/// The pod in one version.
pub struct StoredPod {
    pub json: Value,
    pub read: Pod,
    pub has_gate: bool,
}

/// What a watch tells.
pub struct Told<T> {
    pub is_gone: bool,
    pub object: Arc<T>,
}

/// Why a write is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Conflict,
    NotFound,
}

#[derive(Default)]
pub struct Cluster {
    version: u64,
    pub requests: BTreeMap<String, Arc<Stored>>,
    pub pod: Option<Arc<StoredPod>>,
    /// All that the watches tell, in order.
    pub told: Vec<Told<Stored>>,
    pub told_of_pods: Vec<Told<StoredPod>>,
}

// === impl Stored ===

impl Stored {
    fn new(json: Value) -> Arc<Self> {
        Arc::new(Self { read: Request::read(&json), json })
    }

    /// The next version. Only what changes is read, since reading costs most of the time of a sequence; now and then all of
    /// it is, and is the same.
    fn next(&self, json: Value) -> Arc<Self> {
        let (metadata, mut read) = (&json["metadata"], self.read.clone());
        metadata["resourceVersion"].as_str().unwrap().clone_into(&mut read.version);
        if json["status"] != self.json["status"] {
            read.status = serde_json::from_value(json["status"].clone()).unwrap();
        }
        read.is_going = metadata["deletionTimestamp"].is_string();
        read.is_active = metadata["labels"][names::RECREATE_ACTIVE].is_string();
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        read.finalizers = finalizers.filter_map(Value::as_str).map(str::to_owned).collect();
        if read.version.ends_with("37") {
            assert_eq!(read, Request::read(&json));
        }
        Arc::new(Self { json, read })
    }
}

// === impl Cluster ===

impl Cluster {
    pub fn version(&self) -> u64 {
        self.version
    }

    fn stamp(&mut self, mut json: Value) -> Value {
        self.version += 1;
        json["metadata"]["resourceVersion"] = self.version.to_string().into();
        json
    }

    pub fn create(&mut self, json: Value) {
        let stored = Stored::new(self.stamp(json));
        self.requests.insert(stored.read.name.clone(), Arc::clone(&stored));
        self.told.push(Told { is_gone: false, object: stored });
    }

    /// A merge patch of a request or of its status.
    pub fn patch(&mut self, name: &str, is_status: bool, patch: &Value) -> Result<Arc<Stored>, Refused> {
        let Some(old) = self.requests.get(name).cloned() else { return Err(Refused::NotFound) };
        let differs = |member: &str| {
            let wanted = &patch["metadata"][member];
            !wanted.is_null() && *wanted != old.json["metadata"][member]
        };
        if differs("uid") || differs("resourceVersion") {
            return Err(Refused::Conflict);
        }
        let mut json = old.json.clone();
        let place = if is_status { "status" } else { "metadata" };
        json_patch::merge(&mut json[place], &patch[place]);
        if json == old.json {
            return Ok(old);
        }
        Ok(self.put(&old, json))
    }

    fn put(&mut self, old: &Stored, json: Value) -> Arc<Stored> {
        let new = old.next(self.stamp(json));
        let name = new.read.name.clone();
        let is_gone = new.read.is_going && new.read.finalizers.is_empty();
        if is_gone {
            self.requests.remove(&name);
        } else {
            self.requests.insert(name, Arc::clone(&new));
        }
        // Daemons watch those with the label; one that loses it is gone for them.
        self.told.push(Told { is_gone, object: Arc::clone(&new) });
        new
    }

    pub fn delete(&mut self, name: &str, version: Option<&str>, now: Timestamp) -> Result<(), Refused> {
        let Some(old) = self.requests.get(name).cloned() else { return Err(Refused::NotFound) };
        if version.is_some_and(|version| version != old.read.version) {
            return Err(Refused::Conflict);
        }
        if !old.read.is_going {
            let mut json = old.json.clone();
            json["metadata"]["deletionTimestamp"] = json!(now);
            self.put(&old, json);
        }
        Ok(())
    }

    /// Somebody writes something that nobody here reads.
    pub fn touch(&mut self, name: &str) {
        if let Some(old) = self.requests.get(name).cloned() {
            let mut json = old.json.clone();
            json["metadata"]["annotations"] = json!({"touched": self.version.to_string()});
            self.put(&old, json);
        }
    }

    pub fn put_pod(&mut self, json: Value) {
        let json = self.stamp(json);
        let has_gate = outrigger::readiness::has_gate(&json);
        let pod = Arc::new(StoredPod { read: Pod::read(&json), has_gate, json });
        self.pod = Some(Arc::clone(&pod));
        self.told_of_pods.push(Told { is_gone: false, object: pod });
    }

    pub fn remove_pod(&mut self) {
        if let Some(pod) = self.pod.take() {
            self.version += 1;
            self.told_of_pods.push(Told { is_gone: true, object: pod });
        }
    }
}
