//! Adds and removes a key of `KruisePodReady` on the API server, among other writers (PR-6).

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use kube::Client;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use serde_json::Value;

use super::keys::{Change, Key, blocked, released};
use crate::cluster::{CallError, FIELD_OWNER, call};

/// Attempts while others write the same pod; then whoever asked tries again later.
const ATTEMPTS: usize = 6;
/// The first and the longest pause between two of them.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is so now.
    Written,
    /// It was so already.
    Already,
    /// The pod has no gate.
    NoGate,
    /// Somebody else keeps the pod unready in a way that cannot be read: this text.
    Foreign(String),
    /// The pod is gone, or another one of its name is there.
    Gone,
}

/// Makes a pod unready for `key` (PR-4).
pub async fn block(client: &Client, namespace: &str, pod: &str, uid: &str, key: &Key) -> Result<Done, CallError> {
    change(client, (namespace, pod, uid), |pod| blocked(pod, key, crate::app::now())).await
}

/// Lets a pod be ready again, as far as `key` is concerned (PR-5).
pub async fn release(client: &Client, namespace: &str, pod: &str, uid: &str, key: &Key) -> Result<Done, CallError> {
    change(client, (namespace, pod, uid), |pod| released(pod, key, crate::app::now())).await
}

async fn change(
    client: &Client,
    (namespace, name, uid): (&str, &str, &str),
    decide: impl Fn(&Value) -> Change,
) -> Result<Done, CallError> {
    let (first, longest) = PAUSES;
    let pauses = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_jitter();
    let mut pauses = pauses.with_max_times(ATTEMPTS - 1).build();
    loop {
        let pods = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let get = pods.get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        let pod: Value = match call(client.request(get)).await {
            Err(error) if error.code() == Some(404) => return Ok(Done::Gone),
            pod => pod?,
        };
        if pod["metadata"]["uid"] != uid {
            return Ok(Done::Gone);
        }
        let patch = match decide(&pod) {
            Change::Already => return Ok(Done::Already),
            Change::NoGate => return Ok(Done::NoGate),
            Change::Foreign(text) => return Ok(Done::Foreign(text)),
            Change::Patch(patch) => patch,
        };
        let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
        let patch = pods.patch_subresource("status", name, &params, &Patch::Strategic(patch));
        let written: Result<Value, CallError> = call(client.request(patch.map_err(kube::Error::BuildRequest)?)).await;
        match written {
            Ok(_) => return Ok(Done::Written),
            Err(error) if error.code() == Some(404) => return Ok(Done::Gone),
            // Somebody was faster: look again.
            Err(error) if error.code() == Some(409) => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}
