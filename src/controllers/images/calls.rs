//! The calls: one patch of a NodeImage, and the few others. Each is for the very version that it was decided upon.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::Client;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use serde_json::{Value, json};

use super::NODE_IMAGE_CONTROLLER;
use super::metrics::{Metrics, Taken};
use crate::api::names;
use crate::api::nodeimage::NodeImage;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::controllers::events::{News, Regarding};
use crate::images::board::{Outcome, Write};
use crate::images::node::{Failure, Labels, Machine, Node, judge};

/// The first and the longest wait between two attempts.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Attempts of a write that the API server cannot judge: a webhook of it is away.
const ATTEMPTS: usize = 3;
/// Events about one NodeImage at a time.
const EVENTS: usize = 100;

/// Objects of one kind.
pub(super) fn kind(plural: &str, namespace: Option<&str>) -> Request {
    Request::new(match namespace {
        Some(namespace) => format!("/apis/{}/namespaces/{namespace}/{plural}", names::V1BETA1),
        None => format!("/apis/{}/{plural}", names::V1BETA1),
    })
}

fn delays() -> ExponentialBackoff {
    let (first, longest) = DELAYS;
    let delays = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_jitter();
    delays.without_max_times().build()
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() }
}

fn json_patch(operations: Value) -> Result<Patch<Value>, CallError> {
    let operations = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    Ok(Patch::Json(operations))
}

async fn text(
    client: &Client,
    request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<String, CallError> {
    call(async { client.request_text(request.map_err(kube::Error::BuildRequest)?).await }).await
}

/// Sends a write until it is known what became of it. That it is for one generation makes it land once at most.
pub(super) async fn send(client: &Client, write: &Write, metrics: &Metrics) -> Outcome {
    let (mut delays, mut attempts) = (delays(), ATTEMPTS);
    loop {
        let error = match patch_node(client, write).await {
            Ok(node) => {
                metrics.wrote("nodeimage", Taken::Done);
                return Outcome::Done(Box::new(node));
            }
            Err(error) => error,
        };
        let code = error.code();
        attempts -= usize::from(code == Some(500));
        if attempts == 0 {
            metrics.wrote("nodeimage", Taken::Unanswered);
            return Outcome::Away(error.to_string());
        }
        let is_judged = matches!(code, Some(400..=428 | 430..=499));
        if !is_judged {
            metrics.wrote("nodeimage", Taken::Unanswered);
            tokio::time::sleep(delays.next().unwrap_or(DELAYS.1)).await;
            continue;
        }
        let Some(newest) = read_node(client, &write.name).await else {
            metrics.wrote("nodeimage", Taken::Gone);
            return Outcome::Conflict(None);
        };
        // A test that failed looks like anything else that is refused.
        let is_same = *newest.uid == *write.uid && newest.generation == write.generation;
        if code == Some(409) || code == Some(404) || !is_same {
            metrics.wrote("nodeimage", Taken::Conflict);
            return Outcome::Conflict(Some(Box::new(newest)));
        }
        metrics.wrote("nodeimage", Taken::Refused);
        return Outcome::Refused(error.to_string());
    }
}

async fn patch_node(client: &Client, write: &Write) -> Result<Node, CallError> {
    let patch = json_patch(write.patch.clone())?;
    let answer = text(client, kind("nodeimages", None).patch(&write.name, &params(), &patch)).await?;
    Ok(Node::read(&answer))
}

/// The NodeImage as it is now; `None` when it is gone. Does not end before it is known.
pub(super) async fn read_node(client: &Client, name: &str) -> Option<Node> {
    let mut delays = delays();
    loop {
        match text(client, kind("nodeimages", None).get(name, &GetParams::default())).await {
            Ok(answer) => return Some(Node::read(&answer)),
            Err(error) if error.code() == Some(404) => return None,
            Err(error) => tracing::debug!(name, %error, "a NodeImage cannot be read; tried again"),
        }
        tokio::time::sleep(delays.next().unwrap_or(DELAYS.1)).await;
    }
}

/// Makes a NodeImage (IMG-1). `None` when there is one already.
pub(super) async fn create_node(client: &Client, name: &str, labels: &Labels) -> Result<Option<Node>, CallError> {
    let object = json!({
        "apiVersion": names::V1BETA1, "kind": "NodeImage", "metadata": {"name": name, "labels": labels}, "spec": {},
    });
    match create(client, &kind("nodeimages", None), &object).await {
        Ok(answer) => Ok(Some(Node::read(&answer))),
        Err(error) if error.code() == Some(409) => Ok(read_node(client, name).await),
        Err(error) => Err(error),
    }
}

pub(super) async fn create(client: &Client, objects: &Request, object: &Value) -> Result<String, CallError> {
    let params = PostParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PostParams::default() };
    let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    text(client, objects.create(&params, body)).await
}

/// Deletes a NodeImage whose Node is gone (IMG-4). Whether it did: the watch of Nodes may lag.
pub(super) async fn delete_node(client: &Client, name: &str, uid: &str) -> Result<bool, CallError> {
    let get = Request::new("/api/v1/nodes".to_owned()).get(name, &GetParams::default());
    match text(client, get).await {
        Err(error) if error.code() == Some(404) => {}
        Err(error) => return Err(error),
        Ok(node) => {
            let node: Value = serde_json::from_str(&node).unwrap_or_default();
            if node["metadata"]["deletionTimestamp"].is_null() {
                return Ok(false);
            }
        }
    }
    delete(client, &kind("nodeimages", None), name, uid, None).await.map(|()| true)
}

/// Deletes an object of this UID, and version if there is one. That it is gone is no error.
pub(super) async fn delete(
    client: &Client,
    objects: &Request,
    name: &str,
    uid: &str,
    version: Option<&str>,
) -> Result<(), CallError> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: version.map(str::to_owned) };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match text(client, objects.delete(name, &params)).await {
        Err(error) if error.code() == Some(404) => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// A JSON patch of an object for one version of it; the object as it is then.
pub(super) async fn patch(
    client: &Client,
    objects: &Request,
    name: &str,
    subresource: Option<&str>,
    (uid, version): (&str, &str),
    mut operations: Vec<Value>,
) -> Result<Value, CallError> {
    let guards = [
        json!({"op": "test", "path": "/metadata/uid", "value": uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
    ];
    operations.splice(0..0, guards);
    let patch = json_patch(Value::Array(operations))?;
    let request = match subresource {
        Some(subresource) => objects.patch_subresource(subresource, name, &params(), &patch),
        None => objects.patch(name, &params(), &patch),
    };
    let answer = text(client, request).await?;
    serde_json::from_str(&answer).map_err(|error| kube::Error::SerdeError(error).into())
}

/// An object; `None` when it is gone.
pub(super) async fn get(client: &Client, objects: &Request, name: &str) -> Result<Option<Value>, CallError> {
    match text(client, objects.get(name, &GetParams::default())).await {
        Ok(answer) => serde_json::from_str(&answer).map(Some).map_err(|error| kube::Error::SerdeError(error).into()),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Judges what the daemon of a node has not ended in time, and tells of it (IMG-20 … IMG-24). The NodeImage as it is then.
pub(super) async fn give_up(
    client: &Client,
    name: &str,
    machine: Option<&Machine>,
    metrics: &Metrics,
) -> Result<Option<Node>, CallError> {
    let objects = kind("nodeimages", None);
    let raw = match text(client, objects.get(name, &GetParams::default())).await {
        Err(error) if error.code() == Some(404) => return Ok(None),
        raw => raw?,
    };
    let node: NodeImage = serde_json::from_str(&raw).map_err(kube::Error::SerdeError)?;
    let read = Node::read(&raw);
    let Some((status, failures)) = judge(&node, machine, crate::app::now()) else { return Ok(Some(read)) };
    let operations = vec![json!({"op": "add", "path": "/status", "value": status})];
    // Nobody's report is overwritten: it is for this version, and the first end of a tag is the one that counts.
    let written = patch(client, &objects, name, Some("status"), (&read.uid, &read.version), operations).await;
    let answer = match written {
        Ok(answer) => answer,
        Err(error) => {
            metrics.wrote("verdict", Taken::of(&error));
            return Err(error);
        }
    };
    metrics.wrote("verdict", Taken::Done);
    tell(client, &read, &failures, metrics).await;
    Ok(Some(Node::read(&answer.to_string())))
}

/// IMG-23
async fn tell(client: &Client, node: &Node, failures: &[Failure], metrics: &Metrics) {
    let of_node = Regarding {
        api_version: names::V1BETA1,
        kind: "NodeImage",
        name: node.name.to_string(),
        uid: node.uid.to_string(),
        ..Regarding::default()
    };
    let mut left = EVENTS;
    for Failure { verdict, image, message, owners } in failures {
        metrics.judged(*verdict);
        let message = format!("image {image} on node {}: {message}", node.name);
        tracing::info!(node = &*node.name, image, verdict = verdict.name(), "a pull was given up");
        let owners = owners.iter().filter(|owner| owner.kind == "ImagePullJob").map(|owner| Regarding {
            api_version: names::V1BETA1,
            kind: "ImagePullJob",
            namespace: owner.namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        });
        for regarding in owners.chain([of_node.clone()]) {
            if left == 0 {
                return;
            }
            left -= 1;
            let occasion = node.generation.to_string();
            let (reason, action) = ("PullImageFailed", "PullImage");
            let news = News { regarding, is_warning: true, action, reason, message: message.clone(), occasion };
            if let Err(error) = news.write(client, NODE_IMAGE_CONTROLLER, crate::app::now()).await {
                tracing::warn!(node = &*node.name, %error, "an event cannot be written");
            }
        }
    }
}
