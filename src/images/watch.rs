//! How far a pull is, seen from outside: of jobs and NodeImages as they are, to a line, a table of failures and a report.
//!
//! Who follows a job hears of jobs and of nodes in any order, so of a node is kept what it says of the images asked for, and
//! jobs and nodes are put together when somebody looks.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::api::image::Familiar;
use crate::api::json::decode;
use crate::api::nodeimage::{ImageTagStatus, NodeImageSpec, NodeImageStatus};
use crate::api::pulljob::PullJobStatus;

/// Characters of the bar.
const BAR: usize = 24;

/// Everything that is known of one pull.
#[derive(Debug, Default)]
pub struct View {
    /// The images, in the order that was asked for.
    images: Vec<String>,
    /// What they are called on NodeImages.
    familiar: BTreeMap<Familiar, usize>,
    /// The job of each image.
    jobs: BTreeMap<usize, Job>,
    /// What each node says of the images.
    nodes: BTreeMap<String, BTreeMap<usize, Fact>>,
    /// Whether NodeImages can be read at all.
    sees_nodes: bool,
}

/// The job of one image.
#[derive(Clone, Debug)]
struct Job {
    uid: String,
    name: String,
    status: PullJobStatus,
}

/// What a node says of an image.
#[derive(Clone, Debug)]
struct Fact {
    /// UIDs of the jobs that asked for it.
    owners: Vec<String>,
    /// What the node answers to the version that it was asked for.
    answer: Option<ImageTagStatus>,
}

/// How far one node is with one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing<'v> {
    /// Asked, and has not answered.
    Asked,
    /// Has answered, and has no slot for it yet.
    Waits,
    /// Pulls, with this percentage of the bytes.
    Pulls(u8),
    /// Has it.
    Has,
    /// Gave up, for this reason.
    Failed(&'v str),
}

/// How far all of it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Images that were asked for.
    pub images: usize,
    /// Images of which every node has ended.
    pub complete: usize,
    /// Pulls in all: nodes, for each image.
    pub desired: usize,
    /// Pulls that succeeded.
    pub succeeded: usize,
    /// Pulls that failed.
    pub failed: usize,
    /// Pulls under way.
    pub pulling: usize,
    /// Pulls that wait on their node for others.
    pub waiting: usize,
    /// Pulls that a node was asked for and has not answered.
    pub asked: usize,
    /// Of a hundred, counting the bytes of what is under way.
    pub percent: u8,
    /// The pull under way that is the least far: node and percentage.
    #[serde(skip)]
    pub slowest: Option<(String, u8)>,
}

/// A pull that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Name of the node.
    pub node: String,
    /// The image, as it was asked for.
    pub image: String,
    /// Why.
    pub reason: String,
}

/// How one image fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fared {
    /// The image, as it was asked for.
    pub image: String,
    /// Name of its ImagePullJob; `None` while there is none.
    pub job: Option<String>,
    /// Nodes that shall have it.
    pub desired: i32,
    /// Nodes that have it.
    pub succeeded: i32,
    /// Nodes that gave up.
    pub failed: i32,
    /// Nodes that are at it.
    pub active: i32,
}

// === impl View ===

impl View {
    /// Of these images.
    pub fn new(images: Vec<String>) -> Self {
        let name = |(index, image): (usize, &String)| Some((Familiar::parse(image)?, index));
        let familiar = images.iter().enumerate().filter_map(name).collect();
        Self { images, familiar, sees_nodes: true, ..Self::default() }
    }

    /// NodeImages cannot be read: only jobs tell how far it is.
    pub fn is_blind_to_nodes(&mut self) {
        self.sees_nodes = false;
        self.nodes.clear();
    }

    /// Takes an ImagePullJob as it is. One of another image is none of ours.
    pub fn job(&mut self, job: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let Some(index) = self.images.iter().position(|image| job["spec"]["image"] == image.as_str()) else { return };
        let status = decode::<PullJobStatus>(&job["status"]).map(|(status, _)| status).unwrap_or_default();
        let seen = Job { uid: text(&job["metadata"]["uid"]), name: text(&job["metadata"]["name"]), status };
        self.jobs.insert(index, seen);
    }

    /// Forgets an ImagePullJob that has gone. Whether it was one of ours; an unfinished one will not be finished.
    pub fn job_gone(&mut self, uid: &str) -> bool {
        let before = self.jobs.len();
        // What has ended may go when its time is over; how it ended stays true.
        self.jobs.retain(|_, job| job.uid != uid || job.status.completion_time.is_some());
        self.jobs.len() < before
    }

    /// Takes a NodeImage as it is.
    pub fn node(&mut self, node: &Value) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let spec = decode::<NodeImageSpec>(&node["spec"]).map(|(spec, _)| spec).unwrap_or_default();
        let status = decode::<NodeImageStatus>(&node["status"]).map(|(status, _)| status).unwrap_or_default();
        let facts = self.nodes.entry(name.to_owned()).or_default();
        for (familiar, index) in &self.familiar {
            let tags = spec.images.get(&familiar.name).map(|image| image.tags.as_slice()).unwrap_or_default();
            let Some(tag) = tags.iter().find(|tag| tag.tag == familiar.tag) else {
                // What has ended may be taken off the list; how it ended stays true.
                if facts.get(index).is_some_and(|fact| !Standing::of(fact).is_over()) {
                    facts.remove(index);
                }
                continue;
            };
            let answers = status.image_statuses.get(&familiar.name).map(|image| image.tags.as_slice());
            let answer = answers.unwrap_or_default().iter();
            let mut answer = answer.filter(|answer| answer.tag == tag.tag && answer.version == tag.version);
            let owners = tag.owner_references.iter().map(|owner| owner.uid.clone()).collect();
            facts.insert(*index, Fact { owners, answer: answer.next_back().cloned() });
        }
    }

    /// Forgets a NodeImage.
    pub fn node_gone(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Forgets all NodeImages but these.
    pub fn only_nodes(&mut self, is_there: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, _| is_there(name));
    }

    /// Of these names, those that no NodeImage has.
    pub fn unknown<'n>(&self, names: &'n [String]) -> Vec<&'n str> {
        let is_known = |name: &&String| !self.sees_nodes || self.nodes.contains_key(*name);
        names.iter().filter(|name| !is_known(name)).map(String::as_str).collect()
    }

    /// Whether every image has a job, and each of them has ended.
    pub fn is_over(&self) -> bool {
        self.jobs.len() == self.images.len() && self.jobs.values().all(|job| job.status.completion_time.is_some())
    }

    /// Whether it is over, and of every failure it is known why.
    pub fn is_settled(&self) -> bool {
        let explained = |index: &usize| {
            let is_failed = |(_, standing): &(&str, Standing<'_>)| matches!(standing, Standing::Failed(_));
            self.standings(*index).filter(is_failed).count()
        };
        let is_told = |(index, job): (&usize, &Job)| explained(index) >= count(job.status.failed);
        self.is_over() && (!self.sees_nodes || self.jobs.iter().all(is_told))
    }

    /// Whether somebody has begun.
    pub fn has_begun(&self) -> bool {
        self.jobs.values().any(|job| job.status.start_time.is_some())
    }

    /// How each node stands with an image.
    fn standings(&self, index: usize) -> impl Iterator<Item = (&str, Standing<'_>)> {
        let uid = self.jobs.get(&index).map(|job| job.uid.as_str());
        self.nodes.iter().filter_map(move |(node, facts)| {
            let fact = facts.get(&index)?;
            let is_asked = fact.owners.iter().any(|owner| Some(owner.as_str()) == uid);
            is_asked.then(|| (node.as_str(), Standing::of(fact)))
        })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress { images: self.images.len(), ..Progress::default() };
        let mut bytes = 0;
        let mut most = 0;
        for (index, job) in &self.jobs {
            let status = &job.status;
            let mut here = Progress::default();
            for (node, standing) in self.standings(*index) {
                match standing {
                    Standing::Asked => here.asked += 1,
                    Standing::Waits => here.waiting += 1,
                    Standing::Pulls(percent) => {
                        here.pulling += 1;
                        bytes += usize::from(percent);
                        if progress.slowest.as_ref().is_none_or(|(_, least)| percent < *least) {
                            progress.slowest = Some((node.to_owned(), percent));
                        }
                    }
                    Standing::Has => here.succeeded += 1,
                    Standing::Failed(_) => here.failed += 1,
                }
            }
            if status.completion_time.is_some() || !self.sees_nodes {
                // Also what nobody was asked for is decided then.
                here = Progress {
                    succeeded: count(status.succeeded),
                    failed: count(status.failed),
                    pulling: count(status.active),
                    ..Progress::default()
                };
            }
            let seen = here.succeeded + here.failed + here.pulling + here.waiting + here.asked;
            let desired = count(status.desired).max(seen);
            most = most.max(desired);
            progress.complete += usize::from(status.completion_time.is_some());
            progress.desired += desired;
            progress.succeeded += here.succeeded;
            progress.failed += here.failed;
            progress.pulling += here.pulling;
            progress.waiting += here.waiting;
            progress.asked += here.asked;
        }
        // An image without a job is as much work as the largest of the others.
        progress.desired += most * (self.images.len() - self.jobs.len());
        let done = (progress.succeeded + progress.failed) * 100 + bytes;
        progress.percent = done.checked_div(progress.desired).map_or(0, |percent| u8::try_from(percent).unwrap_or(100));
        if progress.percent >= 100 && progress.complete < progress.images {
            progress.percent = 99;
        }
        progress
    }

    /// Every pull that failed, by image and node, as far as it is known which.
    pub fn failures(&self) -> Vec<Failure> {
        let mut failures = Vec::new();
        for (index, job) in &self.jobs {
            let mut here: BTreeMap<&str, &str> = BTreeMap::new();
            let why = match job.status.message.as_str() {
                "" => "the job does not say why",
                message => message,
            };
            for node in &job.status.failed_nodes {
                here.insert(node, why);
            }
            for (node, standing) in self.standings(*index) {
                if let Standing::Failed(reason) = standing {
                    here.insert(node, if reason.is_empty() { "the node does not say why" } else { reason });
                }
            }
            let failure = |(node, reason): (&str, &str)| Failure {
                node: node.to_owned(),
                image: self.images[*index].clone(),
                reason: reason.to_owned(),
            };
            failures.extend(here.into_iter().map(failure));
        }
        failures
    }

    /// How each image fared.
    pub fn fared(&self) -> Vec<Fared> {
        let fared = |(index, image): (usize, &String)| {
            let job = self.jobs.get(&index);
            let status = job.map(|job| job.status.clone()).unwrap_or_default();
            Fared {
                image: image.clone(),
                job: job.map(|job| job.name.clone()),
                desired: status.desired,
                succeeded: status.succeeded,
                failed: status.failed,
                active: status.active,
            }
        };
        self.images.iter().enumerate().map(fared).collect()
    }

    /// What a job says beside its progress, such as that it is paused, or waits for others.
    pub fn remark(&self) -> Option<&str> {
        let remark = |job: &'_ Job| job.status.message.find("; ").map(|at| at + 2);
        self.jobs.values().find_map(|job| job.status.message.get(remark(job)?..))
    }

    /// Nodes that were asked and have not answered, a few of them by name.
    pub fn silent(&self) -> Vec<&str> {
        let mut silent: Vec<&str> = self
            .jobs
            .keys()
            .flat_map(|index| self.standings(*index))
            .filter(|(_, standing)| *standing == Standing::Asked)
            .map(|(node, _)| node)
            .collect();
        silent.sort_unstable();
        silent.dedup();
        silent.truncate(3);
        silent
    }
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or_default()
}

// === impl Standing ===

impl<'v> Standing<'v> {
    fn of(fact: &'v Fact) -> Self {
        let Some(answer) = &fact.answer else { return Self::Asked };
        match answer.phase.as_str() {
            "Succeeded" => Self::Has,
            "Failed" => Self::Failed(&answer.message),
            "Pulling" => Self::Pulls(u8::try_from(answer.progress.clamp(0, 100)).unwrap_or_default()),
            _ => Self::Waits,
        }
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Has | Self::Failed(_))
    }
}

// === impl Progress ===

impl Progress {
    /// In words, without the percentages, which change all the time.
    pub fn counts(&self) -> String {
        let what = if self.images == 1 { "nodes have it" } else { "pulls are done" };
        let mut line = String::new();
        // Writing to a String cannot fail.
        if self.images > 1 {
            let _ = write!(line, "{} of {} images, ", self.complete, self.images);
        }
        let _ = write!(line, "{} of {} {what}", self.succeeded, self.desired);
        for (number, what) in
            [(self.pulling, "pulling"), (self.waiting, "queued"), (self.asked, "asked"), (self.failed, "failed")]
        {
            if number > 0 {
                let _ = write!(line, ", {number} {what}");
            }
        }
        line
    }

    /// In one line of at most `width` characters: percentage, counts, and the pull that is the least far. A narrow one has
    /// no bar.
    pub fn line(&self, width: usize) -> String {
        let mut line = format!("{:>3} %  {}", self.percent, self.counts());
        if let Some((node, percent)) = &self.slowest {
            // Writing to a String cannot fail.
            let _ = write!(line, " ({node} {percent} %)");
        }
        if line.chars().count() + BAR + 3 <= width {
            let done = usize::from(self.percent) * BAR / 100;
            line = format!("[{}{}] {line}", "#".repeat(done), "-".repeat(BAR - done));
        }
        line.chars().take(width).collect()
    }
}

#[cfg(test)]
mod tests;
