//! A SidecarSet, its pods as JSON, and a node that does as it is told: what the traces are played in.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{Gates, Input, Plan, Pod, Step, Subresource, Write, plan};
use crate::api::names;
use crate::api::sidecarset::{SidecarSet, SidecarSetSpec};
use crate::sidecarset::records::{self, Record};
use crate::sidecarset::revision::Hashes;

pub(super) struct World {
    pub(super) set: SidecarSet,
    pub(super) resource_version: u64,
    pub(super) generation: i64,
    pub(super) pods: Vec<Value>,
    pub(super) now: Timestamp,
    pub(super) held: BTreeSet<String>,
    pub(super) revisions: Vec<(String, SidecarSetSpec)>,
    pub(super) gates: Gates,
    pub(super) at_most: usize,
    /// Images that no node can pull.
    pub(super) bad: BTreeSet<String>,
    /// What each container was last started with.
    started: BTreeMap<(String, String), String>,
    containers: u64,
}

impl World {
    pub(super) fn new(spec: Value) -> Self {
        let mut world = Self {
            set: SidecarSet::default(),
            resource_version: 7000,
            generation: 0,
            pods: Vec::new(),
            now: "2026-03-02T10:15:00Z".parse().unwrap(),
            held: BTreeSet::new(),
            revisions: Vec::new(),
            gates: Gates::default(),
            at_most: usize::MAX,
            bad: BTreeSet::new(),
            started: BTreeMap::new(),
            containers: 0,
        };
        world.set.metadata.name = "log-agent".to_owned();
        world.spec(spec);
        world
    }

    /// The set is changed.
    pub(super) fn spec(&mut self, spec: Value) {
        self.set.spec = serde_json::from_value(spec).unwrap();
        Hashes::of(&self.set.spec).annotate(&mut self.set);
        self.generation += 1;
        self.resource_version += 1;
    }

    pub(super) fn strategy(&mut self, strategy: Value) {
        self.set.spec.update_strategy = serde_json::from_value(strategy).unwrap();
        self.generation += 1;
    }

    /// The image of the sidecar is changed.
    pub(super) fn image(&mut self, image: &str) {
        let containers = self.set.spec.containers.iter_mut().chain(&mut self.set.spec.init_containers);
        containers.flatten().next().unwrap().image = image.to_owned();
        Hashes::of(&self.set.spec).annotate(&mut self.set);
        self.generation += 1;
        self.resource_version += 1;
    }

    fn sidecar_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.set.containers().iter().chain(self.set.init_containers()).map(|c| c.name.clone()).collect();
        names.sort();
        names
    }

    /// A pod is created, injected and started.
    pub(super) fn inject(&mut self, name: &str) {
        let hashes = Hashes::of(&self.set.spec);
        let record = Record::new("log-agent", &hashes, &self.sidecar_names(), "log-agent-1");
        let without = Hashes { full: hashes.without_image.clone(), without_image: String::new() };
        let without = Record::new("log-agent", &without, &self.sidecar_names(), "");
        let time = self.now.to_string();
        let mut annotations = json!({
            names::INJECTED_LIST: "log-agent",
            names::HASH: records::renewed(None, "log-agent", &record, &time),
            names::HASH_WITHOUT_IMAGE: records::renewed(None, "log-agent", &without, &time),
        });
        let mut containers = vec![json!({"name": "app", "image": "app:1"})];
        for sidecar in self.set.containers() {
            if sidecar.is_hot_upgrade() {
                let (base, empty) = (&sidecar.name, &sidecar.upgrade_strategy.hot_upgrade_empty_image);
                containers.push(json!({"name": format!("{base}-1"), "image": sidecar.image}));
                containers.push(json!({"name": format!("{base}-2"), "image": empty}));
                let working = annotations[names::WORKING_CONTAINER].as_str().map(str::to_owned);
                annotations[names::WORKING_CONTAINER] =
                    json!(records::working(working.as_deref(), base, &format!("{base}-1")));
                for (prefix, one, two) in [(names::VERSION_PREFIX, "1", "0"), (names::VERSION_ALT_PREFIX, "0", "1")] {
                    annotations[format!("{prefix}{base}-1")] = json!(one);
                    annotations[format!("{prefix}{base}-2")] = json!(two);
                }
            } else {
                containers.push(json!({"name": sidecar.name, "image": sidecar.image}));
            }
        }
        let natives = self.set.init_containers().iter();
        let natives: Vec<Value> =
            natives.map(|c| json!({"name": c.name, "image": c.image, "restartPolicy": "Always"})).collect();
        self.now = self.now.checked_add(Duration::from_secs(1)).unwrap();
        self.pods.push(json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "1",
                "labels": {"app": "web"}, "annotations": annotations, "creationTimestamp": self.now.to_string()},
            "spec": {"nodeName": "n", "containers": containers, "initContainers": natives},
            "status": {"phase": "Running"},
        }));
        self.pods.sort_by_key(|pod| pod["metadata"]["name"].to_string());
        self.kubelet();
    }

    pub(super) fn pod(&mut self, name: &str) -> &mut Value {
        self.pods.iter_mut().find(|pod| pod["metadata"]["name"] == name).unwrap()
    }

    pub(super) fn annotation(&mut self, pod: &str, key: &str) -> String {
        self.pod(pod)["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn image_of(&mut self, pod: &str, container: &str) -> String {
        let pod = self.pod(pod);
        let lists = ["containers", "initContainers"].into_iter().flat_map(|list| pod["spec"][list].as_array().unwrap());
        lists.clone().find(|c| c["name"] == container).unwrap()["image"].as_str().unwrap().to_owned()
    }

    pub(super) fn status_of(&mut self, pod: &str, container: &str) -> &mut Value {
        let statuses = self.pod(pod)["status"]["containerStatuses"].as_array_mut().unwrap();
        statuses.iter_mut().find(|status| status["name"] == container).unwrap()
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now = self.now.checked_add(Duration::from_secs(seconds)).unwrap();
    }

    pub(super) fn plan(&self) -> Plan {
        let pods: Vec<Arc<Pod>> = self.pods.iter().map(|pod| Arc::new(Pod::read(pod).unwrap())).collect();
        let held = |pod: &Pod| self.held.contains(&*pod.name);
        plan(&Input {
            set: &self.set,
            resource_version: &self.resource_version.to_string(),
            generation: self.generation,
            revision: &format!("log-agent-{}", self.generation),
            collision_count: 0,
            pods: &pods,
            held: &held,
            now: self.now,
            gates: self.gates,
            at_most: self.at_most,
            revisions: &self.revisions,
        })
    }

    /// Plans, and sends the writes. Returns what was written to whom, and stores the status.
    pub(super) fn reconcile(&mut self) -> Vec<(Step, String)> {
        let plan = self.plan();
        self.set.status = plan.status;
        plan.writes.iter().map(|write| (write.step, self.send(write))).collect()
    }

    /// What an API server does with the patch.
    pub(super) fn send(&mut self, write: &Write) -> String {
        let pod = &mut self.pods[write.pod];
        let metadata = &write.patch["metadata"];
        assert_eq!(metadata["uid"], pod["metadata"]["uid"]);
        assert_eq!(metadata["resourceVersion"], pod["metadata"]["resourceVersion"], "decided on a stale copy");
        match write.subresource {
            Subresource::None => {
                let annotations = metadata["annotations"].as_object().unwrap();
                for (key, value) in annotations {
                    assert_ne!(pod["metadata"]["annotations"][key], *value, "{key} is written without a change");
                    pod["metadata"]["annotations"][key] = value.clone();
                }
                for list in ["containers", "initContainers"] {
                    for container in write.patch["spec"][list].as_array().into_iter().flatten() {
                        let members: Vec<&String> = container.as_object().unwrap().keys().collect();
                        assert_eq!(members, ["image", "name"], "W-26");
                        let all = pod["spec"][list].as_array_mut().unwrap();
                        let found = all.iter_mut().find(|c| c["name"] == container["name"]).unwrap();
                        assert_ne!(found["image"], container["image"]);
                        found["image"] = container["image"].clone();
                    }
                }
            }
            Subresource::Status => {
                let condition = &write.patch["status"]["conditions"][0];
                let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
                conditions.retain(|old| old["type"] != condition["type"]);
                conditions.push(condition.clone());
            }
        }
        let version: u64 = pod["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        pod["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        pod["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// All nodes catch up: containers whose image changed are restarted, or fail to.
    pub(super) fn kubelet(&mut self) {
        self.later(2);
        for pod in &mut self.pods {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let mut all_ready = true;
            for (list, statuses) in [("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")] {
                let mut reported = Vec::new();
                for container in pod["spec"][list].as_array().unwrap() {
                    let (container_name, image) = (&container["name"], container["image"].as_str().unwrap());
                    let key = (name.clone(), container_name.to_string());
                    let old = pod["status"][statuses].as_array().into_iter().flatten();
                    let old = old.into_iter().find(|status| status["name"] == *container_name).cloned();
                    let is_same = self.started.get(&key).is_some_and(|started| started == image);
                    let status = match old {
                        Some(old) if is_same => old,
                        Some(mut old) if self.bad.contains(image) => {
                            old["ready"] = json!(false);
                            old["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
                            self.started.remove(&key);
                            old
                        }
                        old => {
                            self.containers += 1;
                            self.started.insert(key, image.to_owned());
                            let full = if image.contains('/') {
                                image.to_owned()
                            } else {
                                format!("docker.io/library/{image}")
                            };
                            json!({"name": container_name, "image": full, "ready": true,
                                "imageID": format!("{}@sha256:{}", full.rsplit_once(':').unwrap().0, full.len() + image.len() * 7 + usize::from(image.as_bytes()[image.len() - 1])),
                                "containerID": format!("containerd://{}", self.containers),
                                "restartCount": old.map_or(0, |old| old["restartCount"].as_i64().unwrap() + 1),
                                "state": {"running": {"startedAt": self.now.to_string()}}})
                        }
                    };
                    all_ready &= status["ready"] == true;
                    reported.push(status);
                }
                pod["status"][statuses] = json!(reported);
            }
            let ready = json!({"type": "Ready", "status": if all_ready { "True" } else { "False" },
                "lastTransitionTime": self.now.to_string()});
            let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            match conditions.iter_mut().find(|condition| condition["type"] == "Ready") {
                Some(before) if before["status"] == ready["status"] => {}
                Some(before) => *before = ready,
                None => conditions.push(ready),
            }
            pod["status"]["conditions"] = json!(conditions);
        }
    }

    /// matched/updated/ready/updatedReady.
    pub(super) fn counts(&self) -> String {
        let status = self.plan().status;
        format!("{}/{}/{}/{}", status.matched_pods, status.updated_pods, status.ready_pods, status.updated_ready_pods)
    }

    pub(super) fn verdict(&self, pod: &str) -> String {
        let index = self.pods.iter().position(|other| other["metadata"]["name"] == pod).unwrap();
        let verdicts = self.plan().verdicts;
        verdicts.into_iter().find(|(found, _)| *found == index).unwrap().1.to_string()
    }
}
