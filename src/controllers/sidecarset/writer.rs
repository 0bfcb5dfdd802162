//! One PATCH of one pod, and what became of it.
//!
//! A write whose outcome is not known (no answer, or one that says nothing) ends only when the pod was read: until then it
//! counts as taken, so no other pod is changed in its stead.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Request;
use serde::Deserialize;

use super::metrics::Taken;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::rollout::{Pod, Subresource, Write};

/// How long a write rests that the API server has no time for.
const REST: Duration = Duration::from_secs(1);
/// The first and the longest wait between two attempts to read a pod.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What became of a write.
#[derive(Debug)]
pub struct Outcome {
    /// In one word.
    pub taken: Taken,
    /// The pod as the API server has it now, if it told.
    pub pod: Option<Pod>,
    /// Why it was not taken, for people.
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Pod>,
}

/// Sends a write that was decided upon `pod`.
pub async fn send(client: &Client, pod: &Pod, write: &Write) -> Outcome {
    let error = match patch(client, pod, write).await {
        Ok(answer) => return Outcome { taken: Taken::Done, pod: Some(answer), error: None },
        Err(error) => error,
    };
    let told = Some(error.to_string());
    match error.code() {
        Some(404) => Outcome { taken: Taken::Gone, pod: None, error: told },
        Some(409) => Outcome { taken: Taken::Conflict, pod: read(client, pod).await, error: told },
        Some(429) => {
            // The place of this write stays taken meanwhile, which slows all of them down.
            tokio::time::sleep(REST.mul_f64(0.5 + fastrand::f64())).await;
            Outcome { taken: Taken::Throttled, pod: None, error: told }
        }
        Some(400..500) => Outcome { taken: Taken::Refused, pod: None, error: told },
        // A webhook that cannot be called looks like this: it is the pod that is refused.
        Some(500) => Outcome { taken: Taken::Refused, pod: read(client, pod).await, error: told },
        _ => Outcome { taken: Taken::Unanswered, pod: read(client, pod).await, error: told },
    }
}

async fn patch(client: &Client, pod: &Pod, write: &Write) -> Result<Pod, CallError> {
    let request = request(pod);
    let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Strategic(&write.patch);
    let request = match write.subresource {
        Subresource::None => request.patch(&pod.name, &params, &patch),
        Subresource::Status => request.patch_subresource("status", &pod.name, &params, &patch),
    };
    let request = request.map_err(kube::Error::BuildRequest)?;
    call(client.request(request)).await
}

/// The pod as it is now; `None` when it is gone. Does not end before it is known.
async fn read(client: &Client, pod: &Pod) -> Option<Pod> {
    let (first, longest) = DELAYS;
    let delays = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_jitter();
    let mut delays = delays.without_max_times().build();
    loop {
        // A list of one, which asks for no further right.
        let request = request(pod).list(&ListParams::default().fields(&format!("metadata.name={}", pod.name)));
        let list: Result<List, CallError> =
            call(async { client.request(request.map_err(kube::Error::BuildRequest)?).await }).await;
        match list {
            Ok(mut list) => return list.items.pop(),
            Err(error) => {
                let (ns, name) = (&*pod.namespace, &*pod.name);
                tracing::debug!(ns, name, %error, "a pod cannot be read; tried again");
            }
        }
        tokio::time::sleep(delays.next().unwrap_or(longest)).await;
    }
}

fn request(pod: &Pod) -> Request {
    Request::new(format!("/api/v1/namespaces/{}/pods", pod.namespace))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::http::{Method, StatusCode};
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::rollout::Step;

    /// Answers each PATCH with `status`, and each GET with the next of `reads`, of which 204 is an empty list.
    fn api_server(status: u16, reads: &[u16]) -> Client {
        let reads = Arc::new(Mutex::new(reads.iter().copied().collect::<VecDeque<u16>>()));
        let answer = move |method: Method| {
            let code = if method == Method::GET { reads.lock().unwrap().pop_front().unwrap() } else { status };
            let body = match code {
                200 if method == Method::GET => json!({"items": [{"metadata": {"name": "web"}}]}),
                204 => json!({"items": []}),
                200 => json!({"metadata": {"name": "web", "resourceVersion": "8"}}),
                code => {
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code})
                }
            };
            std::future::ready((StatusCode::from_u16(if code == 204 { 200 } else { code }).unwrap(), body.to_string()))
        };
        Client::new(Router::new().fallback(answer), "default")
    }

    #[rstest]
    #[case::taken(200, &[], Taken::Done, true)]
    #[case::changed_meanwhile(409, &[200], Taken::Conflict, true)]
    #[case::changed_and_gone_meanwhile(409, &[204], Taken::Conflict, false)]
    #[case::gone(404, &[], Taken::Gone, false)]
    #[case::forbidden(403, &[], Taken::Refused, false)]
    #[case::invalid(422, &[], Taken::Refused, false)]
    #[case::a_webhook_is_away(500, &[200], Taken::Refused, true)]
    #[case::nobody_knows(503, &[503, 500, 200], Taken::Unanswered, true)]
    #[tokio::test]
    async fn a_write_ends_when_it_is_known_what_became_of_it(
        #[case] status: u16,
        #[case] reads: &[u16],
        #[case] taken: Taken,
        #[case] is_known: bool,
    ) {
        let pod = Pod::read(&json!({"metadata": {"namespace": "shop", "name": "web"}})).unwrap();
        let patch = json!({});
        let write = Write { pod: 0, step: Step::Update, subresource: Subresource::None, patch, events: Vec::new() };
        let outcome = send(&api_server(status, reads), &pod, &write).await;
        assert_eq!((outcome.taken, outcome.pod.is_some()), (taken, is_known));
        assert_eq!(outcome.error.is_none(), taken == Taken::Done);
    }
}
