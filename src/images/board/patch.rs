//! One patch of one NodeImage: everything that jobs want of it at this moment, and what is to go (JOB-16, IMG-12 … IMG-18).
//!
//! It holds for one generation only, so that places in lists are those that are known. The daemon's reports change no
//! generation and do not get in its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Board, CROWDED, Flight, Held, Joining, NodeId, State, begins_anew};
use crate::api::nodeimage::{ImageSpec, SecretReference, TagPullPolicy};
use crate::images::node::{Image, LIMIT, Node, Secret, Tag, sandbox, whole};

/// A write to a NodeImage, to be sent until it is known what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Name of the NodeImage.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: String,
    /// The generation that it is for.
    pub generation: i64,
    /// A JSON patch.
    pub patch: Value,
    /// How many jobs hand their image out by it.
    pub jobs: usize,
}

/// What becomes of a tag that is there.
#[derive(Debug, Default)]
struct Edit {
    goes: bool,
    /// Owners that go, by their place.
    owners: BTreeSet<usize>,
    /// Jobs that join, in order.
    joins: Vec<Arc<str>>,
    begins_anew: bool,
}

/// Image and tag.
type Name = (Arc<str>, Arc<str>);
/// Tags of one image that are new, each with its jobs.
type Added<'e> = Vec<(&'e Arc<str>, &'e Vec<Arc<str>>)>;

/// What becomes of a NodeImage.
#[derive(Debug, Default)]
struct Edits {
    /// By image and tag, as they stand.
    tags: BTreeMap<(usize, usize), Edit>,
    /// Jobs by image and tag that are new.
    new: BTreeMap<Name, Vec<Arc<str>>>,
}

impl Board {
    /// The next write, if there is one. It counts as being on its way until it has [landed](Self::landed).
    pub fn write(&mut self, now: Timestamp) -> Option<Write> {
        while let Some(id) = self.outbox.pop_front() {
            let slot = &mut self.nodes[id as usize];
            slot.is_queued = false;
            if slot.node.is_none() {
                self.free(id);
                continue;
            }
            if slot.flight.is_some() {
                continue;
            }
            if let Some(write) = self.write_to(id, now) {
                return Some(write);
            }
        }
        None
    }

    fn write_to(&mut self, id: NodeId, now: Timestamp) -> Option<Write> {
        let ms = now.as_millisecond();
        let slot = &mut self.nodes[id as usize];
        let is_singly = slot.singly > ms;
        let has_upkeep =
            slot.upkeep.is_some_and(|at| at <= ms) || (!slot.reserved.is_empty() && slot.upkeep_rests <= ms);
        // One by one: what is to go first, then each job alone.
        let (takes_upkeep, mut held) = match is_singly {
            true if slot.upkeep.is_some_and(|at| at <= ms) => (true, Vec::new()),
            true => (false, slot.reserved.drain(..slot.reserved.len().min(1)).collect()),
            false => (has_upkeep, std::mem::take(&mut slot.reserved)),
        };
        if takes_upkeep {
            slot.upkeep = None;
        }
        let mut edits = Edits::default();
        held.retain_mut(|held| {
            let joins = self.join(id, held, &mut edits, now);
            if !joins {
                self.give_back(held, id);
            }
            joins
        });
        let node = self.nodes[id as usize].node.clone()?;
        if takes_upkeep {
            self.keep_up(id, &node, &mut edits, now);
        }
        for crowded in self.make_room(id, &node, &mut edits, &held) {
            if let Some(at) = held.iter().position(|held| held.job == crowded) {
                let held = held.swap_remove(at);
                self.give_back(&held, id);
                if let Some(job) = self.job_ids.get(&crowded).copied() {
                    self.rest(job, id, ms, CROWDED, "", 0);
                }
            }
        }
        let mut operations = self.operations(&node, &edits, takes_upkeep, now);
        if !self.nodes[id as usize].reserved.is_empty() {
            self.enqueue(id);
        }
        if operations.is_empty() {
            for held in &held {
                self.give_back(held, id);
            }
            return None;
        }
        let guards = [
            json!({"op": "test", "path": "/metadata/uid", "value": node.uid}),
            json!({"op": "test", "path": "/metadata/generation", "value": node.generation}),
        ];
        operations.splice(0..0, guards);
        let write = Write {
            name: Arc::clone(&node.name),
            uid: node.uid.to_string(),
            generation: node.generation,
            patch: Value::Array(operations),
            jobs: held.len(),
        };
        self.nodes[id as usize].flight = Some(Flight { held, has_upkeep: takes_upkeep });
        Some(write)
    }

    /// Lets a job join, if it still may: time has passed since it was chosen.
    fn join(&mut self, id: NodeId, held: &mut Held, edits: &mut Edits, now: Timestamp) -> bool {
        let Some(job) = self.job_ids.get(&held.job).copied() else { return false };
        let Some(work) = self.jobs[job as usize].as_ref().filter(|work| work.job.is_live()) else { return false };
        let is_late = work.job.deadline().is_some_and(|deadline| deadline <= now.as_second());
        if !work.is_prepared() || is_late || work.state(id) != State::Pending || work.limit() == 0 {
            return false;
        }
        let Some((image, tag)) = work.job.image.clone() else { return false };
        let Joining::Yes(others) = self.joining(job, id, &held.others, now) else { return false };
        let Some(node) = self.nodes[id as usize].node.as_ref() else { return false };
        let at = node.images.binary_search_by(|found| (*found.name).cmp(&image)).ok();
        let at = at.and_then(|at| Some((at, node.images[at].tags.iter().position(|found| found.tag == tag)?)));
        let Some((image, place)) = at else {
            edits.new.entry((image, tag)).or_default().push(Arc::clone(&held.job));
            return true;
        };
        let entry = &node.images[image].tags[place];
        let anew = begins_anew(entry, &work.job);
        let edit = edits.tags.entry((image, place)).or_default();
        edit.joins.push(Arc::clone(&held.job));
        if anew && !edit.begins_anew {
            edit.begins_anew = true;
            // Who is paused may have nothing that pulls: it has its turn later.
            for (at, owner) in entry.owners.iter().enumerate() {
                let other = self.job_ids.get(&owner.uid).and_then(|id| self.jobs[*id as usize].as_ref());
                let is_paused = other.is_some_and(|other| other.job.is_live() && other.limit() == 0);
                if is_paused && owner.is_job {
                    edit.owners.insert(at);
                }
            }
        }
        for other in others {
            if let Some(work) = self.jobs[other as usize].as_mut() {
                work.held += 1;
                held.others.push(Arc::clone(&work.job.uid));
            }
        }
        true
    }

    /// What is to go by its time, or because nobody wants it (IMG-13 … IMG-15).
    fn keep_up(&self, id: NodeId, node: &Node, edits: &mut Edits, now: Timestamp) {
        let cutoff = self.nodes[id as usize].cutoff.as_ref();
        for (at, image) in node.images.iter().enumerate() {
            for (place, tag) in image.tags.iter().enumerate() {
                let fate = self.fate(image, tag, cutoff);
                let is_over = fate.ends.is_some_and(|ends| ends <= now.as_second());
                if fate.owners.is_empty() && !is_over {
                    continue;
                }
                let edit = edits.tags.entry((at, place)).or_default();
                edit.owners.extend(fate.owners);
                edit.goes = is_over && edit.joins.is_empty();
            }
        }
    }

    /// WEAK-40: what has ended and nobody needs goes, the oldest first, until there is room. Gives the jobs that have none.
    fn make_room(&self, id: NodeId, node: &Node, edits: &mut Edits, held: &[Held]) -> Vec<Arc<str>> {
        let estimate: usize = node.images.iter().map(Image::own_bytes).sum::<usize>()
            + node.images.iter().flat_map(|image| image.tags.iter().map(|tag| image.tag_bytes(tag))).sum::<usize>();
        let mut bytes = (node.own_bytes() + estimate).max(node.bytes);
        let goes = |bytes: &mut usize, (at, place): (usize, usize), edits: &Edits| {
            let image = &node.images[at];
            *bytes = bytes.saturating_sub(image.tag_bytes(&image.tags[place]));
            let is_last = |tag: usize| edits.tags.get(&(at, tag)).is_some_and(|edit| edit.goes);
            let keeps_one = (0..image.tags.len()).any(|tag| !is_last(tag));
            if !keeps_one {
                *bytes = bytes.saturating_sub(image.own_bytes());
            }
        };
        for key in edits.tags.iter().filter(|(_, edit)| edit.goes).map(|(key, _)| *key).collect::<Vec<_>>() {
            goes(&mut bytes, key, edits);
        }
        let cutoff = self.nodes[id as usize].cutoff.as_ref();
        let mut spare: Option<Vec<(i64, (usize, usize))>> = None;
        let mut crowded = Vec::new();
        // The oldest first.
        let mut held: Vec<&Held> = held.iter().collect();
        held.sort_by_key(|held| self.job(&held.job).map(|job| job.age.clone()));
        for (turn, held) in held.into_iter().enumerate() {
            let Some(work) = self.job_ids.get(&held.job).and_then(|id| self.jobs[*id as usize].as_ref()) else {
                continue;
            };
            // Of a tag that is there already, it is less.
            while bytes + work.bytes > LIMIT {
                let spare = spare.get_or_insert_with(|| {
                    let mut spare = Vec::new();
                    for (at, image) in node.images.iter().enumerate() {
                        for (place, tag) in image.tags.iter().enumerate() {
                            spare.extend(self.fate(image, tag, cutoff).spare.map(|ended| (ended, (at, place))));
                        }
                    }
                    spare.sort_unstable();
                    spare.reverse();
                    spare
                });
                let Some((_, key)) = spare.pop() else { break };
                let edit = edits.tags.entry(key).or_default();
                if edit.goes || !edit.joins.is_empty() {
                    continue;
                }
                edit.goes = true;
                goes(&mut bytes, key, edits);
            }
            let is_alone = turn == 0
                && node.images.iter().enumerate().all(|(at, image)| {
                    (0..image.tags.len()).all(|tag| edits.tags.get(&(at, tag)).is_some_and(|edit| edit.goes))
                });
            if bytes + work.bytes > LIMIT && !is_alone {
                crowded.push(Arc::clone(&held.job));
            } else {
                bytes += work.bytes;
            }
        }
        for uid in &crowded {
            for edit in edits.tags.values_mut() {
                edit.joins.retain(|joins| joins != uid);
                edit.begins_anew &= !edit.joins.is_empty();
            }
            edits.new.retain(|_, jobs| {
                jobs.retain(|job| job != uid);
                !jobs.is_empty()
            });
        }
        crowded
    }

    /// The operations. In each list, what is there is changed first, then goes from the end, then comes what is new.
    fn operations(&self, node: &Node, edits: &Edits, is_upkeep: bool, now: Timestamp) -> Vec<Value> {
        let mut operations = Vec::new();
        let machine = self.machines.get(&node.name);
        if is_upkeep
            && self.labels_differ(node)
            && let Some(machine) = machine
        {
            operations.push(json!({"op": "add", "path": "/metadata/labels", "value": *machine.labels}));
        }
        let mut new: BTreeMap<&str, Added<'_>> = BTreeMap::new();
        for ((image, tag), jobs) in &edits.new {
            new.entry(&**image).or_default().push((tag, jobs));
        }
        match node.has {
            _ if new.is_empty() => {}
            (false, _) => operations.push(json!({"op": "add", "path": "/spec", "value": {"images": {}}})),
            (true, false) => operations.push(json!({"op": "add", "path": "/spec/images", "value": {}})),
            (true, true) => {}
        }
        for (at, image) in node.images.iter().enumerate() {
            let added = new.remove(&*image.name).unwrap_or_default();
            self.change(node, (at, image), edits, &added, now, &mut operations);
        }
        for (name, tags) in new {
            let first = tags.first().and_then(|(_, jobs)| self.job(jobs.first()?));
            let sandbox_config = first.and_then(|job| job.spec.sandbox_config.clone());
            let secrets = self.needed(tags.iter().flat_map(|(_, jobs)| jobs.iter()));
            let spec = ImageSpec {
                pull_secrets: secrets.iter().map(reference).collect(),
                tags: tags.iter().filter_map(|(tag, jobs)| self.new_tag(node, name, tag, jobs, now)).collect(),
                sandbox_config,
            };
            operations.push(json!({"op": "add", "path": pointer(name), "value": spec}));
        }
        operations
    }

    fn new_tag(
        &self,
        node: &Node,
        image: &str,
        tag: &str,
        jobs: &[Arc<str>],
        now: Timestamp,
    ) -> Option<crate::api::nodeimage::ImageTagSpec> {
        let mut jobs = jobs.iter().filter_map(|uid| self.job(uid));
        let first = jobs.next()?;
        let mut entry = first.tag(&node.name, self.extra, node.first_version(image, tag), now);
        for job in jobs {
            entry.owner_references.push(job.owner());
            let policy = job.policy(&node.name, self.extra);
            let ttl = entry.pull_policy.as_ref().and_then(|policy| policy.ttl_seconds_after_finished);
            entry.pull_policy = Some(joined(policy, ttl));
            if job.is_always() || entry.image_pull_policy == "IfNotPresent" {
                job.pull_policy().clone_into(&mut entry.image_pull_policy);
            }
        }
        Some(entry)
    }

    /// An image that is there.
    fn change(
        &self,
        node: &Node,
        (at, image): (usize, &Image),
        edits: &Edits,
        added: &[(&Arc<str>, &Vec<Arc<str>>)],
        now: Timestamp,
        operations: &mut Vec<Value>,
    ) {
        let path = pointer(&image.name);
        let edit = |place: usize| edits.tags.get(&(at, place));
        let goes = |place: usize| edit(place).is_some_and(|edit| edit.goes);
        if added.is_empty() && (0..image.tags.len()).all(goes) {
            operations.push(json!({"op": "remove", "path": path}));
            return;
        }
        for (place, tag) in image.tags.iter().enumerate() {
            if let Some(edit) = edit(place).filter(|edit| !edit.goes) {
                let path = format!("{path}/tags/{place}");
                self.change_tag(node, tag, edit, &path, now, operations);
            }
        }
        for place in (0..image.tags.len()).rev().filter(|place| goes(*place)) {
            operations.push(json!({"op": "remove", "path": format!("{path}/tags/{place}")}));
        }
        for (tag, jobs) in added {
            if let Some(entry) = self.new_tag(node, &image.name, tag, jobs, now) {
                operations.push(json!({"op": "add", "path": format!("{path}/tags/-"), "value": entry}));
            }
        }
        self.change_secrets(image, (at, edits), added, &path, operations);

        // Differs: WEAK-46. A pull that is under way keeps the one that it was begun with.
        let is_busy = (0..).zip(&image.tags).any(|(place, tag)| !goes(place) && tag.answer.ended().is_none());
        let newest = added.iter().flat_map(|(_, jobs)| jobs.iter());
        let joined = (0..image.tags.len()).filter_map(edit).flat_map(|edit| edit.joins.iter());
        if let Some(job) = newest.chain(joined).last().and_then(|uid| self.job(uid)).filter(|_| !is_busy) {
            let wanted = job.spec.sandbox_config.as_ref();
            let path = format!("{path}/sandboxConfig");
            match sandbox(wanted) {
                (wanted, _) if wanted == image.sandbox => {}
                (0, _) => operations.push(json!({"op": "remove", "path": path})),
                _ => operations.push(json!({"op": "add", "path": path, "value": wanted})),
            }
        }
    }

    fn change_tag(&self, node: &Node, tag: &Tag, edit: &Edit, path: &str, now: Timestamp, operations: &mut Vec<Value>) {
        let mut set = |member: &str, value: Value| {
            operations.push(json!({"op": "add", "path": format!("{path}/{member}"), "value": value}));
        };
        if edit.begins_anew {
            set("version", json!(tag.version.saturating_add(1)));
            set("createdAt", json!(whole(now)));
        }
        // Differs: WEAK-21. The policy is that of who came last, and it is kept as long as anybody wants.
        if let Some(job) = edit.joins.last().and_then(|uid| self.job(uid)) {
            set("pullPolicy", json!(joined(job.policy(&node.name, self.extra), tag.ttl)));
            let is_always = edit.joins.iter().filter_map(|uid| self.job(uid)).any(super::Job::is_always);
            if edit.begins_anew {
                set("imagePullPolicy", json!(if is_always { "Always" } else { job.pull_policy() }));
            }
        }
        for owner in edit.owners.iter().rev() {
            operations.push(json!({"op": "remove", "path": format!("{path}/ownerReferences/{owner}")}));
        }
        let joins: Vec<_> = edit.joins.iter().filter_map(|uid| self.job(uid)).map(super::Job::owner).collect();
        if tag.owners.is_empty() && !joins.is_empty() {
            operations.push(json!({"op": "add", "path": format!("{path}/ownerReferences"), "value": joins}));
            return;
        }
        for owner in joins {
            operations.push(json!({"op": "add", "path": format!("{path}/ownerReferences/-"), "value": owner}));
        }
    }

    /// The Secrets of all jobs at work, in the order in which they name them, each once (WEAK-43).
    fn needed<'a>(&self, jobs: impl Iterator<Item = &'a Arc<str>>) -> Vec<Secret> {
        let mut needed: Vec<Secret> = Vec::new();
        for uid in jobs {
            let work = self.job_ids.get(uid).and_then(|id| self.jobs[*id as usize].as_ref());
            for secret in
                work.into_iter().filter(|work| work.job.is_live()).flat_map(|work| work.secrets.iter().flatten())
            {
                if !needed.iter().any(|known| known.is(secret)) {
                    needed.push(secret.clone());
                }
            }
        }
        needed
    }

    /// WEAK-40: copies that no owner needs any more go. Differs: IMG-16. Others stay: daemons can read none of them.
    fn change_secrets(
        &self,
        image: &Image,
        (at, edits): (usize, &Edits),
        added: &[(&Arc<str>, &Vec<Arc<str>>)],
        path: &str,
        operations: &mut Vec<Value>,
    ) {
        let mut owners: Vec<&Arc<str>> = Vec::new();
        for (place, tag) in image.tags.iter().enumerate() {
            let edit = edits.tags.get(&(at, place));
            if edit.is_some_and(|edit| edit.goes) {
                continue;
            }
            let stays = |owner: &usize| !edit.is_some_and(|edit| edit.owners.contains(owner));
            owners.extend((0..tag.owners.len()).filter(stays).map(|owner| &tag.owners[owner].uid));
            owners.extend(edit.iter().flat_map(|edit| edit.joins.iter()));
        }
        owners.extend(added.iter().flat_map(|(_, jobs)| jobs.iter()));
        // Whose Secrets are not known yet may need any of them, as after a change of leaders.
        let is_unsure = owners.iter().any(|uid| {
            let work = self.job_ids.get(*uid).and_then(|id| self.jobs[*id as usize].as_ref());
            work.is_some_and(|work| work.job.is_live() && work.secrets.is_none())
        });
        let needed = self.needed(owners.into_iter());
        let unneeded =
            |secret: &Secret| !is_unsure && secret.is_batch && !needed.iter().any(|needed| needed.is(secret));
        for place in (0..image.secrets.len()).rev().filter(|place| unneeded(&image.secrets[*place])) {
            operations.push(json!({"op": "remove", "path": format!("{path}/pullSecrets/{place}")}));
        }
        let missing = needed.iter().filter(|needed| !image.secrets.iter().any(|has| has.is(needed)));
        let missing: Vec<SecretReference> = missing.map(reference).collect();
        if image.secrets.is_empty() && !missing.is_empty() {
            operations.push(json!({"op": "add", "path": format!("{path}/pullSecrets"), "value": missing}));
            return;
        }
        for secret in missing {
            operations.push(json!({"op": "add", "path": format!("{path}/pullSecrets/-"), "value": secret}));
        }
    }
}

/// A policy that keeps a tag no shorter than before (WEAK-21).
fn joined(mut policy: TagPullPolicy, ttl: Option<i32>) -> TagPullPolicy {
    policy.ttl_seconds_after_finished = policy.ttl_seconds_after_finished.max(ttl);
    policy
}

fn reference(secret: &Secret) -> SecretReference {
    SecretReference {
        namespace: secret.namespace.to_string(),
        name: secret.name.to_string(),
        mode: if secret.is_batch { crate::api::names::SECRET_MODE_BATCH.to_owned() } else { String::new() },
    }
}

/// RFC 6901
fn pointer(image: &str) -> String {
    format!("/spec/images/{}", image.replace('~', "~0").replace('/', "~1"))
}
