//! One tag: is it there, and if not, pulls it until it is, or until [`tag`](crate::images::tag) says to give up.
//!
//! Who waits holds nothing: neither for its slot, nor between two attempts (WEAK-30). What was asked for is looked at again
//! before each attempt, so that another job that joins brings its limits and secrets at once; only what the runtime is told
//! of the sandbox stays as it was (WEAK-46).

use std::fmt::Display;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep};

use super::Shared;
use super::metrics::Pulled;
use super::progress::{self, Pull};
use super::space;
use crate::api::image::{Familiar, full_name};
use crate::api::names;
use crate::api::nodeimage::{self, ImageTagSpec, SandboxConfig, SecretReference};
use crate::app::now;
use crate::cri::detect::Runtimes;
use crate::cri::{self, Client, v1};
use crate::daemon::events::{self, News};
use crate::images::credentials::{Credential, repository};
use crate::images::disk::Full;
use crate::images::report::{FAILED, Key, PULLING, SUCCEEDED, seconds};
use crate::images::tag::{Answer, Attempts, Failure, Fault, Policy, Step};

/// Annotation of the sandbox that the runtime is told of: who pulls (IMG-51).
const ORIGIN: (&str, &str) = ("apps.kruise.io/pulling-image-by", "kruise-daemon");
/// Who has waited longer than this for a slot looks again whether the image is there.
const STALE: Duration = Duration::from_millis(500);
/// How soon a runtime that is away is asked again.
const AWAY: Duration = Duration::from_secs(1);
/// Owners that are told of a failure.
const OWNERS: usize = 64;
/// How long is waited for the end of all time, before it is looked again.
const LONG: Duration = Duration::from_hours(1);

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    /// Name and UID of the NodeImage.
    pub(super) node_image: (String, String),
    /// The image without tag.
    pub(super) name: String,
    pub(super) tag: ImageTagSpec,
    pub(super) secrets: Vec<SecretReference>,
    pub(super) sandbox: SandboxConfig,
}

/// The worker of one tag.
pub(super) struct Worker {
    shared: Arc<Shared>,
    key: Key,
    serial: u64,
    orders: watch::Receiver<Arc<Order>>,
    runtimes: watch::Receiver<Arc<Runtimes>>,
    /// When it was first heard of.
    seen: Timestamp,
    /// What the runtime is asked for.
    image: String,
    sandbox: SandboxConfig,
    attempts: Attempts,
}

/// How it ended.
enum Outcome {
    /// The image is there, under this id; empty when that is not known.
    Is(Pulled, String),
    /// It was given up.
    Failed(String),
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: Key,
        serial: u64,
        orders: watch::Receiver<Arc<Order>>,
        seen: Timestamp,
    ) -> Self {
        let sandbox = orders.borrow().sandbox.clone();
        Self {
            runtimes: shared.runtimes.clone(),
            image: Familiar::reference(&key.0, &key.1),
            sandbox,
            shared,
            key,
            serial,
            orders,
            seen,
            attempts: Attempts::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let began = Instant::now();
        let outcome = self.pull().await;
        let time = seconds(now());
        let took = began.elapsed().as_secs_f64();
        let image = &*self.image;
        let (pulled, news) = match outcome {
            Outcome::Is(pulled, id) => {
                self.tell(|entry| {
                    SUCCEEDED.clone_into(&mut entry.phase);
                    (entry.progress, entry.image_id) = (100, id);
                    entry.start_time.get_or_insert_with(|| time.clone());
                    entry.completion_time = Some(time);
                    entry.message.clear();
                });
                tracing::info!(image, seconds = took, was_there = pulled == Pulled::Before, "an image is there");
                let was_there = if pulled == Pulled::Before { "was there already" } else { "was pulled" };
                (pulled, (false, format!("Image {image} {was_there}, after {took:.1} s")))
            }
            Outcome::Failed(why) => {
                self.tell(|entry| {
                    FAILED.clone_into(&mut entry.phase);
                    entry.start_time.get_or_insert_with(|| time.clone());
                    entry.completion_time = Some(time);
                    entry.message.clone_from(&why);
                });
                tracing::warn!(image, seconds = took, why, "a pull is given up");
                (Pulled::Never, (true, format!("Node {}: {why}", self.shared.node)))
            }
        };
        self.shared.metrics.pulled(pulled);
        self.announce(news.0, &news.1).await;
    }

    /// Pulls, until the image is there or it is given up.
    async fn pull(&mut self) -> Outcome {
        loop {
            let order = Arc::clone(&self.orders.borrow_and_update());
            let policy = Policy::of(&order.tag, self.seen);
            match self.attempts.next(&policy, now()) {
                Step::GiveUp(why) => return Outcome::Failed(why),
                Step::Rest(until) => {
                    self.say(self.attempts.told(&policy));
                    self.rest(Some(until)).await;
                    continue;
                }
                Step::Try(_) => {}
            }
            let client = match self.client().await {
                Ok(client) => client,
                Err(why) => {
                    self.wait_for(&why, &policy).await;
                    continue;
                }
            };
            if let Some(id) = self.is_there(&client, &policy).await {
                return Outcome::Is(Pulled::Before, id);
            }
            // Without it, a registry would refuse for good.
            if let Some(why) = self.shared.secrets.get(&order.secrets, false).await.unread() {
                self.wait_for(&why, &policy).await;
                continue;
            }
            let waited = Instant::now();
            let Some(_slot) = self.slot(policy.deadline).await else { continue };
            if waited.elapsed() > STALE
                && let Some(id) = self.is_there(&client, &policy).await
            {
                return Outcome::Is(Pulled::Before, id);
            }
            // It may have waited long, and for something else by now.
            let order = Arc::clone(&self.orders.borrow_and_update());
            let policy = Policy::of(&order.tag, self.seen);
            let Step::Try(limit) = self.attempts.next(&policy, now()) else { continue };
            self.tell(|entry| {
                PULLING.clone_into(&mut entry.phase);
                entry.start_time.get_or_insert_with(|| seconds(now()));
                entry.progress = 0;
            });
            match self.attempt(&client, &order, limit).await {
                Ok(()) => {
                    let id = self.id(&client).await.unwrap_or_default();
                    return Outcome::Is(Pulled::Now, id);
                }
                Err(failure) => {
                    self.shared.metrics.failed(failure.fault);
                    tracing::info!(image = self.image, reason = failure.fault.name(), %failure, "an attempt failed");
                    self.attempts.failed(failure, now());
                }
            }
        }
    }

    /// Waits for what is away. It is not the image's fault, and no attempt (WEAK-36).
    async fn wait_for(&mut self, why: &str, policy: &Policy) {
        self.say(Some(format!("{}: waits, {why}", self.image)));
        let soon = now().checked_add(AWAY).ok();
        self.rest(policy.deadline.filter(|deadline| Some(*deadline) < soon).or(soon)).await;
    }

    /// One attempt: every credential that is for this image, or none at all (IMG-55).
    async fn attempt(&self, client: &Client, order: &Order, limit: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        let place = if self.is_without_reserve() { None } else { self.shared.spaces.place(client).await };
        self.room(place.as_ref()).map_err(|full| Failure::full(&self.image, &full))?;
        let secrets = self.shared.secrets.get(&order.secrets, false).await;
        let keyring = secrets.keyring().map_err(|why| Failure::new(&self.image, Fault::Secret, &why))?;
        let found = keyring.matching(&order.name);
        let tries: Vec<Option<&Credential>> =
            if found.is_empty() { vec![None] } else { found.into_iter().map(Some).collect() };
        let mut failures = Vec::new();
        for credential in tries {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            match self.call(client, credential, left, limit, place.as_ref()).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    let is_over = matches!(failure.fault, Fault::Full | Fault::Runtime | Fault::Invalid);
                    failures.push(failure);
                    if is_over {
                        break;
                    }
                }
            }
        }
        let slow = || Failure::of(&self.image, Answer::Slow(limit));
        let mut failure = Failure::join(failures).unwrap_or_else(slow);
        if matches!(failure.fault, Fault::Denied | Fault::Unknown) {
            if let Some(missing) = secrets.missing() {
                failure = failure.and(&missing);
            }
            // One that was changed since it was read has its chance, or that could not be read (WEAK-33).
            let may_differ = secrets.unread().is_some()
                || !secrets.is_empty() && self.shared.secrets.get(&order.secrets, true).await != secrets;
            if may_differ {
                failure.fault = Fault::Secret;
            }
        }
        Err(failure)
    }

    /// One call, and what is looked after meanwhile. Who stops waiting ends it in the runtime (IMG-43).
    async fn call(
        &self,
        client: &Client,
        credential: Option<&Credential>,
        left: Duration,
        limit: Duration,
        place: Option<&PathBuf>,
    ) -> Result<(), Failure> {
        let pull = Pull {
            shared: &self.shared,
            client,
            serial: self.serial,
            repository: repository(&self.key.0),
            tag: &self.key.1,
            since: now().as_nanosecond(),
            place,
        };
        let told = |percent| {
            self.tell(|entry| entry.progress = entry.progress.max(percent));
        };
        tokio::select! {
            answer = client.pull(self.request(credential), left) => match answer {
                Ok(_) => Ok(()),
                Err(error) => Err(failure(&self.image, &error.why, limit)),
            },
            full = progress::follow(pull, told) => Err(Failure::full(&self.image, &full)),
        }
    }

    fn request(&self, credential: Option<&Credential>) -> v1::PullImageRequest {
        let SandboxConfig { labels, annotations } = self.sandbox.clone();
        let origin = [(ORIGIN.0.to_owned(), ORIGIN.1.to_owned())];
        let annotations = annotations.into_iter().chain(origin).collect();
        v1::PullImageRequest {
            image: Some(v1::ImageSpec { image: self.image.clone(), ..v1::ImageSpec::default() }),
            // CRI-8.
            auth: credential.map(|Credential { username, password }| v1::AuthConfig {
                username: username.clone(),
                password: password.clone(),
                ..v1::AuthConfig::default()
            }),
            sandbox_config: Some(v1::PodSandboxConfig { labels, annotations, ..v1::PodSandboxConfig::default() }),
        }
    }

    fn is_without_reserve(&self) -> bool {
        self.shared.reserve.of(u64::MAX) == 0
    }

    /// Whether there is room to begin at all.
    fn room(&self, place: Option<&PathBuf>) -> Result<(), Full> {
        let space = place.and_then(|place| space::space(place).ok());
        space.map_or(Ok(()), |space| self.shared.reserve.allows(space, None))
    }

    /// The id of the image, if it is there and need not be pulled (IMG-44). That it cannot be asked counts as no.
    async fn is_there(&self, client: &Client, policy: &Policy) -> Option<String> {
        if policy.is_always { None } else { self.id(client).await }
    }

    /// The id of the image, if it is there: `cart@sha256:…` (IMG-45). CRI-12: one image is asked for, and not all.
    async fn id(&self, client: &Client) -> Option<String> {
        let (name, tag) = &self.key;
        let image = client.image(&self.image).await.ok()??;
        is_named(&image, name, tag).then(|| format!("{name}@{}", image.id))
    }

    /// The runtime to pull with. WEAK-37: that of the node's pods.
    async fn client(&self) -> Result<Client, String> {
        let runtimes = Arc::clone(&self.runtimes.borrow());
        let names = if runtimes.usable.len() > 1 { self.shared.pods.runtimes() } else { Vec::new() };
        let preferred = runtimes.preferred(names.iter().map(String::as_str));
        let Some(runtime) = preferred else {
            return Err(runtimes.missing().unwrap_or_else(|| "no container runtime answers".to_owned()));
        };
        // One that went away is still known for a while; attempts are too few to find that out.
        runtime.client.version().await.map_err(|error| error.to_string())?;
        Ok(runtime.client.clone())
    }

    /// Waits for a slot (IMG-40). `None`: for so long that it has to be decided anew.
    async fn slot(&mut self, deadline: Option<Timestamp>) -> Option<Option<OwnedSemaphorePermit>> {
        let Some(slots) = self.shared.slots.clone() else { return Some(None) };
        // In the order in which they came.
        let mut acquired = pin!(slots.acquire_owned());
        let mut pause = left(deadline);
        loop {
            tokio::select! {
                biased;
                slot = &mut acquired => return slot.ok().map(Some),
                () = sleep(pause) => return None,
                // Not a reason to go to the end of the queue.
                () = changed(&mut self.orders) => {
                    let order = Arc::clone(&self.orders.borrow());
                    pause = left(Policy::of(&order.tag, self.seen).deadline);
                }
            }
        }
    }

    /// Waits until then, or until something is asked otherwise or a runtime comes or goes.
    async fn rest(&mut self, until: Option<Timestamp>) {
        let pause = left(until);
        tokio::select! {
            () = sleep(pause) => {}
            () = changed(&mut self.orders) => {}
            () = changed(&mut self.runtimes) => {}
        }
    }

    fn say(&self, words: Option<String>) {
        self.tell(|entry| entry.message = words.unwrap_or_default());
    }

    fn tell(&self, say: impl FnOnce(&mut nodeimage::ImageTagStatus)) {
        self.shared.tell(&self.key, self.serial, say);
    }

    /// Writes the events of the end (IMG-49).
    async fn announce(&self, is_warning: bool, message: &str) {
        let order = Arc::clone(&self.orders.borrow());
        let (name, uid) = order.node_image.clone();
        let node_image = ObjectReference {
            api_version: Some(names::V1BETA1.to_owned()),
            kind: Some("NodeImage".to_owned()),
            name: Some(name),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        };
        let owners = order.tag.owner_references.iter().take(OWNERS).filter(|_| is_warning).map(owner);
        let occasion = format!("{uid} {} {}", self.image, order.tag.version);
        for about in std::iter::once(node_image).chain(owners) {
            let news = News {
                component: events::IMAGES,
                about,
                is_warning,
                reason: if is_warning { "PullImageFailed" } else { "PullImageSucceed" },
                message: message.to_owned(),
                occasion: occasion.clone(),
            };
            if let Err(error) = news.write(&self.shared.client, &self.shared.node, now()).await {
                let lost: &dyn Display = &error;
                tracing::warn!(image = self.image, reason = news.reason, error = %lost, "an event is lost");
            }
        }
    }
}

fn owner(owner: &nodeimage::ObjectReference) -> ObjectReference {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: text(&owner.api_version),
        kind: text(&owner.kind),
        namespace: text(&owner.namespace),
        name: text(&owner.name),
        uid: text(&owner.uid),
        ..ObjectReference::default()
    }
}

/// Whether an image is the one of this name and tag, or digest. WEAK-27, IMG-46: however the two are written.
fn is_named(image: &v1::Image, name: &str, tag: &str) -> bool {
    if tag.contains(':') {
        let wanted = repository(name);
        let is_it = |known: &String| {
            known.split_once('@').is_some_and(|(of, digest)| digest == tag && repository(of) == wanted)
        };
        return image.repo_digests.iter().any(is_it);
    }
    let wanted = full_name(&Familiar::reference(name, tag));
    image.repo_tags.iter().any(|known| full_name(known) == wanted)
}

/// What an error of the runtime means.
fn failure(image: &str, why: &cri::Why, limit: Duration) -> Failure {
    let answer = match why {
        cri::Why::Slow(_) => Answer::Slow(limit),
        cri::Why::Unreachable(words) | cri::Why::NotServed(words) => Answer::Cut(words),
        cri::Why::Gone(words) => Answer::Gone(words),
        cri::Why::Refused { code: tonic::Code::InvalidArgument, message } => Answer::Invalid(message),
        cri::Why::Refused { message, .. } => Answer::Refused(message),
        cri::Why::Incomplete(what) => Answer::Refused(what),
    };
    Failure::of(image, answer)
}

/// How long it is until then.
fn left(until: Option<Timestamp>) -> Duration {
    let left = until.and_then(|until| Duration::try_from(until.duration_since(now())).ok());
    // A little later: who comes before the time finds that nothing has changed.
    match (until, left) {
        (None, _) => LONG,
        (Some(_), left) => left.unwrap_or_default().min(LONG) + Duration::from_millis(1),
    }
}

/// Waits for something new. For ever, when nothing comes any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:abababababababababababababababababababababababababababababababab";

    #[rstest]
    #[case::short("nginx", "1", &["docker.io/library/nginx:1"], true)]
    #[case::long("docker.io/library/nginx", "1", &["nginx:1"], true)]
    #[case::other_tag("nginx", "2", &["docker.io/library/nginx:1"], false)]
    #[case::own_registry("reg:5000/cart", "v7", &["x:1", "reg:5000/cart:v7"], true)]
    #[case::by_its_id("abab", "latest", &["docker.io/library/nginx:1"], false)]
    #[case::digest("nginx", DIGEST, &["docker.io/library/nginx:1"], false)]
    fn an_image_is_there_by_any_of_its_names_img_46(
        #[case] name: &str,
        #[case] tag: &str,
        #[case] known: &[&str],
        #[case] is_it: bool,
    ) {
        let repo_tags = known.iter().map(|tag| (*tag).to_owned()).collect();
        let image = v1::Image { repo_tags, ..v1::Image::default() };
        assert_eq!(is_named(&image, name, tag), is_it);
    }

    #[rstest]
    #[case::short("nginx", &format!("docker.io/library/nginx@{DIGEST}"), true)]
    #[case::other_repository("nginx", &format!("reg.example/nginx@{DIGEST}"), false)]
    #[case::other_digest("nginx", "docker.io/library/nginx@sha256:cd", false)]
    fn a_digest_is_there_when_its_repository_has_it_weak_27(
        #[case] name: &str,
        #[case] known: &str,
        #[case] is_it: bool,
    ) {
        let image = v1::Image { repo_digests: vec![known.to_owned()], ..v1::Image::default() };
        assert_eq!(is_named(&image, name, DIGEST), is_it);
    }
}
