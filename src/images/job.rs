//! An ImagePullJob as the controllers keep it: which nodes it selects, how many at a time, what its tags carry, and what its
//! status says (JOB-3 … JOB-8, JOB-15, JOB-20 … JOB-30).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::node::{self, Labels, Secret, cut, whole};
use crate::api::image::Familiar;
use crate::api::json::decode;
use crate::api::meta;
use crate::api::names;
use crate::api::nodeimage::{ImageTagSpec, ObjectReference, TagPullPolicy};
use crate::api::pulljob::{Parallelism, PullJobSpec, PullJobStatus};
use crate::selector::Selector;

/// Seconds from its start for which a job waits for nodes that it names and that have no NodeImage (WEAK-23): longer than it
/// takes until a new node has one.
pub const GRACE: i64 = 60;
/// Names in `failedNodes`, at most (WEAK-41).
pub const FAILED_NODES: usize = 100;
/// Causes that a message tells, and bytes of each.
const CAUSES: (usize, usize) = (3, 300);
/// Names that a message tells.
const NAMES: usize = 5;
/// Seconds that a pull takes at most, and attempts after the first, where a job does not say (JOB-1).
const DEFAULTS: (i32, i32) = (600, 3);
/// Seconds in a day, for which a node keeps the tag of a `Never` job, and how much more or less (JOB-22).
const DAY: (i32, i32) = (86_400, 600);

/// Jobs by age (decision of who is first): seconds since 1970, then `namespace/name`.
pub type Age = (i64, Arc<str>);

/// An ImagePullJob.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its `resourceVersion`.
    pub version: Box<str>,
    /// When it was made, and `namespace/name`.
    pub age: Age,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// UID of the ImageListPullJob that it is part of.
    pub list: Option<Arc<str>>,
    /// What is wanted.
    pub spec: PullJobSpec,
    /// How far it is, as written.
    pub status: PullJobStatus,
    /// Image and tag as NodeImages have them; `None` when the image is no reference.
    pub image: Option<(Arc<str>, Arc<str>)>,
    /// Which nodes it selects, or why that cannot be read.
    pub selection: Result<Selection, String>,
}

/// Which nodes a job selects.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// All (JOB-4, WEAK-48).
    All,
    /// These (JOB-5).
    Names(BTreeSet<String>),
    /// Those with such labels (JOB-6).
    Labels(Selector),
    /// Those on which such pods are (JOB-3).
    Pods(Selector),
}

/// How far a job is on all nodes that it selects (JOB-14).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Nodes that it selects.
    pub desired: usize,
    /// Those that pull for it.
    pub active: usize,
    /// Those that have the image.
    pub succeeded: usize,
    /// Those that gave up, or whose NodeImage cannot be written (WEAK-22), with the reason; sorted.
    pub failed: Vec<(Arc<str>, String)>,
    /// Those that have not ended; sorted. Only needed once the deadline is over.
    pub unfinished: Vec<Arc<str>>,
    /// Of those that have not been handed the image, how many have no room for it yet, or are held up by an older job.
    pub crowded: usize,
    /// Nodes that it names and that have no NodeImage.
    pub missing: Vec<String>,
    /// What else holds it up, for people; it does not complete meanwhile.
    pub obstacle: Option<String>,
    /// What else is to be told.
    pub remark: Option<String>,
}

// === impl Job ===

impl Job {
    /// Reads an object of v1beta1, whatever is in it.
    pub fn read(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |value: &Value| -> Arc<str> { value.as_str().unwrap_or_default().into() };
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        let created = metadata["creationTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let list = owners.into_iter().find(|owner| owner["kind"] == "ImageListPullJob" && owner["controller"] == true);
        let decoded = decode::<PullJobSpec>(&object["spec"]);
        let unreadable = decoded.as_ref().err().map(|error| format!("its spec cannot be read: {error}"));
        let spec = decoded.map(|(spec, _)| spec).unwrap_or_default();
        let image = Familiar::parse(&spec.image).map(|image| (image.name.into(), image.tag.into()));
        let selection = unreadable.map_or_else(|| Selection::of(&spec), Err);
        Self {
            age: (created.map_or(0, Timestamp::as_second), format!("{namespace}/{name}").into()),
            uid: text(&metadata["uid"]),
            version: metadata["resourceVersion"].as_str().unwrap_or_default().into(),
            finalizers: strings(&metadata["finalizers"]),
            labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            is_going: metadata["deletionTimestamp"].is_string(),
            list: list.map(|list| text(&list["uid"])),
            status: decode(&object["status"]).map(|(status, _)| status).unwrap_or_default(),
            namespace,
            name,
            spec,
            image,
            selection,
        }
    }

    /// Whether it ended.
    pub fn has_ended(&self) -> bool {
        self.status.completion_time.is_some()
    }

    /// Whether it goes on (JOB-41).
    pub fn is_live(&self) -> bool {
        !self.has_ended() && !self.is_going
    }

    /// Whether it goes on for good (JOB-29).
    pub fn is_endless(&self) -> bool {
        self.spec.completion_policy.r#type == "Never"
    }

    /// How many nodes pull at a time (JOB-15); 0 pauses it. So does what admission refuses today, and the error says what is
    /// wrong with it.
    ///
    /// Differs: IPJ-17, JOB-15. Percentages are taken, where the reference refuses them.
    pub fn parallelism(&self) -> Result<Parallelism, String> {
        Parallelism::read(self.spec.parallelism.as_ref()).map_err(|demand| format!("parallelism {demand}"))
    }

    /// Whether it does not go on because somebody wants so.
    pub fn is_paused(&self) -> bool {
        self.parallelism() == Ok(Parallelism::Count(0))
    }

    /// When it is over whatever happens, in seconds since 1970 (JOB-27).
    pub fn deadline(&self) -> Option<i64> {
        let start = self.status.start_time.as_ref()?.0.as_second();
        let seconds = self.spec.completion_policy.active_deadline_seconds.filter(|_| !self.is_endless())?;
        Some(start.saturating_add(seconds))
    }

    /// When a job that has ended is to be deleted, in seconds since 1970 (JOB-36).
    pub fn expires(&self) -> Option<i64> {
        let ended = self.status.completion_time.as_ref()?.0.as_second();
        Some(ended.saturating_add(self.spec.completion_policy.ttl_seconds_after_finished?.into()))
    }

    /// Whether it asks the registry also on nodes that have the image (IMG-47).
    pub fn is_always(&self) -> bool {
        self.spec.image_pull_policy == "Always"
    }

    /// The owner as tags have it (JOB-12).
    pub fn owner(&self) -> ObjectReference {
        ObjectReference {
            kind: "ImagePullJob".to_owned(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            api_version: names::V1BETA1.to_owned(),
            ..ObjectReference::default()
        }
    }

    /// Bytes that its tag may become on a node.
    pub fn bytes(&self, secrets: &[Secret]) -> usize {
        let Some((image, tag)) = &self.image else { return 0 };
        let (_, sandbox) = node::sandbox(self.spec.sandbox_config.as_ref());
        node::bytes_for(image, tag, self.namespace.len() + self.name.len(), secrets, sandbox)
    }

    /// The pull policy of its tags (JOB-20 … JOB-22); `extra` is how long the tag of an `Always` job is kept beyond its time.
    pub fn policy(&self, node: &str, extra: i32) -> TagPullPolicy {
        let given = self.spec.pull_policy.as_ref();
        let timeout = given.and_then(|policy| policy.timeout_seconds).unwrap_or(DEFAULTS.0);
        let backoff = given.and_then(|policy| policy.backoff_limit).unwrap_or(DEFAULTS.1);
        let completion = &self.spec.completion_policy;
        let (ttl, deadline) = if self.is_endless() {
            let jitter = spread(&(&self.uid, node), 2 * DAY.1) - DAY.1;
            (DAY.0 + jitter, Some(i64::from(timeout.max(1800))))
        } else {
            let deadline = completion.active_deadline_seconds;
            let own = completion.ttl_seconds_after_finished;
            let own = own.or(deadline.map(|deadline| i32::try_from(deadline).unwrap_or(i32::MAX)));
            let base = own.unwrap_or(timeout.saturating_mul(backoff.max(0)));
            // The same on all nodes, so that tags of several jobs go together.
            (base.max(0).saturating_add(extra).saturating_add(spread(&self.uid, 300)), deadline)
        };
        TagPullPolicy {
            timeout_seconds: Some(timeout),
            backoff_limit: Some(backoff),
            ttl_seconds_after_finished: Some(ttl),
            active_deadline_seconds: deadline,
        }
    }

    /// The entry of a tag that is new on a node (JOB-16).
    pub fn tag(&self, node: &str, extra: i32, version: i64, now: Timestamp) -> ImageTagSpec {
        ImageTagSpec {
            tag: self.image.as_ref().map(|(_, tag)| tag.to_string()).unwrap_or_default(),
            created_at: Some(whole(now)),
            pull_policy: Some(self.policy(node, extra)),
            owner_references: vec![self.owner()],
            version,
            image_pull_policy: self.pull_policy().to_owned(),
        }
    }

    /// `imagePullPolicy` of its tags.
    pub fn pull_policy(&self) -> &str {
        if self.spec.image_pull_policy.is_empty() { "IfNotPresent" } else { &self.spec.image_pull_policy }
    }

    /// Where a node stands in the order in which nodes are handed the image.
    ///
    /// Differs: JOB-8, WEAK-24. Another order for each job, so that they do not all meet at the same nodes.
    pub fn place(&self, node: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.uid, node).hash(&mut hasher);
        hasher.finish() >> 1
    }

    /// The status that is true now (JOB-25 … JOB-28). Of a job that has ended, the one that it has (JOB-30).
    pub fn status(&self, tally: &Tally, now: Timestamp) -> PullJobStatus {
        if self.has_ended() {
            return self.status.clone();
        }
        let start = self.status.start_time.clone().unwrap_or_else(|| whole(now));
        let mut failed: Vec<&Arc<str>> = tally.failed.iter().map(|(node, _)| node).collect();
        let done = tally.succeeded + failed.len();
        let (mut active, mut ended) = (tally.active, None);
        let is_late = self.deadline().is_some_and(|deadline| deadline <= now.as_second());
        let waits = tally.obstacle.is_some()
            || (!tally.missing.is_empty() && now.as_second() < start.0.as_second().saturating_add(GRACE));
        let percent = percent(done, tally.desired);
        let mut message = if !self.is_endless() && done == tally.desired && !waits {
            ended = Some(whole(now));
            "job has completed".to_owned()
        } else if is_late {
            ended = Some(whole(now));
            failed.extend(&tally.unfinished);
            failed.sort();
            failed.dedup();
            active = 0;
            "job exceeds activeDeadlineSeconds".to_owned()
        } else if tally.desired == 0 {
            "job is running, no progress".to_owned()
        } else {
            format!("job is running, progress {percent}%")
        };
        self.clauses(&mut message, tally, ended.is_some(), failed.len());
        let listed = failed.iter().take(FAILED_NODES);
        PullJobStatus {
            start_time: Some(start),
            completion_time: ended,
            desired: count(tally.desired),
            active: count(active),
            succeeded: count(tally.succeeded),
            failed: count(failed.len()),
            message,
            failed_nodes: listed.map(ToString::to_string).collect(),
        }
    }

    /// What the reference does not tell.
    fn clauses(&self, message: &mut String, tally: &Tally, has_ended: bool, failed: usize) {
        let mut add = |clause: std::fmt::Arguments<'_>| _ = write!(message, "; {clause}");
        if !has_ended {
            if let Some(obstacle) = &tally.obstacle {
                add(format_args!("{obstacle}"));
            }
            if self.is_paused() {
                add(format_args!("paused by parallelism 0"));
            } else if let Err(unclear) = self.parallelism() {
                add(format_args!("paused: {unclear}"));
            }
            if tally.crowded > 0 {
                let nodes = nodes(tally.crowded);
                add(format_args!("waits for older jobs on {} {nodes}", tally.crowded));
            }
        }
        if let Some(remark) = &tally.remark {
            add(format_args!("{remark}"));
        }
        if !tally.missing.is_empty() {
            let more = tally.missing.len().saturating_sub(NAMES);
            let names = tally.missing.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            add(format_args!("there is no NodeImage of {names}{more}"));
        }
        for (node, cause) in tally.failed.iter().filter(|(_, cause)| !cause.is_empty()).take(CAUSES.0) {
            add(format_args!("{node}: {}", cut(cause, CAUSES.1)));
        }
        if failed > FAILED_NODES {
            add(format_args!("failedNodes lists {FAILED_NODES} of {failed}"));
        }
    }
}

fn nodes(count: usize) -> &'static str {
    if count == 1 { "node" } else { "nodes" }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// With one decimal.
fn percent(done: usize, of: usize) -> String {
    let tenths = done.saturating_mul(1000).saturating_add(of / 2).checked_div(of).unwrap_or_default();
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A number below `limit` that is always the same for the same key.
fn spread(key: &impl std::hash::Hash, limit: i32) -> i32 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let limit = u64::try_from(limit).unwrap_or(1).max(1);
    i32::try_from(hasher.finish() % limit).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

// === impl Selection ===

impl Selection {
    fn of(spec: &PullJobSpec) -> Result<Self, String> {
        let compiled = |selector: &meta::LabelSelector, path: &str| {
            Selector::try_from(selector).map_err(|error| format!("{path} cannot be read: {error}"))
        };
        if let Some(selector) = &spec.pod_selector {
            return Ok(Self::Pods(compiled(selector, "podSelector")?));
        }
        let Some(selector) = &spec.selector else { return Ok(Self::All) };
        if !selector.names.is_empty() {
            return Ok(Self::Names(selector.names.iter().cloned().collect()));
        }
        let labels = meta::LabelSelector {
            match_labels: selector.match_labels.clone(),
            match_expressions: selector.match_expressions.clone(),
        };
        let labels = compiled(&labels, "selector")?;
        // WEAK-48
        Ok(if labels.is_empty() { Self::All } else { Self::Labels(labels) })
    }
}

/// What is to be done for a job besides handing out its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Nothing, before this time in seconds since 1970, if any.
    Rest(Option<i64>),
    /// Put the finalizer on (JOB-10).
    Hold,
    /// Take it off (JOB-35).
    Release,
    /// Delete it (JOB-36).
    Delete,
}

/// Decides the next chore. `holds_copies` tells whether a copy of a Secret still names the job, `has_open_list` whether it is
/// part of an ImageListPullJob that goes on.
pub fn chore(job: &Job, holds_copies: bool, has_open_list: bool, now: i64) -> Chore {
    let is_held = job.finalizers.iter().any(|finalizer| finalizer == names::DELETION_PROTECTION);
    if job.is_live() {
        return if is_held { Chore::Rest(None) } else { Chore::Hold };
    }
    if is_held {
        return if holds_copies { Chore::Rest(None) } else { Chore::Release };
    }
    match job.expires() {
        _ if job.is_going => Chore::Rest(None),
        None => Chore::Rest(None),
        // Its list would make it again (LIST-4).
        Some(_) if has_open_list => Chore::Rest(None),
        Some(at) if at > now => Chore::Rest(Some(at)),
        Some(_) => Chore::Delete,
    }
}

/// Whether one version of an object is older than another. Those that are no numbers cannot be told.
pub fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "tests read better with values written in place")]
    fn job(change: Value) -> Job {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": "a", "uid": "u", "creationTimestamp": "2026-03-02T07:00:00Z"},
            "spec": {"image": "nginx:1", "completionPolicy": {"type": "Always"}},
        });
        json_patch::merge(&mut object, &change);
        Job::read(&object)
    }

    fn now() -> Timestamp {
        "2026-03-02T08:00:00Z".parse().unwrap()
    }

    fn failed(count: usize) -> Vec<(Arc<str>, String)> {
        (0..count).map(|n| (format!("n{n:03}").into(), String::new())).collect()
    }

    #[rstest]
    #[case::tag("docker.io/library/nginx", Some(("nginx", "latest")))]
    #[case::digest("nginx:1@sha256:abababababababababababababababababababababababababababababababab",
        Some(("nginx", "sha256:abababababababababababababababababababababababababababababababab")))]
    #[case::none("No Image", None)]
    fn the_image_is_named_as_node_images_do_job_13(#[case] image: &str, #[case] expected: Option<(&str, &str)>) {
        let job = job(json!({"spec": {"image": image}}));
        assert_eq!(job.image.as_ref().map(|(name, tag)| (&**name, &**tag)), expected);
    }

    #[rstest]
    #[case::no_nodes(0, 0, 0, "job has completed", true)]
    #[case::some(3, 1, 1, "job is running, progress 66.7%", false)]
    #[case::none_yet(3, 0, 0, "job is running, progress 0.0%", false)]
    #[case::all(2, 1, 1, "job has completed", true)]
    fn the_message_says_how_far_it_is_job_26_job_28(
        #[case] desired: usize,
        #[case] succeeded: usize,
        #[case] failures: usize,
        #[case] message: &str,
        #[case] has_ended: bool,
    ) {
        let tally = Tally { desired, succeeded, failed: failed(failures), ..Tally::default() };
        let status = job(json!({})).status(&tally, now());
        assert_eq!((&*status.message, status.completion_time.is_some()), (message, has_ended));
        assert_eq!(status.start_time, Some(whole(now())), "JOB-25");
    }

    #[test]
    fn a_job_that_never_ends_says_so_job_29() {
        let never = job(
            json!({"spec": {"completionPolicy": {"type": "Never"}}, "status": {"startTime": "2026-03-02T07:00:00Z"}}),
        );
        let status = never.status(&Tally::default(), now());
        assert_eq!((&*status.message, status.completion_time), ("job is running, no progress", None));
        assert_eq!(never.deadline(), None);
    }

    #[test]
    fn a_job_that_ended_stays_as_it_is_job_30() {
        let ended = job(json!({"status": {"completionTime": "2026-03-02T07:00:00Z", "desired": 2, "message": "x"}}));
        assert_eq!(ended.status(&Tally { desired: 7, ..Tally::default() }, now()), ended.status);
    }

    #[test]
    fn the_deadline_counts_each_node_once_and_sorts_them_job_27_weak_23() {
        let late = job(json!({
            "spec": {"completionPolicy": {"activeDeadlineSeconds": 60}}, "status": {"startTime": "2026-03-02T07:59:00Z"},
        }));
        let nodes = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let tally = Tally {
            desired: 4,
            active: 1,
            succeeded: 1,
            failed: vec![("c".into(), "no such image".to_owned())],
            unfinished: nodes(&["a", "c", "d"]),
            ..Tally::default()
        };
        let status = late.status(&tally, now());
        assert_eq!(status.message, "job exceeds activeDeadlineSeconds; c: no such image");
        assert_eq!(
            (status.failed_nodes, status.failed, status.active),
            (vec!["a".into(), "c".into(), "d".into()], 3, 0)
        );
        // All ended in time, at the last moment.
        let tally = Tally { desired: 1, succeeded: 1, ..Tally::default() };
        assert_eq!(late.status(&tally, now()).message, "job has completed");
    }

    #[test]
    fn names_and_causes_of_failed_nodes_are_bounded_weak_41() {
        let mut many = failed(250);
        for (_, cause) in &mut many {
            *cause = "x".repeat(500);
        }
        let status = job(json!({})).status(&Tally { desired: 300, failed: many, ..Tally::default() }, now());
        assert_eq!((status.failed, status.failed_nodes.len()), (250, FAILED_NODES));
        assert!(status.message.len() < 1100, "{}", status.message);
        assert!(status.message.ends_with("failedNodes lists 100 of 250"), "{}", status.message);
    }

    #[rstest]
    #[case::paused(json!({"parallelism": 0}), Tally::default(), "paused by parallelism 0")]
    #[case::nonsense(json!({"parallelism": "x"}), Tally::default(), "paused: parallelism must be a number")]
    #[case::negative(json!({"parallelism": -1}), Tally::default(), "paused: parallelism must be 0 or more")]
    #[case::too_many_percent(json!({"parallelism": "150%"}), Tally::default(), "paused: parallelism must be a whole")]
    #[case::crowded(json!({}), Tally { crowded: 2, ..Tally::default() }, "waits for older jobs on 2 nodes")]
    #[case::remark(json!({}), Tally { remark: Some("mind".to_owned()), ..Tally::default() }, "; mind")]
    fn what_holds_it_up_is_told(#[case] spec: Value, #[case] tally: Tally, #[case] told: &str) {
        let status = job(json!({"spec": spec})).status(&Tally { desired: 3, ..tally }, now());
        assert!(status.message.starts_with("job is running, progress 0.0%; "), "{}", status.message);
        assert!(status.message.contains(told), "{}", status.message);
    }

    #[rstest]
    #[case::defaults(json!({}), 1800, None)]
    #[case::own_ttl(json!({"completionPolicy": {"ttlSecondsAfterFinished": 7}}), 7, None)]
    #[case::deadline(json!({"completionPolicy": {"activeDeadlineSeconds": 900}}), 900, Some(900))]
    #[case::pull_policy(json!({"pullPolicy": {"timeoutSeconds": 10, "backoffLimit": 2}}), 20, None)]
    fn tags_of_a_job_that_ends_are_kept_for_its_time_and_some_more_job_21(
        #[case] spec: Value,
        #[case] base: i32,
        #[case] deadline: Option<i64>,
    ) {
        let policy = job(json!({"spec": spec})).policy("n", 300);
        let ttl = policy.ttl_seconds_after_finished.unwrap();
        assert!((base + 300..base + 600).contains(&ttl), "{ttl}");
        assert_eq!(policy.active_deadline_seconds, deadline);
    }

    #[rstest]
    #[case::short(600, 1800)]
    #[case::long(3600, 3600)]
    fn tags_of_a_job_that_never_ends_are_kept_for_a_day_job_22(#[case] timeout: i32, #[case] deadline: i64) {
        let spec = json!({"completionPolicy": {"type": "Never"}, "pullPolicy": {"timeoutSeconds": timeout}});
        let policy = job(json!({"spec": spec})).policy("n", 300);
        assert!((85_800..=87_000).contains(&policy.ttl_seconds_after_finished.unwrap()));
        assert_eq!(policy.active_deadline_seconds, Some(deadline));
    }

    #[rstest]
    #[case::at_work(json!({}), false, false, Chore::Hold)]
    #[case::held(json!({"metadata": {"finalizers": ["x", names::DELETION_PROTECTION]}}), true, false, Chore::Rest(None))]
    #[case::going(json!({"metadata": {"finalizers": [names::DELETION_PROTECTION], "deletionTimestamp": "2026-03-02T08:00:00Z"}}),
        false, false, Chore::Release)]
    #[case::going_with_copies(json!({"metadata": {"finalizers": [names::DELETION_PROTECTION],
        "deletionTimestamp": "2026-03-02T08:00:00Z"}}), true, false, Chore::Rest(None))]
    #[case::ended(json!({"metadata": {"finalizers": [names::DELETION_PROTECTION]}, "status": {"completionTime":
        "2026-03-02T07:59:00Z"}}), false, false, Chore::Release)]
    #[case::ended_and_kept(json!({"status": {"completionTime": "2026-03-02T07:59:00Z"}}), false, false, Chore::Rest(None))]
    #[case::time_is_over(json!({"spec": {"completionPolicy": {"ttlSecondsAfterFinished": 60}},
        "status": {"completionTime": "2026-03-02T07:59:00Z"}}), false, false, Chore::Delete)]
    #[case::not_yet(json!({"spec": {"completionPolicy": {"ttlSecondsAfterFinished": 61}},
        "status": {"completionTime": "2026-03-02T07:59:00Z"}}), false, false, Chore::Rest(Some(1_772_438_401)))]
    #[case::not_before_its_list(json!({"spec": {"completionPolicy": {"ttlSecondsAfterFinished": 60}},
        "status": {"completionTime": "2026-03-02T07:59:00Z"}}), false, true, Chore::Rest(None))]
    fn what_is_to_be_done_besides_job_10_job_35_job_36(
        #[case] change: Value,
        #[case] holds_copies: bool,
        #[case] has_open_list: bool,
        #[case] expected: Chore,
    ) {
        assert_eq!(chore(&job(change), holds_copies, has_open_list, now().as_second()), expected);
    }

    #[rstest]
    #[case::null(Value::Null)]
    #[case::no_object(json!(7))]
    #[case::odd(json!({"metadata": {"name": 7, "labels": [], "finalizers": "x"}, "spec": {"image": []}, "status": "x"}))]
    fn anything_is_read(#[case] object: Value) {
        let job = Job::read(&object);
        assert!(job.image.is_none());
    }
}
