//! Looks after a pull while the runtime is at it: how far it is, where containerd can tell (WEAK-28), and whether there is
//! still room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Shared, space};
use crate::cri::{CallError, Client, Why, content};
use crate::images::disk::{Full, Space};
use crate::images::progress::{Account, Candidate, LONGEST, choose, digest_of, filter, manifests};

/// The shortest and the longest time between two looks; it grows with the time that the pull takes.
const LOOKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Blobs that are asked about in one look.
const ABREAST: usize = 64;

/// What of all pulls must be known to each.
#[derive(Default)]
pub(super) struct Underway {
    known: Mutex<Known>,
    /// Whether the runtime has no store of content.
    is_mute: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// Manifests that are those of a pull.
    taken: BTreeSet<String>,
    /// Bytes that each pull still needs, by the worker's serial.
    needs: BTreeMap<u64, u64>,
}

/// A pull.
pub(super) struct Pull<'a> {
    pub(super) shared: &'a Shared,
    pub(super) client: &'a Client,
    pub(super) serial: u64,
    /// The image's name with its registry.
    pub(super) repository: String,
    /// Its tag or digest.
    pub(super) tag: &'a str,
    /// When it began, in nanoseconds since 1970.
    pub(super) since: i128,
    /// A directory on the image file system, when there is one to look after.
    pub(super) place: Option<&'a PathBuf>,
}

/// What a pull has taken of [`Underway`], until it is over.
struct Claim<'a> {
    underway: &'a Underway,
    serial: u64,
    digest: Option<String>,
}

// === impl Underway ===

impl Underway {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Claim ===

impl Claim<'_> {
    fn take(&mut self, digest: &str) {
        self.underway.known().taken.insert(digest.to_owned());
        self.digest = Some(digest.to_owned());
    }

    fn need(&self, bytes: u64) {
        self.underway.known().needs.insert(self.serial, bytes);
    }

    /// What the others need.
    fn others(&self) -> u64 {
        let known = self.underway.known();
        let others = known.needs.iter().filter(|(serial, _)| **serial != self.serial);
        others.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.underway.known();
        known.needs.remove(&self.serial);
        if let Some(digest) = &self.digest {
            known.taken.remove(digest);
        }
    }
}

/// Looks after a pull for as long as it takes, and tells how many of a hundred parts are there. Ends only when there is no
/// room for it.
pub(super) async fn follow(pull: Pull<'_>, told: impl Fn(i32)) -> Full {
    let began = Instant::now();
    let underway = &pull.shared.underway;
    let mut claim = Claim { underway, serial: pull.serial, digest: None };
    let mut account: Option<Account> = None;
    let mut percent = 0;
    loop {
        sleep((began.elapsed() / 10).clamp(LOOKS.0, LOOKS.1)).await;
        if let Err(full) = pull.room(None) {
            return full;
        }
        if underway.is_mute.load(Ordering::Relaxed) {
            continue;
        }
        let looked = match &mut account {
            None => match pull.find(&mut claim).await {
                Ok(Some(mut found)) => {
                    let looked = pull.look(&mut found).await;
                    // Unpacked it takes at least as much again.
                    let needed = found.missing().saturating_mul(2);
                    if let Err(full) = pull.room(Some(needed.saturating_add(claim.others()))) {
                        return full;
                    }
                    account = Some(found);
                    looked
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
            Some(account) => pull.look(account).await,
        };
        match looked {
            Ok(()) => {}
            Err(CallError { why: Why::NotServed(_), .. }) => {
                underway.is_mute.store(true, Ordering::Relaxed);
                tracing::info!("this runtime does not tell how far pulls are: progress is 0 until they have ended");
            }
            // The next look may be luckier; a runtime that is away ends the pull itself.
            Err(error) => tracing::debug!(%error, "it is not known how far a pull is"),
        }
        if let Some(account) = &account {
            claim.need(account.missing().saturating_mul(2));
            if account.percent() != percent {
                percent = account.percent();
                told(percent);
            }
        }
    }
}

// === impl Pull ===

impl Pull<'_> {
    /// Whether there is room for so many bytes; for any at all, when that is not known.
    fn room(&self, needed: Option<u64>) -> Result<(), Full> {
        let space: Option<Space> = self.place.and_then(|place| space::space(place).ok());
        space.map_or(Ok(()), |space| self.shared.reserve.allows(space, needed))
    }

    /// The image's manifest, once it is there.
    async fn find(&self, claim: &mut Claim<'_>) -> Result<Option<Account>, CallError> {
        let mut only = None;
        if self.tag.contains(':') {
            let Some(info) = self.client.blob(self.tag).await? else { return Ok(None) };
            only = Some(manifests(self.tag, &info.labels));
        }
        let found = self.client.blobs(filter(&self.repository)).await?;
        let candidates: Vec<Candidate> = found.into_iter().map(candidate).collect();
        let digest = {
            let known = self.shared.underway.known();
            let is_taken = |digest: &str| only.is_none() && known.taken.contains(digest);
            let chosen = choose(&candidates, &self.repository, self.since, only.as_deref(), is_taken);
            chosen.map(|candidate| candidate.digest.clone())
        };
        let Some(digest) = digest else { return Ok(None) };
        let account = Account::read(&self.client.read_blob(&digest, LONGEST).await?);
        if account.is_some() && only.is_none() {
            claim.take(&digest);
        }
        Ok(account)
    }

    /// Takes what is there by now.
    async fn look(&self, account: &mut Account) -> Result<(), CallError> {
        let mut underway = BTreeSet::new();
        for status in self.client.blobs_underway().await? {
            let digest = if status.expected.is_empty() { digest_of(&status.r#ref) } else { Some(&*status.expected) };
            if let Some(digest) = digest {
                account.arriving(digest, u64::try_from(status.offset).unwrap_or_default());
                underway.insert(digest.to_owned());
            }
        }
        for digest in account.open().into_iter().filter(|digest| !underway.contains(digest)).take(ABREAST) {
            if self.client.blob(&digest).await?.is_some() {
                account.whole(&digest);
            }
        }
        Ok(())
    }
}

fn candidate(info: content::Info) -> Candidate {
    let nanoseconds = |time: Option<content::Time>| {
        time.map_or(0, |time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
    };
    let touched = nanoseconds(info.created_at).max(nanoseconds(info.updated_at));
    Candidate { digest: info.digest, touched, labels: info.labels }
}
