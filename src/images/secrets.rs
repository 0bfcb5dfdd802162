//! Copies of pull secrets in the one namespace that daemons may read (SEC-1 … SEC-14): which are to be made, changed and
//! deleted, of what is there. Each copy names the jobs that need it, and goes with the last of them.
//!
//! It is decided of all jobs at once, not job by job: so a copy that somebody left behind goes, too, and no step has to be
//! remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::node::{Secret, cut};
use crate::api::names;

/// Bytes of the source's name in that of its copy: with the rest, the API server takes 253.
const NAME: usize = 230;

/// `namespace/name`.
pub type Key = (Arc<str>, Arc<str>);

/// A copy that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: String,
    /// What it is a copy of (SEC-4).
    pub source: String,
    /// The jobs that need it (SEC-8); what is no `namespace/name` is left out (SEC-13).
    pub references: BTreeSet<String>,
    /// Whether references to it say that it was made for jobs (SEC-10).
    pub is_batch: bool,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// What stands for its type and content.
    pub content: u64,
    /// Its type.
    pub kind: String,
}

/// What is known of a Secret that jobs name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// There is none (SEC-7).
    Absent,
    /// This is what stands for its type and content, and this its type.
    There(u64, String),
}

/// A job and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The job.
    pub job: Key,
    /// Its UID.
    pub uid: Arc<str>,
    /// Names of Secrets in its namespace, in its order.
    pub secrets: Vec<String>,
}

/// What is to be done in the namespace of copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A copy of this source is to be made, with this name, for these jobs (SEC-9).
    Create {
        /// Of what.
        source: Key,
        /// Its name.
        name: String,
        /// For whom.
        references: BTreeSet<String>,
    },
    /// Content or jobs of a copy are to be others (SEC-10).
    Update {
        /// Its name.
        name: String,
        /// The version that it is decided upon.
        version: String,
        /// From where its content is to be taken anew.
        content: Option<Key>,
        /// For whom.
        references: BTreeSet<String>,
    },
    /// A copy is to be deleted (SEC-8); also one whose type is to change, which cannot be (WEAK-43).
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

/// What a job's Secrets are, where daemons may read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The job's UID.
    pub uid: Arc<str>,
    /// References in the job's order (WEAK-43); `None` as long as a copy is being made (SEC-11).
    pub secrets: Option<Vec<Secret>>,
    /// What is wrong, for people.
    pub remark: Option<String>,
}

/// Decides. `namespace` is that of copies.
pub fn plan(
    namespace: &Arc<str>,
    wants: &[Want],
    copies: &BTreeMap<String, Copy>,
    sources: &BTreeMap<Key, Source>,
) -> (Vec<Action>, Vec<Ready>) {
    let mut by_source: BTreeMap<&str, Vec<&Copy>> = BTreeMap::new();
    for copy in copies.values().filter(|copy| !copy.is_going) {
        by_source.entry(&copy.source).or_default().push(copy);
    }
    let (mut needed, mut new) = (BTreeMap::<&str, BTreeSet<String>>::new(), BTreeMap::<Key, BTreeSet<String>>::new());
    let mut ready = Vec::new();
    for want in wants {
        let (mut secrets, mut absent, mut is_whole) = (Vec::new(), Vec::new(), true);
        let job = format!("{}/{}", want.job.0, want.job.1);
        for name in unique(&want.secrets) {
            if want.job.0 == *namespace {
                // SEC-2
                secrets.push(Secret { namespace: Arc::clone(namespace), name: name.as_str().into(), is_batch: false });
                continue;
            }
            let key: Key = (Arc::clone(&want.job.0), name.as_str().into());
            let copy = by_source.get(format!("{}/{name}", key.0).as_str()).and_then(|copies| chosen(copies, &job));
            let source = sources.get(&key).unwrap_or(&Source::Unknown);
            if let Some(copy) = copy {
                needed.entry(&copy.name).or_default().insert(job.clone());
                let is_right = !matches!(source, Source::There(_, kind) if *kind != copy.kind);
                is_whole &= is_right;
                let name = copy.name.as_str().into();
                secrets.push(Secret { namespace: Arc::clone(namespace), name, is_batch: copy.is_batch });
                if *source == Source::Absent {
                    absent.push(name_of(&key));
                }
                continue;
            }
            match source {
                Source::Unknown => is_whole = false,
                Source::Absent => absent.push(name_of(&key)),
                Source::There(..) => {
                    is_whole = false;
                    new.entry(key).or_default().insert(job.clone());
                }
            }
        }
        let remark = (!absent.is_empty()).then(|| {
            let s = if absent.len() == 1 { "" } else { "s" };
            format!("there is no pull secret{s} {}, so it is pulled without", absent.join(", "))
        });
        ready.push(Ready { uid: Arc::clone(&want.uid), secrets: is_whole.then_some(secrets), remark });
    }
    let mut actions = Vec::new();
    for copy in copies.values().filter(|copy| !copy.is_going) {
        let references = needed.remove(copy.name.as_str()).unwrap_or_default();
        let source = split(&copy.source).and_then(|key| Some((sources.get(&key)?, key)));
        let differs = source.and_then(|(source, key)| match source {
            Source::There(content, kind) => Some((*content != copy.content, *kind != copy.kind, key)),
            Source::Unknown | Source::Absent => None,
        });
        let is_of_another_type = differs.as_ref().is_some_and(|(_, kind, _)| *kind);
        let content = differs.filter(|(content, ..)| *content).map(|(.., key)| key);
        if references.is_empty() || is_of_another_type {
            actions.push(Action::Delete { name: copy.name.clone(), uid: copy.uid.clone() });
        } else if content.is_some() || references != copy.references {
            let (name, version) = (copy.name.clone(), copy.version.clone());
            actions.push(Action::Update { name, version, content, references });
        }
    }
    for (source, references) in new {
        let name = copy_name(&source);
        // The last one of this name is on its way out.
        if !copies.contains_key(&name) {
            actions.push(Action::Create { source, name, references });
        }
    }
    (actions, ready)
}

/// SEC-5
fn chosen<'c>(copies: &[&'c Copy], job: &str) -> Option<&'c Copy> {
    copies.iter().rfind(|copy| copy.references.contains(job)).or_else(|| copies.first()).copied()
}

fn unique(names: &[String]) -> Vec<&String> {
    let mut seen = BTreeSet::new();
    names.iter().filter(|name| seen.insert(name.as_str())).collect()
}

fn name_of(key: &Key) -> String {
    format!("{:?}", key.1)
}

/// Reads `namespace/name`.
pub fn split(text: &str) -> Option<Key> {
    let (namespace, name) = text.split_once('/')?;
    let is_whole = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    is_whole.then(|| (namespace.into(), name.into()))
}

/// The name of the copy of a Secret: always the same (WEAK-43).
pub fn copy_name((namespace, name): &Key) -> String {
    let hash = Sha256::digest(format!("{namespace}/{name}"));
    let hash = hash.iter().take(5).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    format!("{}-{hash:010x}", cut(name, NAME).trim_end_matches(['.', '-']))
}

/// What stands for type and content of a Secret.
pub fn content(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    object["type"].as_str().unwrap_or_default().hash(&mut hasher);
    let data: BTreeMap<&String, Option<&str>> =
        object["data"].as_object().into_iter().flatten().map(|(key, value)| (key, value.as_str())).collect();
    data.hash(&mut hasher);
    hasher.finish()
}

/// What a copy says of itself and of its jobs.
pub fn annotations(source: &Key, references: &BTreeSet<String>) -> Value {
    json!({
        names::SECRET_SOURCE: format!("{}/{}", source.0, source.1),
        names::SECRET_REFERENCES: joined(references),
        names::SECRET_MODE: names::SECRET_MODE_BATCH,
    })
}

/// Jobs, as the annotation has them (SEC-10).
pub fn joined(references: &BTreeSet<String>) -> String {
    references.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

// === impl Copy ===

impl Copy {
    /// Reads a Secret of the namespace of copies; `None` when it is no copy.
    pub fn read(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let annotation = |name: &str| metadata["annotations"][name].as_str();
        let source = annotation(names::SECRET_SOURCE)?;
        let references = annotation(names::SECRET_REFERENCES).unwrap_or_default();
        let references = references.split(',').map(str::trim).filter(|job| split(job).is_some()).map(str::to_owned);
        Some(Self {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            version: text(&metadata["resourceVersion"]),
            source: source.to_owned(),
            references: references.collect(),
            is_batch: annotation(names::SECRET_MODE) == Some(names::SECRET_MODE_BATCH),
            is_going: metadata["deletionTimestamp"].is_string(),
            content: content(object),
            kind: text(&object["type"]),
        })
    }
}

// === impl Source ===

impl Source {
    /// Reads a Secret that jobs name.
    pub fn read(object: &Value) -> Self {
        Self::There(content(object), object["type"].as_str().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DOCKER: &str = "kubernetes.io/dockerconfigjson";

    fn key(name: &str) -> Key {
        ("shop".into(), name.into())
    }

    fn want(job: &str, secrets: &[&str]) -> Want {
        Want {
            job: key(job),
            uid: format!("uid-{job}").into(),
            secrets: secrets.iter().map(|secret| (*secret).to_owned()).collect(),
        }
    }

    fn there(content: u64) -> Source {
        Source::There(content, DOCKER.to_owned())
    }

    fn copy(name: &str, jobs: &[&str], content: u64) -> Copy {
        Copy {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            version: "7".to_owned(),
            source: "shop/cred".to_owned(),
            references: set(jobs),
            is_batch: true,
            content,
            kind: DOCKER.to_owned(),
            is_going: false,
        }
    }

    fn set(jobs: &[&str]) -> BTreeSet<String> {
        jobs.iter().map(|job| format!("shop/{job}")).collect()
    }

    fn decide(wants: &[Want], copies: &[Copy], source: Source) -> (Vec<Action>, Vec<Ready>) {
        let copies = copies.iter().map(|copy| (copy.name.clone(), copy.clone())).collect();
        plan(&"config".into(), wants, &copies, &BTreeMap::from([(key("cred"), source)]))
    }

    fn update(name: &str, content: Option<Key>, jobs: &[&str]) -> Action {
        Action::Update { name: name.to_owned(), version: "7".to_owned(), content, references: set(jobs) }
    }

    #[test]
    fn one_copy_serves_all_jobs_of_a_secret_sec_9() {
        let wants = [want("a", &["cred"]), want("b", &["cred", "cred"])];
        let (actions, ready) = decide(&wants, &[], there(1));
        let name = copy_name(&key("cred"));
        assert_eq!(actions, [Action::Create { source: key("cred"), name, references: set(&["a", "b"]) }]);
        assert!(ready.iter().all(|ready| ready.secrets.is_none() && ready.remark.is_none()), "SEC-11: {ready:?}");
    }

    #[rstest]
    #[case::in_order(&["a"], there(1), vec![])]
    #[case::another_job_sec_10(&[], there(1), vec![update("copy", None, &["a"])])]
    #[case::rotated_sec_12(&["a"], there(2), vec![update("copy", Some(key("cred")), &["a"])])]
    #[case::the_source_is_gone_and_the_copy_stays(&["a"], Source::Absent, vec![])]
    #[case::not_looked_at_yet(&["a"], Source::Unknown, vec![])]
    #[case::a_job_has_ended_sec_8(&["a", "z"], there(1), vec![update("copy", None, &["a"])])]
    fn a_copy_follows(#[case] jobs: &[&str], #[case] source: Source, #[case] expected: Vec<Action>) {
        let (actions, ready) = decide(&[want("a", &["cred"])], &[copy("copy", jobs, 1)], source);
        assert_eq!(actions, expected);
        assert_eq!(ready[0].secrets.as_ref().map(|secrets| &*secrets[0].name), Some("copy"));
    }

    #[test]
    fn a_copy_goes_with_its_last_job_and_one_of_another_type_is_made_anew_sec_8_weak_43() {
        let delete = || vec![Action::Delete { name: "copy".to_owned(), uid: "uid-copy".to_owned() }];
        assert_eq!(decide(&[], &[copy("copy", &["a"], 1)], Source::Unknown).0, delete());
        let other = Source::There(2, "kubernetes.io/dockercfg".to_owned());
        let (actions, ready) = decide(&[want("a", &["cred"])], &[copy("copy", &["a"], 1)], other);
        assert_eq!((actions, &ready[0].secrets), (delete(), &None));
    }

    #[test]
    fn of_several_copies_the_last_that_names_the_job_is_taken_and_the_others_are_given_back_sec_5_sec_6() {
        let copies = [copy("c1", &[], 1), copy("c2", &["a"], 1), copy("c3", &["a"], 1)];
        let (actions, ready) = decide(&[want("a", &["cred"]), want("b", &["cred"])], &copies, there(1));
        assert_eq!(ready[0].secrets.as_ref().unwrap()[0].name, "c3".into());
        assert_eq!(ready[1].secrets.as_ref().unwrap()[0].name, "c1".into());
        let delete = Action::Delete { name: "c2".to_owned(), uid: "uid-c2".to_owned() };
        assert_eq!(actions, [update("c1", None, &["b"]), delete]);
    }

    #[test]
    fn a_secret_that_is_not_there_is_told_and_pulling_goes_on_sec_7() {
        let (actions, ready) = decide(&[want("a", &["cred"])], &[], Source::Absent);
        assert_eq!((actions, ready[0].secrets.as_deref()), (vec![], Some(&[][..])));
        assert!(ready[0].remark.as_ref().unwrap().contains("\"cred\""));
    }

    #[test]
    fn secrets_of_a_job_beside_the_copies_are_named_as_they_are_sec_2() {
        let job = Want { job: ("config".into(), "a".into()), uid: "u".into(), secrets: vec!["own".to_owned()] };
        let (actions, ready) = plan(&"config".into(), &[job], &BTreeMap::new(), &BTreeMap::new());
        assert!(actions.is_empty());
        let own = Secret { namespace: "config".into(), name: "own".into(), is_batch: false };
        assert_eq!(ready[0].secrets, Some(vec![own]));
    }

    #[test]
    fn names_and_annotations_are_read_as_others_write_them_sec_13() {
        let object = json!({
            "metadata": {"name": "c", "annotations": {
                names::SECRET_SOURCE: "shop/cred", names::SECRET_REFERENCES: "shop/a, bad,x/y/z,/a,shop/b",
            }},
            "type": DOCKER, "data": {"x": "eA=="},
        });
        let copy = Copy::read(&object).unwrap();
        assert_eq!((copy.references, copy.is_batch), (set(&["a", "b"]), false));
        assert_eq!(Copy::read(&json!({"metadata": {"name": "c"}})), None);
        assert!(copy_name(&key(&"x".repeat(253))).len() <= 253);
        assert_ne!(copy_name(&key("a")), copy_name(&("other".into(), "a".into())));
    }
}
