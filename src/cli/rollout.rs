//! `outrigger rollout`: how a SidecarSet reaches running pods, its revisions, and the way back to one of them.
//!
//! `status` decides on the pods that the user may list what the manager would decide, so it needs no manager and tells the
//! same reasons. Exit codes: 0 complete, 1 it cannot be told, 2 wrong usage, 3 it goes on, or waits for pods; 4 it rests
//! until somebody changes the SidecarSet or recreates pods.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Subcommand;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::explain::{PAGE, ReadError, config, each, query, read};
use super::{rewrite, say, table};
use crate::api::names;
use crate::api::sidecarset::{SidecarSet, SidecarSetSpec};
use crate::apiserver;
use crate::cluster::FIELD_OWNER;
use crate::controllers::sidecarset::history::Revisions;
use crate::controllers::sidecarset::pods::selected;
use crate::gates::Gates;
use crate::rollout::revisions::{Revision, own};
use crate::rollout::{self, Input, Plan, Pod, Verdict};
use crate::selector::Selector;
use crate::sidecarset::admit::Stored;
use crate::sidecarset::revision::{Hashes, revision_data};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// Pages of a list; one that has more does not end.
const PAGES: usize = 2000;
/// What a revision restores (REV-2).
const MEMBERS: [&str; 5] = ["containers", "initContainers", "imagePullSecrets", "patchPodMetadata", "volumes"];

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes of status:\n  0  complete: every pod runs the current sidecars and is ready\n  1  it cannot be \
                        told: an error, or a right is missing\n  2  wrong usage\n  3  it goes on, or waits for pods; also when \
                        --timeout is over\n  4  it rests until somebody changes the SidecarSet or recreates pods: paused, \
                        partition,\n     selector, NotUpdate, or more than images changed"
)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
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

#[derive(Debug, Subcommand)]
enum What {
    /// How far the current version has come, and what holds it.
    Status {
        /// Name of the SidecarSet.
        sidecarset: String,
        /// Look until it is complete, or rests.
        #[arg(short, long)]
        watch: bool,
        /// Seconds after which --watch gives up.
        #[arg(long, value_name = "SECONDS", requires = "watch")]
        timeout: Option<u64>,
    },
    /// The revisions that are kept, oldest first.
    History {
        /// Name of the SidecarSet.
        sidecarset: String,
    },
    /// Go back to a former revision, by the strategy of the SidecarSet.
    Undo {
        /// Name of the SidecarSet.
        sidecarset: String,
        /// Number of the revision as `history` prints it [default: the one before the current].
        #[arg(long, value_name = "NUMBER")]
        to_revision: Option<i64>,
    },
}

/// The cluster as the user may read it.
struct Cluster {
    client: Client,
    sets: Api<DynamicObject>,
    revisions: Revisions,
}

/// A SidecarSet as it is stored.
struct Live {
    document: Value,
    stored: Stored,
}

/// How a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Complete,
    GoesOn,
    Rests,
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Option<Vec<Pod>>,
}

#[derive(Deserialize)]
struct PageMetadata {
    r#continue: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let config = config(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
        let client = apiserver::client(config).context("the kubeconfig cannot be used")?;
        let cluster = Cluster::new(client, &args.operator_namespace);
        match &args.what {
            What::Status { sidecarset, watch, timeout } => status(&cluster, sidecarset, *watch, *timeout).await,
            What::History { sidecarset } => history(&cluster, sidecarset).await,
            What::Undo { sidecarset, to_revision } => undo(&cluster, sidecarset, *to_revision).await,
        }
    })
}

// === status ===

async fn status(cluster: &Cluster, name: &str, watch: bool, timeout: Option<u64>) -> anyhow::Result<ExitCode> {
    let end = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let is_terminal = watch && std::io::stdout().is_terminal();
    let mut said = String::new();
    loop {
        let (plan, pods) = cluster.plan(name).await?;
        let line = progress(&plan);
        let standing = standing(&plan);
        let is_over = end.is_some_and(|end| Instant::now() >= end);
        let is_last = !watch || standing != Standing::GoesOn || is_over;
        if is_terminal {
            rewrite(&line, is_last);
        } else if line != said {
            say(&line);
        }
        said = line;
        if is_last {
            for held in held(&plan, &pods) {
                say(&held);
            }
            if is_over && standing == Standing::GoesOn {
                say("not complete in time");
            }
            return Ok(match standing {
                Standing::Complete => ExitCode::SUCCESS,
                Standing::GoesOn => ExitCode::from(3),
                Standing::Rests => ExitCode::from(4),
            });
        }
        sleep(LOOK).await;
    }
}

/// How far it is and what holds the rest, in one line.
fn progress(plan: &Plan) -> String {
    let status = &plan.status;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, verdict) in plan.verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::UpToDate) {
        *counts.entry(verdict.reason()).or_default() += 1;
    }
    let rest: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let rest = if rest.is_empty() { String::new() } else { format!(" ({})", rest.join(", ")) };
    let (updated, matched, ready) = (status.updated_pods, status.matched_pods, status.updated_ready_pods);
    format!("{}: {updated} of {matched} pods updated, {ready} of them ready{rest}", reason(plan))
}

/// A line for each reason that holds pods, with one of them.
fn held(plan: &Plan, pods: &[Arc<Pod>]) -> Vec<String> {
    let mut first: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for (index, verdict) in plan.verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::UpToDate) {
        let Some(pod) = pods.get(*index) else { continue };
        let line = || (0, format!("pod {}/{} {verdict}", pod.namespace, pod.name));
        first.entry(verdict.reason()).or_insert_with(line).0 += 1;
    }
    let more = |count: usize| if count > 1 { format!(", as {} more", count - 1) } else { String::new() };
    first.into_iter().map(|(reason, (count, line))| format!("  {reason}: {line}{}", more(count))).collect()
}

fn reason(plan: &Plan) -> &str {
    let progressing = plan.status.conditions.iter().find(|condition| condition.r#type == "Progressing");
    progressing.map_or("Unknown", |condition| condition.reason.as_str())
}

fn standing(plan: &Plan) -> Standing {
    match reason(plan) {
        "Complete" if plan.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::UpToDate) => Standing::Complete,
        "Complete" | "RollingOut" | "Stalled" => Standing::GoesOn,
        _ => Standing::Rests,
    }
}

// === history and undo ===

async fn history(cluster: &Cluster, name: &str) -> anyhow::Result<ExitCode> {
    let live = cluster.set(name).await?;
    let known = cluster.revisions.list(name).await?;
    let own = own(name, live.uid(), &known);
    if own.is_empty() {
        say("there is no revision yet: the manager makes the first");
        return Ok(ExitCode::SUCCESS);
    }
    let data = revision_data(&live.stored.set.spec);
    let rows = own.into_iter().map(|revision| row(revision, revision.data == data));
    let head = ["REVISION", "NAME", "CREATED", "VERSION", "IMAGES"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    for line in table(&rows) {
        say(&line);
    }
    Ok(ExitCode::SUCCESS)
}

fn row(revision: &Revision, is_current: bool) -> [String; 5] {
    let version = revision.labels.get(names::CUSTOM_VERSION).cloned().unwrap_or_else(|| "-".to_owned());
    let current = if is_current { " (current)" } else { "" };
    [
        format!("{}{current}", revision.number),
        revision.name.clone(),
        revision.created.clone(),
        version,
        images(&revision.data).join(" "),
    ]
}

fn images(data: &Value) -> Vec<String> {
    let lists = ["initContainers", "containers"].map(|list| data["spec"][list].as_array());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let image = |container: &Value| format!("{}={}", text(&container["name"]), text(&container["image"]));
    lists.into_iter().flatten().flatten().map(image).collect()
}

async fn undo(cluster: &Cluster, name: &str, number: Option<i64>) -> anyhow::Result<ExitCode> {
    let live = cluster.set(name).await?;
    let known = cluster.revisions.list(name).await?;
    let own = own(name, live.uid(), &known);
    let data = revision_data(&live.stored.set.spec);
    let target = match number {
        Some(number) => own.iter().find(|revision| revision.number == number).with_context(|| {
            format!("SidecarSet {name} has no revision {number}; see outrigger rollout history {name}")
        })?,
        None => own.iter().rev().find(|revision| revision.data != data).with_context(|| {
            format!("SidecarSet {name} has no former revision; see outrigger rollout history {name}")
        })?,
    };
    if target.data == data {
        say(&format!("sidecarset {name} is at revision {} ({}) already", target.number, target.name));
        return Ok(ExitCode::SUCCESS);
    }
    let patch = restoring(&live, target);
    let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
    match read("patch", "sidecarsets.apps.kruise.io", cluster.sets.patch(name, &params, &Patch::Merge(&patch))).await {
        Err(ReadError::Other { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 409) => {
            bail!("SidecarSet {name} was changed meanwhile; look at it and try again")
        }
        patched => drop(patched?),
    }
    say(&format!("sidecarset {name} goes back to revision {} ({})", target.number, target.name));
    Ok(ExitCode::SUCCESS)
}

/// The merge patch that restores a revision: its members and no others, and its custom version, which would otherwise
/// become that of what is undone (REV-8).
fn restoring(live: &Live, revision: &Revision) -> Value {
    let mut patch = json!({"metadata": {"resourceVersion": live.document["metadata"]["resourceVersion"]}, "spec": {}});
    for member in MEMBERS {
        patch["spec"][member] = revision.data["spec"][member].clone();
    }
    let version = revision.labels.get(names::CUSTOM_VERSION);
    if version.is_some() || !live.stored.set.spec.custom_version.is_empty() {
        patch["spec"]["customVersion"] = json!(version);
    }
    patch
}

// === impl Live ===

impl Live {
    fn uid(&self) -> &str {
        self.document["metadata"]["uid"].as_str().unwrap_or_default()
    }
}

// === impl Cluster ===

impl Cluster {
    fn new(client: Client, operator_namespace: &str) -> Self {
        let kind = ApiResource {
            group: names::GROUP.to_owned(),
            version: "v1beta1".to_owned(),
            api_version: names::V1BETA1.to_owned(),
            kind: "SidecarSet".to_owned(),
            plural: "sidecarsets".to_owned(),
        };
        let sets = Api::all_with(client.clone(), &kind);
        let revisions = Revisions::new(client.clone(), operator_namespace);
        Self { client, sets, revisions }
    }

    async fn set(&self, name: &str) -> anyhow::Result<Live> {
        let object = match read("get", "sidecarsets.apps.kruise.io", self.sets.get(name)).await {
            Err(ReadError::NotFound { .. }) => bail!("there is no SidecarSet {name}; see kubectl get sidecarsets"),
            object => object?,
        };
        let mut document = serde_json::to_value(object)?;
        if let Some(members) = document.as_object_mut() {
            members.remove("apiVersion");
            members.remove("kind");
        }
        let stored =
            Stored::from_stored(&document).map_err(|problem| anyhow!("SidecarSet {name} cannot be read: {problem}"))?;
        Ok(Live { document, stored })
    }

    /// What the manager would decide now, and the pods.
    async fn plan(&self, name: &str) -> anyhow::Result<(Plan, Vec<Arc<Pod>>)> {
        let live = self.set(name).await?;
        let set = &live.stored.set;
        let pods = self.pods(set).await?;
        let metadata = &live.document["metadata"];
        let plan = rollout::plan(&Input {
            set,
            resource_version: metadata["resourceVersion"].as_str().unwrap_or_default(),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            revision: &set.status.latest_revision,
            collision_count: set.status.collision_count.unwrap_or_default(),
            pods: &pods,
            held: &|_| false,
            now: crate::app::now(),
            gates: Gates::default(),
            at_most: 0,
            revisions: &self.former(set, live.uid()).await,
        });
        Ok((plan, pods))
    }

    /// The pods that a set selects, by namespace and name.
    async fn pods(&self, set: &SidecarSet) -> anyhow::Result<Vec<Arc<Pod>>> {
        let Some(selector) = &set.spec.selector else { return Ok(Vec::new()) };
        let query = query(&Selector::try_from(selector).context("spec.selector")?);
        let request = Request::new("/api/v1/pods");
        let mut params = ListParams::default().labels(&query).limit(PAGE);
        let mut pods = Vec::new();
        for _ in 0..PAGES {
            let list = request.list(&params)?;
            let page: Page = read("list", "pods", self.client.request(list)).await?;
            pods.extend(page.items.into_iter().flatten().map(Arc::new));
            match page.metadata.r#continue.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
        let namespaces = match &set.spec.namespace_selector {
            None => BTreeMap::new(),
            Some(_) => self.namespaces().await?,
        };
        let is_in = |namespace: &str, selector: &Selector| {
            namespaces.get(namespace).is_some_and(|labels| selector.mismatch(labels).is_none())
        };
        let mut pods = selected(set, pods, is_in)?;
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }

    async fn namespaces(&self) -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let mut namespaces = BTreeMap::new();
        each("namespaces", &api, ListParams::default(), |namespace| {
            let metadata = namespace.metadata;
            namespaces.insert(metadata.name.unwrap_or_default(), metadata.labels.unwrap_or_default());
        })
        .await?;
        Ok(namespaces)
    }

    /// Former specs; whoever may not read them is not told which fields changed.
    async fn former(&self, set: &SidecarSet, uid: &str) -> Vec<(String, SidecarSetSpec)> {
        let known = self.revisions.list(&set.metadata.name).await.unwrap_or_default();
        let spec = |revision: &&Revision| {
            let mut spec = revision.data["spec"].clone();
            spec.as_object_mut()?.remove("$patch");
            let (spec, _) = crate::api::json::decode::<SidecarSetSpec>(&spec).ok()?;
            Some((Hashes::of(&spec).without_image, spec))
        };
        own(&set.metadata.name, uid, &known).iter().filter_map(spec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision() -> Revision {
        let data = json!({"spec": {"$patch": "replace", "volumes": null, "imagePullSecrets": null,
            "patchPodMetadata": null, "initContainers": [{"name": "wait", "image": "w:1"}],
            "containers": [{"name": "agent", "image": "a:1"}]}});
        Revision { name: "mesh-1".to_owned(), number: 3, data, ..Revision::default() }
    }

    #[test]
    fn what_a_revision_lacks_is_taken_away_and_what_it_does_not_hold_stays_rev_2() {
        let document = json!({"metadata": {"name": "mesh", "resourceVersion": "7"}, "spec": {"customVersion": "v2"}});
        let live = Live { stored: Stored::from_stored(&document).unwrap(), document };
        let patch = restoring(&live, &revision());
        assert_eq!(
            patch,
            json!({"metadata": {"resourceVersion": "7"}, "spec": {
                "containers": [{"name": "agent", "image": "a:1"}], "initContainers": [{"name": "wait", "image": "w:1"}],
                "volumes": null, "imagePullSecrets": null, "patchPodMetadata": null, "customVersion": null,
            }})
        );
    }

    #[test]
    fn revisions_are_a_table() {
        let head = ["REVISION", "NAME", "CREATED", "VERSION", "IMAGES"].map(str::to_owned);
        let lines = table(&[head, row(&revision(), true)]);
        assert_eq!(
            lines,
            [
                "REVISION     NAME    CREATED  VERSION  IMAGES",
                "3 (current)  mesh-1           -        wait=w:1 agent=a:1",
            ]
        );
    }

    fn plan(reason: &str, verdicts: Vec<(usize, Verdict)>) -> Plan {
        let condition = json!([{"type": "Progressing", "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": null}]);
        let mut plan = Plan { verdicts, ..Plan::default() };
        (plan.status.matched_pods, plan.status.updated_pods) = (4, 2);
        plan.status.conditions = serde_json::from_value(condition).unwrap();
        plan
    }

    #[test]
    fn one_line_says_how_far_it_is_and_what_holds_it() {
        let budget = || Verdict::BudgetExhausted { used: 1, of: 1 };
        let plan = plan("RollingOut", vec![(0, Verdict::UpToDate), (1, budget()), (2, Verdict::Held), (3, budget())]);
        assert_eq!(progress(&plan), "RollingOut: 2 of 4 pods updated, 0 of them ready (2 BudgetExhausted, 1 Held)");
        let pod = |name: &str| Arc::new(Pod { namespace: "shop".into(), name: name.into(), ..Pod::default() });
        let lines = held(&plan, &[pod("a"), pod("b"), pod("c"), pod("d")]);
        assert_eq!(
            lines[0],
            "  BudgetExhausted: pod shop/b waits for maxUnavailable: 1 unavailable, 1 may be, as 1 more"
        );
        assert_eq!(lines.len(), 2);
        assert_eq!(standing(&plan), Standing::GoesOn);
    }

    #[test]
    fn only_what_is_complete_is_complete() {
        assert_eq!(standing(&plan("Complete", vec![(0, Verdict::UpToDate)])), Standing::Complete);
        assert_eq!(standing(&plan("Complete", vec![(0, Verdict::Updating)])), Standing::GoesOn);
        assert_eq!(standing(&plan("Paused", vec![])), Standing::Rests);
    }
}
