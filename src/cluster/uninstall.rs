//! Going away for good: no webhook is left that nobody answers, and every object stays readable.
//!
//! In this order: the webhook configurations, so that pods are created again at once; the manager's Deployment is scaled
//! to zero, or it would register again; the configurations once more; the finalizer of ImagePullJobs, which nobody would
//! take off any more, so that they and their CRD can go; then the conversion of our CRDs, which nobody answers any more, is
//! set to None. With None, v1beta1 objects are read and written as they are stored.
//! Of v1alpha1 only the version changes, and what v1beta1 does not know is dropped when written: use v1beta1 from then
//! on. `kubectl apply` of the manifests brings the webhook back. Everything may be done twice.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::registration::hooks::CONVERTED;
use super::{CallError, FIELD_OWNER, call};
use crate::api::names;
use crate::telemetry::chain;

/// How long the manager may take to stop.
const STOP: Duration = Duration::from_mins(1);
/// Jobs of one page of a list.
const PAGE: u32 = 500;
const LOOK: Duration = Duration::from_millis(500);

/// What is to be removed, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// The manager's Deployment in it.
    pub deployment: String,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was done to one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Kind and name.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, or would be.
    Done(&'static str),
    /// There was nothing to do.
    Already(&'static str),
    /// It was not done: why.
    Failed(String),
}

// === impl Line ===

impl Line {
    /// Whether the thing is now as it should be.
    pub fn is_right(&self) -> bool {
        !matches!(self.outcome, Outcome::Failed(_))
    }
}

/// Removes everything that could stand in the way of others. One line a thing, told as it happens.
pub async fn uninstall(client: &Client, settings: &Settings, mut tell: impl FnMut(&Line)) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |line: Line| {
        tell(&line);
        lines.push(line);
    };
    for line in hooks(client, settings).await {
        say(line);
    }
    let manager = stop(client, settings).await;
    let stopped = matches!(manager.outcome, Outcome::Done(_));
    say(manager);
    if stopped && !settings.dry_run {
        // What it may have registered before it heard of its end.
        for line in hooks(client, settings).await {
            if !matches!(line.outcome, Outcome::Already(_)) {
                say(line);
            }
        }
    }
    say(release(client, settings).await);
    for name in CONVERTED {
        say(convert_no_more(client, settings, name).await);
    }
    lines
}

async fn hooks(client: &Client, settings: &Settings) -> [Line; 2] {
    let params = DeleteParams { dry_run: settings.dry_run, ..DeleteParams::default() };
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let (mutating_name, validating_name) = (names::MUTATING_CONFIGURATION, names::VALIDATING_CONFIGURATION);
    let removed = (
        call(mutating.delete(mutating_name, &params)).await.map(|_| ()),
        call(validating.delete(validating_name, &params)).await.map(|_| ()),
    );
    let line = |kind, name, removed: Result<(), CallError>| Line {
        what: format!("{kind}/{name}"),
        outcome: outcome(removed, "removed", "not there"),
    };
    [
        line("mutatingwebhookconfiguration", mutating_name, removed.0),
        line("validatingwebhookconfiguration", validating_name, removed.1),
    ]
}

async fn stop(client: &Client, settings: &Settings) -> Line {
    let what = format!("deployment/{} in {}", settings.deployment, settings.namespace);
    let deployments: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &settings.namespace, &ApiResource::erase::<Deployment>(&()));
    let live = match call(deployments.get_opt(&settings.deployment)).await {
        Ok(Some(live)) => live,
        Ok(None) => return Line { what, outcome: Outcome::Already("not there") },
        Err(err) => return Line { what, outcome: Outcome::Failed(chain(&err)) },
    };
    let pods = |live: &DynamicObject| live.data["status"]["replicas"].as_i64().unwrap_or(0);
    if live.data["spec"]["replicas"] == 0 && pods(&live) == 0 {
        return Line { what, outcome: Outcome::Already("scaled to zero") };
    }
    let params = PatchParams {
        dry_run: settings.dry_run,
        field_manager: Some(FIELD_OWNER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    if let Err(err) = call(deployments.patch(&settings.deployment, &params, &patch)).await {
        return Line { what, outcome: outcome(Err(err), "scaled to zero", "not there") };
    }
    let done = Line { what: what.clone(), outcome: Outcome::Done("scaled to zero") };
    if settings.dry_run {
        return done;
    }
    let deadline = Instant::now() + STOP;
    while Instant::now() < deadline {
        match call(deployments.get_opt(&settings.deployment)).await {
            Ok(None) => return done,
            Ok(Some(live)) if pods(&live) == 0 && is_observed(&live) => return done,
            // The deadline bounds a bad connection too.
            Ok(Some(_)) | Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
    let late = format!("its pods did not stop within {} s: delete them, then run this again", STOP.as_secs());
    Line { what, outcome: Outcome::Failed(late) }
}

/// Whether the status is about the scale that we asked for.
fn is_observed(live: &DynamicObject) -> bool {
    live.data["status"]["observedGeneration"].as_i64() >= live.metadata.generation
}

/// Takes our finalizer off the ImagePullJobs that have it: those under way when the manager stopped. What it holds back for,
/// copies of Secrets, goes with their namespace.
async fn release(client: &Client, settings: &Settings) -> Line {
    let resource = ApiResource {
        group: names::GROUP.to_owned(),
        version: "v1beta1".to_owned(),
        api_version: names::V1BETA1.to_owned(),
        kind: "ImagePullJob".to_owned(),
        plural: "imagepulljobs".to_owned(),
    };
    let what = "imagepulljobs".to_owned();
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut params = ListParams::default().limit(PAGE);
    let mut released = false;
    loop {
        let page = match call(all.list_metadata(&params)).await {
            Ok(page) => page,
            Err(err) => return Line { what, outcome: outcome(Err(err), "", "not there") },
        };
        for job in &page.items {
            match release_one(client, &resource, &job.metadata, settings.dry_run).await {
                Ok(done) => released |= done,
                Err(err) => return Line { what, outcome: Outcome::Failed(chain(&err)) },
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    let outcome = if released { Outcome::Done("released") } else { Outcome::Already("held back by nothing") };
    Line { what, outcome }
}

/// Whether there was something to take off.
async fn release_one(
    client: &Client,
    resource: &ApiResource,
    job: &ObjectMeta,
    dry_run: bool,
) -> Result<bool, CallError> {
    let (name, finalizers) = (job.name.as_deref().unwrap_or_default(), job.finalizers.clone().unwrap_or_default());
    let left: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != names::DELETION_PROTECTION).collect();
    if left.len() == finalizers.len() {
        return Ok(false);
    }
    let jobs: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), job.namespace.as_deref().unwrap_or("default"), resource);
    let params = PatchParams { dry_run, field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
    // With the version, so that a finalizer that another has just put there stays.
    let patch = json!({ "metadata": { "resourceVersion": job.resource_version, "finalizers": left } });
    match call(jobs.patch(name, &params, &Patch::Merge(patch))).await {
        Err(err) if err.code() != Some(404) => Err(err),
        _ => Ok(true),
    }
}

async fn convert_no_more(client: &Client, settings: &Settings, name: &str) -> Line {
    let what = format!("customresourcedefinition/{name}");
    let crds: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<CustomResourceDefinition>(&()));
    let live = match call(crds.get_opt(name)).await {
        Ok(Some(live)) => live,
        Ok(None) => return Line { what, outcome: Outcome::Already("not there") },
        Err(err) => return Line { what, outcome: Outcome::Failed(chain(&err)) },
    };
    if live.data["spec"]["conversion"]["strategy"].as_str().is_none_or(|strategy| strategy == "None") {
        return Line { what, outcome: Outcome::Already("converted by nobody") };
    }
    let params = PatchParams {
        dry_run: settings.dry_run,
        field_manager: Some(FIELD_OWNER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "spec": { "conversion": { "strategy": "None", "webhook": null } } }));
    let patched = call(crds.patch(name, &params, &patch)).await.map(|_| ());
    Line { what, outcome: outcome(patched, "conversion set to None", "not there") }
}

fn outcome(done: Result<(), CallError>, did: &'static str, already: &'static str) -> Outcome {
    match done {
        Ok(()) => Outcome::Done(did),
        Err(err) if err.code() == Some(404) => Outcome::Already(already),
        Err(err) => Outcome::Failed(chain(&err)),
    }
}
