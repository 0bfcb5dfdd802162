//! The pods that carry a SidecarSet, as they were last heard of, by the sets that they name.
//!
//! They come from the [watch of all pods](crate::controllers::pods), and from the answers to our own writes; of two copies the newer one stays, so a
//! decision is never made on a pod as it was before our last write to it. Pods that carry nothing are dropped as they are
//! read. Texts that many pods have in common are there once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use memchr::memmem::Finder;

use crate::api::names;
use crate::api::sidecarset::SidecarSet;
use crate::controllers::pods::Head;
use crate::rollout::Pod;
use crate::rollout::pod::is_record;
use crate::selector::{Selector, SelectorError};

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A pod as the watch tells it.
#[derive(Clone, Debug)]
pub struct Seen {
    key: Key,
    uid: Box<str>,
    /// Its `resourceVersion`.
    pub version: Box<str>,
    /// The pod, if it carries a SidecarSet.
    pod: Option<Arc<Pod>>,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Pods {
    known: Mutex<Known>,
    texts: Mutex<Texts>,
    /// Annotations that are kept besides the records.
    wanted: Mutex<Arc<BTreeSet<String>>>,
}

#[derive(Debug, Default)]
struct Known {
    pods: HashMap<Key, Kept>,
    /// How many lists were begun.
    lists: u32,
    by_set: BTreeMap<Box<str>, BTreeMap<Key, Arc<Pod>>>,
}

/// A pod in the cache.
#[derive(Debug)]
struct Kept {
    pod: Arc<Pod>,
    /// The last list that had begun when it was told.
    list: u32,
}

/// Texts that are shared.
#[derive(Debug, Default)]
struct Texts {
    texts: HashSet<Arc<str>>,
    /// At how many it is looked which are still in use.
    limit: usize,
}

/// At fewer texts it is not looked which are still in use.
const FEW_TEXTS: usize = 4096;

// === impl Seen ===

impl Seen {
    /// Reads a pod as the watch tells it. One that carries no SidecarSet, which is known from a word in its text, and one
    /// that cannot be read, is there by its name only.
    pub fn read(head: &Head<'_>, raw: &str) -> Self {
        static INJECTED: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(names::INJECTED_LIST));
        let pod = INJECTED.find(raw.as_bytes()).and_then(|_| serde_json::from_str::<Pod>(raw).ok());
        pod.map_or_else(|| Self::bare(head), Self::from)
    }

    /// By its name only.
    pub fn bare(head: &Head<'_>) -> Self {
        Self {
            key: Key { namespace: (*head.namespace).into(), name: (*head.name).into() },
            uid: (*head.uid).into(),
            version: (*head.resource_version).into(),
            pod: None,
        }
    }
}

impl From<Pod> for Seen {
    fn from(pod: Pod) -> Self {
        let (key, uid, version) = (Key::of(&pod), pod.uid.clone(), pod.resource_version.clone());
        let is_injected = pod.injected_by().next().is_some();
        Self { key, uid, version, pod: is_injected.then(|| Arc::new(pod)) }
    }
}

// === impl Key ===

impl Key {
    /// That of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self { namespace: Arc::clone(&pod.namespace), name: (*pod.name).into() }
    }
}

// === impl Pods ===

impl Pods {
    /// From now on keeps these annotations besides the records. Whether pods must be read again to have them all.
    pub fn want(&self, annotations: BTreeSet<String>) -> bool {
        let mut wanted = lock(&self.wanted);
        let grew = !annotations.is_subset(&wanted);
        if **wanted != annotations {
            *wanted = Arc::new(annotations);
        }
        grew
    }

    /// What is kept of a pod.
    pub fn trim(&self, mut seen: Seen) -> Seen {
        if let Some(pod) = seen.pod.as_mut() {
            let wanted = Arc::clone(&lock(&self.wanted));
            let pod = Arc::make_mut(pod);
            pod.keep_annotations(|key| is_record(key) || wanted.contains(key));
            let mut texts = lock(&self.texts);
            pod.share(|text| texts.share(text));
            seen.key.namespace = Arc::clone(&pod.namespace);
        }
        seen
    }

    /// Takes what the watch tells of one pod. The names of the sets that this concerns go to `touch`.
    pub fn put(&self, seen: Seen, touch: impl FnMut(&str)) {
        let mut known = lock(&self.known);
        let (key, list) = (seen.key.clone(), known.lists);
        known.put(seen, touch);
        if let Some(kept) = known.pods.get_mut(&key) {
            kept.list = list;
        }
    }

    /// Takes that a pod is gone.
    pub fn gone(&self, seen: &Seen, touch: impl FnMut(&str)) {
        lock(&self.known).remove(&seen.key, &seen.uid, touch);
    }

    /// A list begins: what is not put until it is [listed](Self::listed) is gone.
    pub fn listing(&self) {
        let mut known = lock(&self.known);
        known.lists = known.lists.wrapping_add(1);
    }

    /// All pods were put.
    pub fn listed(&self, mut touch: impl FnMut(&str)) {
        let mut known = lock(&self.known);
        let gone: Vec<(Key, Box<str>)> = known
            .pods
            .iter()
            .filter(|(_, kept)| kept.list != known.lists)
            .map(|(key, kept)| (key.clone(), kept.pod.uid.clone()))
            .collect();
        for (key, uid) in gone {
            known.remove(&key, &uid, &mut touch);
        }
    }

    /// Takes the API server's answer to a write. A pod that was deleted meanwhile stays deleted.
    pub fn answer(&self, pod: Pod, touch: impl FnMut(&str)) {
        let seen = self.trim(Seen::from(pod));
        let mut known = lock(&self.known);
        if known.pods.get(&seen.key).is_some_and(|kept| kept.pod.uid == seen.uid) {
            known.put(seen, touch);
        }
    }

    /// The pods that name a set, by namespace and name.
    pub fn of(&self, set: &str) -> Vec<Arc<Pod>> {
        lock(&self.known).by_set.get(set).into_iter().flat_map(|pods| pods.values().cloned()).collect()
    }

    /// The version of the newest copy of a pod; `None` when it is gone.
    pub fn version(&self, pod: &Pod) -> Option<Box<str>> {
        let known = lock(&self.known);
        let newest = known.pods.get(&Key::of(pod)).filter(|newest| newest.pod.uid == pod.uid)?;
        Some(newest.pod.resource_version.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.known).pods.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Known ===

impl Known {
    fn put(&mut self, seen: Seen, mut touch: impl FnMut(&str)) {
        let Seen { key, uid, version, pod } = seen;
        let before = self.pods.get(&key).map(|kept| Arc::clone(&kept.pod));
        if let Some(before) = before.as_ref().filter(|before| before.uid == uid) {
            if !is_newer(&version, &before.resource_version) {
                return;
            }
            if let Some(pod) = &pod
                && is_same(before, pod)
            {
                // Nobody need decide anew; but whoever writes must know the version.
                for set in pod.injected_by() {
                    if let Some(place) = self.by_set.get_mut(set).and_then(|pods| pods.get_mut(&key)) {
                        *place = Arc::clone(pod);
                    }
                }
                if let Some(kept) = self.pods.get_mut(&key) {
                    kept.pod = Arc::clone(pod);
                }
                return;
            }
        }
        // An answer says nothing about a list.
        let list = self.pods.get(&key).map_or(self.lists, |kept| kept.list);
        if let Some(before) = before {
            self.remove(&key, &before.uid, &mut touch);
        }
        let Some(pod) = pod else { return };
        for set in pod.injected_by() {
            self.by_set.entry(set.into()).or_default().insert(key.clone(), Arc::clone(&pod));
            touch(set);
        }
        self.pods.insert(key, Kept { pod, list });
    }

    fn remove(&mut self, key: &Key, uid: &str, mut touch: impl FnMut(&str)) {
        if self.pods.get(key).is_none_or(|kept| *kept.pod.uid != *uid) {
            return;
        }
        let Some(Kept { pod, .. }) = self.pods.remove(key) else { return };
        for set in pod.injected_by() {
            if let Some(pods) = self.by_set.get_mut(set) {
                pods.remove(key);
                if pods.is_empty() {
                    self.by_set.remove(set);
                }
            }
            touch(set);
        }
    }
}

/// Whether a version is later than another. One that is no number is taken for later: whoever has it heard of it now.
pub fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

/// Whether two copies differ in nothing but their versions.
fn is_same(before: &Pod, after: &Pod) -> bool {
    let mut before = before.clone();
    before.resource_version.clone_from(&after.resource_version);
    before == *after
}

// === impl Texts ===

impl Texts {
    fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(shared) = self.texts.get(text) {
            return Arc::clone(shared);
        }
        if self.texts.len() >= self.limit.max(FEW_TEXTS) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.limit = self.texts.len() * 2;
        }
        self.texts.insert(Arc::clone(text));
        Arc::clone(text)
    }
}

/// The pods that a set selects, of those that name it (CTL-10). `is_in` tells whether a namespace is known and has labels
/// that a selector matches.
pub fn selected(
    set: &SidecarSet,
    pods: Vec<Arc<Pod>>,
    is_in: impl Fn(&str, &Selector) -> bool,
) -> Result<Vec<Arc<Pod>>, SelectorError> {
    let Some(selector) = &set.spec.selector else { return Ok(Vec::new()) };
    let selector = Selector::try_from(selector)?;
    let namespaces = set.spec.namespace_selector.as_ref().map(Selector::try_from).transpose()?;
    let is_selected = |pod: &Arc<Pod>| {
        selector.mismatch(&pod.labels).is_none()
            && namespaces.as_ref().is_none_or(|namespaces| is_in(&pod.namespace, namespaces))
    };
    Ok(pods.into_iter().filter(is_selected).collect())
}

/// Annotations that the sets patch into pods (UPD-9).
pub fn patched<'a>(sets: impl Iterator<Item = &'a SidecarSet>) -> BTreeSet<String> {
    let patches = sets.flat_map(|set| set.spec.patch_pod_metadata.iter());
    patches.flat_map(|patch| patch.annotations.keys()).filter(|key| *key != names::INJECTED_LIST).cloned().collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, version: &str, sets: Option<&str>, image: &str) -> Seen {
        let mut annotations = json!({"note": "x", "kept": "y"});
        if let Some(sets) = sets {
            annotations[names::INJECTED_LIST] = sets.into();
        }
        let document = json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("u-{name}"), "resourceVersion": version,
                "labels": {"app": "web"}, "annotations": annotations},
            "spec": {"containers": [{"name": "agent", "image": image}]},
        });
        let document = document.to_string();
        Seen::read(&Head::read(&document), &document)
    }

    fn list(pods: &Pods, listed: Vec<Seen>, mut touch: impl FnMut(&str)) {
        pods.listing();
        for seen in listed {
            pods.put(pods.trim(seen), &mut touch);
        }
        pods.listed(touch);
    }

    fn cache() -> (Pods, Vec<String>) {
        let pods = Pods::default();
        let mut touched = Vec::new();
        let listed = vec![pod("a", "10", Some("mesh,logs"), "x:1"), pod("b", "11", None, "x:1")];
        list(&pods, listed, |set| touched.push(set.to_owned()));
        (pods, touched)
    }

    fn image(pods: &Pods, set: &str) -> Vec<String> {
        pods.of(set).iter().map(|pod| pod.containers[0].image.to_string()).collect()
    }

    #[test]
    fn only_pods_that_carry_a_set_are_kept_by_each_of_their_sets() {
        let (pods, touched) = cache();
        assert_eq!(pods.len(), 1);
        assert_eq!(touched, ["mesh", "logs"]);
        assert_eq!((image(&pods, "mesh").len(), image(&pods, "logs").len(), image(&pods, "other").len()), (1, 1, 0));
    }

    #[rstest]
    #[case::newer("12", "x:2", "x:2", &["mesh", "logs", "mesh", "logs"])]
    #[case::older("9", "x:2", "x:1", &[])]
    #[case::the_same_version("10", "x:2", "x:1", &[])]
    #[case::a_longer_number("100", "x:2", "x:2", &["mesh", "logs", "mesh", "logs"])]
    #[case::newer_and_the_same("12", "x:1", "x:1", &[])]
    fn of_two_copies_the_newer_stays_and_only_what_changed_wakes_rate_8(
        #[case] version: &str,
        #[case] written: &str,
        #[case] expected: &str,
        #[case] touched: &[&str],
    ) {
        for is_answer in [false, true] {
            let (pods, _) = cache();
            let mut told = Vec::new();
            let seen = pod("a", version, Some("mesh,logs"), written);
            let touch = |set: &str| told.push(set.to_owned());
            if is_answer {
                pods.answer(Arc::unwrap_or_clone(seen.pod.unwrap()), touch);
            } else {
                pods.put(pods.trim(seen), touch);
            }
            assert_eq!(image(&pods, "mesh"), [expected]);
            assert_eq!(told, touched);
            let newest = if is_newer(version, "10") { version } else { "10" };
            assert_eq!(&*pods.of("logs")[0].resource_version, newest);
        }
    }

    #[test]
    fn a_pod_that_is_gone_stays_gone_whatever_is_answered() {
        let (pods, _) = cache();
        let answer = pod("a", "12", Some("mesh"), "x:2");
        let mut touched = Vec::new();
        pods.gone(&answer, |set| touched.push(set.to_owned()));
        pods.answer(Arc::unwrap_or_clone(answer.pod.unwrap()), |_| {});
        assert!(pods.is_empty() && pods.of("mesh").is_empty());
        assert_eq!(touched, ["mesh", "logs"]);
    }

    #[rstest]
    #[case::that_carries_less(vec![pod("a", "12", Some("mesh"), "x:1")], 1, 0)]
    #[case::that_carries_nothing(vec![pod("a", "12", None, "x:1")], 0, 0)]
    #[case::that_a_list_lacks(vec![], 0, 0)]
    fn a_pod_leaves_the_sets_that_it_no_longer_names(
        #[case] listed: Vec<Seen>,
        #[case] mesh: usize,
        #[case] logs: usize,
    ) {
        let (pods, _) = cache();
        list(&pods, listed, |_| {});
        assert_eq!((pods.of("mesh").len(), pods.of("logs").len()), (mesh, logs));
    }

    #[rstest]
    #[case::told_before(&["put"], 0)]
    #[case::answered_before(&["answer"], 0)]
    #[case::answered_meanwhile(&["listing", "answer"], 0)]
    #[case::told_in_the_list(&["listing", "put"], 1)]
    #[case::told_in_a_list_that_began_anew(&["listing", "put", "listing"], 0)]
    #[case::told_as_it_was(&["listing", "same"], 1)]
    fn what_a_whole_list_lacks_is_gone(#[case] steps: &[&str], #[case] left: usize) {
        let (pods, _) = cache();
        let newer = || pods.trim(pod("a", "12", Some("mesh"), "x:2"));
        for step in steps {
            match *step {
                "put" => pods.put(newer(), |_| {}),
                "same" => pods.put(pods.trim(pod("a", "10", Some("mesh,logs"), "x:1")), |_| {}),
                "answer" => pods.answer(Arc::unwrap_or_clone(newer().pod.unwrap()), |_| {}),
                _ => pods.listing(),
            }
        }
        if !steps.contains(&"listing") {
            pods.listing();
        }
        assert_eq!(pods.len(), 1, "nothing goes before the list is whole");
        pods.listed(|_| {});
        assert_eq!(pods.len(), left);
    }

    #[test]
    fn only_annotations_that_are_read_are_kept() {
        let pods = Pods::default();
        assert!(pods.want(["kept".to_owned()].into()), "pods must be read again");
        assert!(!pods.want(["kept".to_owned()].into()));
        let pod = pods.trim(pod("a", "1", Some("mesh"), "x:1")).pod.unwrap();
        let keys: Vec<&str> = pod.annotations.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["kept", names::INJECTED_LIST]);
        assert!(!pods.want(BTreeSet::new()), "what is no longer wanted is no reason to read");
    }

    #[test]
    fn texts_are_shared_and_those_that_nobody_has_are_dropped() {
        let pods = Pods::default();
        let [a, b] = ["a", "b"].map(|name| pods.trim(pod(name, "1", Some("mesh"), "x:1")).pod.unwrap());
        assert!(Arc::ptr_eq(&a.containers[0].image, &b.containers[0].image));
        for n in 0..3 * FEW_TEXTS {
            drop(pods.trim(pod("c", "1", Some("mesh"), &format!("x:{n}"))));
        }
        assert!(lock(&pods.texts).texts.len() <= FEW_TEXTS + 10);
    }

    #[rstest]
    #[case::no_selector(json!({}), 0)]
    #[case::an_empty_selector(json!({"selector": {}}), 1)]
    #[case::labels(json!({"selector": {"matchLabels": {"app": "web"}}}), 1)]
    #[case::other_labels(json!({"selector": {"matchLabels": {"app": "api"}}}), 0)]
    #[case::namespace(json!({"selector": {}, "namespaceSelector": {"matchLabels": {"team": "a"}}}), 1)]
    #[case::other_namespace(json!({"selector": {}, "namespaceSelector": {"matchLabels": {"team": "b"}}}), 0)]
    fn pods_are_selected_by_labels_and_namespace_ctl_10(#[case] spec: Value, #[case] expected: usize) {
        let (pods, _) = cache();
        let set = SidecarSet { spec: serde_json::from_value(spec).unwrap(), ..SidecarSet::default() };
        let labels: BTreeMap<String, String> = [("team".to_owned(), "a".to_owned())].into();
        let is_in = |_: &str, selector: &Selector| selector.mismatch(&labels).is_none();
        assert_eq!(selected(&set, pods.of("mesh"), is_in).unwrap().len(), expected);
    }
}
