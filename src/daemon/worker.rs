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
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::events::News;
use super::hook::Hook;
use super::metrics::{Became, Deed};
use super::node::{Key, Request, Shared};
use crate::api::names;
use crate::app::now;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::cri::detect::Runtimes;
use crate::cri::{self, Client, STOP_SLACK, v1};
use crate::recreate::{self, Instance, Seen, State, Step, Underway};

/// The first and the longest wait between two attempts; jitter is added.
const DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// It is looked again after so long even if nothing was heard of (WEAK-1).
const RESYNC: Duration = Duration::from_secs(30);
/// Steps that follow each other at once; then there is a pause, whatever is decided.
const AT_ONCE: u32 = 32;

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
    /// The hook and the stop that run now.
    deeds: JoinSet<Did>,
    /// What nobody waits for any more: commands that take longer than they may, and events on their way.
    left: JoinSet<()>,
    /// What a dry run last told.
    told: String,
}

/// Which container, for which request.
struct Target {
    request: Arc<Request>,
    container: String,
    /// Its id, without the name of the runtime.
    id: String,
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
            deeds: JoinSet::new(),
            left: JoinSet::new(),
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
        let requests = self.shared.requests(&self.pod);
        if self.deeds.is_empty() && self.shared.is_over(&self.pod) {
            return Next::End;
        }
        let objects: Vec<&Value> = requests.iter().map(|request| &request.object).collect();
        let (chosen, pending) = recreate::choose(&objects);
        for at in pending {
            let patch = json!({
                "metadata": {"resourceVersion": &*requests[at].version},
                "status": {"phase": "Pending"},
            });
            match self.patch(&requests[at], &patch).await {
                Next::Look => {}
                other => return other,
            }
        }
        let Some(request) = chosen.map(|at| Arc::clone(&requests[at])) else {
            return Next::Rest(RESYNC);
        };
        let pod = self.shared.pod(&self.pod).and_then(|pod| serde_json::from_str::<Value>(&pod.text).ok());
        let client = self.runtime_of(&request);
        let instances = match &client {
            Ok(client) => instances(client, &request).await,
            Err(why) => Err(why.clone()),
        };
        let seen =
            Seen { runtime: instances.as_deref().map_err(String::as_str), pod: pod.as_ref(), underway: &self.underway };
        let step = recreate::step(&request.object, &seen, now());
        if self.shared.is_dry_run && !matches!(step, Step::Rest { .. }) {
            return self.tell(&request, &step);
        }
        match step {
            Step::Rest { wake } => match instances {
                Ok(_) => Next::Rest(wake.map_or(RESYNC, |wake| wake.min(RESYNC))),
                Err(error) => {
                    self.warn(&request, "the container runtime cannot be asked; tried again", &error);
                    Next::Retry
                }
            },
            Step::Patch(patch) => self.patch(&request, &patch).await,
            Step::Hook { container, id, hook, limit } => {
                let Ok(client) = client else { return Next::Retry };
                let work = Hook::read(&hook, &pod.unwrap_or_default(), &container);
                let target = Target { request, container, id };
                self.killing(&target);
                self.underway.hooks.insert(target.id.clone(), None);
                self.hook(client, target, work, limit);
                Next::Look
            }
            Step::Stop { container, id, grace } => {
                let Ok(client) = client else { return Next::Retry };
                let target = Target { request, container, id };
                self.killing(&target);
                self.underway.stops.insert(target.id.clone(), None);
                self.stop(client, target, grace);
                Next::Look
            }
        }
    }

    /// The runtime whose name all containers of a request are of (CRR-28).
    fn runtime_of(&self, request: &Request) -> Result<Client, String> {
        let containers = request.object["spec"]["containers"].as_array();
        let ids = containers.into_iter().flatten().map(|wanted| wanted["statusContext"]["containerID"].as_str());
        let mut names = ids.map(|id| id.and_then(|id| id.split_once("://")).map(|(name, _)| name));
        let Some(Some(name)) = names.next() else {
            return Err("failed to find runtime service: no containerID".to_owned());
        };
        if names.any(|other| other != Some(name)) {
            return Err("failed to find runtime service: several runtimes".to_owned());
        }
        let runtimes = self.runtimes.borrow();
        let runtime = runtimes.named(name).ok_or_else(|| {
            runtimes.missing().unwrap_or_else(|| format!("no container runtime of this node is {name}"))
        })?;
        Ok(runtime.client.clone())
    }

    /// Writes the status of a request (DMN-20: nothing else is written). It is decided anew upon what the API server
    /// answers.
    async fn patch(&self, request: &Request, patch: &Value) -> Next {
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
        let message = format!(
            "Stopping container {} as ContainerRecreateRequest {} asks; the kubelet starts it again",
            target.container, target.request.key.name
        );
        self.event(target, "Killing", message);
    }

    /// Writes an event about a container. Nobody waits for it.
    fn event(&mut self, target: &Target, reason: &'static str, message: String) {
        let news = News {
            namespace: self.pod.namespace.to_string(),
            pod: self.pod.name.to_string(),
            uid: pod_uid(&target.request).to_owned(),
            container: target.container.clone(),
            is_warning: reason != "Killing",
            reason,
            message,
            occasion: format!("{} {}", target.request.uid, target.id),
        };
        let shared = Arc::clone(&self.shared);
        self.left.spawn(async move {
            if let Err(error) = news.write(&shared.client, &shared.node, now()).await {
                tracing::warn!(ns = news.namespace, name = news.pod, reason, %error, "an event is lost");
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
                // Whose it was is not known: what began is begun anew by who looks.
                tracing::error!(error = %crash, "a step crashed");
                self.underway = Underway::default();
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
        let result = Some(error.map_or(Ok(()), Err));
        match deed {
            Deed::Hook => self.underway.hooks.insert(target.id, result),
            _ => self.underway.stops.insert(target.id, result),
        };
    }

    /// Says what would be done, once.
    fn tell(&mut self, request: &Request, step: &Step) -> Next {
        let told = format!("{} {step:?}", request.key.name);
        if self.told != told {
            let (ns, name) = (&*self.pod.namespace, &*self.pod.name);
            tracing::info!(ns, name, request = &*request.key.name, ?step, "would be done");
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

/// The UID of the pod that a request is about.
fn pod_uid(request: &Request) -> &str {
    request.object["metadata"]["labels"][names::RECREATE_POD_UID].as_str().unwrap_or_default()
}

async fn instances(client: &Client, request: &Request) -> Result<Vec<Instance>, String> {
    let found = client.containers(pod_uid(request)).await.map_err(|error| error.to_string())?;
    Ok(found.iter().filter_map(instance).collect())
}

/// A container as decisions know it.
fn instance(status: &v1::ContainerStatus) -> Option<Instance> {
    let restarts = status.annotations.get(cri::RESTART_COUNT).and_then(|count| count.parse().ok());
    Some(Instance {
        name: cri::name_of(status)?.to_owned(),
        id: status.id.clone(),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        state: match status.state() {
            v1::ContainerState::ContainerCreated => State::Created,
            v1::ContainerState::ContainerRunning => State::Running,
            v1::ContainerState::ContainerExited => State::Exited,
            v1::ContainerState::ContainerUnknown => State::Unknown,
        },
        restart_count: restarts.unwrap_or_default(),
        exit_code: status.exit_code,
    })
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
