//! Everything that jobs want of nodes, and how far it is: kept up to date event by event, in time that grows with what
//! changed (WEAK-26), and what is to be done now.
//!
//! ```text
//! put_job, put_node, put_machine … ─▶ states of a job on nodes, counts ─▶ plan ─┬▶ reservations ─▶ write ─▶ landed
//!                                                                             ├▶ statuses that may have changed
//!                                                                             └▶ NodeImages to make, to delete, to judge
//! ```
//!
//! A job's slot is taken from when a node is chosen for it until the node has ended: by a reservation first, by the entry in
//! the NodeImage then, never by nothing in between. So its parallelism is a limit at every instant.
//!
//! A NodeImage stays small (WEAK-40): on each node only so many jobs are admitted as fit, the oldest first.

mod patch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::iter;
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

use super::job::{Age, GRACE, Job, Selection, Tally};
use super::node::{Answer, Image, LIMIT, Machine, Node, Owner, Secret, Tag, Texts, verdict_at};
use crate::api::pulljob::PullJobStatus;

pub use self::patch::Write;

type JobId = u32;
type NodeId = u32;

/// Milliseconds for which removals that somebody waits for are put off, so that they go together.
const TOGETHER: i64 = 1000;
/// Seconds for which removals that nobody waits for are put off: until another write takes them along, as a rule.
const AT_LEISURE: i64 = 30;
/// Milliseconds after which a node that has no room is looked at again.
const CROWDED: i64 = 2000;
/// Nodes that wait for their write at which a job looks first.
const WAITING: usize = 256;
/// Jobs that may wait for the write of a node before others go elsewhere: pulls are to be spread.
const ABOARD: usize = 8;
/// Writes for a job that a NodeImage refuses until the node counts as failed (WEAK-22).
const TRIES: u32 = 3;
/// Milliseconds until a refused write is tried again; ten times as long each time.
const RETRY: i64 = 500;
/// Milliseconds until a write is tried again that nobody could judge.
const AWAY: i64 = 5000;
/// Milliseconds for which a NodeImage that refused a write gets what jobs want one by one.
const SINGLY: i64 = 60_000;
/// Milliseconds until removals that were refused are tried again.
const UPKEEP_RETRY: i64 = 30_000;

/// Comes after all places (see [`Job::place`]).
const LATE: u64 = 1 << 63;

/// How a job is on a node (JOB-14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It does not select it.
    #[default]
    Out,
    /// Not handed out.
    Pending,
    /// Handed out and not ended.
    Active,
    /// The image is there.
    Succeeded,
    /// It was given up.
    Failed,
    /// The NodeImage takes no entry for this job.
    Unwritable,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    /// Seconds for which the tag of an `Always` job is kept beyond its time (JOB-21).
    extra: i32,
    /// Seconds that a node must have been Ready before it gets a NodeImage (IMG-2).
    delay: i64,
    texts: Texts,
    nodes: Vec<Slot>,
    node_ids: HashMap<Arc<str>, NodeId>,
    free_nodes: Vec<NodeId>,
    jobs: Vec<Option<Work>>,
    job_ids: HashMap<Arc<str>, JobId>,
    free_jobs: Vec<JobId>,
    /// Live jobs, the oldest first.
    ages: BTreeSet<(Age, JobId)>,
    machines: HashMap<Arc<str>, Machine>,
    /// Whether all jobs, NodeImages and Nodes were listed.
    listed: [bool; 3],
    /// When a node is to be looked at, in milliseconds since 1970.
    timers: BTreeSet<(i64, NodeId)>,
    /// When a node has had its rest from a job.
    rests: BTreeSet<(i64, JobId, NodeId)>,
    /// When the time alone changes a job, in milliseconds since 1970.
    alarms: BTreeSet<(i64, JobId)>,
    /// Nodes that changed.
    dirty: BTreeSet<NodeId>,
    /// Nodes of which other jobs may have to be admitted.
    windows: BTreeSet<NodeId>,
    /// Jobs that may have something to hand out.
    stirred: BTreeSet<JobId>,
    /// Jobs that were held up, and are stirred when anything else changes.
    stuck: BTreeSet<JobId>,
    /// Nodes that are to be written.
    outbox: VecDeque<NodeId>,
    /// Jobs whose status may have changed.
    told: BTreeSet<JobId>,
    /// Jobs that changed otherwise.
    chores: BTreeSet<JobId>,
    /// NodeImages to be made, from these seconds since 1970 on.
    births: BTreeMap<Arc<str>, i64>,
    /// NodeImages to be deleted.
    deaths: BTreeSet<Arc<str>>,
    /// NodeImages with tags that nobody has ended in time.
    overdue: BTreeSet<NodeId>,
    counts: Counts,
}

/// What happened, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that were handed an image.
    pub handed_out: u64,
    /// Nodes that have an image now.
    pub succeeded: u64,
    /// Nodes that gave an image up.
    pub failed: u64,
    /// NodeImages that cannot be written for a job.
    pub unwritable: u64,
}

/// A job at work.
#[derive(Debug)]
struct Work {
    job: Job,
    /// What its Secrets are called where daemons may read them; `None` until that is known.
    secrets: Option<Vec<Secret>>,
    /// What is wrong with its Secrets, for people.
    remark: Option<String>,
    /// The nodes of its pods, with their places; `None` until that is known.
    pods: Option<HashMap<Arc<str>, u64>>,
    /// Bytes that its tag may become.
    bytes: usize,
    states: Vec<State>,
    counts: [usize; 6],
    /// Slots that are reserved.
    held: usize,
    /// Pending nodes that may be chosen, in their order.
    ready: BTreeSet<(u64, NodeId)>,
    troubles: HashMap<NodeId, Trouble>,
    /// Nodes that were passed over because another job of the same tag has no slot.
    blocked: usize,
    alarm: Option<i64>,
}

/// A node that is no good for a job, for a while or for good.
#[derive(Clone, Debug)]
struct Trouble {
    tries: u32,
    until: i64,
    cause: String,
}

/// A place for a node.
#[derive(Debug, Default)]
struct Slot {
    name: Arc<str>,
    node: Option<Node>,
    /// Jobs from this age on are not admitted.
    cutoff: Option<Age>,
    /// Bytes that no admission of jobs changes.
    base: usize,
    reserved: Vec<Held>,
    flight: Option<Flight>,
    is_queued: bool,
    timer: Option<i64>,
    /// When removals are to be written.
    upkeep: Option<i64>,
    /// Until then removals are not tried.
    upkeep_rests: i64,
    /// Until then it gets what jobs want one by one.
    singly: i64,
}

/// A reservation: a node for a job, and a slot of each job that gets to pull once more (decision of who joins).
#[derive(Clone, Debug)]
struct Held {
    job: Arc<str>,
    others: Vec<Arc<str>>,
}

/// A write on its way.
#[derive(Debug)]
struct Flight {
    held: Vec<Held>,
    has_upkeep: bool,
}

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// It was taken; the NodeImage is like this now.
    Done(Box<Node>),
    /// The NodeImage had changed, and is like this now; or it is gone.
    Conflict(Option<Box<Node>>),
    /// It was refused, for this reason.
    Refused(String),
    /// Nobody could judge it, such as while a webhook of the API server is away; that says nothing of the NodeImage.
    Away(String),
}

/// What an owner of a tag is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is no job.
    Foreign,
    /// It is gone, or does not want this tag any more.
    Gone,
    /// It ended then, in seconds since 1970.
    Ended(i64),
    /// It is at work.
    Live(JobId),
}

/// Whether a job may have a node.
enum Joining {
    /// It may; these jobs need a slot each.
    Yes(Vec<JobId>),
    /// Another job must give way first.
    No,
}

/// What is to be done about a tag.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fate {
    /// Owners that are to go, by their place.
    owners: Vec<usize>,
    /// Whether that is urgent.
    is_urgent: bool,
    /// From when on it is to go as a whole, in seconds since 1970.
    ends: Option<i64>,
    /// Whether it may go when room is needed, and when it ended.
    spare: Option<i64>,
}

impl Board {
    /// An empty one. See the fields of the same names.
    pub fn new(extra: i32, delay: i64) -> Self {
        Self { extra, delay, ..Self::default() }
    }

    // --- jobs ---

    /// These are all there are. Gives those that were known and are not among them.
    pub fn jobs_listed(&mut self, jobs: Vec<Job>) -> Vec<Arc<str>> {
        let there: BTreeSet<Arc<str>> = jobs.iter().map(|job| Arc::clone(&job.uid)).collect();
        let gone: Vec<Arc<str>> = self.job_ids.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        for uid in &gone {
            self.job_gone(uid);
        }
        for job in jobs {
            self.put_job(job);
        }
        self.listed[0] = true;
        gone
    }

    /// This one is new, or is now like this.
    pub fn put_job(&mut self, mut job: Job) {
        self.texts.share(&mut job.uid);
        if let Some((image, tag)) = &mut job.image {
            self.texts.share(image);
            self.texts.share(tag);
        }
        let id = self.job_ids.get(&job.uid).copied().unwrap_or_else(|| {
            let id = self.free_jobs.pop().unwrap_or_else(|| {
                self.jobs.push(None);
                id_of(self.jobs.len() - 1)
            });
            self.job_ids.insert(Arc::clone(&job.uid), id);
            id
        });
        self.chores.insert(id);
        self.told.insert(id);
        let before = self.jobs[id as usize].take();
        let Some(before) = before else {
            // Secrets and pods of another incarnation are not those of this one.
            self.jobs[id as usize] = Some(Work::new(job));
            self.begin(id);
            return;
        };
        if super::job::is_older(&job.version, &before.job.version) {
            self.jobs[id as usize] = Some(before);
            return;
        }
        let is_same = before.job.spec == job.spec && before.job.is_live() == job.is_live();
        let was_live = before.job.is_live();
        let bytes = job.bytes(before.secrets.as_deref().unwrap_or_default());
        let has_pods_still = before.job.spec.pod_selector == job.spec.pod_selector;
        let mut work = Work { job, bytes, ..before };
        if is_same {
            self.jobs[id as usize] = Some(work);
            self.set_alarm(id);
            self.stirred.insert(id);
            return;
        }
        if !has_pods_still {
            work.pods = None;
        }
        self.jobs[id as usize] = Some(work);
        if was_live {
            self.retire(id);
        }
        self.begin(id);
    }

    /// This one is gone.
    pub fn job_gone(&mut self, uid: &str) {
        let Some(id) = self.job_ids.remove(uid) else { return };
        self.retire(id);
        if let Some(work) = self.jobs[id as usize].take() {
            self.touch_owned(&work.job.uid, work.job.image.as_ref());
        }
        for set in [&mut self.stirred, &mut self.stuck, &mut self.told, &mut self.chores] {
            set.remove(&id);
        }
        self.free_jobs.push(id);
    }

    /// What the job's Secrets are called where daemons may read them, and what is wrong with them, for people.
    pub fn set_secrets(&mut self, uid: &str, secrets: Option<Vec<Secret>>, remark: Option<String>) {
        let Some(id) = self.job_ids.get(uid).copied() else { return };
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        if work.secrets == secrets && work.remark == remark {
            return;
        }
        work.bytes = work.job.bytes(secrets.as_deref().unwrap_or_default());
        (work.secrets, work.remark) = (secrets, remark);
        let nodes: Vec<NodeId> = work.nodes().collect();
        // Who pulls already may lack one of them (JOB-14).
        self.dirty.extend(&nodes);
        self.windows.extend(nodes);
        self.stirred.insert(id);
        self.told.insert(id);
    }

    /// The nodes of the job's pods, in order (JOB-3, WEAK-24).
    pub fn set_pods(&mut self, uid: &str, nodes: &[Arc<str>]) {
        let Some(id) = self.job_ids.get(uid).copied() else { return };
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        if !matches!(work.job.selection, Ok(Selection::Pods(_))) {
            return;
        }
        let places: HashMap<Arc<str>, u64> = nodes.iter().cloned().zip(0..).collect();
        if work.pods.as_ref() == Some(&places) {
            return;
        }
        work.pods = Some(places);
        work.ready.clear();
        self.told.insert(id);
        self.select(id);
    }

    /// Begins to keep track of a job on all nodes.
    fn begin(&mut self, id: JobId) {
        let Some(work) = self.jobs[id as usize].as_ref() else { return };
        if !work.job.is_live() {
            self.touch_owned(&Arc::clone(&work.job.uid), work.job.image.clone().as_ref());
            return;
        }
        self.ages.insert((work.job.age.clone(), id));
        self.set_alarm(id);
        self.select(id);
    }

    fn select(&mut self, id: JobId) {
        for node in 0..id_of(self.nodes.len()) {
            self.refresh(id, node);
        }
        self.stirred.insert(id);
    }

    /// Ceases to: the job ended, or begins anew.
    fn retire(&mut self, id: JobId) {
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        self.ages.remove(&(work.job.age.clone(), id));
        if let Some(alarm) = work.alarm.take() {
            self.alarms.remove(&(alarm, id));
        }
        let nodes: Vec<NodeId> = work.nodes().collect();
        work.states.clear();
        work.counts = [0; 6];
        work.ready.clear();
        for (node, trouble) in work.troubles.drain() {
            self.rests.remove(&(trouble.until, id, node));
        }
        // What is not on its way is given back when it is taken up.
        self.dirty.extend(&nodes);
        self.windows.extend(&nodes);
        self.stirred.append(&mut self.stuck);
    }

    /// Nodes on which a job owns a tag are to be looked at.
    fn touch_owned(&mut self, uid: &Arc<str>, image: Option<&(Arc<str>, Arc<str>)>) {
        let Some((name, tag)) = image else { return };
        for (id, slot) in (0..).zip(&self.nodes) {
            let owned = slot.node.as_ref().and_then(|node| node.tag(name, tag));
            if owned.is_some_and(|tag| tag.is_of(uid)) {
                self.dirty.insert(id);
            }
        }
    }

    fn set_alarm(&mut self, id: JobId) {
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        if let Some(alarm) = work.alarm.take() {
            self.alarms.remove(&(alarm, id));
        }
        let start = work.job.status.start_time.as_ref().map(|start| start.0.as_second());
        let grace = start.filter(|_| matches!(work.job.selection, Ok(Selection::Names(_)))).map(|start| start + GRACE);
        // Past ones are harmless: each is heard once.
        let next = work.job.deadline().into_iter().chain(grace).map(|at| at.saturating_mul(1000)).min();
        if let Some(next) = next.filter(|_| work.job.is_live()) {
            work.alarm = Some(next);
            self.alarms.insert((next, id));
        }
    }

    // --- NodeImages ---

    /// These are all there are.
    pub fn nodes_listed(&mut self, nodes: Vec<Node>) {
        let there: BTreeSet<&str> = nodes.iter().map(|node| &*node.name).collect();
        let gone: Vec<Arc<str>> = self.node_ids.keys().filter(|name| !there.contains(&***name)).cloned().collect();
        for name in gone {
            self.node_gone(&name, None);
        }
        self.listed[1] = true;
        for node in nodes {
            self.put_node(node);
        }
        // Nodes may have been listed before.
        let names: Vec<Arc<str>> = self.machines.keys().cloned().collect();
        for name in names {
            self.reconsider(&name);
        }
    }

    /// This one is new, or is now like this.
    pub fn put_node(&mut self, mut node: Node) {
        node.share(&mut self.texts);
        let id = self.node_ids.get(&node.name).copied().unwrap_or_else(|| {
            let id = self.free_nodes.pop().unwrap_or_else(|| {
                self.nodes.push(Slot::default());
                id_of(self.nodes.len() - 1)
            });
            self.nodes[id as usize] = Slot { name: Arc::clone(&node.name), ..Slot::default() };
            self.node_ids.insert(Arc::clone(&node.name), id);
            id
        });
        let slot = &mut self.nodes[id as usize];
        let name = Arc::clone(&slot.name);
        let before = slot.node.as_ref();
        let is_another = before.is_none_or(|before| before.uid != node.uid);
        if before.is_some_and(|before| !is_another && super::job::is_older(&node.version, &before.version)) {
            return;
        }
        if let Some(machine) = self.machines.get(&name)
            && machine.labels == node.labels
        {
            node.labels = Arc::clone(&machine.labels);
        }
        let is_reselected =
            is_another || before.is_some_and(|before| before.labels != node.labels || before.is_going != node.is_going);
        let touched = if is_reselected { BTreeSet::new() } else { self.touched(id, &node) };
        let slot = &mut self.nodes[id as usize];
        let is_changed = slot.node.as_ref().is_none_or(|before| before.generation != node.generation);
        slot.node = Some(node);
        self.dirty.insert(id);
        if is_reselected {
            let live: Vec<JobId> = self.ages.iter().map(|(_, id)| *id).collect();
            for job in live {
                self.refresh(job, id);
            }
            self.windows.insert(id);
        } else {
            for job in touched {
                self.refresh(job, id);
            }
            if is_changed {
                self.windows.insert(id);
            }
        }
        self.reconsider(&name);
    }

    /// Live jobs of tags that `after` has otherwise than what is known.
    fn touched(&self, id: NodeId, after: &Node) -> BTreeSet<JobId> {
        let mut touched = BTreeSet::new();
        let Some(before) = self.nodes[id as usize].node.as_ref() else { return touched };
        let mut differs = |of: &Node, other: &Node| {
            for image in &of.images {
                let same = other.image(&image.name);
                for tag in &image.tags {
                    let same = same.and_then(|image| image.tags.iter().find(|same| same.tag == tag.tag));
                    if same != Some(tag) {
                        touched.extend(tag.owners.iter().filter_map(|owner| self.job_ids.get(&owner.uid)));
                    }
                }
            }
        };
        differs(before, after);
        differs(after, before);
        touched
    }

    /// This one is gone; only if it has this UID, if one is given.
    pub fn node_gone(&mut self, name: &str, uid: Option<&str>) {
        let Some(id) = self.node_ids.get(name).copied() else { return };
        let slot = &mut self.nodes[id as usize];
        if slot.node.is_none()
            || uid.is_some_and(|uid| slot.node.as_ref().is_some_and(|node| &*node.uid != uid && !uid.is_empty()))
        {
            return;
        }
        slot.node = None;
        if let Some(timer) = slot.timer.take() {
            self.timers.remove(&(timer, id));
        }
        for held in std::mem::take(&mut slot.reserved) {
            self.give_back(&held, id);
        }
        let live: Vec<JobId> = self.ages.iter().map(|(_, id)| *id).collect();
        for job in live {
            self.refresh(job, id);
            if let Some(work) = self.jobs[job as usize].as_mut()
                && let Some(trouble) = work.troubles.remove(&id)
            {
                self.rests.remove(&(trouble.until, job, id));
            }
        }
        self.deaths.remove(name);
        self.overdue.remove(&id);
        self.free(id);
        let name: Arc<str> = name.into();
        self.reconsider(&name);
    }

    /// Forgets the place of a node that is gone, unless a write to it is on its way.
    fn free(&mut self, id: NodeId) {
        let slot = &mut self.nodes[id as usize];
        if slot.node.is_some() || slot.flight.is_some() || slot.is_queued {
            return;
        }
        let name = std::mem::take(slot).name;
        self.dirty.remove(&id);
        self.windows.remove(&id);
        // Once only: two nodes must never share a place.
        if self.node_ids.remove(&name).is_some() {
            self.free_nodes.push(id);
        }
    }

    // --- Nodes ---

    /// These are all there are.
    pub fn machines_listed(&mut self, machines: Vec<(Arc<str>, Machine)>) {
        let there: BTreeSet<&str> = machines.iter().map(|(name, _)| &**name).collect();
        let gone: Vec<Arc<str>> = self.machines.keys().filter(|name| !there.contains(&***name)).cloned().collect();
        self.listed[2] = true;
        for name in gone {
            self.machine_gone(&name);
        }
        for (name, machine) in machines {
            self.put_machine(name, machine);
        }
        let names: Vec<Arc<str>> = self.node_ids.keys().cloned().collect();
        for name in names {
            self.reconsider(&name);
        }
    }

    /// This Node is new, or is now like this.
    pub fn put_machine(&mut self, mut name: Arc<str>, machine: Machine) {
        self.texts.share(&mut name);
        let before = self.machines.get(&name);
        if before == Some(&machine) {
            return;
        }
        let was_ready = before.is_none_or(|before| before.is_ready);
        let has_turned = was_ready != machine.is_ready;
        self.machines.insert(Arc::clone(&name), machine);
        self.machine_changed(&name, has_turned);
    }

    /// This Node is gone.
    pub fn machine_gone(&mut self, name: &str) {
        let Some((name, machine)) = self.machines.remove_entry(name) else { return };
        self.machine_changed(&name, !machine.is_ready);
    }

    fn machine_changed(&mut self, name: &Arc<str>, has_turned: bool) {
        if let Some(id) = self.node_ids.get(name).copied() {
            self.dirty.insert(id);
            if has_turned {
                // Its place in the order is another now.
                let live: Vec<JobId> = self.ages.iter().map(|(_, id)| *id).collect();
                for job in live {
                    let Some(work) = self.jobs[job as usize].as_mut() else { continue };
                    if work.state(id) == State::Pending {
                        let place = work.place(name);
                        work.ready.remove(&(place, id));
                        work.ready.remove(&(place | LATE, id));
                        self.refresh_ready(job, id);
                    }
                }
            }
        }
        self.reconsider(name);
    }

    /// IMG-1 … IMG-6: whether its NodeImage is to be made or to be deleted.
    fn reconsider(&mut self, name: &Arc<str>) {
        if !self.listed[1] || !self.listed[2] {
            return;
        }
        let machine = self.machines.get(name);
        let node = self.node_ids.get(name).and_then(|id| self.nodes[*id as usize].node.as_ref());
        let birth = machine.filter(|_| node.is_none()).and_then(|machine| machine.due(self.delay));
        match birth {
            Some(at) => _ = self.births.insert(Arc::clone(name), at),
            None => _ = self.births.remove(name),
        }
        let is_dead =
            machine.is_none_or(|machine| machine.is_going) && node.is_some_and(|node| !node.is_fake && !node.is_going);
        if is_dead {
            self.deaths.insert(Arc::clone(name));
        } else {
            self.deaths.remove(name);
        }
    }

    // --- states ---

    /// Finds out anew how a job is on a node (JOB-14).
    fn refresh(&mut self, id: JobId, node: NodeId) {
        let Some(work) = self.jobs[id as usize].as_ref().filter(|work| work.job.is_live()) else { return };
        let slot = &self.nodes[node as usize];
        let state = if work.selects(slot) {
            let entry = work.job.image.as_ref().and_then(|(image, tag)| slot.node.as_ref()?.tag(image, tag));
            match entry.filter(|tag| tag.is_of(&work.job.uid)).map(|tag| &tag.answer) {
                Some(Answer::Silent | Answer::Underway) => State::Active,
                Some(Answer::Succeeded(_)) => State::Succeeded,
                Some(Answer::Failed(..)) => State::Failed,
                None if work.troubles.get(&node).is_some_and(|trouble| trouble.tries >= TRIES) => State::Unwritable,
                None => State::Pending,
            }
        } else {
            State::Out
        };
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        let before = work.state(node);
        if before != state {
            if work.states.len() <= node as usize {
                work.states.resize(node as usize + 1, State::Out);
            }
            work.states[node as usize] = state;
            work.counts[before as usize] = work.counts[before as usize].saturating_sub(1);
            work.counts[state as usize] += 1;
            if before == State::Active || before == State::Pending {
                match state {
                    State::Succeeded => self.counts.succeeded += 1,
                    State::Failed => self.counts.failed += 1,
                    State::Unwritable => self.counts.unwritable += 1,
                    State::Out | State::Pending | State::Active => {}
                }
            }
            if before == State::Out || state == State::Out {
                self.windows.insert(node);
            }
            self.told.insert(id);
            self.stirred.insert(id);
            self.stirred.append(&mut self.stuck);
        }
        self.refresh_ready(id, node);
    }

    fn place(&self, work: &Work, name: &Arc<str>) -> u64 {
        // Who is not Ready comes last: a slot would wait there for nothing (WEAK-47).
        let is_late = self.machines.get(name).is_some_and(|machine| !machine.is_ready);
        work.place(name) | if is_late { LATE } else { 0 }
    }

    /// Whether a job may choose a node.
    fn refresh_ready(&mut self, id: JobId, node: NodeId) {
        let Some(work) = self.jobs[id as usize].as_ref() else { return };
        let slot = &self.nodes[node as usize];
        let is_held = |held: &Held| held.job == work.job.uid;
        let is_ready = work.state(node) == State::Pending
            && slot.cutoff.as_ref().is_none_or(|cutoff| work.job.age < *cutoff)
            && work.troubles.get(&node).is_none_or(|trouble| trouble.until <= 0)
            && !slot.reserved.iter().any(is_held)
            && !slot.flight.as_ref().is_some_and(|flight| flight.held.iter().any(is_held));
        let key = (self.place(work, &slot.name), node);
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        let changed = if is_ready { work.ready.insert(key) } else { work.ready.remove(&key) };
        if changed && is_ready {
            self.stirred.insert(id);
        }
    }

    fn standing(&self, owner: &Owner, image: &str, tag: &str) -> Standing {
        if !owner.is_job {
            return Standing::Foreign;
        }
        let id = self.job_ids.get(&owner.uid);
        let Some((id, work)) = id.and_then(|id| Some((*id, self.jobs[*id as usize].as_ref()?))) else {
            return Standing::Gone;
        };
        let wants = |(name, wanted): &(Arc<str>, Arc<str>)| &**name == image && &**wanted == tag;
        match &work.job.status.completion_time {
            _ if work.job.is_going => Standing::Gone,
            Some(ended) => Standing::Ended(ended.0.as_second()),
            None if work.job.image.as_ref().is_some_and(wants) => Standing::Live(id),
            None => Standing::Gone,
        }
    }

    /// IMG-13 … IMG-15, with WEAK-20, WEAK-40 and WEAK-44.
    fn fate(&self, image: &Image, tag: &Tag, cutoff: Option<&Age>) -> Fate {
        let standings: Vec<Standing> =
            tag.owners.iter().map(|owner| self.standing(owner, &image.name, &tag.tag)).collect();
        let ended = tag.answer.ended();
        let last = standings.iter().filter_map(|standing| match standing {
            Standing::Ended(at) => Some(*at),
            _ => None,
        });
        let last = last.max();
        let has_live = standings.iter().any(|standing| matches!(standing, Standing::Live(_)));
        let mut fate = Fate::default();
        let mut is_newest_kept = false;
        for (place, standing) in standings.iter().enumerate() {
            let goes = match standing {
                Standing::Gone => {
                    fate.is_urgent = true;
                    true
                }
                // Its pull is not wanted any more (WEAK-44).
                Standing::Ended(_) if ended.is_none() => {
                    fate.is_urgent |= !has_live;
                    true
                }
                // The newest tells for whom the tag is there; the others take room only.
                Standing::Ended(at) => {
                    let is_newest = Some(*at) == last && !has_live && !is_newest_kept;
                    is_newest_kept |= is_newest;
                    !is_newest
                }
                Standing::Foreign | Standing::Live(_) => false,
            };
            if goes {
                fate.owners.push(place);
            }
        }
        let had_owners = !tag.owners.is_empty();
        if tag.created.is_none() || (had_owners && fate.owners.len() == tag.owners.len()) {
            fate.ends = Some(i64::MIN);
            fate.is_urgent = true;
            return fate;
        }
        let Some(ended) = ended else { return fate };
        let live = || {
            standings.iter().filter_map(|standing| match standing {
                Standing::Live(id) => self.jobs[*id as usize].as_ref(),
                _ => None,
            })
        };
        // Differs: WEAK-20. Not while a job that ends needs it, and from the end of the last one on.
        if live().all(|work| work.job.is_endless()) {
            let from = last.map_or(ended, |last| last.max(ended));
            fate.ends = tag.ttl.map(|ttl| from.saturating_add(ttl.into()));
        }
        let is_foreign = standings.contains(&Standing::Foreign);
        // Jobs that are not admitted here have it by an earlier leave only: they get it again.
        let may_go = live().all(|work| cutoff.is_some_and(|cutoff| work.job.age >= *cutoff));
        fate.spare = Some(ended).filter(|_| had_owners && !is_foreign && may_go);
        fate
    }

    // --- planning ---

    /// Whether everything was listed that decisions are made of.
    pub fn is_synced(&self) -> bool {
        self.listed == [true; 3]
    }

    /// Decides what is to be done now.
    pub fn plan(&mut self, now: Timestamp) {
        if !self.is_synced() {
            return;
        }
        // When writes are slow, nodes wait for theirs. What joins there costs no write of its own.
        let waiting: Vec<NodeId> = self.outbox.iter().take(WAITING).copied().collect();
        let ms = now.as_millisecond();
        while let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= ms) {
            self.timers.pop_first();
            if let Some(slot) = self.nodes.get_mut(id as usize) {
                slot.timer = None;
            }
            self.dirty.insert(id);
        }
        while let Some((_, job, node)) = self.rests.first().copied().filter(|(at, ..)| *at <= ms) {
            self.rests.pop_first();
            if let Some(work) = self.jobs[job as usize].as_mut()
                && let Some(trouble) = work.troubles.get_mut(&node)
            {
                trouble.until = 0;
                self.refresh_ready(job, node);
            }
        }
        while let Some((_, id)) = self.alarms.first().copied().filter(|(at, _)| *at <= ms) {
            self.alarms.pop_first();
            self.told.insert(id);
            self.stirred.insert(id);
            if let Some(work) = self.jobs[id as usize].as_mut() {
                // The later one of the two.
                let deadline = work.job.deadline().map(|at| at.saturating_mul(1000)).filter(|at| *at > ms);
                work.alarm = deadline;
                self.alarms.extend(deadline.map(|at| (at, id)));
            }
        }
        for id in std::mem::take(&mut self.dirty) {
            self.look_at(id, now);
        }
        for id in std::mem::take(&mut self.windows) {
            self.admit(id);
        }
        let stirred = std::mem::take(&mut self.stirred);
        let mut stirred: Vec<(Age, JobId)> =
            stirred.into_iter().filter_map(|id| Some((self.jobs[id as usize].as_ref()?.job.age.clone(), id))).collect();
        stirred.sort();
        for (_, id) in stirred {
            self.hand_out(id, &waiting, now);
        }
    }

    /// What one node needs, and when.
    fn look_at(&mut self, id: NodeId, now: Timestamp) {
        let slot = &self.nodes[id as usize];
        let Some(node) = slot.node.as_ref().filter(|node| node.is_readable && !node.is_going) else { return };
        let machine = self.machines.get(&slot.name);
        let second = now.as_second();
        let (mut is_urgent, mut expires, mut judged) = (self.labels_differ(node), i64::MAX, i64::MAX);
        let mut base = node.own_bytes();
        for image in &node.images {
            let mut is_base = false;
            for tag in &image.tags {
                let fate = self.fate(image, tag, slot.cutoff.as_ref());
                is_urgent |= fate.is_urgent || self.lacks_secrets(image, tag);
                if let Some(ends) = fate.ends.filter(|ends| *ends > i64::MIN) {
                    expires = expires.min(ends.saturating_add(AT_LEISURE));
                }
                if let Some((at, _)) = verdict_at(tag.created, tag.deadline, &tag.answer, machine) {
                    judged = judged.min(at);
                }
                let is_counted = tag.owners.iter().any(|owner| {
                    matches!(self.standing(owner, &image.name, &tag.tag), Standing::Live(job)
                        if self.jobs[job as usize].as_ref().is_some_and(|work| work.takes_room(id)))
                });
                if !is_counted && fate.spare.is_none() {
                    base += image.tag_bytes(tag);
                    is_base = true;
                }
            }
            base += if is_base { image.own_bytes() } else { 0 };
        }
        let (is_expired, is_overdue) = (expires <= second, judged <= second);
        let ms = now.as_millisecond();
        let slot = &mut self.nodes[id as usize];
        slot.upkeep = match (is_urgent, is_expired) {
            (_, true) => Some(ms),
            (true, false) => Some(slot.upkeep.unwrap_or(ms + TOGETHER)),
            (false, false) => None,
        };
        slot.upkeep = slot.upkeep.map(|at| at.max(slot.upkeep_rests));
        if slot.base != base {
            slot.base = base;
            self.windows.insert(id);
        }
        let slot = &mut self.nodes[id as usize];
        let is_due = slot.upkeep.is_some_and(|at| at <= ms);
        let due = [expires.saturating_mul(1000), judged.saturating_mul(1000), slot.upkeep.unwrap_or(i64::MAX)];
        let timer = due.into_iter().filter(|at| *at > ms && *at < i64::MAX).min();
        if let Some(before) = slot.timer.take() {
            self.timers.remove(&(before, id));
        }
        slot.timer = timer;
        self.timers.extend(timer.map(|at| (at, id)));
        if is_due {
            self.enqueue(id);
        }
        if is_overdue {
            self.overdue.insert(id);
        } else {
            self.overdue.remove(&id);
        }
    }

    /// IMG-12: labels as the Node has them, unless there is none or it is none of ours (IMG-3, IMG-5).
    fn labels_differ(&self, node: &Node) -> bool {
        let machine = self.machines.get(&node.name).filter(|machine| !machine.is_virtual);
        machine.is_some_and(|machine| !Arc::ptr_eq(&machine.labels, &node.labels) && machine.labels != node.labels)
    }

    /// JOB-14: a pull goes on without a Secret that is there by now.
    fn lacks_secrets(&self, image: &Image, tag: &Tag) -> bool {
        tag.answer.ended().is_none()
            && tag.owners.iter().any(|owner| {
                let Standing::Live(id) = self.standing(owner, &image.name, &tag.tag) else { return false };
                let wanted = self.jobs[id as usize].as_ref().and_then(|work| work.secrets.as_ref());
                wanted.is_some_and(|wanted| wanted.iter().any(|wanted| !image.secrets.iter().any(|has| has.is(wanted))))
            })
    }

    /// Which jobs are admitted on a node: the oldest, as many as fit.
    fn admit(&mut self, id: NodeId) {
        let slot = &self.nodes[id as usize];
        if slot.node.is_none() {
            return;
        }
        let mut bytes = slot.base;
        let mut cutoff = None;
        let mut is_first = true;
        for (age, job) in &self.ages {
            let Some(work) = self.jobs[*job as usize].as_ref().filter(|work| work.takes_room(id)) else { continue };
            bytes += work.bytes;
            // The oldest gets through whatever its size is.
            if bytes > LIMIT && !is_first {
                cutoff = Some(age.clone());
                break;
            }
            is_first = false;
        }
        if self.nodes[id as usize].cutoff == cutoff {
            return;
        }
        self.nodes[id as usize].cutoff = cutoff;
        let selecting: Vec<JobId> = self.ages.iter().map(|(_, job)| *job).collect();
        for job in selecting {
            if self.jobs[job as usize].as_ref().is_some_and(|work| work.state(id) == State::Pending) {
                self.refresh_ready(job, id);
                self.told.insert(job);
            }
        }
    }

    /// How many more nodes may pull for a job.
    fn slots(&self, id: JobId, now: Timestamp) -> usize {
        let Some(work) = self.jobs[id as usize].as_ref().filter(|work| work.job.is_live()) else { return 0 };
        if work.job.deadline().is_some_and(|deadline| deadline <= now.as_second()) {
            return 0;
        }
        let limit = work.limit();
        limit.saturating_sub(work.counts[State::Active as usize]).saturating_sub(work.held)
    }

    /// Chooses nodes for a job, as long as it has slots (JOB-15).
    fn hand_out(&mut self, id: JobId, waiting: &[NodeId], now: Timestamp) {
        let is_prepared = self.jobs[id as usize].as_ref().is_some_and(Work::is_prepared);
        if !is_prepared {
            return;
        }
        let mut slots = self.slots(id, now);
        for node in waiting {
            if slots == 0 {
                break;
            }
            if self.may_board(id, *node)
                && let Joining::Yes(others) = self.joining(id, *node, &[], now)
            {
                self.reserve(id, *node, &others);
                slots -= 1;
            }
        }
        let (mut after, mut blocked) = (Bound::Unbounded, 0);
        while slots > 0 {
            let Some(work) = self.jobs[id as usize].as_ref() else { return };
            let Some((place, node)) = work.ready.range((after, Bound::Unbounded)).next().copied() else { break };
            after = Bound::Excluded((place, node));
            let Joining::Yes(others) = self.joining(id, node, &[], now) else {
                blocked += 1;
                continue;
            };
            self.reserve(id, node, &others);
            slots -= 1;
        }
        if blocked > 0 {
            self.stuck.insert(id);
        }
        if let Some(work) = self.jobs[id as usize].as_mut()
            && std::mem::replace(&mut work.blocked, blocked) != blocked
        {
            self.told.insert(id);
        }
    }

    /// Whether a node that waits for its write may take a job along.
    fn may_board(&self, id: JobId, node: NodeId) -> bool {
        let slot = &self.nodes[node as usize];
        if !slot.is_queued || slot.reserved.len() >= ABOARD {
            return false;
        }
        let Some(work) = self.jobs[id as usize].as_ref() else { return false };
        let place = self.place(work, &slot.name);
        place < LATE && work.ready.contains(&(place, node))
    }

    /// Whether a job may have a node, given slots of these jobs that are reserved already.
    fn joining(&self, id: JobId, node: NodeId, given: &[Arc<str>], now: Timestamp) -> Joining {
        let Some(work) = self.jobs[id as usize].as_ref() else { return Joining::No };
        let Some((image, tag)) = &work.job.image else { return Joining::No };
        let entry = self.nodes[node as usize].node.as_ref().and_then(|node| node.tag(image, tag));
        let Some(entry) = entry.filter(|entry| begins_anew(entry, &work.job)) else { return Joining::Yes(Vec::new()) };
        let mut others = Vec::new();
        for owner in &entry.owners {
            let Standing::Live(other) = self.standing(owner, image, tag) else { continue };
            let Some(work) = self.jobs[other as usize].as_ref() else { continue };
            let needs_slot =
                other != id && work.limit() > 0 && work.state(node) != State::Active && !given.contains(&work.job.uid);
            if needs_slot {
                // One that has all it wants is about to end, and is not to be begun anew.
                if work.is_done() || self.slots(other, now) == 0 {
                    return Joining::No;
                }
                others.push(other);
            }
        }
        Joining::Yes(others)
    }

    fn reserve(&mut self, id: JobId, node: NodeId, others: &[JobId]) {
        let mut uids = Vec::with_capacity(others.len());
        for other in others {
            if let Some(work) = self.jobs[*other as usize].as_mut() {
                work.held += 1;
                uids.push(Arc::clone(&work.job.uid));
            }
        }
        let Some(work) = self.jobs[id as usize].as_mut() else { return };
        work.held += 1;
        let job = Arc::clone(&work.job.uid);
        self.nodes[node as usize].reserved.push(Held { job, others: uids });
        self.refresh_ready(id, node);
        self.enqueue(node);
    }

    /// Gives the slots of a reservation back.
    fn give_back(&mut self, held: &Held, node: NodeId) {
        for uid in held.others.iter().chain([&held.job]) {
            let Some(id) = self.job_ids.get(uid).copied() else { continue };
            if let Some(work) = self.jobs[id as usize].as_mut() {
                work.held = work.held.saturating_sub(1);
                self.stirred.insert(id);
            }
        }
        if let Some(id) = self.job_ids.get(&held.job).copied() {
            self.refresh_ready(id, node);
        }
    }

    fn enqueue(&mut self, id: NodeId) {
        let slot = &mut self.nodes[id as usize];
        if !slot.is_queued && slot.flight.is_none() {
            slot.is_queued = true;
            self.outbox.push_back(id);
        }
    }

    /// What became of the write to a node.
    pub fn landed(&mut self, name: &str, outcome: Outcome, now: Timestamp) {
        let Some(id) = self.node_ids.get(name).copied() else { return };
        let Some(flight) = self.nodes[id as usize].flight.take() else { return };
        let ms = now.as_millisecond();
        match outcome {
            Outcome::Done(node) => {
                self.counts.handed_out += flight.held.len() as u64;
                self.nodes[id as usize].upkeep = None;
                // First the entry takes the slot, then the reservation gives it back.
                self.put_node(*node);
            }
            Outcome::Conflict(Some(node)) => self.put_node(*node),
            Outcome::Conflict(None) => self.node_gone(name, None),
            Outcome::Refused(cause) => self.refused(id, &flight, &cause, ms),
            Outcome::Away(cause) => self.away(id, &flight, &cause, ms),
        }
        for held in &flight.held {
            self.give_back(held, id);
        }
        let Some(slot) = self.nodes.get_mut(id as usize) else { return };
        if slot.node.is_none() {
            self.free(id);
            return;
        }
        self.dirty.insert(id);
        if !self.nodes[id as usize].reserved.is_empty() {
            self.enqueue(id);
        }
    }

    /// WEAK-22: others go on; of several it is found out whose it was.
    fn refused(&mut self, id: NodeId, flight: &Flight, cause: &str, ms: i64) {
        if flight.has_upkeep {
            self.nodes[id as usize].upkeep_rests = ms + UPKEEP_RETRY;
            self.nodes[id as usize].upkeep = None;
        }
        self.nodes[id as usize].singly = ms + SINGLY;
        let [held] = &*flight.held else { return };
        if flight.has_upkeep {
            return;
        }
        let Some(job) = self.job_ids.get(&held.job).copied() else { return };
        let tries = self.rest(job, id, ms, RETRY, cause, 1);
        if tries >= TRIES {
            self.refresh(job, id);
        }
    }

    /// Tries it all again, later; no try is counted.
    fn away(&mut self, id: NodeId, flight: &Flight, cause: &str, ms: i64) {
        if flight.has_upkeep {
            self.nodes[id as usize].upkeep_rests = ms + AWAY;
            self.nodes[id as usize].upkeep = None;
        }
        for held in &flight.held {
            if let Some(job) = self.job_ids.get(&held.job).copied() {
                self.rest(job, id, ms, AWAY, cause, 0);
            }
        }
    }

    /// Leaves a node alone for a job, for a while.
    fn rest(&mut self, job: JobId, node: NodeId, ms: i64, pause: i64, cause: &str, tries: u32) -> u32 {
        let Some(work) = self.jobs[job as usize].as_mut() else { return 0 };
        let trouble = work.troubles.entry(node).or_insert_with(|| Trouble { tries: 0, until: 0, cause: String::new() });
        if trouble.until > 0 {
            self.rests.remove(&(trouble.until, job, node));
        }
        let factor = 10_i64.saturating_pow(trouble.tries.min(3));
        trouble.until = ms + if tries > 0 { pause.saturating_mul(factor) } else { pause };
        trouble.tries += tries;
        if !cause.is_empty() {
            cause.clone_into(&mut trouble.cause);
        }
        self.rests.insert((trouble.until, job, node));
        let tries = trouble.tries;
        self.refresh_ready(job, node);
        tries
    }

    // --- what is asked of it ---

    /// When something is due next that no event tells of.
    pub fn next_due(&self) -> Option<Timestamp> {
        let births = self.births.values().min().map(|at| at.saturating_mul(1000));
        let timers = self.timers.first().map(|(at, _)| *at);
        let rests = self.rests.first().map(|(at, ..)| *at);
        let alarms = self.alarms.first().map(|(at, _)| *at);
        let next = [births, timers, rests, alarms].into_iter().flatten().min()?;
        Timestamp::from_millisecond(next).ok()
    }

    /// Whether there is something to plan at once.
    pub fn is_stirred(&self) -> bool {
        !(self.dirty.is_empty() && self.windows.is_empty() && self.stirred.is_empty())
    }

    /// NodeImages that are to be made now (IMG-2), with their labels; `room` at most. Told once; say [`Self::again`] if it failed.
    pub fn take_births(&mut self, now: Timestamp, room: usize) -> Vec<(Arc<str>, Arc<super::node::Labels>)> {
        if !self.is_synced() {
            return Vec::new();
        }
        let due = self.births.extract_if(.., |_, at| *at <= now.as_second());
        due.filter_map(|(name, _)| {
            let labels = Arc::clone(&self.machines.get(&name)?.labels);
            Some((name, labels))
        })
        .take(room)
        .collect()
    }

    /// NodeImages that are to be deleted now (IMG-4), with their UIDs; `room` at most. Told once; say [`Self::again`] if it failed.
    pub fn take_deaths(&mut self, room: usize) -> Vec<(Arc<str>, String)> {
        if !self.is_synced() {
            return Vec::new();
        }
        let names: Vec<_> = iter::from_fn(|| self.deaths.pop_first()).take(room).collect();
        let uid = |name: &Arc<str>| Some(self.node(name)?.uid.to_string());
        names.iter().filter_map(|name| Some((Arc::clone(name), uid(name)?))).collect()
    }

    /// NodeImages with tags that are to be judged now (IMG-21, IMG-22); `room` at most. Told once; say [`Self::again`] if it failed.
    pub fn take_overdue(&mut self, room: usize) -> Vec<Arc<str>> {
        let ids: Vec<_> = iter::from_fn(|| self.overdue.pop_first()).take(room).collect();
        ids.into_iter().map(|id| Arc::clone(&self.nodes[id as usize].name)).collect()
    }

    /// What was to be done about a NodeImage as a whole was not done.
    pub fn again(&mut self, name: &str) {
        if let Some(id) = self.node_ids.get(name) {
            self.dirty.insert(*id);
        }
        self.reconsider(&name.into());
    }

    /// A NodeImage as it is known.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes[*self.node_ids.get(name)? as usize].node.as_ref()
    }

    /// A Node as it is known.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.get(name)
    }

    /// A job as it is known.
    pub fn job(&self, uid: &str) -> Option<&Job> {
        Some(&self.jobs[*self.job_ids.get(uid)? as usize].as_ref()?.job)
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().flatten().map(|work| &work.job)
    }

    /// Jobs whose status may have changed since the last call.
    pub fn take_told(&mut self) -> Vec<Arc<str>> {
        let ids = std::mem::take(&mut self.told);
        ids.into_iter().filter_map(|id| Some(Arc::clone(&self.jobs[id as usize].as_ref()?.job.uid))).collect()
    }

    /// Jobs that changed otherwise since the last call.
    pub fn take_chores(&mut self) -> Vec<Arc<str>> {
        let ids = std::mem::take(&mut self.chores);
        ids.into_iter().filter_map(|id| Some(Arc::clone(&self.jobs[id as usize].as_ref()?.job.uid))).collect()
    }

    /// The status of a job that is true now; `None` when it is the one that it has.
    pub fn status(&self, uid: &str, now: Timestamp) -> Option<PullJobStatus> {
        if !self.is_synced() {
            return None;
        }
        let work = self.jobs[*self.job_ids.get(uid)? as usize].as_ref().filter(|work| work.job.is_live())?;
        let status = work.job.status(&self.tally(work, now), now);
        (status != work.job.status).then_some(status)
    }

    fn tally(&self, work: &Work, now: Timestamp) -> Tally {
        let is_late = work.job.deadline().is_some_and(|deadline| deadline <= now.as_second());
        let mut tally = Tally {
            desired: work.selected(),
            active: work.counts[State::Active as usize],
            succeeded: work.counts[State::Succeeded as usize],
            remark: work.remark.clone(),
            obstacle: work.obstacle(),
            ..Tally::default()
        };
        for (slot, state) in self.nodes.iter().zip(&work.states) {
            let name = || Arc::clone(&slot.name);
            match state {
                State::Failed => tally.failed.push((name(), work.cause(slot))),
                State::Unwritable => {
                    let id = self.node_ids.get(&slot.name);
                    let cause = id.and_then(|id| work.troubles.get(id)).map(|trouble| trouble.cause.as_str());
                    let cause = cause.unwrap_or_default();
                    tally.failed.push((name(), format!("its NodeImage cannot be written: {cause}")));
                }
                State::Pending | State::Active if is_late => tally.unfinished.push(name()),
                State::Pending => {
                    let is_out = slot.cutoff.as_ref().is_some_and(|cutoff| work.job.age >= *cutoff);
                    tally.crowded += usize::from(is_out);
                }
                State::Out | State::Active | State::Succeeded => {}
            }
        }
        tally.crowded += work.blocked;
        tally.failed.sort();
        tally.unfinished.sort();
        if let Ok(Selection::Names(names)) = &work.job.selection {
            let is_there = |name: &String| self.node(name).is_some();
            tally.missing = names.iter().filter(|name| !is_there(name)).cloned().collect();
        }
        tally
    }

    /// Live jobs; nodes that pull; nodes that wait to be written.
    pub fn gauges(&self) -> [usize; 3] {
        let live = self.ages.iter().filter_map(|(_, id)| self.jobs[*id as usize].as_ref());
        let active = live.map(|work| work.counts[State::Active as usize]).sum();
        [self.ages.len(), active, self.outbox.len()]
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// Whether the tag gets another version when this job joins it (IMG-60).
///
/// Differs: IMG-60. One that is under way is not begun anew, unless it does not do what the job wants.
fn begins_anew(tag: &Tag, job: &Job) -> bool {
    tag.answer.ended().is_some() || (job.is_always() && !tag.is_always)
}

/// Places are few.
fn id_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

// === impl Work ===

impl Work {
    fn new(job: Job) -> Self {
        // Who names no Secrets has all of them.
        let secrets = job.spec.pull_secrets.is_empty().then(Vec::new);
        Self {
            bytes: job.bytes(&[]),
            job,
            secrets,
            remark: None,
            pods: None,
            states: Vec::new(),
            counts: [0; 6],
            held: 0,
            ready: BTreeSet::new(),
            troubles: HashMap::new(),
            blocked: 0,
            alarm: None,
        }
    }

    fn state(&self, node: NodeId) -> State {
        self.states.get(node as usize).copied().unwrap_or_default()
    }

    /// Whether it selects a node.
    fn selects(&self, slot: &Slot) -> bool {
        let Some(node) = slot.node.as_ref().filter(|node| node.is_readable && !node.is_going) else { return false };
        match &self.job.selection {
            Err(_) => false,
            Ok(Selection::All) => true,
            Ok(Selection::Names(names)) => names.contains(&*node.name),
            Ok(Selection::Labels(selector)) => selector.mismatch(&*node.labels).is_none(),
            Ok(Selection::Pods(_)) => self.pods.as_ref().is_some_and(|pods| pods.contains_key(&node.name)),
        }
    }

    /// Nodes that it selects.
    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        (0..).zip(&self.states).filter(|(_, state)| **state != State::Out).map(|(node, _)| node)
    }

    /// Where a node stands in its order.
    fn place(&self, name: &Arc<str>) -> u64 {
        let of_pod = self.pods.as_ref().and_then(|pods| pods.get(name).copied());
        of_pod.unwrap_or_else(|| self.job.place(name))
    }

    fn selected(&self) -> usize {
        use State::{Active, Failed, Pending, Succeeded, Unwritable};
        [Pending, Active, Succeeded, Failed, Unwritable].map(|state| self.counts[state as usize]).iter().sum()
    }

    fn limit(&self) -> usize {
        self.job.parallelism().map_or(0, |parallelism| parallelism.of(self.selected()))
    }

    /// Whether all nodes have ended, of a job that ends by that.
    fn is_done(&self) -> bool {
        let open = self.counts[State::Pending as usize] + self.counts[State::Active as usize] + self.held;
        open == 0 && !self.job.is_endless()
    }

    /// Whether its tag is to be counted on when others are admitted.
    fn takes_room(&self, node: NodeId) -> bool {
        !matches!(self.state(node), State::Out | State::Unwritable) && self.is_prepared() && self.limit() > 0
    }

    fn is_prepared(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Why it cannot hand anything out yet.
    fn obstacle(&self) -> Option<String> {
        if let Err(unclear) = &self.job.selection {
            return Some(format!("waits: {unclear}"));
        }
        if self.job.image.is_none() {
            return Some(format!("waits: {:?} is not a reference to an image", self.job.spec.image));
        }
        if matches!(self.job.selection, Ok(Selection::Pods(_))) && self.pods.is_none() {
            return Some("waits for the list of its pods".to_owned());
        }
        self.secrets.is_none().then(|| "waits for copies of its pull secrets".to_owned())
    }

    fn cause(&self, slot: &Slot) -> String {
        let tag = self.job.image.as_ref().and_then(|(image, tag)| slot.node.as_ref()?.tag(image, tag));
        match tag.map(|tag| &tag.answer) {
            Some(Answer::Failed(_, cause)) => cause.to_string(),
            _ => String::new(),
        }
    }
}

// === impl Tag ===

impl Tag {
    /// Whether a job owns it.
    pub fn is_of(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| owner.is_job && &*owner.uid == uid)
    }
}
