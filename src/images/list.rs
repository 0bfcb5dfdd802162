//! ImageListPullJobs: which ImagePullJobs are to be made and deleted for one, and what its status says (LIST-2 … LIST-14).
//!
//! The name of a job follows from the list, the image and the template, so that no repetition makes a second one.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::job::Job;
use super::node::{cut, whole};
use crate::api::imagelist::{FailedImageStatus, ListPullJobSpec, ListPullJobStatus};
use crate::api::json::{decode, text};
use crate::api::names;
use crate::api::pulljob::{PullJobSpec, PullPolicy};

/// Characters of a job's name that tell it from its siblings.
const SUFFIX: usize = 10;
/// Bytes of the list's name in those of its jobs.
const NAME: usize = 240;
/// Images, at most (LIST-1).
pub const IMAGES: usize = 255;

/// An ImageListPullJob.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its `resourceVersion`.
    pub version: String,
    /// Whether it has any labels.
    pub has_labels: bool,
    /// Its `controller-revision-hash`.
    pub hash: String,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// What is wanted.
    pub spec: ListPullJobSpec,
    /// Why the spec cannot be read.
    pub unclear: Option<String>,
    /// How far it is, as written.
    pub status: ListPullJobStatus,
}

/// What is to be done for a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Its label is to be this (LIST-3).
    pub hash: Option<String>,
    /// Jobs to be made, whole.
    pub create: Vec<Value>,
    /// Names and UIDs of jobs to be deleted.
    pub delete: Vec<(String, String)>,
    /// Its status is to be this.
    pub status: Option<ListPullJobStatus>,
    /// Whether it is to be deleted itself.
    pub is_over: bool,
    /// When it is to be looked at again, in seconds since 1970.
    pub wake: Option<i64>,
}

// === impl List ===

impl List {
    /// Reads an object of v1beta1, whatever is in it.
    pub fn read(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let decoded = decode::<ListPullJobSpec>(&object["spec"]);
        let unclear = decoded.as_ref().err().map(ToString::to_string);
        let mut spec = decoded.map(|(spec, _)| spec).unwrap_or_default();
        // What admission does not let in is not to make us work either.
        spec.images.truncate(IMAGES);
        Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]).into(),
            version: text(&metadata["resourceVersion"]),
            has_labels: metadata["labels"].is_object(),
            hash: text(&metadata["labels"][names::TEMPLATE_HASH]),
            is_going: metadata["deletionTimestamp"].is_string(),
            spec,
            unclear,
            status: decode(&object["status"]).map(|(status, _)| status).unwrap_or_default(),
        }
    }

    /// Whether it ended.
    pub fn has_ended(&self) -> bool {
        self.status.completion_time.is_some()
    }

    /// Whether it goes on.
    pub fn is_open(&self) -> bool {
        !self.has_ended() && !self.is_going
    }

    fn template(&self, image: &str) -> PullJobSpec {
        let ListPullJobSpec { images: _, pull_secrets, selector, pod_selector, parallelism, .. } = self.spec.clone();
        let ListPullJobSpec { pull_policy, completion_policy, sandbox_config, image_pull_policy, .. } =
            self.spec.clone();
        PullJobSpec {
            image: image.to_owned(),
            pull_secrets,
            selector,
            pod_selector,
            parallelism,
            pull_policy,
            completion_policy,
            sandbox_config,
            image_pull_policy,
        }
    }

    /// What stands for the template (LIST-2).
    fn template_hash(&self) -> String {
        let mut hasher = DefaultHasher::new();
        text(&self.template("")).hash(&mut hasher);
        letters(&hasher.finish().to_be_bytes(), 8)
    }

    fn child(&self, image: &str, hash: &str) -> Value {
        let digest = Sha256::digest(format!("{}\n{image}\n{hash}", self.uid));
        let name = format!("{}-{}", cut(&self.name, NAME).trim_end_matches(['.', '-']), letters(&digest, SUFFIX));
        json!({
            "apiVersion": names::V1BETA1, "kind": "ImagePullJob",
            "metadata": {
                "namespace": self.namespace, "name": name,
                "labels": {names::TEMPLATE_HASH: hash},
                "ownerReferences": [{
                    "apiVersion": names::V1BETA1, "kind": "ImageListPullJob", "name": self.name, "uid": &*self.uid,
                    "controller": true,
                }],
            },
            "spec": self.template(image),
        })
    }
}

/// Letters and digits that spell no word.
fn letters(bytes: &[u8], count: usize) -> String {
    let letter = |byte: &u8| char::from(names::ALPHABET[usize::from(*byte) % names::ALPHABET.len()]);
    bytes.iter().take(count).map(letter).collect()
}

/// Decides what is to be done for a list with these jobs of it.
pub fn plan(list: &List, children: &[&Job], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if list.is_going {
        return plan;
    }
    if let Some(ended) = list.status.completion_time.as_ref() {
        // LIST-9, LIST-11
        let ttl = list.spec.completion_policy.ttl_seconds_after_finished;
        let over = ttl.map(|ttl| ended.0.as_second().saturating_add(ttl.into()));
        plan.is_over = over.is_some_and(|over| over <= now.as_second());
        plan.wake = over.filter(|_| !plan.is_over);
        return plan;
    }
    if list.unclear.is_some() {
        return plan;
    }
    let hash = list.template_hash();
    plan.hash = (list.hash != hash).then(|| hash.clone());
    let mut by_image: BTreeMap<&str, Vec<&Job>> = BTreeMap::new();
    for child in children.iter().filter(|child| !child.is_going) {
        by_image.entry(&child.spec.image).or_default().push(child);
    }
    let mut kept: Vec<&Job> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for image in list.spec.images.iter().filter(|image| seen.insert(image.as_str())) {
        let wanted = normal(list.template(image));
        let is_right = |child: &&Job| {
            child.labels.get(names::TEMPLATE_HASH) == Some(&hash) || normal(child.spec.clone()) == wanted
        };
        let mut found = by_image.remove(image.as_str()).unwrap_or_default();
        found.sort_by(|a, b| a.age.cmp(&b.age));
        let at = found.iter().position(is_right);
        match at {
            Some(at) => kept.push(found.swap_remove(at)),
            // Not before those of the old template are gone: they would count for nobody (LIST-4).
            None => plan.create.push(list.child(image, &hash)),
        }
        plan.delete.extend(found.iter().map(|child| (child.name.to_string(), child.uid.to_string())));
    }
    let left = by_image.into_values().flatten();
    plan.delete.extend(left.map(|child| (child.name.to_string(), child.uid.to_string())));
    let status = status(list, &kept, now);
    plan.status = Some(status).filter(|status| *status != list.status);
    plan
}

/// LIST-7, LIST-8
fn status(list: &List, children: &[&Job], now: Timestamp) -> ListPullJobStatus {
    let desired = list.spec.images.len();
    let started =
        || children.iter().filter(|child| child.status.start_time.is_some()).map(|child| (child, &child.status));
    // Differs: WEAK-35. A job that has no nodes yet has not ended.
    let has_ended = |child: &Job| {
        let status = &child.status;
        let all = status.desired > 0 && status.desired == status.succeeded.saturating_add(status.failed);
        child.has_ended() || all
    };
    let completed = started().filter(|(child, _)| has_ended(child)).count();
    let succeeded = started().filter(|(child, status)| has_ended(child) && status.desired == status.succeeded).count();
    let mut failed: Vec<FailedImageStatus> = started()
        .filter(|(_, status)| status.failed > 0)
        .map(|(child, status)| FailedImageStatus {
            image_pull_job: child.name.to_string(),
            name: child.spec.image.clone(),
            message: format!(
                "{} of {} nodes failed; see `kubectl -n {} describe imagepulljob {}`",
                status.failed, status.desired, child.namespace, child.name
            ),
        })
        .collect();
    failed.sort_by(|a, b| (&a.name, &a.image_pull_job).cmp(&(&b.name, &b.image_pull_job)));
    let is_over = list.spec.completion_policy.r#type != "Never" && completed == desired && desired > 0;
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    ListPullJobStatus {
        start_time: list.status.start_time.clone().or_else(|| Some(whole(now))),
        completion_time: is_over.then(|| whole(now)),
        desired: count(desired),
        active: count(started().filter(|(_, status)| status.active > 0).count()),
        completed: count(completed),
        succeeded: count(succeeded),
        failed_image_statuses: failed,
    }
}

/// A spec with what admission puts into it (JOB-1), to be compared.
fn normal(mut spec: PullJobSpec) -> PullJobSpec {
    let policy = spec.pull_policy.get_or_insert_with(PullPolicy::default);
    policy.timeout_seconds.get_or_insert(600);
    policy.backoff_limit.get_or_insert(3);
    if spec.completion_policy.r#type.is_empty() {
        "Always".clone_into(&mut spec.completion_policy.r#type);
    }
    if spec.image_pull_policy.is_empty() {
        "IfNotPresent".clone_into(&mut spec.image_pull_policy);
    }
    spec
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2026-03-02T08:00:00Z".parse().unwrap()
    }

    #[expect(clippy::needless_pass_by_value, reason = "tests read better with values written in place")]
    fn list(change: Value) -> List {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": "warm", "uid": "u", "resourceVersion": "1"},
            "spec": {"images": ["a:1", "b:1"], "completionPolicy": {}, "parallelism": 2},
        });
        json_patch::merge(&mut object, &change);
        List::read(&object)
    }

    /// The jobs of a list as admission leaves them, with this status.
    fn children(list: &List, status: &Value) -> Vec<Job> {
        let made = plan(list, &[], now()).create.into_iter();
        made.map(|mut object| {
            let spec: PullJobSpec = serde_json::from_value(object["spec"].clone()).unwrap();
            object["spec"] = serde_json::to_value(normal(spec)).unwrap();
            object["metadata"]["uid"] = object["metadata"]["name"].clone();
            object["status"] = status.clone();
            Job::read(&object)
        })
        .collect()
    }

    fn planned(list: &List, children: &[Job]) -> Plan {
        plan(list, &children.iter().collect::<Vec<_>>(), now())
    }

    #[test]
    fn each_image_gets_a_job_with_the_template_of_the_list_once_list_2() {
        let list = list(json!({}));
        let first = plan(&list, &[], now());
        assert_eq!(first.create.len(), 2);
        let job = &first.create[0];
        assert_eq!((&job["spec"]["image"], &job["spec"]["parallelism"]), (&json!("a:1"), &json!(2)));
        assert_eq!(job["metadata"]["ownerReferences"][0]["controller"], true);
        assert!(job["metadata"]["name"].as_str().unwrap().starts_with("warm-"));
        assert_eq!(job["metadata"]["labels"][names::TEMPLATE_HASH].as_str(), first.hash.as_deref());
        assert_eq!(first.create, plan(&list, &[], now()).create, "the same names");
        let again = planned(&list, &children(&list, &json!({})));
        assert_eq!((again.create, again.delete), (vec![], vec![]));
    }

    #[test]
    fn a_job_goes_with_its_image_and_is_made_anew_with_another_template_list_4() {
        let old = list(json!({}));
        let jobs = children(&old, &json!({}));
        let fewer = planned(&list(json!({"spec": {"images": ["b:1"]}})), &jobs);
        assert_eq!((fewer.create.len(), fewer.delete), (0, vec![(jobs[0].name.to_string(), jobs[0].uid.to_string())]));
        let other = planned(&list(json!({"spec": {"parallelism": 3}})), &jobs);
        assert_eq!((other.create.len(), other.delete.len()), (2, 2));
        assert_ne!(other.create[0]["metadata"]["name"], *jobs[0].name);
    }

    #[test]
    fn a_job_of_the_reference_is_taken_over_when_it_says_the_same() {
        let list = list(json!({}));
        let mut jobs = children(&list, &json!({}));
        for job in &mut jobs {
            job.labels.insert(names::TEMPLATE_HASH.to_owned(), "of-another-kind".to_owned());
        }
        let plan = planned(&list, &jobs);
        assert_eq!((plan.create, plan.delete), (vec![], vec![]));
    }

    #[rstest]
    #[case::not_begun(json!({}), [0, 0, 0], 0, false)]
    #[case::under_way(json!({"startTime": "2026-03-02T08:00:00Z", "desired": 2, "active": 1, "succeeded": 1}), [2, 0, 0], 0, false)]
    #[case::no_nodes_yet_weak_35(json!({"startTime": "2026-03-02T08:00:00Z", "desired": 0}), [0, 0, 0], 0, false)]
    #[case::done(json!({"startTime": "2026-03-02T08:00:00Z", "desired": 2, "succeeded": 2}), [0, 2, 2], 0, true)]
    #[case::some_failed(json!({"startTime": "2026-03-02T08:00:00Z", "desired": 2, "succeeded": 1, "failed": 1}), [0, 2, 0], 2, true)]
    fn its_status_sums_its_jobs_up_list_7(
        #[case] status: Value,
        #[case] counts: [i32; 3],
        #[case] failed: usize,
        #[case] is_over: bool,
    ) {
        let list = list(json!({}));
        let told = planned(&list, &children(&list, &status)).status.unwrap();
        assert_eq!([told.active, told.completed, told.succeeded], counts);
        assert_eq!((told.failed_image_statuses.len(), told.completion_time.is_some()), (failed, is_over));
        assert_eq!(told.desired, 2);
    }

    #[test]
    fn a_list_that_never_ends_goes_on_and_one_that_ended_goes_in_its_time_list_8_list_9() {
        let never = list(json!({"spec": {"completionPolicy": {"type": "Never"}}}));
        let done = json!({"startTime": "2026-03-02T08:00:00Z", "desired": 1, "succeeded": 1});
        assert_eq!(planned(&never, &children(&never, &done)).status.unwrap().completion_time, None);
        let ended = |ttl: i32| {
            list(json!({
                "spec": {"completionPolicy": {"ttlSecondsAfterFinished": ttl}},
                "status": {"completionTime": "2026-03-02T07:59:00Z"},
            }))
        };
        assert!(plan(&ended(60), &[], now()).is_over);
        assert_eq!(plan(&ended(61), &[], now()), Plan { wake: Some(now().as_second() + 1), ..Plan::default() });
    }
}
