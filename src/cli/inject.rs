//! `outrigger inject`: what admission would do to pods from files, offline.
//!
//! Documents are pods, or workloads with a pod template. A template becomes the pod that its workload would create; every
//! rule then runs as it does in the server.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Operator, say, say_error};
use crate::admission::pod::{Ambient, mutate};
use crate::api::names;
use crate::explain::Explanation;
use crate::facts::Everything;
use crate::manifest::{self, Document};
use crate::pod::Pod;
use crate::sidecarset::select::select;
use crate::store::{Snapshot, files};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files with pods or with Deployments, StatefulSets, DaemonSets, Jobs, CronJobs and other workloads that have a pod
    /// template; - is standard input. May be given several times.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Directory of SidecarSets, and of the Namespaces, ConfigMaps and ControllerRevisions they are judged with.
    #[arg(long, value_name = "DIR")]
    sidecarsets: PathBuf,
    /// Namespace of pods that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// What to print.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The pods as they would be, as YAML documents.
    #[default]
    Yaml,
    /// The pods as they would be, as JSON documents.
    Json,
    /// The JSON patches.
    Patch,
    /// Which SidecarSets apply and why not the others, and where every injected thing came from.
    Explain,
}

/// A pod to admit.
struct Subject {
    /// What it is called in messages.
    title: String,
    namespace: String,
    pod: Value,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let snapshot = load(args)?;
    let mut documents = Vec::new();
    for file in &args.filename {
        documents.extend(read(file)?);
    }
    let mut failed = false;
    let mut subjects = 0;
    for document in documents {
        let origin = document.origin.to_string();
        match Subject::new(document, &args.namespace) {
            Ok(Some(subject)) => {
                subjects += 1;
                failed |= !subject.inject(&snapshot, args.output, subjects == 1)?;
            }
            Ok(None) => say_error(&format!("{origin}: holds no pod, skipped")),
            Err(error) => {
                failed = true;
                say_error(&format!("{origin}: {error:#}"));
            }
        }
    }
    if subjects == 0 && !failed {
        bail!("there is no pod and no pod template in {}", list(&args.filename));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn load(args: &Args) -> anyhow::Result<Snapshot> {
    let loaded = files::load(&args.sidecarsets, &args.operator.operator_namespace);
    for warning in &loaded.warnings {
        say_error(&format!("warning: {warning}"));
    }
    for error in &loaded.errors {
        say_error(&error.to_string());
    }
    if !loaded.errors.is_empty() {
        bail!("the manifests in {} are not in order", args.sidecarsets.display());
    }
    Ok(loaded.objects.snapshot()?)
}

fn read(file: &Path) -> anyhow::Result<Vec<Document>> {
    if file != Path::new("-") {
        return Ok(manifest::read_file(file)?);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(manifest::FILE_LIMIT + 1)
        .read_to_string(&mut text)
        .context("standard input cannot be read")?;
    if text.len() as u64 > manifest::FILE_LIMIT {
        bail!("standard input is longer than {} bytes", manifest::FILE_LIMIT);
    }
    // JSON is YAML, but a parser for JSON keeps numbers as they are.
    let name = if text.trim_start().starts_with('{') { "standard input.json" } else { "standard input" };
    Ok(manifest::parse(&text, Path::new(name))?)
}

fn list(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

// === impl Subject ===

impl Subject {
    /// The pod of a document; `None` when it has none.
    fn new(document: Document, default_namespace: &str) -> anyhow::Result<Option<Self>> {
        let title = document.origin.object.clone();
        let metadata = &document.value["metadata"];
        let namespace = metadata["namespace"].as_str().filter(|name| !name.is_empty()).unwrap_or(default_namespace);
        let namespace = namespace.to_owned();
        if document.kind == "Pod" && document.group().is_empty() {
            return Ok(Some(Self { title, namespace, pod: document.value }));
        }
        let Some(template) = template(&document.value) else { return Ok(None) };
        let Some(template) = template.as_object() else { bail!("the pod template is not an object") };
        let pod = pod_of(template, &document);
        Ok(Some(Self { title: format!("pod of {title}"), namespace, pod }))
    }

    /// Admits the pod and prints what was asked for; false when it is refused.
    fn inject(&self, snapshot: &Snapshot, output: Output, is_first: bool) -> anyhow::Result<bool> {
        let text = self.pod.to_string();
        let pod = Pod::parse(&text).with_context(|| self.title.clone())?;
        let mut facts = Everything::default();
        // Offline output is reproducible: names that are drawn at admission are always the same here.
        let ambient = Ambient { now: now(), random: 0 };
        let patch = mutate(&pod, &self.namespace, snapshot, &ambient, &mut facts);

        if output == Output::Explain {
            let labels = &pod.metadata.labels;
            let namespace = snapshot.namespace(&self.namespace);
            let verdicts = select(snapshot.sidecarsets().iter(), labels, namespace);
            let explanation = Explanation {
                pod: self.title.clone(),
                namespace,
                verdicts: verdicts.into_iter().map(|(set, verdict)| (set.name.as_str(), verdict)).collect(),
                result: patch.as_ref().map(|_| facts.0).map_err(ToString::to_string),
            };
            say(explanation.to_string().trim_end());
            return Ok(patch.is_ok());
        }
        let patch = match patch {
            Ok(patch) => patch.unwrap_or_else(|| "[]".to_owned()),
            Err(refusal) => {
                say_error(&format!("{}: refused: {refusal}", self.title));
                return Ok(false);
            }
        };
        for warning in facts.0.iter().filter(|fact| fact.is_warning()) {
            say_error(&format!("warning: {}: {warning}", self.title));
        }
        let patch: json_patch::Patch = serde_json::from_str(&patch).context("the patch cannot be read back")?;
        if output == Output::Patch {
            say(&serde_json::to_string_pretty(&patch)?);
            return Ok(true);
        }
        let mut injected = self.pod.clone();
        json_patch::patch(&mut injected, &patch).context("the patch does not fit the pod")?;
        if output == Output::Json {
            say(&serde_json::to_string_pretty(&injected)?);
        } else {
            if !is_first {
                say("---");
            }
            say(serde_saphyr::to_string(&injected)?.trim_end());
        }
        Ok(true)
    }
}

/// The pod template of a workload; a CronJob's is one level deeper.
fn template(workload: &Value) -> Option<&Value> {
    let spec = &workload["spec"];
    [&spec["template"], &spec["jobTemplate"]["spec"]["template"]]
        .into_iter()
        .find(|template| template["spec"].is_object())
}

/// The pod that a workload would create from its template.
fn pod_of(template: &Map<String, Value>, workload: &Document) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}});
    for member in ["metadata", "spec"] {
        if let Some(value) = template.get(member).filter(|value| value.is_object()) {
            pod[member] = value.clone();
        }
    }
    if let Some(name) = workload.value["metadata"]["name"].as_str() {
        pod["metadata"]["generateName"] = format!("{name}-").into();
        // The controller of the pod decides on the readiness gate (RG-1); built-in workloads never are of this group.
        if workload.group() == names::GROUP {
            pod["metadata"]["ownerReferences"] = json!([{
                "apiVersion": workload.api_version, "kind": workload.kind, "name": name, "uid": "", "controller": true,
            }]);
        }
    }
    pod
}

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the edge: time enters here")]
    Timestamp::now()
}
