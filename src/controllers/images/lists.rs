//! One look at an ImageListPullJob: makes and deletes its jobs, writes its status (LIST-2 … LIST-13).

use futures::future::join_all;
use kube::Client;
use serde_json::{Value, json};

use super::metrics::{Metrics, Taken};
use super::{LIST_CONTROLLER, calls};
use crate::api::names;
use crate::cluster::CallError;
use crate::controllers::events::{News, Regarding};
use crate::images::job::Job;
use crate::images::list::{List, Plan};

/// What came of a look.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The list as the API server has it after our last write.
    pub(super) list: Option<List>,
    /// Jobs that were made.
    pub(super) made: Vec<Job>,
}

/// Does what was decided for a list.
pub(super) async fn carry_out(
    client: &Client,
    list: &List,
    plan: Plan,
    metrics: &Metrics,
) -> (Looked, Result<(), CallError>) {
    let mut looked = Looked::default();
    let done = steps(client, list, plan, metrics, &mut looked).await;
    if let Err(error) = &done {
        metrics.wrote("list", Taken::of(error));
    }
    (looked, done)
}

async fn steps(
    client: &Client,
    list: &List,
    plan: Plan,
    metrics: &Metrics,
    looked: &mut Looked,
) -> Result<(), CallError> {
    let lists = calls::kind("imagelistpulljobs", Some(&list.namespace));
    let jobs = calls::kind("imagepulljobs", Some(&list.namespace));
    if plan.is_over {
        calls::delete(client, &lists, &list.name, &list.uid, Some(&list.version)).await?;
        metrics.wrote("list", Taken::Done);
        return Ok(());
    }
    let mut version = list.version.clone();
    if let Some(hash) = &plan.hash {
        let labels = "/metadata/labels";
        let patch = vec![if list.has_labels {
            json!({"op": "add", "path": format!("{labels}/{}", names::TEMPLATE_HASH), "value": hash})
        } else {
            json!({"op": "add", "path": labels, "value": {names::TEMPLATE_HASH: hash}})
        }];
        let answer = calls::patch(client, &lists, &list.name, None, (&list.uid, &version), patch).await?;
        metrics.wrote("list", Taken::Done);
        let read = List::read(&answer);
        version.clone_from(&read.version);
        looked.list = Some(read);
    }
    for (name, uid) in &plan.delete {
        calls::delete(client, &jobs, name, uid, None).await?;
        tell(client, list, "SuccessfulDelete", format!("deleted the ImagePullJob {name}")).await;
    }
    // LIST-5: one, two, four … at a time, until one fails.
    let mut left = &plan.create[..];
    let mut batch = 1;
    while !left.is_empty() {
        let (now, later) = left.split_at(batch.min(left.len()));
        let made = join_all(now.iter().map(|object| calls::create(client, &jobs, object))).await;
        for (object, made) in now.iter().zip(made) {
            match made {
                Ok(answer) => {
                    let job: Value = serde_json::from_str(&answer).unwrap_or_default();
                    let name = job["metadata"]["name"].as_str().unwrap_or_default();
                    let image = object["spec"]["image"].as_str().unwrap_or_default();
                    tell(client, list, "SuccessfulCreate", format!("made the ImagePullJob {name} for {image}")).await;
                    looked.made.push(Job::read(&job));
                }
                // It is there, and the watch will tell of it.
                Err(error) if error.code() == Some(409) => {}
                Err(error) => {
                    tell_of_failure(client, list, &error).await;
                    return Err(error);
                }
            }
        }
        (left, batch) = (later, batch * 2);
    }
    if let Some(status) = &plan.status {
        let patch = vec![json!({"op": "add", "path": "/status", "value": status})];
        let answer = calls::patch(client, &lists, &list.name, Some("status"), (&list.uid, &version), patch).await?;
        metrics.wrote("list", Taken::Done);
        looked.list = Some(List::read(&answer));
    }
    Ok(())
}

async fn tell_of_failure(client: &Client, list: &List, error: &CallError) {
    let regarding = regarding(list);
    let message = format!("an ImagePullJob cannot be made: {error}");
    let news = News {
        regarding,
        is_warning: true,
        action: "Create",
        reason: "FailedCreate",
        message,
        occasion: String::new(),
    };
    if let Err(error) = news.write(client, LIST_CONTROLLER, crate::app::now()).await {
        tracing::warn!(name = list.name, %error, "an event cannot be written");
    }
}

/// LIST-13
async fn tell(client: &Client, list: &List, reason: &'static str, message: String) {
    let regarding = regarding(list);
    let action = if reason == "SuccessfulCreate" { "Create" } else { "Delete" };
    let news = News { regarding, is_warning: false, action, reason, message, occasion: String::new() };
    if let Err(error) = news.write(client, LIST_CONTROLLER, crate::app::now()).await {
        tracing::warn!(name = list.name, %error, "an event cannot be written");
    }
}

fn regarding(list: &List) -> Regarding {
    Regarding {
        api_version: names::V1BETA1,
        kind: "ImageListPullJob",
        namespace: list.namespace.clone(),
        name: list.name.clone(),
        uid: list.uid.to_string(),
    }
}
