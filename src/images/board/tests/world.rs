//! An API server with NodeImages and jobs, as values.

#![expect(clippy::needless_pass_by_value, reason = "tests read better with values written in place")]

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::{Board, Outcome, Write};
use crate::api::json::text;
use crate::images::job::Job;
use crate::images::node::{Machine, Node, whole};

/// What a watch tells.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Put(Value),
    Gone(Value),
}

pub(super) struct World {
    pub(super) now: Timestamp,
    version: u64,
    pub(super) server: BTreeMap<String, Value>,
    pub(super) jobs: BTreeMap<String, Value>,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) board: Board,
    pub(super) node_events: VecDeque<Event>,
    pub(super) job_events: VecDeque<Event>,
    pub(super) flights: Vec<Write>,
    /// Writes that were taken, by node.
    pub(super) writes: BTreeMap<String, usize>,
    /// Nodes that refuse patches with this path.
    pub(super) refuses: BTreeMap<String, String>,
    /// The most that ever pulled at a time over what was allowed, by job; empty when all was well.
    pub(super) excesses: Vec<String>,
    created: i64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            now: "2026-03-02T08:00:00Z".parse().unwrap(),
            version: 1,
            server: BTreeMap::new(),
            jobs: BTreeMap::new(),
            machines: BTreeMap::new(),
            board: Board::default(),
            node_events: VecDeque::new(),
            job_events: VecDeque::new(),
            flights: Vec::new(),
            writes: BTreeMap::new(),
            refuses: BTreeMap::new(),
            excesses: Vec::new(),
            created: 0,
        }
    }
}

pub(super) fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

pub(super) fn owns(tag: &Value, uid: &str) -> bool {
    tag["ownerReferences"].as_array().into_iter().flatten().any(|owner| owner["uid"] == uid)
}

impl World {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    // --- objects ---

    pub(super) fn add_node(&mut self, name: &str, change: Value) {
        let version = self.next_version();
        let mut node = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}-{version}"), "generation": 1, "resourceVersion": version},
            "spec": {},
        });
        json_patch::merge(&mut node, &change);
        self.node_events.push_back(Event::Put(node.clone()));
        self.server.insert(name.to_owned(), node);
        self.machines.insert(name.to_owned(), Machine { is_ready: true, ..Machine::default() });
        self.board.put_machine(name.into(), self.machines[name].clone());
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.server.remove(name) {
            self.node_events.push_back(Event::Gone(node));
        }
    }

    pub(super) fn set_labels(&mut self, name: &str, labels: Value) {
        let machine = self.machines.get_mut(name).unwrap();
        machine.labels = std::sync::Arc::new(serde_json::from_value(labels).unwrap());
        self.board.put_machine(name.into(), machine.clone());
    }

    /// Somebody else writes a NodeImage.
    pub(super) fn change_node(&mut self, name: &str, change: Value) {
        let mut node = self.server[name].clone();
        json_patch::merge(&mut node, &change);
        self.store(name, node);
    }

    fn store(&mut self, name: &str, mut node: Value) {
        for image in node["spec"]["images"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
            // As admission does (NI-2).
            image["tags"].as_array_mut().unwrap().sort_by_key(|tag| tag["tag"].to_string());
        }
        let before = &self.server[name];
        if before == &node {
            return;
        }
        if before["spec"] != node["spec"] {
            node["metadata"]["generation"] = json!(before["metadata"]["generation"].as_i64().unwrap() + 1);
        }
        node["metadata"]["resourceVersion"] = json!(self.next_version());
        self.node_events.push_back(Event::Put(node.clone()));
        self.server.insert(name.to_owned(), node);
        self.check();
    }

    pub(super) fn add_job(&mut self, name: &str, spec: Value) {
        self.created += 1;
        let version = self.next_version();
        let mut job = json!({
            "metadata": {
                "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version,
                "creationTimestamp": (self.now + seconds(self.created)).to_string(),
            },
            "spec": {"image": format!("{name}:1"), "completionPolicy": {"type": "Always"}},
        });
        json_patch::merge(&mut job["spec"], &spec);
        self.job_events.push_back(Event::Put(job.clone()));
        self.jobs.insert(name.to_owned(), job);
    }

    pub(super) fn change_job(&mut self, name: &str, change: Value) {
        let version = self.next_version();
        let Some(job) = self.jobs.get_mut(name) else { return };
        json_patch::merge(job, &change);
        job["metadata"]["resourceVersion"] = json!(version);
        self.job_events.push_back(Event::Put(job.clone()));
    }

    pub(super) fn remove_job(&mut self, name: &str) {
        if let Some(job) = self.jobs.remove(name) {
            self.job_events.push_back(Event::Gone(job));
        }
    }

    pub(super) fn status(&self, job: &str) -> Value {
        let mut status = self.jobs[job]["status"].clone();
        for count in ["desired", "active", "succeeded", "failed"] {
            if status[count].is_null() {
                status[count] = json!(0);
            }
        }
        status
    }

    /// Image and entry of each tag.
    pub(super) fn tags(&self, node: &str) -> impl Iterator<Item = (String, Value)> {
        let images = self.server[node]["spec"]["images"].as_object().cloned().unwrap_or_default();
        images.into_iter().flat_map(|(image, entry)| {
            let tags = entry["tags"].as_array().cloned().unwrap_or_default();
            tags.into_iter().map(move |tag| (image.clone(), tag))
        })
    }

    // --- daemons ---

    /// The status of a tag at its version.
    fn report_of(&self, node: &str, image: &str, tag: &Value) -> Option<Value> {
        let reports = self.server[node]["status"]["imageStatuses"][image]["tags"].as_array()?;
        let version = |value: &Value| value["version"].as_i64().unwrap_or_default();
        let is_same = |report: &&Value| report["tag"] == tag["tag"] && version(report) == version(tag);
        reports.iter().find(is_same).cloned()
    }

    pub(super) fn is_finished(&self, node: &str, image: &str, tag: &Value) -> bool {
        self.report_of(node, image, tag).is_some_and(|report| report["completionTime"].is_string())
    }

    /// Writes the status of a node: all tags as they are, but those for which `phase` gives another.
    pub(super) fn report(&mut self, node: &str, phase: impl Fn(&str, &Value) -> Option<&'static str>) {
        if !self.server.contains_key(node) {
            return;
        }
        let mut statuses = serde_json::Map::new();
        for (image, tag) in self.tags(node).collect::<Vec<_>>() {
            let before = self.report_of(node, &image, &tag);
            let report = match phase(&image, &tag) {
                Some(phase) if !self.is_finished(node, &image, &tag) => {
                    let mut report = json!({"tag": tag["tag"], "phase": phase});
                    report["version"] = json!(tag["version"].as_i64().unwrap_or_default());
                    if matches!(phase, "Succeeded" | "Failed") {
                        report["completionTime"] = serde_json::to_value(whole(self.now)).unwrap();
                        report["message"] = json!(if phase == "Failed" { "no such image" } else { "" });
                    }
                    Some(report)
                }
                _ => before,
            };
            if let Some(report) = report {
                let entry = statuses.entry(image).or_insert_with(|| json!({"tags": []}));
                entry["tags"].as_array_mut().unwrap().push(report);
            }
        }
        let mut object = self.server[node].clone();
        object["status"] = json!({"desired": 1, "imageStatuses": statuses});
        self.store(node, object);
    }

    pub(super) fn report_all(&mut self, phase: &'static str) {
        for node in self.server.keys().cloned().collect::<Vec<_>>() {
            self.report(&node, |_, _| Some(phase));
        }
    }

    /// All tags of these nodes end; with `outcome` on the node `other`.
    pub(super) fn end<'n>(&mut self, nodes: impl IntoIterator<Item = &'n str>, other: &str, outcome: &'static str) {
        for node in nodes {
            let phase = if node == other && outcome == "Failed" { "Failed" } else { "Succeeded" };
            self.report(node, |_, _| Some(phase));
        }
    }

    // --- the manager ---

    pub(super) fn start(&mut self) {
        self.board = Board::new(300, 30);
        self.node_events.clear();
        self.job_events.clear();
        self.board.jobs_listed(self.jobs.values().map(Job::read).collect());
        self.board.nodes_listed(self.server.values().map(|node| Node::read(&node.to_string())).collect());
        let machines = self.machines.iter().map(|(name, machine)| (name.as_str().into(), machine.clone()));
        self.board.machines_listed(machines.collect());
    }

    /// Another process goes on; what was on its way has not arrived.
    pub(super) fn restart(&mut self) {
        self.flights.clear();
        self.start();
    }

    pub(super) fn deliver_node(&mut self) {
        match self.node_events.pop_front() {
            Some(Event::Put(node)) => self.board.put_node(Node::read(&node.to_string())),
            Some(Event::Gone(node)) => {
                let text = |member: &str| node["metadata"][member].as_str().unwrap().to_owned();
                self.board.node_gone(&text("name"), Some(&text("uid")));
            }
            None => {}
        }
    }

    pub(super) fn deliver_job(&mut self) {
        match self.job_events.pop_front() {
            Some(Event::Put(job)) => self.board.put_job(Job::read(&job)),
            Some(Event::Gone(job)) => self.board.job_gone(job["metadata"]["uid"].as_str().unwrap()),
            None => {}
        }
    }

    pub(super) fn deliver_all(&mut self) {
        while !self.node_events.is_empty() || !self.job_events.is_empty() {
            self.deliver_node();
            self.deliver_job();
        }
    }

    pub(super) fn plan(&mut self, writes: usize) {
        self.board.plan(self.now);
        while self.flights.len() < writes
            && let Some(write) = self.board.write(self.now)
        {
            assert!(self.flights.iter().all(|flight| flight.name != write.name), "two writes to one NodeImage");
            self.flights.push(write);
        }
    }

    /// The API server judges a write.
    fn judge(&mut self, write: &Write) -> Outcome {
        let name = &*write.name;
        let Some(node) = self.server.get(name) else { return Outcome::Conflict(None) };
        let refused = self.refuses.get(name).is_some_and(|path| write.patch.to_string().contains(path));
        if refused {
            return Outcome::Refused("256 images are the most".to_owned());
        }
        let mut changed = node.clone();
        let patch: json_patch::Patch = serde_json::from_value(write.patch.clone()).unwrap();
        let taken = json_patch::patch(&mut changed, &patch);
        if let Err(error) = &taken {
            // Nothing but what it is for may have changed.
            assert!(error.operation < 2, "{error}\n{}\n{node:#}", write.patch);
        } else {
            assert_ne!(&changed, node, "a write that changes nothing: {}", write.patch);
            *self.writes.entry(name.to_owned()).or_default() += 1;
            self.store(name, changed);
        }
        let newest = Box::new(Node::read(&self.server[name].to_string()));
        if taken.is_ok() { Outcome::Done(newest) } else { Outcome::Conflict(Some(newest)) }
    }

    pub(super) fn land(&mut self, place: usize) {
        if self.flights.is_empty() {
            return;
        }
        let write = self.flights.swap_remove(place % self.flights.len());
        let outcome = self.judge(&write);
        self.board.landed(&write.name, outcome, self.now);
    }

    /// A write arrives whose sender is gone.
    pub(super) fn land_unheard(&mut self) {
        for write in std::mem::take(&mut self.flights) {
            let _nobody_hears = self.judge(&write);
        }
    }

    /// Writes statuses of jobs. Whether any changed.
    pub(super) fn tell(&mut self) -> bool {
        let mut has_told = false;
        for uid in self.board.take_told() {
            let Some(status) = self.board.status(&uid, self.now) else { continue };
            let name = uid.strip_prefix("uid-").unwrap().to_owned();
            let known = self.board.job(&uid).map(|job| job.version.to_string());
            let current = self.jobs.get(&name).map(|job| job["metadata"]["resourceVersion"].clone());
            if current != known.map(Value::String) {
                // A conflict: it is looked at again once the watch has told.
                continue;
            }
            let version = self.next_version();
            let job = self.jobs.get_mut(&name).unwrap();
            job["status"] = serde_json::from_str(&text(&status)).unwrap();
            job["metadata"]["resourceVersion"] = json!(version);
            self.board.put_job(Job::read(job));
            has_told = true;
        }
        has_told
    }

    /// Goes on until nothing happens any more at this time.
    pub(super) fn settle(&mut self) {
        for _ in 0..500 {
            self.deliver_all();
            self.plan(16);
            let had_flights = !self.flights.is_empty();
            while !self.flights.is_empty() {
                self.land(0);
            }
            let has_told = self.tell();
            let is_quiet = self.node_events.is_empty() && self.job_events.is_empty() && !self.board.is_stirred();
            if !had_flights && !has_told && is_quiet {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Lets time go by, from one thing that is due to the next.
    pub(super) fn pass(&mut self, wait: i64) {
        let end = self.now + seconds(wait);
        self.settle();
        for _ in 0..10_000 {
            let Some(due) = self.board.next_due().filter(|due| *due < end) else { break };
            self.now = self.now.max(due);
            self.settle();
            if self.board.next_due() == Some(due) {
                self.now += SignedDuration::from_millis(100);
            }
        }
        self.now = self.now.max(end);
        self.settle();
    }

    // --- laws ---

    /// Parallelism at this instant, and the size of what is stored.
    fn check(&mut self) {
        for (name, job) in &self.jobs {
            let job = Job::read(job);
            if !job.is_live() {
                continue;
            }
            let pulling = |node: &&String| {
                self.tags(node).any(|(image, tag)| owns(&tag, &job.uid) && !self.is_finished(node, &image, &tag))
            };
            let active = self.server.keys().filter(pulling).count();
            let limit = job.parallelism().map_or(0, |parallelism| parallelism.of(self.server.len()));
            if active > limit && limit > 0 {
                self.excesses.push(format!("{active} nodes pull for {name}, and {limit} may"));
            }
        }
        for (name, node) in &self.server {
            let bytes = node.to_string().len();
            if bytes > 64 << 10 {
                self.excesses.push(format!("{name} has {bytes} bytes"));
            }
        }
    }
}
