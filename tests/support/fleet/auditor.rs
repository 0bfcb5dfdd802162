//! Who checks that no job has more nodes pulling than its parallelism allows, at no instant, and that no NodeImage grows
//! without bound. What counts is what is stored: a tag that a job owns and that has not ended (JOB-14).

use std::collections::BTreeMap;

use super::view::NodeImage;

/// Adds up what each write has changed.
#[derive(Debug)]
pub struct Auditor {
    /// Nodes that every job is for.
    selected: usize,
    /// Of each node the jobs that own a tag there: how many have not ended, and how many have.
    nodes: BTreeMap<String, BTreeMap<String, (usize, usize)>>,
    /// By UID of the job.
    jobs: BTreeMap<String, Seen>,
    /// Bytes of the largest NodeImage, as the API server sends it, and its name.
    pub largest: (usize, String),
    /// NodeImages that were seen, each write of each.
    pub events: u64,
    /// Most tags of a NodeImage at a time.
    pub tags: usize,
}

/// What was seen of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Nodes that pull now.
    pub active: usize,
    /// Nodes that have ended now.
    pub ended: usize,
    /// Most nodes that pulled at a time. Counted until all had ended: after that others may have its image pulled again,
    /// and it may still be named as an owner.
    pub most: usize,
    /// The resourceVersion after which there were so many.
    pub when: String,
    is_over: bool,
}

impl Auditor {
    /// Of jobs for so many nodes.
    pub fn new(selected: usize) -> Self {
        let (nodes, jobs) = (BTreeMap::new(), BTreeMap::new());
        Self { selected, nodes, jobs, largest: (0, String::new()), events: 0, tags: 0 }
    }

    /// Takes notice of a NodeImage after a write.
    pub fn see(&mut self, node: &NodeImage, length: usize, is_gone: bool) {
        self.events += 1;
        if length > self.largest.0 {
            self.largest = (length, node.metadata.name.clone());
        }
        let mut now: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let tags = node.spec.images.iter().flat_map(|(image, it)| it.tags.iter().map(move |tag| (image, tag)));
        let mut count = 0;
        for (image, tag) in tags.filter(|_| !is_gone) {
            count += 1;
            let has_ended = node.has_ended(image, tag);
            for owner in &tag.owner_references {
                let (active, ended) = now.entry(owner.uid.clone()).or_default();
                *(if has_ended { ended } else { active }) += 1;
            }
        }
        self.tags = self.tags.max(count);
        let before = self.nodes.remove(&node.metadata.name).unwrap_or_default();
        for (uid, (active, ended)) in before {
            let job = self.jobs.entry(uid).or_default();
            job.active -= active;
            job.ended -= ended;
        }
        for (uid, (active, ended)) in &now {
            let job = self.jobs.entry(uid.clone()).or_default();
            job.active += active;
            job.ended += ended;
            if job.active > job.most && !job.is_over {
                job.most = job.active;
                job.when.clone_from(&node.metadata.resource_version);
            }
            job.is_over |= job.active == 0 && job.ended >= self.selected;
        }
        if !is_gone {
            self.nodes.insert(node.metadata.name.clone(), now);
        }
    }

    /// What was seen of this job.
    pub fn job(&self, uid: &str) -> Seen {
        self.jobs.get(uid).cloned().unwrap_or_default()
    }

    /// Tags that are stored now, of all nodes.
    pub fn left(&self) -> usize {
        self.nodes.values().flat_map(BTreeMap::values).map(|(active, ended)| active + ended).sum()
    }
}
