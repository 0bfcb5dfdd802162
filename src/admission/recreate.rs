//! The review of a ContainerRecreateRequest in, its answer out: defaulted and judged in one (CRR-1 … CRR-45).
//!
//! ```text
//! review ─▶ rules::sent ─▶ GET the pod ─▶ rules::node_of ─▶ GET its Node ─▶ rules::created ─▶ patch or refusal
//! ```
//!
//! The pod and its Node are read from the API server, as what is recorded of them must be so at this moment. Each read is
//! bounded in time; whatever goes wrong here concerns requests of this kind alone.

mod rules;

use std::time::Duration;

use futures::FutureExt as _;
use kube::Client;
use kube::core::Request as KubeRequest;
use serde_json::Value;
use tokio::time::timeout;

use super::envelope::{self, Answer, Outcome, Refused, Request, Review};
use super::object::{Kind, Raw};
use super::{MUTATE_RECREATE, Route};
use crate::gates::Gates;
use crate::telemetry::chain;
use rules::{Admitted, Looked, Refusal};

/// How long one read may take; two of them are well within the 10 s that the API server waits.
const READ: Duration = Duration::from_secs(3);

/// The kind.
struct Requests;

impl Kind for Requests {
    const RESOURCE: &'static str = "containerrecreaterequests";
    const KIND: &'static str = "ContainerRecreateRequest";
}

/// Whom to answer to.
struct Address {
    version: String,
    uid: String,
}

/// A new request that is in order by itself.
struct Question {
    address: Address,
    sent: Value,
    namespace: String,
    pod: String,
}

/// The route of this webhook.
pub fn route(client: Client, gates: Gates) -> Route {
    let admit = move |body: &[u8]| match understood(body, gates) {
        Err(answer) => futures::future::ready(answer).boxed(),
        Ok(question) => question.answer(client.clone()).boxed(),
    };
    Route::asking(MUTATE_RECREATE, admit)
}

/// The question to the API server, or the answer when there is none to ask.
fn understood(body: &[u8], gates: Gates) -> Result<Question, Answer> {
    let review = Review::parse(body, ()).map_err(|error| envelope::unreadable(body, &error))?;
    let (version, uid) = review.address();
    let address = Address { version: version.to_owned(), uid: uid.to_owned() };
    let (request, raw) = match review.subject() {
        Err(error) => return Err(envelope::malformed(version, uid, &error)),
        Ok(None) => return Err(envelope::allowed(version, uid, None, &[])),
        Ok(Some(found)) => found,
    };
    let read = |raw: &Raw<'_, Requests>| {
        serde_json::from_str::<Value>(raw.0)
            .map_err(|error| envelope::malformed(version, uid, &format!("the object cannot be read: {error}")))
    };
    let sent = read(raw)?;
    if let Some(old) = &request.old_object {
        let updated = rules::updated(&sent, &read(old)?, request.version(), gates);
        return Err(address.answer(updated));
    }
    match rules::sent(&sent, gates) {
        Err(refusal) => Err(address.answer(Err(refusal))),
        Ok(pod) => Ok(Question { namespace: namespace(request, &sent), pod: pod.to_owned(), address, sent }),
    }
}

fn namespace(request: &Request<'_, Raw<'_, Requests>>, sent: &Value) -> String {
    let own = sent["metadata"]["namespace"].as_str().unwrap_or_default();
    let named = [own, &*request.namespace].into_iter().find(|name| !name.is_empty());
    named.unwrap_or("default").to_owned()
}

// === impl Question ===

impl Question {
    async fn answer(self, client: Client) -> Answer {
        let admitted = self.admitted(&client).await;
        self.address.answer(admitted)
    }

    async fn admitted(&self, client: &Client) -> Result<Admitted, Refusal> {
        // One after the other: the pod tells which Node it is.
        let pod = read(client, &format!("/api/v1/namespaces/{}/pods", self.namespace), &self.pod).await;
        let (pod, node) = rules::node_of(&pod, &self.namespace, &self.pod)?;
        let found = read(client, "/api/v1/nodes", node).await;
        rules::created(&self.sent, pod, &found)
    }
}

/// The newest state of an object.
async fn read(client: &Client, url: &str, name: &str) -> Looked {
    // The name becomes a part of a path, so it must be one.
    if !rules::is_name(name) {
        return Looked::Absent;
    }
    let request = match KubeRequest::new(url).get(name, &kube::api::GetParams::default()) {
        Ok(request) => request,
        Err(error) => return Looked::Failed(chain(&error)),
    };
    match timeout(READ, client.request::<Value>(request)).await {
        Ok(Ok(object)) => Looked::Found(object),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Looked::Absent,
        Ok(Err(error)) => Looked::Failed(chain(&error)),
        Err(_) => Looked::Failed(format!("the API server did not answer within {} s", READ.as_secs())),
    }
}

// === impl Address ===

impl Address {
    fn answer(&self, admitted: Result<Admitted, Refusal>) -> Answer {
        let Self { version, uid } = self;
        match admitted {
            Ok(Admitted { patch, warnings }) => envelope::allowed(version, uid, patch.as_deref(), &warnings),
            Err(Refusal { code, message }) => {
                let outcome = if code == 400 { Outcome::Malformed } else { Outcome::Refused };
                envelope::refused(version, uid, Refused { code, message: &message, details: "", outcome })
            }
        }
    }
}
