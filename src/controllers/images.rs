//! Pulls images ahead: NodeImages, ImagePullJobs, ImageListPullJobs and copies of their Secrets (IMG-1 … IMG-25, JOB, LIST, SEC).
//!
//! ```text
//! watches of jobs, NodeImages, Nodes, lists, copies ─┐                 ┌▶ one patch a NodeImage, many at a time ─┐
//! watch of pods ─▶ listener ─────────────────────────┴▶ board ─▶ round ┼▶ statuses and finalizers of jobs ───────┤
//!                                                         ▲            ├▶ verdicts, births and deaths ───────────┤
//!                                                         │            └▶ copies of Secrets, jobs of lists ──────┤
//!                                                         └────────────── the API server's answers ◀─────────────┘
//! ```
//!
//! Everything that takes time is a task; between them there is one owner of the [`Board`], which only looks. Run it only
//! where the Lease is held. Nothing is remembered that the API server does not have, but for what it refused.

mod calls;
mod lists;
pub mod metrics;
mod pods;
mod secrets;
mod watches;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::lists::Looked;
use self::metrics::{Metrics, Taken};
use self::pods::{Listed, Listener};
use self::secrets::{Keeper, Kept};
use self::watches::{Change, SeenCopy};
use crate::api::names;
use crate::api::pulljob::PullJobStatus;
use crate::cluster::CallError;
use crate::controllers::pods::Hub;
use crate::images::board::{Board, Counts, Outcome, Write};
use crate::images::job::{Chore, Job, Selection, chore};
use crate::images::list::{self, List};
use crate::images::node::Node;
use crate::images::secrets::{Copy, Want};
use crate::store::watch::Told;

/// Who reports events of NodeImages: the reference's name.
const NODE_IMAGE_CONTROLLER: &str = "nodeimage-controller";
/// Who reports events of ImageListPullJobs.
const LIST_CONTROLLER: &str = "imagelistpulljob-controller";
/// Changes that wait to be taken.
const QUEUE: usize = 256;
/// Changes within this time are answered together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Planning may take this part of the time, one of so many.
const SHARE: u32 = 4;
/// Least time between two statuses of a job, and between two looks at a list (WEAK-26).
const PACE: Duration = Duration::from_secs(1);
/// How often sources of copied Secrets are read (SEC-12).
const POLL: Duration = Duration::from_secs(4);
/// The first and the longest pause after an error.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Conflicts in a row that are nothing to speak of.
const CONFLICTS: u32 = 3;
/// NodeImages that are made, deleted or judged at a time.
const UPKEEP: usize = 8;
/// How long it waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);

/// How it works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seconds that a node must have been Ready before it gets a NodeImage (IMG-2).
    pub creation_delay: u32,
    /// Seconds for which the tag of an `Always` job is kept beyond its time (JOB-21).
    pub default_ttl: u32,
    /// Jobs that are written at a time.
    pub workers: usize,
    /// NodeImages that are written at a time.
    pub writes: usize,
    /// Namespace of copied Secrets (SEC-1).
    pub namespace: String,
}

/// The running controllers.
struct Lead {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    listener: Arc<Listener>,
    namespace: Arc<str>,
    board: Board,
    counts: Counts,
    copies: BTreeMap<String, Copy>,
    are_copies_listed: bool,
    are_lists_listed: bool,
    /// Whether jobs want other Secrets than before.
    is_keeper_due: Option<Instant>,
    is_keeping: bool,
    keeper_trouble: Option<String>,
    lists: BTreeMap<Arc<str>, Known>,
    /// Jobs by their list.
    children: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Jobs that something may have to be done about.
    paces: HashMap<Arc<str>, Pace>,
    tasks: JoinSet<Done>,
    writes: usize,
    upkeep: usize,
    job_writes: usize,
    due: Option<Instant>,
    planned: Instant,
    took: Duration,
}

/// A list, and when it is looked at.
struct Known {
    list: List,
    due: Option<Instant>,
    looked: Option<Instant>,
    is_busy: bool,
    failures: u32,
}

/// What is to be looked at about a job, and when.
#[derive(Debug, Default)]
struct Pace {
    status: bool,
    chore: bool,
    /// When its time comes without an event, in seconds since 1970.
    nap: Option<i64>,
    is_busy: bool,
    /// Not before.
    status_from: Option<Instant>,
    from: Option<Instant>,
    failures: u32,
}

/// A task that ended.
enum Done {
    Written(Arc<str>, Outcome),
    /// Something about a NodeImage as a whole, and how it is now; the inner `None` if it is gone.
    Kept(Arc<str>, Result<Option<Node>, CallError>),
    Unkept(Arc<str>, Result<(), CallError>),
    Rested(Arc<str>),
    Job(Arc<str>, Result<Box<Job>, CallError>),
    JobGone(Arc<str>),
    Pods(Arc<str>, Result<Vec<Listed>, CallError>),
    Secrets(Box<Kept>),
    List(Arc<str>, Box<Looked>, Result<(), CallError>),
}

// === impl Settings ===

impl Settings {
    /// What suits a cluster, with copies of Secrets in this namespace.
    pub fn new(namespace: &str) -> Self {
        Self { creation_delay: 30, default_ttl: 300, workers: 8, writes: 16, namespace: namespace.to_owned() }
    }
}

/// Listens to `hub`, and runs until `shutdown`.
pub fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    hub: &mut Hub,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let listener = Arc::<Listener>::default();
    hub.listen(Arc::<Listener>::clone(&listener));
    async move {
        // It can be stopped anywhere: a successor goes on from what the objects say.
        let lead = async {
            loop {
                Lead::new(&client, &settings, &metrics, &listener).run().await;
                tracing::error!("the controllers of images crashed and start again");
                sleep(RECOVERY).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = lead => {}
        }
        metrics.follow(Counts::default(), Counts::default(), [0; 3]);
    }
}

// === impl Lead ===

impl Lead {
    fn new(client: &Client, settings: &Settings, metrics: &Metrics, listener: &Arc<Listener>) -> Self {
        let extra = i32::try_from(settings.default_ttl).unwrap_or(i32::MAX);
        Self {
            client: client.clone(),
            metrics: metrics.clone(),
            listener: Arc::clone(listener),
            namespace: settings.namespace.as_str().into(),
            board: Board::new(extra, settings.creation_delay.into()),
            settings: settings.clone(),
            counts: Counts::default(),
            copies: BTreeMap::new(),
            are_copies_listed: false,
            are_lists_listed: false,
            is_keeper_due: None,
            is_keeping: false,
            keeper_trouble: None,
            lists: BTreeMap::new(),
            children: HashMap::new(),
            paces: HashMap::new(),
            tasks: JoinSet::new(),
            writes: 0,
            upkeep: 0,
            job_writes: 0,
            due: None,
            planned: Instant::now(),
            took: Duration::ZERO,
        }
    }

    async fn run(mut self) {
        let (sender, mut changes) = mpsc::channel(QUEUE);
        let mut watching = JoinSet::new();
        watches::follow(&self.client, &self.metrics, &self.settings.namespace, &sender, &mut watching);
        drop(sender);
        let listener = Arc::clone(&self.listener);
        loop {
            tokio::select! {
                told = changes.recv() => {
                    let Some(told) = told else { return };
                    self.take(told);
                    for _ in 0..QUEUE {
                        let Ok(told) = changes.try_recv() else { break };
                        self.take(told);
                    }
                    self.soon();
                }
                // None of them ends by itself.
                Some(_) = watching.join_next() => return,
                () = listener.heard() => {
                    for uid in self.listener.take() {
                        self.follow_pods(&uid);
                    }
                    self.soon();
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.finish(done),
                    Err(crash) => {
                        tracing::error!(error = %crash, "a part of the controllers of images crashed");
                        return;
                    }
                },
                () = sleep_until(self.due.unwrap_or_else(Instant::now)), if self.due.is_some() => self.round(),
            }
        }
    }

    /// Decides soon, with whatever else changes until then.
    fn soon(&mut self) {
        let rested = self.planned + self.took * SHARE;
        self.by((Instant::now() + DEBOUNCE).max(rested));
    }

    fn by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    // --- what is told ---

    fn take(&mut self, change: Change) {
        match change {
            Change::Jobs(told) => match told {
                Told::All(jobs) => {
                    let jobs: Vec<Job> = jobs.into_iter().map(|seen| seen.0).collect();
                    for job in &jobs {
                        self.know(job);
                    }
                    for gone in self.board.jobs_listed(jobs) {
                        self.forget(&gone);
                    }
                }
                Told::Put(seen) => self.put_job(seen.0),
                Told::Gone(seen) => {
                    let uid = seen.0.uid;
                    self.board.job_gone(&uid);
                    self.forget(&uid);
                }
                Told::Current => {}
            },
            Change::Nodes(told) => match told {
                Told::All(nodes) => self.board.nodes_listed(nodes.into_iter().map(|seen| seen.0).collect()),
                Told::Put(seen) => self.board.put_node(seen.0),
                Told::Gone(seen) => self.board.node_gone(&seen.0.name, Some(&seen.0.uid)),
                Told::Current => {}
            },
            Change::Machines(told) => match told {
                Told::All(machines) => {
                    let machines = machines.into_iter().map(|seen| (seen.name, seen.machine));
                    self.board.machines_listed(machines.collect());
                }
                Told::Put(seen) => self.board.put_machine(seen.name, seen.machine),
                Told::Gone(seen) => self.board.machine_gone(&seen.name),
                Told::Current => {}
            },
            Change::Lists(told) => self.take_list(told),
            Change::Copies(told) => self.take_copies(told),
        }
    }

    fn put_job(&mut self, job: Job) {
        self.know(&job);
        self.board.put_job(job);
    }

    /// What concerns others than the board.
    fn know(&mut self, job: &Job) {
        if let Some(list) = &job.list {
            self.children.entry(Arc::clone(list)).or_default().insert(Arc::clone(&job.uid));
            self.look_at_list(list);
        }
        if !job.spec.pull_secrets.is_empty() {
            self.is_keeper_due.get_or_insert_with(Instant::now);
        }
        match &job.selection {
            Ok(Selection::Pods(selector)) if job.is_live() => {
                if self.listener.want(&job.uid, &job.namespace, selector) {
                    self.list_pods(&job.uid, &job.namespace, selector.clone());
                }
            }
            _ => self.listener.forget(&job.uid),
        }
    }

    fn forget(&mut self, uid: &Arc<str>) {
        self.paces.remove(uid);
        self.listener.forget(uid);
        self.is_keeper_due.get_or_insert_with(Instant::now);
        let mut lists = Vec::new();
        self.children.retain(|list, children| {
            if children.remove(uid) {
                lists.push(Arc::clone(list));
            }
            !children.is_empty()
        });
        for list in lists {
            self.look_at_list(&list);
        }
    }

    fn take_list(&mut self, told: Told<watches::SeenList>) {
        match told {
            Told::All(lists) => {
                let there: BTreeSet<Arc<str>> = lists.iter().map(|seen| Arc::clone(&seen.0.uid)).collect();
                self.lists.retain(|uid, _| there.contains(uid));
                for seen in lists {
                    self.put_list(seen.0);
                }
                self.are_lists_listed = true;
                // Also those whose list is gone.
                for list in self.children.keys().cloned().collect::<Vec<_>>() {
                    self.look_at_children(&list);
                }
            }
            Told::Put(seen) => self.put_list(seen.0),
            Told::Gone(seen) => {
                self.lists.remove(&seen.0.uid);
                self.look_at_children(&seen.0.uid);
            }
            Told::Current => {}
        }
    }

    fn put_list(&mut self, list: List) {
        let uid = Arc::clone(&list.uid);
        match self.lists.get_mut(&uid) {
            Some(known) if crate::images::job::is_older(&list.version, &known.list.version) => return,
            Some(known) => known.list = list,
            None => {
                let known = Known { list, due: None, looked: None, is_busy: false, failures: 0 };
                self.lists.insert(Arc::clone(&uid), known);
            }
        }
        self.look_at_list(&uid);
        self.look_at_children(&uid);
    }

    fn look_at_list(&mut self, uid: &Arc<str>) {
        let Some(known) = self.lists.get_mut(uid) else { return };
        let at = known.looked.map_or_else(Instant::now, |looked| (looked + PACE).max(Instant::now()));
        known.due = Some(known.due.map_or(at, |due| due.min(at)));
    }

    /// What ended while its list went on may be deleted now.
    fn look_at_children(&mut self, list: &Arc<str>) {
        for uid in self.children.get(list).into_iter().flatten() {
            self.paces.entry(Arc::clone(uid)).or_default().chore = true;
        }
    }

    fn take_copies(&mut self, told: Told<SeenCopy>) {
        match told {
            Told::All(copies) => {
                let copies = copies.into_iter().filter_map(|seen| Some((seen.name, seen.copy?)));
                self.copies = copies.collect();
                self.are_copies_listed = true;
            }
            Told::Put(SeenCopy { name, copy, .. }) => self.put_copy(name, copy),
            Told::Gone(SeenCopy { name, .. }) => _ = self.copies.remove(&name),
            Told::Current => return,
        }
        self.is_keeper_due.get_or_insert_with(Instant::now);
    }

    fn put_copy(&mut self, name: String, copy: Option<Copy>) {
        match copy {
            None => _ = self.copies.remove(&name),
            Some(copy) => {
                let known = self.copies.get(&name).filter(|known| known.uid == copy.uid);
                if known.is_none_or(|known| !crate::images::job::is_older(&copy.version, &known.version)) {
                    self.copies.insert(name, copy);
                }
            }
        }
    }

    fn follow_pods(&mut self, uid: &Arc<str>) {
        if let Some(nodes) = self.listener.nodes(uid) {
            self.board.set_pods(uid, &nodes);
        }
    }

    fn list_pods(&mut self, uid: &Arc<str>, namespace: &Arc<str>, selector: crate::selector::Selector) {
        let (client, uid, namespace) = (self.client.clone(), Arc::clone(uid), Arc::clone(namespace));
        self.tasks.spawn(async move {
            let listed = pods::list(&client, &namespace, &selector).await;
            Done::Pods(uid, listed)
        });
    }

    // --- what is done ---

    fn round(&mut self) {
        self.due = None;
        let began = Instant::now();
        let now = crate::app::now();
        self.board.plan(now);
        for uid in self.board.take_told() {
            self.paces.entry(uid).or_default().status = true;
        }
        for uid in self.board.take_chores() {
            self.paces.entry(uid).or_default().chore = true;
        }
        self.start_writes();
        self.start_upkeep();
        self.start_jobs();
        self.start_keeper();
        self.start_lists();
        self.took = began.elapsed();
        self.planned = Instant::now();
        self.metrics.planned(self.took);
        let counts = self.board.counts();
        self.metrics.follow(self.counts, counts, self.board.gauges());
        self.counts = counts;
        if self.board.is_stirred() {
            self.soon();
        }
        if let Some(due) = self.board.next_due() {
            let wait = due.duration_since(crate::app::now());
            let wait = Duration::try_from(wait).unwrap_or_default().max(DEBOUNCE).min(Duration::from_hours(1));
            self.by(Instant::now() + wait);
        }
    }

    fn start_writes(&mut self) {
        while self.writes < self.settings.writes.max(1) {
            let Some(write) = self.board.write(crate::app::now()) else { return };
            self.writes += 1;
            let (client, metrics) = (self.client.clone(), self.metrics.clone());
            self.tasks.spawn(async move {
                let outcome = calls::send(&client, &write, &metrics).await;
                let Write { name, jobs, .. } = write;
                match &outcome {
                    Outcome::Done(_) => tracing::debug!(node = &*name, jobs, "a NodeImage was written"),
                    Outcome::Conflict(_) => tracing::debug!(node = &*name, "a NodeImage had changed; looking again"),
                    Outcome::Refused(error) => {
                        tracing::warn!(node = &*name, jobs, error, "a NodeImage cannot be written; others go on");
                    }
                    Outcome::Away(error) => {
                        tracing::warn!(node = &*name, jobs, error, "nobody can say whether a NodeImage can be written");
                    }
                }
                Done::Written(name, outcome)
            });
        }
    }

    fn start_upkeep(&mut self) {
        if self.upkeep >= UPKEEP {
            return;
        }
        let room = |upkeep: usize| UPKEEP.saturating_sub(upkeep);
        for (name, labels) in self.board.take_births(crate::app::now(), room(self.upkeep)) {
            self.upkeep += 1;
            let client = self.client.clone();
            self.tasks.spawn(async move {
                let made = calls::create_node(&client, &name, &labels).await;
                Done::Kept(name, made)
            });
        }
        for (name, uid) in self.board.take_deaths(room(self.upkeep)) {
            self.upkeep += 1;
            let client = self.client.clone();
            self.tasks.spawn(async move {
                let deleted = calls::delete_node(&client, &name, &uid).await;
                Done::Unkept(name, deleted.map(drop))
            });
        }
        for name in self.board.take_overdue(room(self.upkeep)) {
            self.upkeep += 1;
            let (client, metrics) = (self.client.clone(), self.metrics.clone());
            let machine = self.board.machine(&name).cloned();
            self.tasks.spawn(async move {
                let judged = calls::give_up(&client, &name, machine.as_ref(), &metrics).await;
                Done::Kept(name, judged)
            });
        }
    }

    fn start_jobs(&mut self) {
        let (now, second) = (Instant::now(), crate::app::now().as_second());
        let held: HashSet<&str> = self.copies.values().flat_map(|copy| &copy.references).map(String::as_str).collect();
        let mut next: Option<Instant> = None;
        let mut starts = Vec::new();
        for (uid, pace) in &mut self.paces {
            if pace.nap.is_some_and(|nap| nap <= second) {
                (pace.nap, pace.chore) = (None, true);
            }
            if let Some(nap) = pace.nap {
                let seconds = u64::try_from(nap - second).unwrap_or_default().min(3600);
                let at = now + Duration::from_secs(seconds);
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
            if pace.is_busy
                || !(pace.chore || pace.status)
                || starts.len() + self.job_writes >= self.settings.workers.max(1)
            {
                continue;
            }
            let from = pace.from.filter(|from| *from > now);
            let status_from = pace.status_from.filter(|from| *from > now).filter(|_| !pace.chore);
            if let Some(from) = from.or(status_from) {
                next = Some(next.map_or(from, |next| next.min(from)));
                continue;
            }
            let Some(job) = self.board.job(uid) else { continue };
            if std::mem::take(&mut pace.chore) {
                // Until the lists are known, each may be one that would only make it anew.
                let has_open_list = job.list.as_ref().is_some_and(|list| {
                    !self.are_lists_listed || self.lists.get(list).is_some_and(|known| known.list.is_open())
                });
                let may_hold = !self.are_copies_listed && !job.spec.pull_secrets.is_empty();
                let holds_copies = may_hold || held.contains(&*job.age.1);
                match chore(job, holds_copies, has_open_list, second) {
                    Chore::Rest(nap) => pace.nap = nap,
                    step => {
                        starts.push((Arc::clone(uid), Start::Chore(step)));
                        continue;
                    }
                }
            }
            if pace.status && pace.status_from.is_none_or(|from| from <= now) {
                pace.status = false;
                if let Some(status) = self.board.status(uid, crate::app::now()) {
                    starts.push((Arc::clone(uid), Start::Status(Box::new(status))));
                }
            }
            if pace.status {
                next = next.into_iter().chain(pace.status_from).min();
            }
        }
        if let Some(next) = next {
            self.by(next);
        }
        for (uid, start) in starts {
            self.start_job(uid, start);
        }
    }

    fn start_job(&mut self, uid: Arc<str>, start: Start) {
        let Some(job) = self.board.job(&uid) else { return };
        let key = (job.namespace.to_string(), job.name.to_string(), job.version.to_string());
        let finalizers = job.finalizers.clone();
        let Some(pace) = self.paces.get_mut(&uid) else { return };
        pace.is_busy = true;
        if let Start::Status(status) = &start {
            pace.status_from = Some(Instant::now() + PACE);
            if status.completion_time.is_some() {
                let (ns, name) = (&key.0, &key.1);
                tracing::info!(ns, name, message = status.message, "an ImagePullJob ended");
            }
        }
        self.job_writes += 1;
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            let (namespace, name, version) = key;
            let jobs = calls::kind("imagepulljobs", Some(&namespace));
            let path = "/metadata/finalizers";
            let (subresource, operations) = match start {
                Start::Status(status) => {
                    (Some("status"), vec![json!({"op": "add", "path": "/status", "value": status})])
                }
                Start::Chore(Chore::Hold) if finalizers.is_empty() => {
                    (None, vec![json!({"op": "add", "path": path, "value": [names::DELETION_PROTECTION]})])
                }
                Start::Chore(Chore::Hold) => {
                    (None, vec![json!({"op": "add", "path": format!("{path}/-"), "value": names::DELETION_PROTECTION})])
                }
                Start::Chore(Chore::Release) => {
                    let ours = |(_, finalizer): &(usize, &String)| *finalizer == names::DELETION_PROTECTION;
                    let places = finalizers.iter().enumerate().filter(ours).map(|(place, _)| place).rev();
                    let remove = |place: usize| json!({"op": "remove", "path": format!("{path}/{place}")});
                    (None, places.map(remove).collect())
                }
                Start::Chore(Chore::Delete | Chore::Rest(_)) => {
                    return match calls::delete(&client, &jobs, &name, &uid, Some(&version)).await {
                        Ok(()) => {
                            metrics.wrote("job", Taken::Done);
                            Done::JobGone(uid)
                        }
                        Err(error) => {
                            metrics.wrote("job", Taken::of(&error));
                            Done::Job(uid, Err(error))
                        }
                    };
                }
            };
            let written = calls::patch(&client, &jobs, &name, subresource, (&uid, &version), operations).await;
            metrics.wrote("job", written.as_ref().map_or_else(Taken::of, |_| Taken::Done));
            match written {
                Ok(answer) => Done::Job(uid, Ok(Box::new(Job::read(&answer)))),
                Err(error) if error.code() == Some(404) => Done::JobGone(uid),
                Err(error) => Done::Job(uid, Err(error)),
            }
        });
    }

    /// Looks after copies of Secrets, if it is time to.
    fn start_keeper(&mut self) {
        let Some(due) = self.is_keeper_due.filter(|_| !self.is_keeping) else { return };
        // Who does not know all would delete what is needed.
        if !self.board.is_synced() || !self.are_copies_listed {
            return;
        }
        if due > Instant::now() {
            self.by(due);
            return;
        }
        self.is_keeper_due = None;
        let wanting = self.board.jobs().filter(|job| job.is_live() && !job.spec.pull_secrets.is_empty());
        let wants: Vec<Want> = wanting
            .map(|job| Want {
                job: (Arc::clone(&job.namespace), Arc::clone(&job.name)),
                uid: Arc::clone(&job.uid),
                secrets: job.spec.pull_secrets.clone(),
            })
            .collect();
        if wants.is_empty() && self.copies.is_empty() {
            self.wake_ended();
            return;
        }
        self.is_keeping = true;
        let keeper = Keeper {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            namespace: Arc::clone(&self.namespace),
            wants,
            copies: self.copies.clone(),
        };
        self.tasks.spawn(async move { Done::Secrets(Box::new(keeper.run().await)) });
    }

    fn start_lists(&mut self) {
        let (instant, now) = (Instant::now(), crate::app::now());
        if !self.board.is_synced() {
            return;
        }
        let mut next = None;
        for (uid, known) in &mut self.lists {
            let Some(due) = known.due.filter(|_| !known.is_busy) else { continue };
            if due > instant {
                next = Some(next.map_or(due, |next: Instant| next.min(due)));
                continue;
            }
            known.due = None;
            let children = self.children.get(uid).into_iter().flatten();
            let children: Vec<&Job> = children.filter_map(|child| self.board.job(child)).collect();
            let plan = list::plan(&known.list, &children, now);
            if let Some(wake) = plan.wake {
                let wait = u64::try_from(wake - now.as_second()).unwrap_or_default().clamp(1, 3600);
                let at = instant + Duration::from_secs(wait);
                known.due = Some(at);
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            if (list::Plan { wake: None, ..plan.clone() }) == list::Plan::default() {
                continue;
            }
            (known.is_busy, known.looked) = (true, Some(instant));
            let (client, metrics, list) = (self.client.clone(), self.metrics.clone(), known.list.clone());
            self.tasks.spawn(async move {
                let (looked, done) = lists::carry_out(&client, &list, plan, &metrics).await;
                Done::List(list.uid, Box::new(looked), done)
            });
        }
        if let Some(next) = next {
            self.by(next);
        }
    }

    // --- what became of it ---

    fn finish(&mut self, done: Done) {
        let now = crate::app::now();
        match done {
            Done::Written(name, outcome) => {
                self.writes -= 1;
                self.board.landed(&name, outcome, now);
                self.start_writes();
            }
            Done::Kept(name, kept) => {
                self.upkeep -= 1;
                match kept {
                    Ok(Some(node)) => self.board.put_node(node),
                    Ok(None) => self.board.node_gone(&name, None),
                    Err(error) => self.upkeep_failed(name, &error),
                }
            }
            Done::Unkept(name, kept) => {
                self.upkeep -= 1;
                if let Err(error) = kept {
                    self.upkeep_failed(name, &error);
                }
            }
            Done::Rested(name) => self.board.again(&name),
            Done::Job(uid, written) => {
                self.job_writes -= 1;
                let pace = self.paces.entry(Arc::clone(&uid)).or_default();
                pace.is_busy = false;
                match written {
                    Ok(job) => {
                        (pace.failures, pace.from) = (0, None);
                        self.put_job(*job);
                    }
                    Err(error) => {
                        let pause = pause(pace.failures);
                        pace.failures += 1;
                        pace.from = Some(Instant::now() + pause);
                        (pace.status, pace.chore) = (true, true);
                        // Somebody was faster, as a rule: the watch tells how the job is now.
                        let is_conflict = matches!(error.code(), Some(409 | 422));
                        if !is_conflict || pace.failures > CONFLICTS {
                            let job = self.board.job(&uid).map(|job| Arc::clone(&job.age.1)).unwrap_or_default();
                            tracing::warn!(job = &*job, %error, "an ImagePullJob cannot be written; tried again");
                        }
                    }
                }
            }
            Done::JobGone(uid) => {
                self.job_writes -= 1;
                self.paces.remove(&uid);
                // The watch tells that it is gone, unless a finalizer of others holds it.
            }
            Done::Pods(uid, Ok(listed)) => {
                self.listener.listed(&uid, listed);
                self.follow_pods(&uid);
            }
            Done::Pods(uid, Err(error)) => {
                tracing::warn!(%error, "the pods of an ImagePullJob cannot be listed; tried again");
                self.listener.forget(&uid);
                if let Some(job) = self.board.job(&uid).cloned() {
                    let (client, listener) = (self.client.clone(), Arc::clone(&self.listener));
                    if let Ok(Selection::Pods(selector)) = job.selection {
                        listener.want(&uid, &job.namespace, &selector);
                        self.tasks.spawn(async move {
                            sleep(PAUSES.0 * 4).await;
                            Done::Pods(uid, pods::list(&client, &job.namespace, &selector).await)
                        });
                    }
                }
            }
            Done::Secrets(kept) => self.secrets_kept(*kept),
            Done::List(uid, looked, done) => {
                for job in looked.made {
                    self.put_job(job);
                }
                if let Some(known) = self.lists.get_mut(&uid) {
                    known.is_busy = false;
                    let at = match &done {
                        Ok(()) => {
                            known.failures = 0;
                            None
                        }
                        Err(error) => {
                            let pause = pause(known.failures);
                            known.failures += 1;
                            if !matches!(error.code(), Some(404 | 409 | 422)) {
                                let name = &known.list.name;
                                tracing::warn!(name, %error, "an ImageListPullJob cannot be carried out; tried again");
                            }
                            Some(Instant::now() + pause)
                        }
                    };
                    known.due = known.due.into_iter().chain(at).max();
                    if done.is_ok() && known.due.is_none() {
                        // What the status says may be out of date already.
                        known.due = Some(Instant::now() + PACE);
                    }
                }
                if let Some(list) = looked.list {
                    self.put_list(list);
                }
            }
        }
        self.soon();
    }

    fn upkeep_failed(&mut self, name: Arc<str>, error: &CallError) {
        if !matches!(error.code(), Some(409 | 422)) {
            tracing::warn!(node = &*name, %error, "a NodeImage cannot be looked after; tried again");
        }
        self.tasks.spawn(async move {
            sleep(PAUSES.0 * 4).await;
            Done::Rested(name)
        });
    }

    fn secrets_kept(&mut self, kept: Kept) {
        self.is_keeping = false;
        let Kept { ready, written, trouble } = kept;
        for (name, copy) in written {
            self.put_copy(name, copy);
        }
        let polls = !ready.is_empty();
        for ready in ready {
            self.board.set_secrets(&ready.uid, ready.secrets, ready.remark);
        }
        if trouble != self.keeper_trouble {
            if let Some(trouble) = &trouble {
                tracing::warn!(trouble, "pull secrets cannot be looked after; tried again");
            }
            self.keeper_trouble = trouble;
        }
        if polls || self.keeper_trouble.is_some() {
            let at = Instant::now() + POLL;
            self.is_keeper_due.get_or_insert(at);
        }
        self.wake_ended();
    }

    /// Who has ended may be let go now, as it holds no copies any more.
    fn wake_ended(&mut self) {
        let ended = self.board.jobs().filter(|job| !job.is_live() && !job.finalizers.is_empty());
        let ended: Vec<_> = ended.map(|job| Arc::clone(&job.uid)).collect();
        if !ended.is_empty() {
            self.soon();
        }
        for uid in ended {
            self.paces.entry(uid).or_default().chore = true;
        }
    }
}

/// What is begun for a job.
enum Start {
    Status(Box<PullJobStatus>),
    Chore(Chore),
}

/// Longer after each error in a row.
fn pause(failures: u32) -> Duration {
    let (first, longest) = PAUSES;
    first.saturating_mul(1 << failures.min(10)).min(longest).mul_f64(0.75 + fastrand::f64() / 2.0)
}
