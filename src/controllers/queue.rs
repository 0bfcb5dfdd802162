//! Objects that a controller has something to do about, each with the time when; never the same one twice at a time.
//!
//! It holds what is to be done and nothing that was done: an object about which there is nothing to do is left out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::sidecarset::pods::Key;

/// What is to be done.
#[derive(Debug)]
pub struct Agenda<T> {
    entries: HashMap<Key, Entry<T>>,
    due: BTreeSet<(Instant, Key)>,
    /// Taken and not done; an entry may be gone, or be another, meanwhile.
    busy: HashSet<Key>,
    /// How many lists were begun.
    lists: u32,
}

/// An agenda that one writes and another works off.
#[derive(Debug)]
pub struct Queue<T> {
    agenda: Mutex<Agenda<T>>,
    news: Notify,
}

/// How long an object rests whose turn ended in a crash.
const RECOVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry<T> {
    item: T,
    due: Option<Instant>,
    /// The last list that had begun when it was put.
    list: u32,
}

// === impl Agenda ===

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), due: BTreeSet::new(), busy: HashSet::new(), lists: 0 }
    }
}

impl<T> Agenda<T> {
    /// What is known of an object.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.item)
    }

    /// Puts an object in the place of what was known of it, if it was. When it is due stays as it is.
    pub fn put(&mut self, key: &Key, item: T) {
        let due = self.entries.get(key).and_then(|entry| entry.due);
        self.entries.insert(key.clone(), Entry { item, due, list: self.lists });
    }

    /// Makes an object due at a time, unless it is earlier already. One that is not there is not.
    pub fn hasten(&mut self, key: &Key, due: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.due.is_some_and(|before| before <= due) {
            return;
        }
        if let Some(before) = entry.due.replace(due) {
            self.due.remove(&(before, key.clone()));
        }
        self.due.insert((due, key.clone()));
    }

    /// There is nothing to do about this one.
    pub fn remove(&mut self, key: &Key) {
        if let Some(Entry { due: Some(due), .. }) = self.entries.remove(key) {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// A list begins: what is not put until it is [listed](Self::listed) is gone.
    pub fn listing(&mut self) {
        self.lists = self.lists.wrapping_add(1);
    }

    /// The list is whole.
    pub fn listed(&mut self) {
        let gone = self.entries.iter().filter(|(_, entry)| entry.list != self.lists).map(|(key, _)| key.clone());
        for key in gone.collect::<Vec<Key>>() {
            self.remove(&key);
        }
    }

    /// Takes an object that is due. It is not taken again before it is [done](Self::done).
    pub fn take(&mut self, now: Instant) -> Option<(Key, &mut T)> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        let (at, key) = due.into_iter().find(|(_, key)| !self.busy.contains(key))?.clone();
        self.due.remove(&(at, key.clone()));
        self.busy.insert(key.clone());
        let entry = self.entries.get_mut(&key)?;
        entry.due = None;
        Some((key, &mut entry.item))
    }

    /// What was taken is done.
    pub fn done(&mut self, key: &Key) {
        self.busy.remove(key);
    }

    /// When the next object is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.iter().find(|(_, key)| !self.busy.contains(key)).map(|(due, _)| *due)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

// === impl Queue ===

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { agenda: Mutex::default(), news: Notify::new() }
    }
}

impl<T: Clone> Queue<T> {
    /// Reads or changes it. Say so if something may be [due sooner](Self::wake).
    pub fn lock(&self) -> MutexGuard<'_, Agenda<T>> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may be due sooner.
    pub fn wake(&self) {
        self.news.notify_one();
    }

    /// For ever lets `act` have a turn with each object that is due, `turns` of them at a time.
    pub async fn work<F: Future<Output = ()> + Send + 'static>(&self, turns: usize, act: impl Fn(Arc<Key>, T) -> F) {
        // They end with the set.
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut keys: HashMap<Id, Arc<Key>> = HashMap::new();
        loop {
            while tasks.len() < turns {
                let Some((key, item)) =
                    self.lock().take(Instant::now()).map(|(key, item)| (Arc::new(key), item.clone()))
                else {
                    break;
                };
                let id = tasks.spawn(act(Arc::clone(&key), item)).id();
                keys.insert(id, key);
            }
            let next = self.lock().next().filter(|_| tasks.len() < turns);
            tokio::select! {
                () = self.news.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    let (id, is_crash) = match ended {
                        Ok((id, ())) => (id, false),
                        Err(crash) => {
                            tracing::error!(error = %crash, "a turn crashed and is taken again");
                            (crash.id(), true)
                        }
                    };
                    let Some(key) = keys.remove(&id) else { continue };
                    let mut agenda = self.lock();
                    agenda.done(&key);
                    if is_crash {
                        agenda.hasten(&key, Instant::now() + RECOVERY);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "shop".into(), name: name.into() }
    }

    fn queue(names: &[&str], now: Instant) -> Agenda<u32> {
        let mut queue = Agenda::default();
        for (n, name) in (0..).zip(names) {
            queue.put(&key(name), n);
            queue.hasten(&key(name), now + Duration::from_secs(n.into()));
        }
        queue
    }

    #[tokio::test]
    async fn what_is_due_is_taken_in_order_and_once() {
        let now = Instant::now();
        let mut queue = queue(&["a", "b"], now);
        assert_eq!(queue.take(now).map(|(key, n)| (key, *n)), Some((key("a"), 0)));
        assert!(queue.take(now).is_none(), "b is not due");
        assert_eq!(queue.next(), Some(now + Duration::from_secs(1)));
        // Put again while it is taken: not before it is done.
        queue.put(&key("a"), 7);
        queue.hasten(&key("a"), now);
        assert!(queue.take(now).is_none());
        assert_eq!(queue.next(), Some(now + Duration::from_secs(1)));
        queue.done(&key("a"));
        assert_eq!(queue.next(), Some(now));
        assert_eq!(queue.take(now).map(|(key, n)| (key, *n)), Some((key("a"), 7)));
    }

    #[tokio::test]
    async fn what_is_removed_is_never_due_and_what_comes_back_waits_for_the_one_at_work() {
        let now = Instant::now();
        let mut queue = queue(&["a"], now);
        assert!(queue.take(now).is_some());
        queue.remove(&key("a"));
        assert!(queue.is_empty());
        queue.put(&key("a"), 1);
        queue.hasten(&key("a"), now);
        assert!(queue.take(now).is_none());
        queue.done(&key("a"));
        assert!(queue.take(now).is_some());
        queue.done(&key("a"));
        queue.hasten(&key("a"), now + Duration::from_secs(2));
        queue.hasten(&key("a"), now + Duration::from_secs(1));
        queue.hasten(&key("a"), now + Duration::from_secs(3));
        assert_eq!(queue.next(), Some(now + Duration::from_secs(1)));
        queue.remove(&key("a"));
        assert!(queue.next().is_none());
    }

    #[tokio::test]
    async fn what_a_list_lacks_is_removed() {
        let now = Instant::now();
        let mut queue = queue(&["a", "b"], now);
        queue.listing();
        queue.put(&key("b"), 5);
        assert_eq!(queue.len(), 2);
        queue.listed();
        assert!(queue.get_mut(&key("a")).is_none());
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.next(), Some(now + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_costs_a_second_and_no_other_object_anything() {
        let queue = Arc::new(Queue::default());
        for name in ["a", "b"] {
            queue.lock().put(&key(name), ());
            queue.lock().hasten(&key(name), Instant::now());
        }
        let turns = Arc::new(Mutex::new(Vec::new()));
        let act = |key: Arc<Key>, ()| {
            let turns = Arc::clone(&turns);
            async move {
                turns.lock().unwrap().push(key.name.to_string());
                assert!(&*key.name != "a" || turns.lock().unwrap().len() > 1, "the first time");
            }
        };
        let worked = tokio::time::timeout(Duration::from_secs(3), queue.work(1, act));
        assert!(worked.await.is_err());
        assert_eq!(*turns.lock().unwrap(), ["a", "b", "a"]);
    }
}
