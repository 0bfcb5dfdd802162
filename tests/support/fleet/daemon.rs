//! A daemon that pulls nothing: after a while it says of each tag that it is there, as a real one would, in as few writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::Request;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::view::NodeImage;
use super::{BROKEN, NODE_IMAGES, Pace, number};

/// The watch is late by less than this, or a write by somebody else is on its way.
const NEWS: Duration = Duration::from_secs(2);

/// A pull that was begun.
struct Pull {
    version: i64,
    begun: Timestamp,
    due: Instant,
}

/// By image and tag.
type Pulls = BTreeMap<(String, String), Pull>;

/// Answers for the NodeImage `name`, whose states come from `inbox`, until that is closed.
pub(super) async fn run(client: Client, name: String, mut inbox: watch::Receiver<Option<Arc<NodeImage>>>, pace: Pace) {
    let mut pulls = Pulls::new();
    let mut own: Option<Arc<NodeImage>> = None;
    let mut has_gathered = false;
    loop {
        let shown = inbox.borrow_and_update().clone();
        // Our own write may be newer than what the watch has shown.
        let version = |it: &Option<Arc<NodeImage>>| it.as_ref().map_or(0, |it| number(&it.metadata.resource_version));
        let newest = if version(&own) > version(&shown) { own.clone() } else { shown };
        let next = newest.as_ref().and_then(|node| {
            begin(&mut pulls, node, &pace);
            let said = status(&pulls, node);
            said.map(|status| (Arc::clone(node), status))
        });
        let Some((node, status)) = next else {
            has_gathered = false;
            // Also what has become due since it was looked at.
            let due = pulls.values().map(|pull| pull.due).min();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            if let Ok(Err(_)) = timeout_at(due, inbox.changed()).await {
                return;
            }
            continue;
        };
        // What happens meanwhile goes along.
        if !std::mem::replace(&mut has_gathered, true) {
            sleep(pace.gather).await;
            continue;
        }
        has_gathered = false;
        match write(&client, &name, &node, &status).await {
            Ok(written) => own = Some(Arc::new(written)),
            // Somebody else wrote: what they wrote is coming. Or it is gone.
            Err(_) => {
                if let Ok(Err(_)) = timeout(NEWS, inbox.changed()).await {
                    return;
                }
            }
        }
    }
}

/// Begins what is asked for and has not ended, forgets what is not asked for.
fn begin(pulls: &mut Pulls, node: &NodeImage, pace: &Pace) {
    let mut wanted = Pulls::new();
    for (image, tags) in &node.spec.images {
        for tag in tags.tags.iter().filter(|tag| !node.has_ended(image, tag)) {
            let key = (image.clone(), tag.name.clone());
            let pull = pulls.remove(&key).filter(|pull| pull.version == tag.version).unwrap_or_else(|| {
                let (from, to) = (pace.pull.start.as_millis(), pace.pull.end.as_millis());
                let takes = fastrand::u64(u64::try_from(from).unwrap_or(0)..u64::try_from(to).unwrap_or(u64::MAX));
                let due = Instant::now() + Duration::from_millis(takes);
                Pull { version: tag.version, begun: Timestamp::now(), due }
            });
            wanted.insert(key, pull);
        }
    }
    *pulls = wanted;
}

/// A merge patch of the status, if there is something new to say.
fn status(pulls: &Pulls, node: &NodeImage) -> Option<Value> {
    let now = Instant::now();
    let mut changes = Map::new();
    let mut counts = BTreeMap::from([("desired", 0), ("succeeded", 0), ("failed", 0), ("pulling", 0), ("waiting", 0)]);
    for (image, tags) in &node.spec.images {
        let told = node.status.as_ref().and_then(|status| status.image_statuses.get(image));
        let mut all = Vec::new();
        for tag in &tags.tags {
            let said = node.said(image, tag);
            let pull = pulls.get(&(image.clone(), tag.name.clone()));
            let entry = match (pull, said) {
                (Some(pull), _) if pull.due <= now => ended(image, &tag.name, pull),
                (_, Some(said)) => said.clone(),
                (Some(pull), None) => entry(&tag.name, pull, &json!({"phase": "Pulling"})),
                (None, None) => continue,
            };
            let count = match entry.get("phase").and_then(Value::as_str) {
                Some("Succeeded") => "succeeded",
                Some("Failed") => "failed",
                _ => "pulling",
            };
            *counts.entry(count).or_default() += 1;
            all.push(entry);
        }
        *counts.entry("desired").or_default() += tags.tags.len();
        if told.is_none_or(|told| told.tags != all) {
            changes.insert(image.clone(), json!({"tags": all}));
        }
    }
    let told = node.status.iter().flat_map(|status| status.image_statuses.keys());
    for image in told.filter(|image| !node.spec.images.contains_key(*image)) {
        changes.insert(image.clone(), Value::Null);
    }
    if changes.is_empty() {
        return None;
    }
    let mut status = json!(counts);
    status["imageStatuses"] = changes.into();
    Some(status)
}

fn entry(tag: &str, pull: &Pull, more: &Value) -> Map<String, Value> {
    let mut entry = json!({"tag": tag, "startTime": seconds(pull.begun)});
    if pull.version != 0 {
        entry["version"] = pull.version.into();
    }
    json_patch::merge(&mut entry, more);
    if let Value::Object(entry) = entry { entry } else { Map::new() }
}

fn ended(image: &str, tag: &str, pull: &Pull) -> Map<String, Value> {
    let at = seconds(Timestamp::now());
    let more = if image.contains(BROKEN) {
        let message = format!(
            "cannot pull {image}:{tag}: the registry does not know it: manifest unknown; check the name and the tag, and push it \
             (1 attempt)"
        );
        json!({"phase": "Failed", "completionTime": at, "message": message})
    } else {
        let id = format!("{image}@sha256:{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        json!({"phase": "Succeeded", "progress": 100, "completionTime": at, "imageID": id})
    };
    entry(tag, pull, &more)
}

/// As the API has times.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What became of it; an error also when somebody else wrote meanwhile.
async fn write(client: &Client, name: &str, node: &NodeImage, status: &Value) -> Result<NodeImage> {
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "status": status});
    let request = Request::patch(format!("{NODE_IMAGES}/{name}/status"));
    let request = request.header("content-type", "application/merge-patch+json");
    client.request(request.body(patch.to_string().into_bytes())?).await.context("cannot write")
}
