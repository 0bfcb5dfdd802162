//! On which nodes the pods are that jobs select (JOB-3): told of all pods, it keeps those of jobs that go on.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::cluster::{CallError, call};
use crate::controllers::pods::{self, Head, Told};
use crate::images::job::is_older;
use crate::selector::{Operator, Selector};

/// Pods in one page of a list.
const PAGE: u32 = 500;
/// Pages of a list; one that has more does not end.
const PAGES: usize = 2000;

/// Told of all pods.
#[derive(Debug, Default)]
pub(super) struct Listener {
    known: Mutex<Known>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Known {
    jobs: HashMap<Arc<str>, Wanted>,
    by_namespace: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    woken: BTreeSet<Arc<str>>,
    /// How many lists were begun.
    lists: u32,
}

#[derive(Debug)]
struct Wanted {
    namespace: Arc<str>,
    selector: Selector,
    /// By name; those that are on no node are kept until all were listed, so that an older copy does not bring them back.
    pods: BTreeMap<String, Seen>,
    is_listed: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    version: String,
    node: Option<Arc<str>>,
    list: u32,
}

/// What is read of a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow)]
    status: Status<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<Raw<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageMetadata {
    r#continue: String,
}

/// A pod of a list: name, version, node.
pub(super) type Listed = (String, String, Option<Arc<str>>);

impl Raw<'_> {
    /// The node of a pod that counts: it has one, and has not ended.
    fn node(&self) -> Option<Arc<str>> {
        let has_ended = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let node = self.spec.node_name.as_deref().filter(|node| !node.is_empty());
        node.filter(|_| !has_ended && self.metadata.deletion_timestamp.is_none()).map(Arc::from)
    }
}

// === impl Listener ===

impl pods::Listener for Listener {
    fn told(&self, told: &Told<'_>) {
        match told {
            Told::Listing => {
                let mut known = self.known();
                known.lists = known.lists.wrapping_add(1);
            }
            Told::Put { head, raw } => self.pod(head, Some(raw)),
            Told::Gone { head } => self.pod(head, None),
            Told::Listed => self.sweep(),
        }
    }
}

impl Listener {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod(&self, head: &Head<'_>, raw: Option<&str>) {
        let mut known = self.known();
        let Known { jobs, by_namespace, woken, lists } = &mut *known;
        let Some(uids) = by_namespace.get(&*head.namespace) else { return };
        let read = raw.and_then(|raw| serde_json::from_str::<Raw<'_>>(raw).ok());
        let node = read.as_ref().and_then(Raw::node);
        let labels = read.and_then(|raw| raw.metadata.labels).unwrap_or_default();
        let before = woken.len();
        for uid in uids {
            let Some(wanted) = jobs.get_mut(uid) else { continue };
            let node = node.clone().filter(|_| wanted.selector.mismatch(&labels).is_none());
            if wanted.put(&head.name, &head.resource_version, node, *lists) {
                woken.insert(Arc::clone(uid));
            }
        }
        let is_news = woken.len() > before;
        drop(known);
        if is_news {
            self.notify.notify_one();
        }
    }

    /// What was not told by the last list is gone.
    fn sweep(&self) {
        let mut known = self.known();
        let Known { jobs, woken, lists, .. } = &mut *known;
        for (uid, wanted) in jobs {
            let before = wanted.pods.len();
            wanted.pods.retain(|_, seen| seen.list == *lists);
            if wanted.pods.len() != before {
                woken.insert(Arc::clone(uid));
            }
        }
        drop(known);
        self.notify.notify_one();
    }

    /// Something was woken.
    pub(super) async fn heard(&self) {
        self.notify.notified().await;
    }

    /// Jobs whose nodes may have changed since the last call.
    pub(super) fn take(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.known().woken)
    }

    /// From now on the pods of this job are kept. Whether they must be [listed](Self::listed) first.
    pub(super) fn want(&self, uid: &Arc<str>, namespace: &Arc<str>, selector: &Selector) -> bool {
        let mut known = self.known();
        if known.jobs.get(uid).is_some_and(|wanted| wanted.selector == *selector) {
            return false;
        }
        let wanted = Wanted {
            namespace: Arc::clone(namespace),
            selector: selector.clone(),
            pods: BTreeMap::new(),
            is_listed: false,
        };
        known.jobs.insert(Arc::clone(uid), wanted);
        known.by_namespace.entry(Arc::clone(namespace)).or_default().insert(Arc::clone(uid));
        true
    }

    /// The job has ended.
    pub(super) fn forget(&self, uid: &str) {
        let mut known = self.known();
        let Some(wanted) = known.jobs.remove(uid) else { return };
        if let Some(uids) = known.by_namespace.get_mut(&wanted.namespace) {
            uids.remove(uid);
            if uids.is_empty() {
                known.by_namespace.remove(&wanted.namespace);
            }
        }
    }

    /// These are all pods of the job that were there a moment ago.
    pub(super) fn listed(&self, uid: &str, listed: Vec<Listed>) {
        let mut known = self.known();
        let lists = known.lists;
        let Some(wanted) = known.jobs.get_mut(uid) else { return };
        for (name, version, node) in listed {
            wanted.put(&name, &version, node, lists);
        }
        wanted.is_listed = true;
        wanted.pods.retain(|_, seen| seen.node.is_some());
    }

    /// The nodes of the job's pods, in the order of the pods' names, each once; `None` until they were listed.
    pub(super) fn nodes(&self, uid: &str) -> Option<Vec<Arc<str>>> {
        let known = self.known();
        let wanted = known.jobs.get(uid).filter(|wanted| wanted.is_listed)?;
        let mut seen = BTreeSet::new();
        let nodes = wanted.pods.values().filter_map(|pod| pod.node.clone());
        Some(nodes.filter(|node| seen.insert(Arc::clone(node))).collect())
    }
}

// === impl Wanted ===

impl Wanted {
    /// Whether that changes anything.
    fn put(&mut self, name: &str, version: &str, node: Option<Arc<str>>, list: u32) -> bool {
        let before = self.pods.get(name);
        if before.is_some_and(|before| is_older(version, &before.version)) {
            return false;
        }
        let changes = before.and_then(|before| before.node.as_ref()) != node.as_ref();
        if node.is_none() && self.is_listed {
            self.pods.remove(name);
        } else {
            self.pods.insert(name.to_owned(), Seen { version: version.to_owned(), node, list });
        }
        changes
    }
}

/// Lists the pods of a job.
pub(super) async fn list(client: &Client, namespace: &str, selector: &Selector) -> Result<Vec<Listed>, CallError> {
    let pods = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let mut params = ListParams::default().labels(&terms(selector)).limit(PAGE);
    let mut listed = Vec::new();
    for _ in 0..PAGES {
        let request = pods.list(&params).map_err(kube::Error::BuildRequest)?;
        let text = call(client.request_text(request)).await?;
        let page: Page<'_> = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
        listed.extend(page.items.unwrap_or_default().into_iter().map(|pod| {
            let node = pod.node();
            (pod.metadata.name.into_owned(), pod.metadata.resource_version.into_owned(), node)
        }));
        if page.metadata.r#continue.is_empty() {
            break;
        }
        params = params.continue_token(&page.metadata.r#continue);
    }
    Ok(listed)
}

/// A selector as the API server takes it in a query.
fn terms(selector: &Selector) -> String {
    let term = |requirement: &crate::selector::Requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            Operator::In(values) => format!("{key} in ({})", values.join(",")),
            Operator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    };
    selector.requirements().iter().map(term).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::meta::LabelSelector;
    use crate::controllers::pods::Listener as _;

    fn selector() -> Selector {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        Selector::try_from(&LabelSelector { match_labels: labels, ..LabelSelector::default() }).unwrap()
    }

    fn tell(listener: &Listener, namespace: &str, name: &str, version: u32, app: &str, node: &str, phase: &str) {
        let pod = json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version.to_string(), "labels": {"app": app}},
            "spec": {"nodeName": node}, "status": {"phase": phase},
        });
        let raw = pod.to_string();
        listener.told(&Told::Put { head: &Head::read(&raw), raw: &raw });
    }

    fn nodes(listener: &Listener) -> Vec<String> {
        listener.nodes("u").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_of_the_namespace_that_match_are_kept_with_their_nodes_job_3_weak_48() {
        let listener = Listener::default();
        let (uid, shop): (Arc<str>, Arc<str>) = ("u".into(), "shop".into());
        assert!(listener.want(&uid, &shop, &selector()) && !listener.want(&uid, &shop, &selector()));
        tell(&listener, "shop", "gone", 9, "web", "", "Pending");
        assert_eq!(listener.nodes("u"), None, "not listed yet");
        // The list is older than what was told of `gone`.
        let old = |name: &str, node: &str| (name.to_owned(), "5".to_owned(), Some(Arc::from(node)));
        listener.listed("u", vec![old("a", "n2"), old("b", "n1"), old("gone", "n3"), old("c", "n2")]);
        assert_eq!(nodes(&listener), ["n2", "n1"]);
        drop(listener.take());
        tell(&listener, "other", "x", 10, "web", "n9", "Running");
        tell(&listener, "shop", "x", 10, "db", "n9", "Running");
        assert!(listener.take().is_empty());
        tell(&listener, "shop", "0", 11, "web", "n4", "Running");
        tell(&listener, "shop", "b", 12, "web", "n1", "Succeeded");
        assert_eq!(listener.take(), BTreeSet::from([uid]));
        assert_eq!(nodes(&listener), ["n4", "n2"]);
        // A list that has only one of them.
        listener.told(&Told::Listing);
        tell(&listener, "shop", "0", 11, "web", "n4", "Running");
        listener.told(&Told::Listed);
        assert_eq!(nodes(&listener), ["n4"]);
        listener.forget("u");
        assert_eq!(listener.nodes("u"), None);
    }

    #[test]
    fn a_selector_is_written_as_the_api_server_reads_it() {
        let of = |operator: &str, values: &[&str]| crate::api::meta::LabelSelectorRequirement {
            key: "k".to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let match_expressions =
            vec![of("In", &["a", "b"]), of("NotIn", &["c"]), of("Exists", &[]), of("DoesNotExist", &[])];
        let selector = LabelSelector { match_expressions, ..LabelSelector::default() };
        assert_eq!(terms(&Selector::try_from(&selector).unwrap()), "k in (a,b),k notin (c),k,!k");
    }
}
