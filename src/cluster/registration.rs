//! Tells the API server where to call us, and keeps it told (WH-8, WH-9), as field owner `outrigger`.
//!
//! Two webhook configurations and the conversion of our CRDs are watched and compared with what `hooks` wants; what
//! differs is applied again, and everything is applied once a minute, which changes nothing when nothing differs. Before each write the
//! certificates' Secret is read afresh, and each write names the version it was made for: two replicas that know
//! different things never undo each other's newer work.
//!
//! **Coming.** CRDs first, as conversion needs nothing but us; hooks once every SidecarSet is known.
//!
//! **Going away.** A restart and a scale-down to zero deregister nothing: with the policy Fail, pods wait for us rather than
//! miss their sidecar. No Fail webhook may outlive the installation, in whatever order it is deleted:
//!
//! 1. The shipped configurations have no entries: `kubectl apply` registers nothing that nobody serves, and `kubectl delete` removes
//!    the objects. The manager puts the entries in once it can answer.
//! 2. Both bear an owner reference to the operator's Namespace: when that is gone, the garbage collector removes them, whoever
//!    made them last. (Both are cluster-scoped, so this is legal. It is not the ClusterRole: one that is replaced would take
//!    the webhooks along, and pods would miss their sidecars.)
//! 3. When the Namespace is being deleted, every replica removes both at once and registers nothing any more. Pods need
//!    not wait for the end of the Namespace.
//! 4. A configuration that was deleted alone is made again after ten seconds, so that an accident does not
//!    cost sidecars; not by a process that has been told to stop. `kubectl delete -k` is through by then, and what it
//!    deletes in another order, 2 and 3 find. An update in flight cannot bring a deleted object back: it bears the UID.
//! 5. `outrigger uninstall` removes both, scales the manager down, and looks again.
//!
//! CRDs get no owner: a deleted Namespace must not take the SidecarSets along.
//!
//! **`--webhook-scope=selected`.** The expression in the registration (`scope`) is the memory of all replicas. A
//! SidecarSet's webhook awaits [`Cover::cover`] before it answers: its term is added, seen on the API server, and then
//! given [`SPREAD`] for every API server to hear of it; so whatever is created once the SidecarSet exists is sent. A term goes only when
//! no SidecarSet has wanted it for [`IDLE_TERM`], longer than a request may last (60 s), so a SidecarSet that is being
//! admitted by another replica keeps its term. What remains: an API server that hears of the change later than
//! [`SPREAD`] may let pods through meanwhile; those are found by the loop for missed injections.

pub mod hooks;
pub mod scope;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::hooks::{CaBundle, HookKind, Moment, Owner, Target, Wanted};
use self::scope::Terms;
use super::authority::Trusted;
use super::trust::{Bundle, Published, Trust};
use super::{CallError, FIELD_OWNER, call};
use crate::api::sidecarset::SidecarSet;
use crate::telemetry::chain;

/// Everything is applied this often, needed or not.
const FULL: Duration = Duration::from_mins(1);
/// A configuration that was deleted while we run is made again after this time.
const ANEW: Duration = Duration::from_secs(10);
/// The least and the most time between two writes of one object.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// How long a change of a webhook configuration is given to reach every API server.
pub const SPREAD: Duration = Duration::from_secs(1);
/// A term that no SidecarSet has wanted for so long is dropped.
pub const IDLE_TERM: Duration = Duration::from_mins(2);
/// A SidecarSet waits no longer for its pods to be covered; its webhook has ten seconds.
const COVER: Duration = Duration::from_secs(7);
/// More SidecarSets being admitted at once are refused.
const MOST_ASKED: usize = 1024;

/// Which pods are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// Every pod outside of the excluded namespaces.
    #[default]
    All,
    /// Those that a SidecarSet can select, or that ask for launch priority.
    Selected,
}

/// What the operator of a cluster may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is registered.
    pub wanted: Wanted,
    /// Which pods are sent.
    pub scope: Scope,
}

/// Keeps the registration. [`Registration::run`] must run for anything to happen.
pub struct Registration {
    client: Client,
    settings: Settings,
    trusted: Trusted,
    published: watch::Sender<Option<Published>>,
    sets: watch::Receiver<Option<Arc<Terms>>>,
    registered: watch::Sender<bool>,
    asked: watch::Sender<BTreeMap<String, Instant>>,
    terms: watch::Sender<Registered>,
}

/// Asks for the pods of a SidecarSet to be sent.
#[derive(Clone)]
pub struct Cover {
    scope: Scope,
    asked: watch::Sender<BTreeMap<String, Instant>>,
    terms: watch::Receiver<Registered>,
}

/// The pods of a SidecarSet are not sent for sure, so it must not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// The registration was not written in time.
    #[error(
        "the webhook registration could not be widened to the pods of this SidecarSet within {} s: try again, and see the manager's log",
        COVER.as_secs()
    )]
    Late,
    /// Too many at once.
    #[error("more than {MOST_ASKED} SidecarSets are being admitted at once: try again in a minute")]
    Many,
}

/// By which terms pods are sent, and since when.
type Registered = BTreeMap<String, Instant>;

/// What was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Target(Target),
    Namespace,
}

type Event = (Place, Result<Option<Value>, watcher::Error>);

/// What is known, and what was done when.
#[derive(Default)]
struct State {
    /// `None` inside: it is not there. Absent: not heard of yet.
    live: BTreeMap<Place, Option<Value>>,
    /// Since when a configuration that was there is not there.
    gone: BTreeMap<Target, Instant>,
    writes: BTreeMap<Target, (Instant, Duration)>,
    full: Option<Instant>,
    /// Since when a registered term is wanted by nobody.
    idle: BTreeMap<String, Instant>,
}

// === impl Registration ===

impl Registration {
    /// `trusted` comes from the authority, and `published` goes to it. `sets` are the terms of all SidecarSets
    /// ([`scope::term`]) once they are known; before that no hook is registered, because nobody could answer it. Conversion
    /// is: SidecarSets that were stored in v1alpha1 cannot be read without it.
    pub fn new(
        client: Client,
        settings: Settings,
        trusted: Trusted,
        published: watch::Sender<Option<Published>>,
        sets: watch::Receiver<Option<Arc<Terms>>>,
    ) -> Self {
        let registered = watch::Sender::new(false);
        let (asked, terms) = (watch::Sender::new(BTreeMap::new()), watch::Sender::new(Registered::new()));
        Self { client, settings, trusted, published, sets, registered, asked, terms }
    }

    /// Whether everything is registered with the certificate that is served: a part of being ready.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// For the webhooks of SidecarSets.
    pub fn cover(&self) -> Cover {
        Cover { scope: self.settings.scope, asked: self.asked.clone(), terms: self.terms.subscribe() }
    }

    /// Keeps the registration until `shutdown`; from then on nothing is registered any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut events = stream::select_all(self.watches());
        let mut asked = self.asked.subscribe();
        let mut state = State::default();
        let mut pause = FULL;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some((place, event)) = events.next() => match event {
                    Ok(live) => state.hear(place, live),
                    Err(err) => {
                        warn!(error = chain(&err), ?place, "cannot be watched; what is registered stays");
                        continue;
                    }
                },
                Ok(()) = self.trusted.latest.changed() => {}
                Ok(()) = self.sets.changed() => {}
                Ok(()) = asked.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            // A stop must not wait for the API server.
            pause = tokio::select! {
                () = shutdown.cancelled() => return,
                pause = self.keep(&mut state) => pause,
            };
        }
    }

    fn watches(&self) -> Vec<Pin<Box<dyn Stream<Item = Event> + Send>>> {
        let mut streams: Vec<Pin<Box<dyn Stream<Item = Event> + Send>>> = Vec::new();
        for target in Target::all() {
            let watch = watcher::watch_object(self.api(target), target.name()).default_backoff();
            streams.push(watch.map(move |event| (Place::Target(target), event.map(|live| live.map(raw)))).boxed());
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let watch = watcher::watch_object(namespaces, &self.settings.wanted.namespace).default_backoff();
        streams.push(watch.map(|event| (Place::Namespace, event.map(|live| live.map(raw)))).boxed());
        streams
    }

    /// Compares, and writes what differs. Returns when to look again.
    async fn keep(&mut self, state: &mut State) -> Duration {
        if !state.has_heard_all() {
            return FULL;
        }
        let now = Instant::now();
        self.observe(state, now);
        if state.is_leaving() {
            self.registered.send_replace(false);
            return self.leave(state).await;
        }
        let Some(trust) = self.trusted.latest.borrow().clone() else { return FULL };
        let full = state.full.is_none_or(|last| now - last >= FULL);
        let (mut pause, mut right) = (FULL, true);
        for target in Target::all() {
            if matches!(target, Target::Hooks(_)) && self.sets.borrow().is_none() {
                right = false;
                continue;
            }
            let Some(difference) = self.difference(state, target, &trust, now) else {
                if full {
                    right &= self.write(state, target, "a look once a minute").await;
                }
                continue;
            };
            right = false;
            // A SidecarSet that waits is no quarrel with somebody else.
            let asked = target == Target::Hooks(HookKind::Mutating) && self.is_asked();
            if state.wait(target, now).is_zero() || (asked && state.target(target).is_some()) {
                right |= self.write(state, target, &difference).await;
                self.observe(state, Instant::now());
            }
            pause = pause.min(state.wait(target, Instant::now()).max(PAUSE[0]));
        }
        if full {
            state.full = Some(now);
        }
        if right {
            right = Target::all().all(|target| self.difference(state, target, &trust, now).is_none());
        }
        self.registered.send_if_modified(|last| std::mem::replace(last, right) != right);
        if self.settings.scope == Scope::Selected && !state.idle.is_empty() {
            pause = pause.min(IDLE_TERM / 8);
        }
        pause
    }

    /// What is not as it should be, in words; `None` when all is well or nothing may be done.
    fn difference(&self, state: &State, target: Target, trust: &Trust, now: Instant) -> Option<String> {
        let live = state.target(target);
        if live.is_none() && !matches!(target, Target::Hooks(_)) {
            return None;
        }
        let pem;
        let ca = match trust {
            Trust::Ours(bundle) => {
                pem = bundle.pem();
                CaBundle::Pem(&pem)
            }
            Trust::Theirs => CaBundle::Keep,
        };
        let owner = state.owner();
        let terms = self.next_terms(state, now);
        let moment = Moment { live, ca, owner: owner.as_ref(), terms: terms.as_ref() };
        let body = hooks::body(target, &self.settings.wanted, moment)?;
        match live {
            None => Some("it is not there".to_owned()),
            Some(live) => {
                let foreign = || hooks::clearing(target, &self.settings.wanted, live, &body);
                hooks::drift(live, &body)
                    .map(|path| format!("{path} differs"))
                    .or_else(|| (!foreign().is_empty()).then(|| "it has entries that nobody serves".to_owned()))
            }
        }
    }

    /// One object, from what is true now. Whether it is as it should be afterwards.
    async fn write(&self, state: &mut State, target: Target, why: &str) -> bool {
        let written = self.apply(state, target).await;
        state.wrote(target, Instant::now());
        let name = target.name();
        match written {
            Ok(Some(live)) => {
                let version = |live: &Value| live["metadata"]["resourceVersion"].clone();
                if state.target(target).map(version) != Some(version(&live)) {
                    info!(name, why, "registered");
                }
                state.hear(Place::Target(target), Some(live));
                true
            }
            Ok(None) => true,
            Err(err) if err.code() == Some(409) => {
                debug!(name, "another was faster, or it was deleted; its event is on the way");
                false
            }
            Err(err) => {
                error!(name, why, error = chain(&err), "cannot be registered");
                state.slow_down(target);
                false
            }
        }
    }

    async fn apply(&self, state: &State, target: Target) -> Result<Option<Value>, CallError> {
        let Some(trust) = self.trusted.fresh().await? else { return Ok(None) };
        let pem = match &trust {
            Trust::Ours(bundle) => Some(bundle.pem()),
            Trust::Theirs => None,
        };
        let ca = pem.as_deref().map_or(CaBundle::Keep, CaBundle::Pem);
        let owner = state.owner();
        let terms = self.next_terms(state, Instant::now());
        let wanted = &self.settings.wanted;
        let mut live = state.target(target).cloned();
        if live.is_none() && !matches!(target, Target::Hooks(_)) {
            return Ok(None);
        }
        let api = self.api(target);
        let made = |live: Option<&Value>| {
            hooks::body(target, wanted, Moment { live, ca, owner: owner.as_ref(), terms: terms.as_ref() })
        };
        if let (Some(old), Some(body)) = (&live, made(live.as_ref())) {
            let clearing = hooks::clearing(target, wanted, old, &body);
            if !clearing.is_empty() {
                let patch = serde_json::from_value(Value::Array(clearing)).map_err(kube::Error::SerdeError)?;
                let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
                let cleared = call(api.patch(target.name(), &params, &Patch::<()>::Json(patch))).await?;
                info!(name = target.name(), "entries that nobody serves, or of another address, were taken out");
                live = Some(raw(cleared));
            }
        }
        let Some(body) = made(live.as_ref()) else { return Ok(live) };
        let params = PatchParams::apply(FIELD_OWNER).force();
        let applied = call(api.patch(target.name(), &params, &Patch::Apply(&body))).await?;
        Ok(Some(raw(applied)))
    }

    /// The Namespace is being deleted, and we with it: no call shall be made to nobody.
    async fn leave(&self, state: &mut State) -> Duration {
        for target in [HookKind::Mutating, HookKind::Validating].map(Target::Hooks) {
            let Some(uid) = state.target(target).and_then(|live| live["metadata"]["uid"].as_str()) else { continue };
            let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            match call(self.api(target).delete(target.name(), &params)).await {
                Ok(_) => info!(name = target.name(), "removed, as our namespace is being deleted"),
                Err(err) if matches!(err.code(), Some(404 | 409)) => {}
                Err(err) => {
                    error!(name = target.name(), error = chain(&err), "cannot be removed: delete it by hand");
                    return PAUSE[1];
                }
            }
            state.hear(Place::Target(target), None);
        }
        FULL
    }

    /// Says what the registered objects carry.
    fn observe(&self, state: &mut State, now: Instant) {
        let bundles = Target::all()
            .filter_map(|target| Some((target, state.target(target)?)))
            .flat_map(|(target, live)| hooks::live_bundles(target, live))
            .map(|pem| Bundle::from_pem(&pem))
            .collect::<Vec<_>>();
        self.published.send_if_modified(|last| {
            let next = last.clone().unwrap_or_default().then(&bundles, now);
            let news = last.as_ref() != Some(&next);
            *last = Some(next);
            news
        });
        if self.settings.scope == Scope::All {
            return;
        }
        let expression = state.target(Target::Hooks(HookKind::Mutating)).and_then(hooks::live_expression);
        let live = expression.map(scope::parse);
        let wanted = self.wanted_terms();
        self.terms.send_if_modified(|last| {
            let since = |term: &String| (term.clone(), last.get(term).copied().unwrap_or(now));
            let next = live.iter().flatten().map(since).collect();
            let news = *last != next;
            *last = next;
            news
        });
        let unwanted = live.into_iter().flatten().filter(|term| wanted.as_ref().is_some_and(|w| !w.contains(term)));
        let idle = unwanted.map(|term| (state.idle.get(&term).copied().unwrap_or(now), term));
        state.idle = idle.map(|(since, term)| (term, since)).collect();
        self.asked.send_if_modified(|asked| {
            asked.retain(|_, since| now.duration_since(*since) < IDLE_TERM);
            false
        });
    }

    /// The terms of all SidecarSets and of those being admitted; `None` until the first are known.
    fn wanted_terms(&self) -> Option<Terms> {
        let mut terms = Terms::clone(self.sets.borrow().as_ref()?);
        terms.extend(self.asked.borrow().keys().cloned());
        Some(terms)
    }

    /// Whether a SidecarSet waits for its term.
    fn is_asked(&self) -> bool {
        let terms = self.terms.borrow();
        self.asked.borrow().keys().any(|term| !terms.contains_key(term))
    }

    /// What is to be registered as the pods' condition.
    fn next_terms(&self, state: &State, now: Instant) -> Option<Terms> {
        if self.settings.scope == Scope::All {
            return None;
        }
        let expression = state.target(Target::Hooks(HookKind::Mutating)).and_then(hooks::live_expression);
        let live = expression.map(scope::parse);
        let Some(wanted) = self.wanted_terms() else {
            // Which SidecarSets there are is not known yet: nothing is made narrower.
            return live;
        };
        let idle = |term: &str| state.idle.get(term).is_some_and(|since| now.duration_since(*since) >= IDLE_TERM);
        Some(scope::next(live.as_ref(), &wanted, idle))
    }

    fn api(&self, target: Target) -> Api<DynamicObject> {
        let (api_version, kind) = target.kind();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::all_with(self.client.clone(), &resource)
    }
}

fn raw<K: serde::Serialize>(object: K) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

// === impl Cover ===

impl Cover {
    /// For a webhook to which every pod is sent, whoever registered it.
    pub fn of_all_pods() -> Self {
        Self { scope: Scope::All, asked: watch::Sender::default(), terms: watch::Sender::default().subscribe() }
    }

    /// Returns once every pod that `set` can select is sent to us. A webhook for SidecarSets awaits this before it
    /// admits one; when it fails, the SidecarSet must be refused.
    pub async fn cover(&self, set: &SidecarSet) -> Result<(), CoverError> {
        if self.scope == Scope::All {
            return Ok(());
        }
        let Some(term) = scope::term(set.spec.selector.as_ref(), set.spec.namespace_selector.as_ref()) else {
            return Ok(());
        };
        let mut many = false;
        self.asked.send_if_modified(|asked| {
            many = asked.len() >= MOST_ASKED && !asked.contains_key(&term);
            !many && asked.insert(term.clone(), Instant::now()).is_none()
        });
        if many {
            return Err(CoverError::Many);
        }
        self.is_spread(&term).await
    }

    async fn is_spread(&self, term: &str) -> Result<(), CoverError> {
        let mut terms = self.terms.clone();
        let spread = async {
            loop {
                let since = {
                    let registered = terms.borrow_and_update();
                    // An expression that grew too long sends every pod.
                    let whole = || registered.get(scope::EVERY_POD).filter(|_| registered.len() == 1);
                    registered.get(term).or_else(whole).copied()
                };
                let wait = since.map(|since| SPREAD.saturating_sub(since.elapsed()));
                match wait {
                    Some(Duration::ZERO) => return,
                    Some(wait) => tokio::time::sleep(wait).await,
                    // Nobody registers any more: the deadline ends this.
                    None if terms.changed().await.is_err() => std::future::pending().await,
                    None => {}
                }
            }
        };
        tokio::time::timeout(COVER, spread).await.map_err(|_| CoverError::Late)
    }
}

// === impl State ===

impl State {
    fn hear(&mut self, place: Place, live: Option<Value>) {
        if let Place::Target(target) = place {
            let was_there = matches!(self.live.get(&place), Some(Some(_)));
            match &live {
                Some(_) => {
                    self.gone.remove(&target);
                }
                None if was_there => {
                    self.gone.insert(target, Instant::now());
                }
                None => {}
            }
        }
        self.live.insert(place, live);
    }

    fn has_heard_all(&self) -> bool {
        self.live.len() == Target::all().count() + 1
    }

    fn target(&self, target: Target) -> Option<&Value> {
        self.live.get(&Place::Target(target))?.as_ref()
    }

    fn namespace(&self) -> Option<&Value> {
        self.live.get(&Place::Namespace)?.as_ref()
    }

    fn is_leaving(&self) -> bool {
        self.namespace().is_some_and(|namespace| !namespace["metadata"]["deletionTimestamp"].is_null())
    }

    fn owner(&self) -> Option<Owner> {
        let metadata = &self.namespace()?["metadata"];
        let text = |member: &str| metadata[member].as_str().map(str::to_owned);
        Some(Owner { name: text("name")?, uid: text("uid")? })
    }

    /// How long until this object may be written: what somebody else keeps changing must not be written
    /// without end, and what was deleted may have been deleted for good.
    fn wait(&self, target: Target, now: Instant) -> Duration {
        let pause = self.writes.get(&target).map_or(Duration::ZERO, |(last, pause)| (*last + *pause) - now);
        let anew = self.gone.get(&target).map_or(Duration::ZERO, |since| (*since + ANEW) - now);
        pause.max(anew)
    }

    fn wrote(&mut self, target: Target, now: Instant) {
        let pause = match self.writes.get(&target) {
            Some((last, pause)) if now - *last < PAUSE[1] * 2 => (*pause * 2).min(PAUSE[1]),
            _ => PAUSE[0],
        };
        self.writes.insert(target, (now, pause));
    }

    fn slow_down(&mut self, target: Target) {
        self.writes.insert(target, (Instant::now(), PAUSE[1]));
    }
}
