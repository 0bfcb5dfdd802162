//! `outrigger explain`: why live pods carry their SidecarSets or lack them, read with the user's own rights.
//!
//! Exit codes: 0 every SidecarSet that applies is there, 1 it cannot be told, 2 wrong usage, 3 something was missed,
//! 4 something that applies today is lacking by no fault of the webhook, such as a SidecarSet younger than the pod.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, ObjectList, PartialObjectMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{say, say_error};
use crate::api::names;
use crate::apiserver;
use crate::explain::live::{PodReport, Tally};
use crate::selector::{Operator as Is, Selector};
use crate::sidecarset::audit::{
    self, Finding, LiveNamespace, LivePod, LiveSet, LiveSets, Registration, Standing, audit,
};
use crate::sidecarset::select;
use crate::sidecarset::validate::Revisions as _;
use crate::store::Objects;

/// Objects of one page of a list.
pub(super) const PAGE: u32 = 500;
/// No single request may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes:\n  0  every SidecarSet that applies is there\n  1  it cannot be told: an error, or a \
                        right is missing\n  2  wrong usage\n  3  something was missed: the webhook was away when a pod was \
                        created\n  4  something that applies today is lacking, by no fault of the webhook;\n     pods that are \
                        created anew get it"
)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Why a pod carries each SidecarSet, or does not.
    Pod {
        /// Name of the pod.
        name: String,
    },
    /// How the pods of a SidecarSet fare: matched, injected, outdated, missed, and why.
    Sidecarset {
        /// Name of the SidecarSet.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Namespace of the pod; of a SidecarSet, the one namespace whose pods are looked at (default: all).
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// What to print.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    output: Output,
    /// The kubeconfig to use (default: $KUBECONFIG, else ~/.kube/config, else the pod's own account).
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use.
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace of the operator: where the ControllerRevisions are.
    #[arg(
        long, env = "POD_NAMESPACE", default_value = names::DEFAULT_NAMESPACE, value_name = "NAMESPACE", global = true
    )]
    operator_namespace: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object, for programs.
    Json,
}

/// The cluster as the user may read it.
struct Cluster {
    client: Client,
    operator_namespace: String,
    /// What the user should know of what could not be read.
    notes: Vec<String>,
}

/// A read of the API server that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The user lacks a right.
    #[error("you may not {verb} {resource}: {message}. Ask for a role that grants {verb} on {resource}")]
    Forbidden { verb: &'static str, resource: &'static str, message: String },
    /// There is no such object, or no such kind.
    #[error("cannot {verb} {resource}: {message}")]
    NotFound { verb: &'static str, resource: &'static str, message: String },
    /// The API server did not answer in time.
    #[error("cannot {verb} {resource}: the API server did not answer within {} s", PATIENCE.as_secs())]
    Late { verb: &'static str, resource: &'static str },
    /// Anything else.
    #[error("cannot {verb} {resource}: {source}")]
    Other { verb: &'static str, resource: &'static str, source: Box<kube::Error> },
}

/// The labels of namespaces, and when they were written.
type Namespaces = HashMap<String, (BTreeMap<String, String>, Option<Timestamp>)>;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(explain(args))
}

async fn explain(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config(args.common.kubeconfig.as_deref(), args.common.context.as_deref()).await?;
    let default_namespace = config.default_namespace.clone();
    let client = apiserver::client(config).context("the kubeconfig cannot be used")?;
    let operator_namespace = args.common.operator_namespace.clone();
    let cluster = Cluster { client, operator_namespace, notes: Vec::new() };
    let namespace = args.common.namespace.as_deref();
    match &args.what {
        What::Pod { name } => {
            let report = explain_pod(cluster, namespace.unwrap_or(&default_namespace), name).await?;
            finish(&report, report.standing(), args.common.output)
        }
        What::Sidecarset { name } => {
            let report = explain_set(cluster, namespace, name).await?;
            finish(&report, report.standing(), args.common.output)
        }
    }
}

fn finish(report: &(impl Serialize + ToString), standing: Standing, output: Output) -> anyhow::Result<ExitCode> {
    match output {
        Output::Text => say(report.to_string().trim_end()),
        Output::Json => say(&serde_json::to_string_pretty(report)?),
    }
    Ok(match standing {
        Standing::NotConcerned | Standing::Covered => ExitCode::SUCCESS,
        Standing::Undecided => {
            say_error("error: it cannot be told without the rights named in the notes");
            ExitCode::FAILURE
        }
        Standing::Missed => ExitCode::from(3),
        Standing::Lacking => ExitCode::from(4),
    })
}

/// The cluster that the user means.
pub(super) async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Config> {
    // Whoever runs first in the process decides; the same provider serves everywhere here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if kubeconfig.is_none() && context.is_none() {
        return Config::infer().await.context("there is no usable kubeconfig; see --kubeconfig and --context");
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("the kubeconfig {} cannot be read", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await
        }
        None => Config::from_kubeconfig(&options).await,
    };
    config.context("the kubeconfig cannot be used")
}

async fn explain_pod(mut cluster: Cluster, namespace: &str, name: &str) -> anyhow::Result<PodReport> {
    // Typed, a pod is a good part of a MiB of code, for one word.
    let pods: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let pod =
        read("get", "pods", pods.get(name)).await.with_context(|| format!("pod {name} in namespace {namespace}"))?;
    let sets = cluster.sets().await?;
    let registration = cluster.registration().await?;
    let pinned =
        sets.iter().filter_map(|set| set.pinned.as_ref().map(|_| set.compiled.name.clone())).collect::<Vec<_>>();
    let (labels, labels_changed) = cluster.namespace(namespace).await?.unzip();
    let phase = pod.data["status"]["phase"].as_str();
    let live = LivePod::new(&pod.metadata, phase);
    let around = LiveNamespace {
        namespace: select::Namespace { name: namespace, labels: labels.as_ref() },
        labels_changed: labels_changed.flatten(),
    };
    let mut problems = Vec::new();
    for set in &sets {
        if pinned.contains(&set.compiled.name) {
            problems.extend(cluster.pinned_problem(set).await?);
        }
    }
    let sets: LiveSets = sets.into_iter().collect();
    let findings = audit(&live, &sets, around, &registration, true);
    let mut notes = cluster.notes;
    notes.extend(problems);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Ok(PodReport::new((namespace, name), (created, phase.unwrap_or_default()), &findings, &registration, notes))
}

async fn explain_set(
    mut cluster: Cluster,
    namespace: Option<&str>,
    name: &str,
) -> anyhow::Result<crate::explain::live::SetReport> {
    let sets = cluster.sets().await?;
    let Some(set) = sets.iter().find(|set| set.compiled.name == name) else {
        match cluster.notes.iter().find(|note| note.starts_with(&format!("SidecarSet {name}:"))) {
            Some(unreadable) => bail!("{unreadable}"),
            None => bail!("there is no SidecarSet {name}; see kubectl get sidecarsets"),
        }
    };
    let registration = cluster.registration().await?;
    let mut problems = Vec::new();
    if set.compiled.paused {
        problems.push("injection is paused: spec.injectionStrategy.paused is true".to_owned());
    }
    if registration.hooks().is_empty() {
        problems.push(format!("no webhook for pods is registered in {}", audit::CONFIGURATION));
    }
    problems.extend(cluster.pinned_problem(set).await?);
    let created = set.created;
    let query = set.compiled.selector.as_ref().map(query).filter(|query| !query.is_empty());
    let mut tally = Tally::default();
    match query {
        None => problems.push("spec.selector is empty and selects no pod".to_owned()),
        Some(query) => {
            let sets: LiveSets = sets.into_iter().collect();
            let namespaces = cluster.namespaces(namespace).await?;
            let pods: Api<PartialObjectMeta<Pod>> = match namespace {
                Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
                None => Api::all(cluster.client.clone()),
            };
            // Finished pods have no use for a sidecar, and metadata do not tell which they are.
            let params = ListParams::default().labels(&query).fields("status.phase!=Succeeded,status.phase!=Failed");
            each("pods", &pods, params, |pod| {
                if let Some(finding) = find(&pod.metadata, &sets, &namespaces, &registration, name) {
                    let ObjectMeta { name, namespace, .. } = &pod.metadata;
                    let (name, namespace) = (name.as_deref(), namespace.as_deref());
                    tally.add(namespace.unwrap_or_default(), name.unwrap_or_default(), &finding);
                }
            })
            .await
            .with_context(|| match namespace {
                None => "with -n NAMESPACE only the pods of one namespace are looked at".to_owned(),
                Some(namespace) => format!("the pods of namespace {namespace}"),
            })?;
        }
    }
    Ok(tally.report(name, created, &registration, problems, cluster.notes))
}

/// What is found of the set `name` for one pod.
fn find<'a>(
    pod: &ObjectMeta,
    sets: &'a LiveSets,
    namespaces: &Namespaces,
    registration: &'a Registration,
    name: &str,
) -> Option<Finding<'a>> {
    let namespace = pod.namespace.as_deref().unwrap_or("default");
    let known = namespaces.get(namespace);
    let around = LiveNamespace {
        namespace: select::Namespace { name: namespace, labels: known.map(|(labels, _)| labels) },
        labels_changed: known.and_then(|(_, changed)| *changed),
    };
    let live = LivePod::new(pod, None);
    let findings = audit(&live, sets, around, registration, false);
    findings.into_iter().find(|(set, _)| *set == name).map(|(_, finding)| finding)
}

/// A selector as the API server reads it in a list request.
pub(super) fn query(selector: &Selector) -> String {
    let term = |requirement: &crate::selector::Requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            Is::In(values) => format!("{key} in ({})", values.join(",")),
            Is::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Is::Exists => key.clone(),
            Is::DoesNotExist => format!("!{key}"),
        }
    };
    selector.requirements().iter().map(term).collect::<Vec<_>>().join(",")
}

// === impl Cluster ===

impl Cluster {
    /// All SidecarSets that can be read; of the others there is a note.
    async fn sets(&mut self) -> anyhow::Result<Vec<LiveSet>> {
        let kind = ApiResource {
            group: names::GROUP.to_owned(),
            version: "v1beta1".to_owned(),
            api_version: names::V1BETA1.to_owned(),
            kind: "SidecarSet".to_owned(),
            plural: "sidecarsets".to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let (mut sets, mut notes) = (Vec::new(), Vec::new());
        let listed = each("sidecarsets.apps.kruise.io", &api, ListParams::default(), |object| {
            let name = object.metadata.name.clone().unwrap_or_default();
            let read = serde_json::to_value(object).map_err(|error| error.to_string());
            match read.and_then(|document| LiveSet::read(document).map_err(|problem| problem.to_string())) {
                Ok(set) => sets.push(set),
                Err(problem) => notes.push(format!("SidecarSet {name}: cannot be read and is left out: {problem}")),
            }
        })
        .await;
        match listed {
            Err(ReadError::NotFound { .. }) => {
                bail!("this cluster has no SidecarSets: the CRD sidecarsets.apps.kruise.io is not installed")
            }
            listed => listed?,
        }
        self.notes.append(&mut notes);
        Ok(sets)
    }

    /// How pods are sent to the webhook; assumed to be the default where the user may not look.
    async fn registration(&mut self) -> anyhow::Result<Registration> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let resource = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
        let read = read("get", resource, api.get_opt(audit::CONFIGURATION)).await;
        let configuration = self.permitted(read)?;
        Ok(match configuration {
            Some(configuration) => Registration::of(configuration.as_ref()),
            None => Registration::assumed(&self.operator_namespace),
        })
    }

    /// The labels of a namespace and when they were written, if the user may look.
    async fn namespace(&mut self, name: &str) -> anyhow::Result<Option<(BTreeMap<String, String>, Option<Timestamp>)>> {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let read = read("get", "namespaces", api.get(name)).await;
        Ok(self.permitted(read)?.map(|namespace| labels(namespace.metadata)))
    }

    /// The same of the one namespace, or of all.
    async fn namespaces(&mut self, only: Option<&str>) -> anyhow::Result<Namespaces> {
        let mut namespaces = Namespaces::new();
        if let Some(name) = only {
            namespaces.extend(self.namespace(name).await?.map(|found| (name.to_owned(), found)));
            return Ok(namespaces);
        }
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let listed = each("namespaces", &api, ListParams::default(), |namespace| {
            namespaces.insert(namespace.metadata.name.clone().unwrap_or_default(), labels(namespace.metadata));
        })
        .await;
        self.permitted(listed)?;
        Ok(namespaces)
    }

    /// REV-2: what is wrong when a set names a revision that is not there.
    async fn pinned_problem(&mut self, set: &LiveSet) -> anyhow::Result<Option<String>> {
        let Some(pinned) = &set.pinned else { return Ok(None) };
        let name = &set.compiled.name;
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &self.operator_namespace);
        let mut objects = Objects::new(&self.operator_namespace);
        let params = ListParams::default().labels(&format!("{}={name}", names::REVISION_OF));
        let listed = each("controllerrevisions.apps", &api, params, |revision| {
            // One that cannot be read counts as missing, as it does at admission.
            if let Ok(document) = serde_json::to_value(revision) {
                let _ = objects.apply_revision(&document);
            }
        })
        .await;
        if self.permitted(listed)?.is_none() {
            return Ok(None);
        }
        let problem = objects.resolve(name, pinned).err();
        Ok(problem.map(|problem| format!("every pod that SidecarSet {name} selects is refused: {problem}")))
    }

    /// What was read; `None`, and a note, when the user may not.
    fn permitted<T>(&mut self, read: Result<T, ReadError>) -> anyhow::Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(forbidden @ ReadError::Forbidden { .. }) => {
                let note = forbidden.to_string();
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                Ok(None)
            }
            Err(error) => Err(anyhow!(error)),
        }
    }
}

fn labels(object: ObjectMeta) -> (BTreeMap<String, String>, Option<Timestamp>) {
    let changed = audit::labels_written(&object);
    (object.labels.unwrap_or_default(), changed)
}

/// Reads a list page by page.
pub(super) async fn each<K>(
    resource: &'static str,
    api: &Api<K>,
    mut params: ListParams,
    mut visit: impl FnMut(K),
) -> Result<(), ReadError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    params.limit = Some(PAGE);
    loop {
        let page: ObjectList<K> = read("list", resource, api.list(&params)).await?;
        page.items.into_iter().for_each(&mut visit);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => return Ok(()),
        }
    }
}

/// One request, bounded in time.
pub(super) async fn read<T>(
    verb: &'static str,
    resource: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ReadError> {
    let Ok(answer) = tokio::time::timeout(PATIENCE, request).await else {
        return Err(ReadError::Late { verb, resource });
    };
    answer.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => {
            ReadError::Forbidden { verb, resource, message: status.message.clone() }
        }
        kube::Error::Api(status) if status.code == 404 => {
            ReadError::NotFound { verb, resource, message: status.message.clone() }
        }
        error => ReadError::Other { verb, resource, source: Box::new(error) },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_written_as_the_api_server_reads_it() {
        let set = LiveSet::read(json!({
            "metadata": {"name": "a"},
            "spec": {"selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "x", "operator": "NotIn", "values": ["1", "2"]},
                {"key": "y", "operator": "Exists"},
                {"key": "z", "operator": "DoesNotExist"},
            ]}},
        }));
        let query = query(set.unwrap().compiled.selector.as_ref().unwrap());
        assert_eq!(query, "app in (web),x notin (1,2),y,!z");
    }
}
