//! One pod with live requests: looks, lets [`recreate`] decide, and does it; one step at a time.
//!
//! A worker waits on whatever comes first: a change of a request or of the pod, a runtime that came or went, the end of a
//! hook or stop, or the time that the decision named. It ends when no request of its pod is live any more.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Request as KubeRequest;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::events::{self, News};
use super::hook::Hook;
use super::metrics::{Became, Deed};
use super::node::{Key, Request, Shared};
use crate::api::names;
use crate::app::now;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::cri::detect::Runtimes;
use crate::cri::{self, Client, STOP_SLACK, v1};
use crate::recreate::{self, Choice, Instance, Pod, State, Step, Underway};

/// The first and the longest wait between two attempts; jitter is added.
const DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// It is looked again after so long even if nothing was heard of (WEAK-1).
const RESYNC: Duration = Duration::from_secs(30);
/// Steps that follow each other at once; then there is a pause, whatever is decided.
const AT_ONCE: u32 = 32;
/// Steps that a dry run looks ahead.
const FORESEEN: usize = 8;

/// What a worker does next.
enum Next {
    /// It looks again.
    Look,
    /// It waits for something to happen, for so long at most.
    Rest(Duration),
    /// Something failed: it looks again after a while.
    Retry,
    /// There is nothing left to do.
    End,
}

/// The worker of one pod.
pub(super) struct Worker {
    shared: Arc<Shared>,
    pod: Key,
    signal: Arc<Notify>,
    runtimes: watch::Receiver<Arc<Runtimes>>,
    /// What this process has under way, and what became of it.
    underway: Underway,
    /// For which request a container was stopped, until that is noted.
    stopped: Option<Arc<Request>>,
    /// The hook and the stop that run now.
    deeds: JoinSet<Did>,
    /// What nobody waits for any more: commands that take longer than they may, and events on their way.
    left: JoinSet<()>,
    /// The request that was looked at last.
    current: Option<Arc<Request>>,
    /// What was last said to be stopped, and by a dry run.
    killing: String,
    told: String,
}

/// Why there is no runtime for a request.
enum Lack {
    /// There never will be one.
    Known(String),
    /// It does not answer now.
    Away(String),
}

/// Which container, for which request.
struct Target {
    request: Arc<Request>,
    container: String,
    /// Its id, without the name of the runtime.
    id: String,
}

impl Target {
    fn occasion(&self) -> String {
        format!("{} {}", self.request.read.uid, self.id)
    }
}

/// A hook or stop that ended.
struct Did {
    deed: Deed,
    target: Target,
    /// Why it failed, if it did.
    error: Option<String>,
    became: Became,
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, pod: Key, signal: Arc<Notify>) -> Self {
        Self {
            runtimes: shared.runtimes.clone(),
            shared,
            pod,
            signal,
            underway: Underway::default(),
            stopped: None,
            deeds: JoinSet::new(),
            left: JoinSet::new(),
            current: None,
            killing: String::new(),
            told: String::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut delays = delays();
        let mut at_once = 0;
        loop {
            let pause = match self.round().await {
                Next::End => return,
                Next::Look if at_once < AT_ONCE => {
                    at_once += 1;
                    continue;
                }
                Next::Rest(pause) => {
                    delays = self::delays();
                    pause
                }
                Next::Look | Next::Retry => delays.next().unwrap_or(DELAYS.1),
            };
            at_once = 0;
            tokio::select! {
                () = self.signal.notified() => {}
                () = changed(&mut self.runtimes) => {}
                Some(ended) = self.deeds.join_next(), if !self.deeds.is_empty() => self.ended(ended),
                Some(_) = self.left.join_next(), if !self.left.is_empty() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Looks, decides, and does one thing.
    async fn round(&mut self) -> Next {
        let mut requests = self.shared.requests(&self.pod);
        // CRR-63: what was begun is ended, even if nobody asks for it any more.
        if let Some(current) = &self.current
            && !requests.iter().any(|request| request.read.uid == current.read.uid)
        {
            let read = recreate::Request { is_going: true, ..current.read.clone() };
            requests.push(Arc::new(Request { key: current.key.clone(), pod: current.pod.clone(), read }));
        }
        // CRR-61: one that was completed meanwhile is watched no longer, and what came of its stop is noted all the same.
        if let Some(request) = self.stopped.take()
            && !requests.iter().any(|known| known.read.uid == request.read.uid)
        {
            let next = self.refresh(&request).await;
            if matches!(next, Next::Retry) {
                self.stopped = Some(request);
            }
            return next;
        }
        let pod = self.shared.pod(&self.pod);
        let all = requests.iter().map(|request| &request.read);
        let Choice { chosen, told } = recreate::choose(all, pod.as_ref().map(|pod| &*pod.uid), &self.underway);
        let find =
            |read: &recreate::Request| requests.iter().find(|request| std::ptr::eq(&raw const request.read, read));
        for request in told.into_iter().filter_map(find) {
            if self.shared.is_dry_run {
                break;
            }
            match self.write(request, &recreate::queued(&request.read)).await {
                Next::Look => {}
                other => return other,
            }
        }
        let Some(request) = chosen.and_then(find) else {
            let is_over = self.deeds.is_empty() && self.shared.is_over(&self.pod);
            return if is_over { Next::End } else { Next::Rest(RESYNC) };
        };
        if self.underway.is_busy() {
            return Next::Rest(RESYNC);
        }
        self.current = Some(Arc::clone(request));
        let client = match self.runtime_of(request) {
            Ok(client) => client,
            Err(Lack::Known(why)) => {
                let end = recreate::no_runtime(&request.read, &why, now());
                return if self.shared.is_dry_run { self.tell(request, &why) } else { self.write(request, &end).await };
            }
            Err(Lack::Away(why)) => return self.wait_for_runtime(request, &why).await,
        };
        let instances = match client.containers(&request.read.pod_uid).await {
            Ok(found) => found.iter().filter_map(instance).collect::<Vec<_>>(),
            Err(error) => return self.wait_for_runtime(request, &error.to_string()).await,
        };
        let object = pod.and_then(|pod| serde_json::from_str::<Value>(&pod.text).ok());
        let read = object.as_ref().map(Pod::read);
        if self.shared.is_dry_run {
            let would = foresee(&request.read, read.as_ref(), &instances);
            return self.tell(request, &would);
        }
        let request = Arc::clone(request);
        match recreate::step(&request.read, read.as_ref(), &instances, &mut self.underway, now()) {
            Step::Rest { wake } => Next::Rest(wake.map_or(RESYNC, |wake| wake.min(RESYNC))),
            Step::Write(patch) => self.write(&request, &patch).await,
            Step::Hook { container, id, hook, limit } => {
                let work = Hook::read(&hook, &object.unwrap_or_default(), &container);
                let target = Target { request, container, id };
                self.killing(&target);
                self.hook(client, target, work, limit);
                Next::Look
            }
            Step::Stop { container, id, grace } => {
                let target = Target { request, container, id };
                self.killing(&target);
                self.stop(client, target, grace);
                Next::Look
            }
        }
    }

    /// The runtime that has the containers of a request (CRR-28).
    fn runtime_of(&self, request: &Request) -> Result<Client, Lack> {
        let name = recreate::runtime(&request.read).map_err(Lack::Known)?;
        let runtimes = self.runtimes.borrow();
        if let Some(runtime) = runtimes.named(name) {
            return Ok(runtime.client.clone());
        }
        // WEAK-36: one that does not answer now may be this one, and is waited for.
        if runtimes.usable.is_empty() || !runtimes.trouble.is_empty() {
            let why = runtimes.missing().unwrap_or_else(|| runtimes.trouble.join("; "));
            return Err(Lack::Away(format!("container runtime {name} does not answer: {why}")));
        }
        Err(Lack::Known(format!("failed to find runtime service: this node has no container runtime {name}")))
    }

    /// Waits for a runtime. The request is told that it has to wait, so that nobody takes this daemon for dead (CRR-14).
    async fn wait_for_runtime(&mut self, request: &Request, why: &str) -> Next {
        self.warn(request, "the container runtime cannot be asked; tried again", &why);
        if request.read.status.phase.is_empty() && !self.shared.is_dry_run {
            return self.write(request, &recreate::waiting(&request.read, why)).await;
        }
        Next::Retry
    }

    /// Writes the status of a request (DMN-20: nothing else is written). It is decided anew upon what the API server
    /// answers.
    async fn write(&mut self, request: &Request, patch: &Value) -> Next {
        let Key { namespace, name } = &request.key;
        let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
        let asked = call(async {
            let built = path(namespace).patch_subresource("status", name, &params, &Patch::Merge(patch));
            self.shared.client.request::<Value>(built.map_err(kube::Error::BuildRequest)?).await
        });
        let (became, next) = match asked.await {
            Ok(answer) => {
                self.shared.wrote(answer);
                (Became::Done, Next::Look)
            }
            Err(error) => match error.code() {
                Some(404) => {
                    self.shared.forget(request);
                    self.current = None;
                    (Became::Gone, Next::Look)
                }
                Some(409) => (Became::Conflict, self.refresh(request).await),
                Some(_) => {
                    self.warn(request, "its status cannot be written; tried again", &error);
                    (Became::Failed, Next::Retry)
                }
                None => {
                    self.warn(request, "its status may not have been written; looked at again", &error);
                    // It may have been taken all the same.
                    _ = self.refresh(request).await;
                    (if matches!(error, CallError::Slow) { Became::Slow } else { Became::Failed }, Next::Retry)
                }
            },
        };
        self.shared.metrics.did(Deed::Write, became);
        next
    }

    /// Reads a request anew. A list of one, which asks for no further right.
    async fn refresh(&self, request: &Request) -> Next {
        let Key { namespace, name } = &request.key;
        let list = call(async {
            let built = path(namespace).list(&ListParams::default().fields(&format!("metadata.name={name}")));
            self.shared.client.request::<List>(built.map_err(kube::Error::BuildRequest)?).await
        });
        match list.await {
            Ok(List { mut items }) => {
                match items.pop() {
                    Some(answer) => self.shared.wrote(answer),
                    None => self.shared.forget(request),
                }
                Next::Look
            }
            Err(error) => {
                self.warn(request, "it cannot be read; tried again", &error);
                Next::Retry
            }
        }
    }

    /// Says on the pod what is about to happen (CRR-52).
    fn killing(&mut self, target: &Target) {
        let occasion = target.occasion();
        if self.killing == occasion {
            return;
        }
        self.killing = occasion;
        let message = format!(
            "Stopping container {} as ContainerRecreateRequest {} asks; the kubelet starts it again",
            target.container, target.request.key.name
        );
        self.event(target, "Killing", message);
    }

    /// Writes an event about a container. Nobody waits for it.
    fn event(&mut self, target: &Target, reason: &'static str, message: String) {
        let Key { namespace: ns, name } = &self.pod;
        let news = News {
            component: events::RECREATE,
            about: events::container(ns, name, &target.request.read.pod_uid, &target.container),
            is_warning: reason != "Killing",
            reason,
            message,
            occasion: target.occasion(),
        };
        let (shared, pod) = (Arc::clone(&self.shared), self.pod.clone());
        self.left.spawn(async move {
            if let Err(error) = news.write(&shared.client, &shared.node, now()).await {
                tracing::warn!(ns = &*pod.namespace, name = &*pod.name, reason, %error, "an event is lost");
            }
        });
    }

    /// Begins a hook. It is waited for no longer than `limit`, and not ended then (CRR-54).
    fn hook(&mut self, client: Client, target: Target, work: Result<Hook, String>, limit: Duration) {
        self.say(&target, "its preStop hook runs", limit);
        let (sender, ended) = oneshot::channel();
        // Besides its own time it has that of the stop, which ends it.
        let patience = limit.saturating_add(STOP_SLACK);
        let id = target.id.clone();
        self.left.spawn(async move {
            let result = match work {
                Ok(work) => work.run(&client, &id, patience).await,
                Err(why) => Err(why),
            };
            _ = sender.send(result);
        });
        self.deeds.spawn(async move {
            let (error, became) = match timeout(limit, ended).await {
                Ok(Ok(Ok(()))) => (None, Became::Done),
                Ok(Ok(Err(why))) => (Some(why), Became::Failed),
                Ok(Err(_)) => (Some("it was given up".to_owned()), Became::Failed),
                Err(_) => {
                    let seconds = limit.as_secs();
                    (Some(format!("it has not ended within {seconds} s; the container is stopped now")), Became::Slow)
                }
            };
            Did { deed: Deed::Hook, target, error, became }
        });
    }

    /// Begins a stop.
    fn stop(&mut self, client: Client, target: Target, grace: Duration) {
        self.say(&target, "it is stopped", grace);
        self.deeds.spawn(async move {
            let stopped = client.stop(&target.id, grace).await;
            let became = match &stopped {
                Ok(()) => Became::Done,
                Err(error) if matches!(error.why, cri::Why::Slow(_)) => Became::Slow,
                Err(_) => Became::Failed,
            };
            Did { deed: Deed::Stop, target, error: stopped.err().map(|error| error.to_string()), became }
        });
    }

    /// Takes note of a hook or stop that ended.
    fn ended(&mut self, ended: Result<Did, JoinError>) {
        let Did { deed, target, error, became } = match ended {
            Ok(did) => did,
            Err(crash) => {
                tracing::error!(error = %crash, "a hook or a stop crashed");
                self.underway.hook_over(now());
                self.underway.stop_over(Err("it crashed".to_owned()), now());
                return;
            }
        };
        self.shared.metrics.did(deed, became);
        if let Some(error) = &error {
            let what = if deed == Deed::Hook { "its preStop hook failed" } else { "it was not stopped; tried again" };
            self.warn(&target.request, what, error);
            if deed == Deed::Hook {
                let message = format!("preStop hook of container {} failed: {error}", target.container);
                self.event(&target, "FailedPreStopHook", message);
            }
        }
        if deed == Deed::Hook {
            self.underway.hook_over(now());
        } else {
            self.underway.stop_over(error.map_or(Ok(()), Err), now());
            self.stopped = Some(target.request);
        }
    }

    /// Says what would be done, once.
    fn tell(&mut self, request: &Request, would: &str) -> Next {
        let told = format!("{} {would}", request.key.name);
        if self.told != told {
            let Key { namespace: ns, name } = &self.pod;
            tracing::info!(ns = &**ns, name = &**name, request = &*request.key.name, would, "a dry run");
            self.told = told;
        }
        Next::Rest(RESYNC)
    }

    fn say(&self, target: &Target, what: &str, limit: Duration) {
        let (Key { namespace: ns, name }, container) = (&self.pod, &target.container);
        let (request, seconds) = (&*target.request.key.name, limit.as_secs());
        tracing::info!(ns = &**ns, name = &**name, container, request, seconds, "{what}");
    }

    fn warn(&self, request: &Request, what: &str, error: &dyn std::fmt::Display) {
        let Key { namespace: ns, name } = &self.pod;
        tracing::warn!(ns = &**ns, name = &**name, request = &*request.key.name, %error, "{what}");
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

fn path(namespace: &str) -> KubeRequest {
    KubeRequest::new(format!("/apis/{}/namespaces/{namespace}/containerrecreaterequests", names::V1BETA1))
}

/// A container as decisions know it.
fn instance(status: &v1::ContainerStatus) -> Option<Instance> {
    let restarts = status.annotations.get(cri::RESTART_COUNT).and_then(|count| count.parse().ok());
    Some(Instance {
        name: cri::name_of(status)?.to_owned(),
        id: status.id.clone(),
        created_at: status.created_at,
        started_at: status.started_at,
        state: match status.state() {
            v1::ContainerState::ContainerCreated => State::Created,
            v1::ContainerState::ContainerRunning => State::Running,
            v1::ContainerState::ContainerExited => State::Exited,
            v1::ContainerState::ContainerUnknown => State::Unknown,
        },
        restart_count: restarts.unwrap_or_default(),
    })
}

/// What would be done for a request, in words: the steps up to the stop, as if every write was taken.
fn foresee(request: &recreate::Request, pod: Option<&Pod>, instances: &[Instance]) -> String {
    let (mut request, mut underway, mut words) = (request.clone(), Underway::default(), Vec::new());
    for _ in 0..FORESEEN {
        match recreate::step(&request, pod, instances, &mut underway, now()) {
            Step::Rest { .. } => {
                words.push("wait".to_owned());
                break;
            }
            Step::Write(patch) => {
                let status = &patch["status"];
                words.push(format!("write status {status}"));
                let mut object = serde_json::to_value(&request.status).unwrap_or_default();
                json_patch::merge(&mut object, status);
                request.status = serde_json::from_value(object).unwrap_or_default();
            }
            Step::Hook { container, hook, limit, .. } => {
                words.push(format!("run for {} s at most the preStop hook of {container}: {hook}", limit.as_secs()));
                underway.hook_over(now());
            }
            Step::Stop { container, id, grace } => {
                words.push(format!("stop {container} ({id}) within {} s", grace.as_secs()));
                break;
            }
        }
    }
    words.join(", then ")
}

/// Waits until another runtime is there. For ever, when nobody looks any more.
async fn changed(runtimes: &mut watch::Receiver<Arc<Runtimes>>) {
    if runtimes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn delays() -> ExponentialBackoff {
    let (first, longest) = DELAYS;
    let delays = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
    delays.with_jitter().without_max_times().build()
}
