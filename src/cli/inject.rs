//! `outrigger inject`: what admission would do to pods from files, offline.
//!
//! Documents are pods, or workloads with a pod template. A template becomes the pod that its workload would create; every
//! rule then runs as it does in the server.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::{Operator, say, say_error};
use crate::admission::pod::{Ambient, mutate};
use crate::api::names;
use crate::app::now;
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

/// What is said about one document. A document that cannot be admitted never ends the run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// What was asked for.
    text: Option<String>,
    /// What else there is to say.
    remarks: Vec<String>,
    /// Whether the pod is refused, or something is wrong with the document.
    failed: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let snapshot = load(args)?;
    let mut documents = Vec::new();
    for file in &args.filename {
        documents.extend(read(file)?);
    }
    let (mut failed, mut pods) = (false, false);
    let mut separator = None;
    for document in documents {
        let answer = answer(document, &snapshot, args);
        for remark in &answer.remarks {
            say_error(remark);
        }
        if let Some(text) = &answer.text {
            separator.into_iter().for_each(say);
            say(text);
            separator = Some("---").filter(|_| args.output == Output::Yaml);
        }
        failed |= answer.failed;
        pods |= answer.text.is_some();
    }
    if !pods && !failed {
        bail!("there is no pod and no pod template in {}", list(&args.filename));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn answer(document: Document, snapshot: &Snapshot, args: &Args) -> Answer {
    let origin = document.origin.to_string();
    let answer = match Subject::new(document, &args.namespace) {
        Ok(Some(subject)) => subject.inject(snapshot, args.output),
        Ok(None) => Ok(Answer { remarks: vec![format!("{origin}: holds no pod, skipped")], ..Answer::default() }),
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| Answer { text: None, remarks: vec![format!("{origin}: {error:#}")], failed: true })
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

    /// Admits the pod.
    fn inject(&self, snapshot: &Snapshot, output: Output) -> anyhow::Result<Answer> {
        let text = self.pod.to_string();
        let pod = Pod::parse(&text)?;
        let mut facts = Everything::default();
        // Offline output is reproducible: nothing is drawn. A made name is always the same, and a revision that is left
        // to chance is the one that more than half of the pods get (REV-8).
        let ambient = Ambient { now: now(), random: 0 };
        let patch = mutate(&pod, &self.namespace, snapshot, &ambient, &mut facts);

        if output == Output::Explain {
            let namespace = snapshot.namespace(&self.namespace);
            let verdicts = select(snapshot.sidecarsets(), &pod.metadata, namespace);
            let explanation = Explanation {
                pod: self.title.clone(),
                namespace,
                verdicts: verdicts.into_iter().map(|(set, verdict)| (set.name.as_str(), verdict)).collect(),
                result: patch.as_ref().map(|_| facts.0).map_err(ToString::to_string),
            };
            let text = explanation.to_string().trim_end().to_owned();
            return Ok(Answer { text: Some(text), remarks: Vec::new(), failed: patch.is_err() });
        }
        let patch = match patch {
            Ok(patch) => patch.unwrap_or_else(|| "[]".to_owned()),
            Err(refusal) => {
                let remarks = vec![format!("{}: refused: {refusal}", self.title)];
                return Ok(Answer { text: None, remarks, failed: true });
            }
        };
        let warnings = facts.0.iter().filter(|fact| fact.is_warning());
        let remarks = warnings.map(|warning| format!("warning: {}: {warning}", self.title)).collect();
        let patch: json_patch::Patch = serde_json::from_str(&patch).context("the patch cannot be read back")?;
        let mut injected = self.pod.clone();
        json_patch::patch(&mut injected, &patch).context("the patch does not fit the pod")?;
        let text = match output {
            Output::Patch => serde_json::to_string_pretty(&patch)?,
            Output::Json => serde_json::to_string_pretty(&injected)?,
            Output::Yaml | Output::Explain => serde_saphyr::to_string(&injected)?.trim_end().to_owned(),
        };
        Ok(Answer { text: Some(text), remarks, failed: false })
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::Objects;

    fn args(output: Output) -> Args {
        Args {
            filename: Vec::new(),
            sidecarsets: PathBuf::new(),
            namespace: "default".to_owned(),
            output,
            operator: Operator { operator_namespace: names::DEFAULT_NAMESPACE.to_owned() },
        }
    }

    fn documents(text: &str) -> Vec<Document> {
        manifest::parse(text, Path::new("pods.yaml")).unwrap()
    }

    /// `mesh`, of which `percentage` of the pods get the revision `mesh-1`.
    fn snapshot(percentage: &str) -> Snapshot {
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        let container = json!([{"name": "proxy", "image": "envoy:1"}]);
        let labels = json!({names::REVISION_OF: "mesh"});
        let revision =
            json!({"metadata": {"name": "mesh-1", "labels": labels}, "data": {"spec": {"containers": container}}});
        objects.apply_revision(&revision).unwrap();
        let findings = objects.apply_sidecarset(json!({
            "apiVersion": names::V1BETA1,
            "metadata": {"name": "mesh"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "containers": container,
                "updateStrategy": {"type": "NotUpdate", "partition": percentage},
                "injectionStrategy": {"revision": {"revisionName": "mesh-1", "policy": "Partial"}},
            },
        }));
        assert_eq!(findings.errors, []);
        objects.snapshot().unwrap()
    }

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {containers: [{name: app}]}\n";

    #[rstest]
    #[case::to_none("0%", "the current one; drawn by the partition")]
    #[case::to_some("49%", "the current one; drawn by the partition")]
    #[case::to_most("51%", "revision mesh-1, named by injectionStrategy; drawn by the partition")]
    #[case::to_all("100%", "revision mesh-1, named by injectionStrategy; drawn by the partition")]
    fn offline_a_pod_gets_the_revision_that_most_pods_get_rev_8(#[case] percentage: &str, #[case] told: &str) {
        let document = documents(WEB).remove(0);
        let text = answer(document, &snapshot(percentage), &args(Output::Explain)).text.unwrap();
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn of_every_injected_thing_it_is_told_where_it_came_from() {
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        let findings = objects.apply_sidecarset(json!({
            "apiVersion": names::V1BETA1,
            "metadata": {"name": "mesh"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "updateStrategy": {"type": "NotUpdate"},
                "containers": [{
                    "name": "proxy", "image": "envoy:1",
                    "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:1"},
                }],
            },
        }));
        assert_eq!(findings.errors, []);
        let snapshot = objects.snapshot().unwrap();
        let patch = answer(documents(WEB).remove(0), &snapshot, &args(Output::Json)).text.unwrap();
        let pod: Value = serde_json::from_str(&patch).unwrap();
        let text = answer(documents(WEB).remove(0), &snapshot, &args(Output::Explain)).text.unwrap();
        let annotations = pod["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations.len(), 8, "the record and four versions (ANN, HOT-3)");
        for key in annotations.keys() {
            assert!(text.contains(&format!("- annotation {key}: ")), "{key} is told in\n{text}");
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_explained_as_it_is_admitted_match_2() {
        let pod = WEB.replace("name: web,", "name: web, deletionTimestamp: '2026-03-04T05:06:07Z',");
        let text = answer(documents(&pod).remove(0), &snapshot("0%"), &args(Output::Explain)).text.unwrap();
        assert!(text.contains("does not apply: the pod is being deleted"), "{text}");
        assert!(text.contains("the pod stays as it is"), "{text}");
    }

    #[test]
    fn a_document_that_is_wrong_does_not_keep_the_others_from_being_injected() {
        let wrong = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad, labels: [a]}\n---\n";
        let snapshot = snapshot("0%");
        let answers: Vec<Answer> = documents(&format!("{wrong}{WEB}"))
            .into_iter()
            .map(|document| answer(document, &snapshot, &args(Output::Patch)))
            .collect();
        assert!(answers[0].failed && answers[0].text.is_none());
        assert!(answers[0].remarks[0].starts_with("pods.yaml: Pod bad: "), "{:?}", answers[0].remarks);
        assert!(!answers[1].failed && answers[1].text.as_ref().unwrap().contains("proxy"), "{:?}", answers[1]);
    }
}
