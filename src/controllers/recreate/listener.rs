//! Which requests a pod's change concerns: those that carry its UID and are not over (CRR-10).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::queue::Key;
use crate::controllers::pods::{self, Told};

/// Told of all pods; remembers the requests of those that have some. What it holds is bounded by the number of requests.
#[derive(Debug, Default)]
pub(super) struct Listener {
    known: Mutex<Known>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Known {
    by_uid: HashMap<String, BTreeSet<Key>>,
    uids: HashMap<Key, String>,
    woken: BTreeSet<Key>,
}

// === impl Listener ===

impl pods::Listener for Listener {
    fn told(&self, told: &Told<'_>) {
        match told {
            Told::Put { head, .. } | Told::Gone { head } => self.pod(&head.uid),
            Told::Listing => {}
            Told::Listed => self.all(),
        }
    }
}

impl Listener {
    /// Wakes the requests of a pod.
    fn pod(&self, uid: &str) {
        let mut known = self.known();
        let Known { by_uid, woken, .. } = &mut *known;
        let Some(keys) = by_uid.get(uid) else { return };
        woken.extend(keys.iter().cloned());
        drop(known);
        self.notify.notify_one();
    }

    /// Wakes all requests: pods may have gone while nobody looked.
    fn all(&self) {
        let mut known = self.known();
        let Known { uids, woken, .. } = &mut *known;
        woken.extend(uids.keys().cloned());
        drop(known);
        self.notify.notify_one();
    }

    /// Something was woken.
    pub(super) async fn heard(&self) {
        self.notify.notified().await;
    }

    /// What was woken since the last call.
    pub(super) fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.known().woken)
    }

    /// From now on the pod with this UID wakes the request.
    pub(super) fn know(&self, key: &Key, pod_uid: &str) {
        let mut known = self.known();
        if known.uids.get(key).is_some_and(|known| known == pod_uid) {
            return;
        }
        known.forget(key);
        known.uids.insert(key.clone(), pod_uid.to_owned());
        known.by_uid.entry(pod_uid.to_owned()).or_default().insert(key.clone());
    }

    pub(super) fn forget(&self, key: &Key) {
        self.known().forget(key);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    fn forget(&mut self, key: &Key) {
        self.woken.remove(key);
        let Some(uid) = self.uids.remove(key) else { return };
        if let Some(keys) = self.by_uid.get_mut(&uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_uid.remove(&uid);
            }
        }
    }
}
