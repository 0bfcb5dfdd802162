//! Whose turn it is, of the requests of one pod (CRR-20 … CRR-24).

use serde_json::{Value, json};

use super::{Request, Underway};

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct Choice<'a> {
    /// The request that is carried out.
    pub chosen: Option<&'a Request>,
    /// Those that are to be told that they have to wait (CRR-23); see [`queued`].
    pub told: Vec<&'a Request>,
}

/// Chooses: the one that was begun, then the oldest. WEAK-19: requests for an earlier pod of the name, whose UID is not
/// `pod_uid`, hold up nobody.
pub fn choose<'a>(
    requests: impl IntoIterator<Item = &'a Request>,
    pod_uid: Option<&str>,
    underway: &Underway,
) -> Choice<'a> {
    let is_of_pod = |request: &&Request| pod_uid.is_none_or(|uid| request.pod_uid == uid);
    let mut requests: Vec<&Request> = requests.into_iter().filter(is_of_pod).collect();
    // CRR-61, CRR-63: what was begun is ended, and noted, even if the request was completed or deleted meanwhile.
    if let Some(ended) = requests.iter().find(|request| !request.is_live() && underway.is_left(request)) {
        return Choice { chosen: Some(ended), told: Vec::new() };
    }
    requests.retain(|request| request.is_live());
    let rank = |request: &Request| match request.status.phase.as_str() {
        "Recreating" => 0,
        "Pending" => 1,
        _ => 2,
    };
    requests.sort_by(|a, b| (rank(a), a.created, &a.name).cmp(&(rank(b), b.created, &b.name)));
    let mut requests = requests.into_iter();
    let chosen = requests.next();
    Choice { chosen, told: requests.filter(|request| request.status.phase.is_empty()).collect() }
}

/// The write that tells a request that it has to wait.
pub fn queued(request: &Request) -> Value {
    waiting(request, "waits for its turn: the requests for a pod are carried out one after the other")
}

/// The write that tells a request, and nobody but it, what it has to wait for before it can be begun (WEAK-9).
pub fn waiting(request: &Request, why: &str) -> Value {
    request.status_patch(json!({"phase": "Pending", "message": why}))
}
