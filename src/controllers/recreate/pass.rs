//! One look at a request: decides a step, takes it, and goes on from the API server's answer until there is nothing to do.

use std::time::Duration;

use kube::Client;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, Preconditions};
use kube::core::Request as KubeRequest;
use serde_json::Value;
use tokio::time::Instant;

use super::CONTROLLER;
use super::decide::{Blocked, Input, Looked, Patience, Step, decide};
use super::metrics::{Metrics, Taken};
use crate::api::names;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::controllers::events::{News, Regarding};
use crate::readiness::keys::Key;
use crate::readiness::writer::{self, Done};
use crate::recreate::Request;

/// Steps of one look; more would be a mistake of ours.
const STEPS: usize = 16;
/// How soon a request is looked at again that has changed meanwhile, if the watch does not tell of it before.
const CONFLICT: Duration = Duration::from_secs(1);

/// What came of a look.
#[derive(Debug)]
pub(super) struct Pass {
    /// The request as the API server has it after our last write.
    pub(super) request: Option<Box<Request>>,
    /// When to look again.
    pub(super) wake: Option<Duration>,
    /// What went wrong.
    pub(super) error: Option<String>,
}

/// What a look knows.
struct Look<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
    request: Request,
    is_written: bool,
}

/// What became of a write.
enum Wrote {
    Done,
    /// It is for the next look: somebody else wrote, or the request is gone.
    Over(Option<Duration>),
}

/// Looks at a request that is known since `since`.
pub(super) async fn pass(
    client: &Client,
    patience: Patience,
    metrics: &Metrics,
    request: &Request,
    since: Instant,
) -> Pass {
    let mut look = Look { client, metrics, request: request.clone(), is_written: false };
    let ended = look.steps(patience, since).await;
    let (wake, error) = match ended {
        Ok(wake) => (wake, None),
        Err(error) => (None, Some(error)),
    };
    Pass { request: look.is_written.then(|| Box::new(look.request)), wake, error }
}

// === impl Look ===

impl Look<'_> {
    async fn steps(&mut self, patience: Patience, since: Instant) -> Result<Option<Duration>, String> {
        let (mut pod, mut blocked, mut is_released) = (None::<Option<Value>>, Blocked::NotYet, false);
        for _ in 0..STEPS {
            let step = decide(&Input {
                request: &self.request,
                pod: match &pod {
                    None => Looked::NotYet,
                    Some(None) => Looked::Absent,
                    Some(Some(pod)) => Looked::Found(pod),
                },
                blocked: blocked.clone(),
                is_released,
                known_for: since.elapsed(),
                now: crate::app::now(),
                patience,
            });
            let wrote = match step {
                Step::Rest(wake) => return Ok(wake),
                Step::Look => {
                    pod = Some(self.pod().await?);
                    Wrote::Done
                }
                Step::Complete(end, patch, message) => {
                    let (ns, name) = (self.request.namespace.clone(), self.request.name.clone());
                    let wrote = self.patch("complete", Some("status"), patch).await?;
                    if matches!(wrote, Wrote::Done) {
                        tracing::info!(ns, name, message, "a request ended");
                        self.tell(end.reason(), message).await;
                    }
                    wrote
                }
                Step::Snapshot(patch) => self.patch("snapshot", Some("status"), patch).await?,
                Step::Drain(patch) => self.patch("drain", Some("status"), patch).await?,
                Step::Hold(patch) => self.patch("hold", None, patch).await?,
                Step::Finish(patch) => self.patch("finish", None, patch).await?,
                Step::Block => match self.readiness(true).await? {
                    Done::Foreign(text) => {
                        blocked = Blocked::Foreign(text);
                        Wrote::Done
                    }
                    Done::Written | Done::Already => {
                        blocked = Blocked::Done;
                        Wrote::Done
                    }
                    // It changed under our hands.
                    Done::NoGate | Done::Gone => {
                        pod = None;
                        Wrote::Done
                    }
                },
                Step::Release => {
                    self.readiness(false).await?;
                    is_released = true;
                    Wrote::Done
                }
                Step::Delete => self.delete().await?,
            };
            if let Wrote::Over(wake) = wrote {
                return Ok(wake);
            }
        }
        Err(format!("{STEPS} steps did not lead to an end; this is a mistake in outrigger, please report it"))
    }

    async fn pod(&self) -> Result<Option<Value>, String> {
        let pods = KubeRequest::new(format!("/api/v1/namespaces/{}/pods", self.request.namespace));
        let name = &self.request.spec.pod_name;
        let found = async {
            let get = pods.get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
            self.client.request(get).await
        };
        match call(found).await {
            Ok(pod) => Ok(Some(pod)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(format!("the pod {name} cannot be read: {error}")),
        }
    }

    /// Makes the pod unready, or lets it be ready again.
    async fn readiness(&self, is_block: bool) -> Result<Done, String> {
        let Request { namespace, name, pod_uid, spec, .. } = &self.request;
        let (key, pod) = (Key::of_request(namespace, name), &spec.pod_name);
        let done = if is_block {
            writer::block(self.client, namespace, pod, pod_uid, &key).await
        } else {
            writer::release(self.client, namespace, pod, pod_uid, &key).await
        };
        let step = if is_block { "block" } else { "release" };
        match done {
            Ok(done) => {
                if done == Done::Written {
                    self.metrics.wrote(step, Taken::Done);
                }
                Ok(done)
            }
            Err(error) => {
                self.metrics.wrote(step, Taken::of(&error));
                let what = if is_block { "made not-ready" } else { "let be ready again" };
                Err(format!("the pod {pod} cannot be {what}: {error}"))
            }
        }
    }

    async fn patch(&mut self, step: &'static str, subresource: Option<&str>, patch: Value) -> Result<Wrote, String> {
        let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
        let (requests, patch) = (self.requests(), Patch::Merge(patch));
        let request = match subresource {
            Some(subresource) => requests.patch_subresource(subresource, &self.request.name, &params, &patch),
            None => requests.patch(&self.request.name, &params, &patch),
        };
        let answer: Result<Value, CallError> =
            call(async { self.client.request(request.map_err(kube::Error::BuildRequest)?).await }).await;
        match answer {
            Ok(answer) => {
                self.metrics.wrote(step, Taken::Done);
                (self.request, self.is_written) = (Request::read(&answer), true);
                Ok(Wrote::Done)
            }
            Err(error) => self.not_taken(step, &error),
        }
    }

    async fn delete(&self) -> Result<Wrote, String> {
        let Request { uid, version, name, .. } = &self.request;
        let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: Some(version.clone()) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let delete = self.requests().delete(name, &params);
        let answer: Result<Value, CallError> =
            call(async { self.client.request(delete.map_err(kube::Error::BuildRequest)?).await }).await;
        match answer {
            Ok(_) => {
                self.metrics.wrote("delete", Taken::Done);
                Ok(Wrote::Over(None))
            }
            Err(error) => self.not_taken("delete", &error),
        }
    }

    fn not_taken(&self, step: &'static str, error: &CallError) -> Result<Wrote, String> {
        let taken = Taken::of(error);
        self.metrics.wrote(step, taken);
        match taken {
            Taken::Gone => Ok(Wrote::Over(None)),
            Taken::Conflict => Ok(Wrote::Over(Some(CONFLICT))),
            _ => Err(format!("the step {step} cannot be taken: {error}")),
        }
    }

    fn requests(&self) -> KubeRequest {
        let namespace = &self.request.namespace;
        KubeRequest::new(format!("/apis/{}/namespaces/{namespace}/containerrecreaterequests", names::V1BETA1))
    }

    /// An event about the request. One that cannot be written is no reason to stop.
    async fn tell(&self, reason: &'static str, message: String) {
        let Request { namespace, name, uid, .. } = &self.request;
        let regarding = Regarding {
            api_version: names::V1BETA1,
            kind: "ContainerRecreateRequest",
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
        };
        let occasion = String::new();
        let news = News { regarding, is_warning: true, action: "Recreate", reason, message, occasion };
        if let Err(error) = news.write(self.client, CONTROLLER, crate::app::now()).await {
            tracing::warn!(reason, name, %error, "an event cannot be written");
        }
    }
}
