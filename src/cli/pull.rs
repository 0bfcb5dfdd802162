//! `outrigger pull`: has nodes pull images ahead of the pods that need them, and follows how far they are.
//!
//! All that is to be done is in the job that it makes: it can be interrupted, and followed again by `--resume`, by anybody and
//! anywhere. It reads the job and NodeImages by watches, with the user's own rights; who may not see NodeImages sees counts.
//!
//! Exit codes: 0 every node has every image, 1 a pull failed, or it cannot be done, 2 wrong usage, 3 interrupted or late.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::explain::{ReadError, config, read};
use super::{rewrite, say, say_error, table};
use crate::api::image::Familiar;
use crate::api::names;
use crate::api::pulljob::Parallelism;
use crate::apiserver;
use crate::cluster::FIELD_OWNER;
use crate::images::ask::{Ask, Kind, Terms};
use crate::images::watch::{Failure, Progress, View};
use crate::telemetry::chain;

/// How often the line is written.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is written where it cannot be written over, if only percentages changed.
const SLOW_LOOK: Duration = Duration::from_secs(10);
/// How long it waits for somebody to begin, and for a node to answer, before it says what may be wrong.
const HINT: Duration = Duration::from_secs(20);
/// How long the API server may be out of reach.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long it waits, once the job has ended, for what is told of single nodes.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// NodeImages of one page: each may be some 50 KiB.
const PAGE: u32 = 50;
/// Failures that are told one by one.
const TOLD: usize = 50;
/// Characters of a line that is written over, where the terminal does not say more.
const WIDTH: usize = 100;
/// Seconds for which a finished job is kept to be looked at.
const TTL: u32 = 600;
/// Images of one job (LIST-1).
const IMAGES: usize = 255;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes:\n  0  every node has every image\n  1  a pull failed (see the table), or it cannot be done: an \
                        error, or a right is missing\n  2  wrong usage\n  3  interrupted, or --timeout is over: the job goes \
                        on; follow it with --resume"
)]
pub(super) struct Args {
    /// The images, such as registry.example/team/app:v1. One makes an ImagePullJob, several an ImageListPullJob.
    #[arg(value_name = "IMAGE", required_unless_present = "resume", value_parser = image)]
    images: Vec<String>,
    /// Namespace of the job and of its pull secrets [default: that of the kubeconfig].
    #[arg(short, long)]
    namespace: Option<String>,
    /// Labels of the nodes, such as disk=ssd,zone!=b,gpu,!spot [default: all nodes].
    #[arg(long, value_name = "LABELS", conflicts_with = "nodes")]
    node_selector: Option<Terms>,
    /// Names of the nodes.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    nodes: Vec<String>,
    /// How many nodes pull an image at the same time: a number, or a share of all of them, rounded up.
    #[arg(long, value_name = "NUMBER|PERCENT", default_value = "10%", value_parser = parallelism)]
    parallelism: Parallelism,
    /// Name of a pull secret in the namespace; may be given several times.
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Ask the registry for a newer image even where there is one of that name.
    #[arg(long)]
    always: bool,
    /// Seconds that one attempt on a node may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    attempt_timeout: u32,
    /// Seconds after which to stop waiting. The job goes on.
    #[arg(long, value_name = "SECONDS", conflicts_with = "detach")]
    timeout: Option<u64>,
    /// Keep the finished job for good, and not for ten minutes.
    #[arg(long)]
    keep: bool,
    /// Make the job, print its name, and do not wait.
    #[arg(long)]
    detach: bool,
    /// Follow the job of this name, and make none.
    #[arg(
        long,
        value_name = "JOB",
        conflicts_with_all = ["images", "node_selector", "nodes", "secret", "always", "keep", "detach"]
    )]
    resume: Option<String>,
    /// What to print: a line that tells how far it is and a table of what failed; or one JSON object at the end.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
    /// The kubeconfig to use (default: $KUBECONFIG, else ~/.kube/config, else the pod's own account).
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use.
    #[arg(long)]
    context: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object, for programs.
    Json,
}

/// A job that is followed.
struct Followed {
    client: Client,
    namespace: String,
    name: String,
    kind: Kind,
    uid: String,
    /// Nodes that were chosen by name.
    nodes: Vec<String>,
    view: View,
    /// Whether the job says that it has ended, and since when it is known.
    is_complete: bool,
    complete_since: Option<Instant>,
    /// Objects of a listing under way.
    listed: BTreeMap<Sort, BTreeSet<String>>,
    /// Since when a watch fails, and why.
    trouble: BTreeMap<Sort, (Instant, String)>,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Job,
    List,
    Node,
}

/// How the following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Interrupted,
    Late,
    Detached,
}

type Seen = (Sort, watcher::Result<Event<DynamicObject>>);

fn image(text: &str) -> Result<String, String> {
    match Familiar::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => {
            Err("it is no image; write REGISTRY/REPOSITORY:TAG or …@sha256:DIGEST, the repository in lower case"
                .to_owned())
        }
    }
}

fn parallelism(text: &str) -> Result<Parallelism, &'static str> {
    match text.parse()? {
        Parallelism::Count(0) => Err("with 0 nodes at a time, none ever pulls"),
        parallelism => Ok(parallelism),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(pull(args))
}

async fn pull(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = apiserver::client(config).context("the kubeconfig cannot be used")?;
    let mut followed = match &args.resume {
        Some(name) => Followed::find(client, namespace, name).await?,
        None => Followed::make(client, namespace, &args.ask()?).await?,
    };
    if args.output == Output::Text {
        say(&format!("{} {} of namespace {}", followed.kind.name(), followed.name, followed.namespace));
    }
    let began = Instant::now();
    let end = if args.detach { End::Detached } else { followed.follow(args, began).await? };
    Ok(followed.close(args.output, end, began))
}

// === impl Args ===

impl Args {
    fn ask(&self) -> anyhow::Result<Ask> {
        let mut known = BTreeSet::new();
        // The same image by another name is the same image.
        let is_new = |image: &&String| Familiar::parse(image).is_none_or(|familiar| known.insert(familiar));
        let images: Vec<String> = self.images.iter().filter(is_new).cloned().collect();
        if images.len() > IMAGES {
            bail!("{} images are too many, a job has {IMAGES} at most: make several of them", images.len());
        }
        let mut nodes: Vec<String> = self.nodes.iter().filter(|name| !name.is_empty()).cloned().collect();
        nodes.sort();
        nodes.dedup();
        Ok(Ask {
            images,
            secrets: self.secret.clone(),
            nodes,
            terms: self.node_selector.clone(),
            parallelism: self.parallelism,
            attempt_timeout: self.attempt_timeout,
            always: self.always,
            ttl: (!self.keep).then_some(TTL),
        })
    }
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: names::GROUP.to_owned(),
        version: "v1beta1".to_owned(),
        api_version: names::V1BETA1.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn qualified(kind: Kind) -> &'static str {
    match kind {
        Kind::Job => "imagepulljobs.apps.kruise.io",
        Kind::List => "imagelistpulljobs.apps.kruise.io",
    }
}

// === impl Followed ===

impl Followed {
    fn new(client: Client, namespace: String, kind: Kind, job: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let spec = &job["spec"];
        let images = match kind {
            Kind::Job => vec![text(&spec["image"])],
            Kind::List => texts(&spec["images"]),
        };
        let mut followed = Self {
            client,
            namespace,
            name: text(&job["metadata"]["name"]),
            kind,
            uid: text(&job["metadata"]["uid"]),
            nodes: texts(&spec["selector"]["names"]),
            view: View::new(images),
            is_complete: false,
            complete_since: None,
            listed: BTreeMap::new(),
            trouble: BTreeMap::new(),
        };
        followed.own(job);
        followed
    }

    /// Makes the job.
    async fn make(client: Client, namespace: String, ask: &Ask) -> anyhow::Result<Self> {
        let kind = ask.kind();
        let name = format!("pull-{:x}", crate::app::now().as_millisecond());
        let job: DynamicObject = serde_json::from_value(ask.manifest(&namespace, &name))?;
        let params = PostParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PostParams::default() };
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &resource(kind.name(), kind.plural()));
        let made = match read("create", qualified(kind), api.create(&params, &job)).await {
            Err(ReadError::NotFound { message, .. }) => {
                bail!(
                    "the job cannot be made: {message}. Are the namespace {namespace:?} and the CRD {} there?",
                    qualified(kind)
                )
            }
            made => made?,
        };
        Ok(Self::new(client, namespace, kind, &json!(made)))
    }

    /// Finds the job of a name, of whichever kind.
    async fn find(client: Client, namespace: String, name: &str) -> anyhow::Result<Self> {
        for kind in [Kind::Job, Kind::List] {
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), &namespace, &resource(kind.name(), kind.plural()));
            match read("get", qualified(kind), api.get(name)).await {
                Err(ReadError::NotFound { .. }) => {}
                found => return Ok(Self::new(client, namespace, kind, &json!(found?))),
            }
        }
        bail!(
            "namespace {namespace} has no ImagePullJob and no ImageListPullJob {name}: it may have ended and gone, or never \
             have been"
        )
    }

    fn watches(&self) -> stream::SelectAll<BoxStream<'static, Seen>> {
        let api = |kind: Kind| -> Api<DynamicObject> {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind.name(), kind.plural()))
        };
        let stream = |sort: Sort, api: Api<DynamicObject>, config: watcher::Config| -> BoxStream<'static, Seen> {
            watcher(api, config).default_backoff().map(move |seen| (sort, seen)).boxed()
        };
        let one = || watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let nodes: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource("NodeImage", "nodeimages"));
        let mut watches = vec![stream(Sort::Node, nodes, watcher::Config::default().page_size(PAGE))];
        match self.kind {
            Kind::Job => watches.push(stream(Sort::Job, api(Kind::Job), one())),
            Kind::List => {
                watches.push(stream(Sort::List, api(Kind::List), one()));
                watches.push(stream(Sort::Job, api(Kind::Job), watcher::Config::default()));
            }
        }
        stream::select_all(watches)
    }

    /// Until it has ended, or nobody wants to wait any more.
    async fn follow(&mut self, args: &Args, began: Instant) -> anyhow::Result<End> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let end = args.timeout.map(|seconds| began + Duration::from_secs(seconds));
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut screen = Screen::new(args.output, std::io::stdout().is_terminal());
        let mut watches = self.watches();
        loop {
            let tick = tokio::select! {
                Some(seen) = watches.next() => {
                    self.take(seen)?;
                    false
                }
                _ = ticks.tick() => true,
                _ = &mut interrupted => {
                    screen.last(&self.view.progress());
                    return Ok(End::Interrupted);
                }
            };
            if self.is_complete && self.has_heard_all() {
                screen.last(&self.view.progress());
                return Ok(End::Complete);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                screen.last(&self.view.progress());
                return Ok(End::Late);
            }
            if tick {
                self.is_out_of_reach()?;
                screen.show(&self.view.progress());
                if let Some(hint) = self.hint(began.elapsed()) {
                    screen.hint(&hint);
                }
            }
        }
    }

    fn take(&mut self, (sort, seen): Seen) -> anyhow::Result<()> {
        let event = match seen {
            Ok(event) => event,
            Err(error) if is_forbidden(&error) && sort == Sort::Node => {
                self.view.is_blind_to_nodes();
                self.trouble.remove(&sort);
                return Ok(());
            }
            Err(error) if is_forbidden(&error) => {
                bail!("the job is made and goes on, but you may not follow it: {}", chain(&error))
            }
            Err(error) => {
                self.trouble.entry(sort).or_insert_with(|| (Instant::now(), chain(&error)));
                return Ok(());
            }
        };
        match event {
            Event::Init => drop(self.listed.insert(sort, BTreeSet::new())),
            Event::InitApply(object) => {
                if let Some(listed) = self.listed.get_mut(&sort) {
                    listed.insert(object.metadata.name.clone().unwrap_or_default());
                }
                self.apply(sort, &object);
            }
            Event::Apply(object) => {
                self.trouble.remove(&sort);
                self.apply(sort, &object);
            }
            Event::InitDone => {
                self.trouble.remove(&sort);
                let listed = self.listed.remove(&sort).unwrap_or_default();
                match sort {
                    Sort::Node => self.view.only_nodes(|name| listed.contains(name)),
                    _ if self.is_own(sort) && listed.is_empty() => self.gone()?,
                    _ => {}
                }
            }
            Event::Delete(object) => match sort {
                Sort::Node => self.view.node_gone(&object.metadata.name.unwrap_or_default()),
                _ if self.is_own(sort) => self.gone()?,
                // The list makes another one.
                _ => drop(self.view.job_gone(&object.metadata.uid.unwrap_or_default())),
            },
        }
        Ok(())
    }

    /// Whether a watch is that of the job which is followed.
    fn is_own(&self, sort: Sort) -> bool {
        matches!((self.kind, sort), (Kind::Job, Sort::Job) | (Kind::List, Sort::List))
    }

    fn gone(&self) -> anyhow::Result<()> {
        if self.is_complete {
            return Ok(());
        }
        bail!(
            "{} {} was deleted before it had ended, and what was not pulled by then is not pulled",
            self.kind.name(),
            self.name
        )
    }

    fn apply(&mut self, sort: Sort, object: &DynamicObject) {
        let is_child = object.metadata.owner_references.iter().flatten().any(|owner| owner.uid == self.uid);
        let object = json!(object);
        match sort {
            Sort::Node => self.view.node(&object),
            _ if self.is_own(sort) => self.own(&object),
            _ if is_child => self.view.job(&object),
            _ => {}
        }
    }

    /// Takes the job itself.
    fn own(&mut self, job: &Value) {
        if job["metadata"]["uid"] != self.uid.as_str() {
            return;
        }
        if self.kind == Kind::Job {
            self.view.job(job);
        }
        self.is_complete = job["status"]["completionTime"].is_string();
        if self.is_complete {
            self.complete_since.get_or_insert_with(Instant::now);
        }
    }

    /// That a job has ended can be heard of before the reasons of its last nodes: each is told by a watch of its own.
    fn has_heard_all(&self) -> bool {
        self.view.is_settled() || self.complete_since.is_some_and(|since| since.elapsed() > LAST_WORDS)
    }

    fn is_out_of_reach(&self) -> anyhow::Result<()> {
        let late = self.trouble.values().find(|(since, _)| since.elapsed() > PATIENCE);
        match late {
            Some((_, why)) => bail!("the job goes on, but it cannot be followed: {why}. {}", self.way_on()),
            None => Ok(()),
        }
    }

    /// What may be wrong when nothing happens.
    fn hint(&self, waited: Duration) -> Option<String> {
        if waited < HINT {
            return None;
        }
        if !self.view.has_begun() {
            return Some(
                "nobody has taken the job up yet: is the manager running, with the feature gate ImagePullJobGate?"
                    .to_owned(),
            );
        }
        if self.view.progress().pulling == 0
            && let Some(remark) = self.view.remark()
        {
            return Some(format!("the job says: {remark}"));
        }
        let silent = self.view.silent();
        if !silent.is_empty() && self.view.progress().pulling == 0 {
            let names = silent.join(", ");
            return Some(format!(
                "no answer yet from {names}: is the daemon running there (kubectl -n outrigger-daemon get pods -o wide)?"
            ));
        }
        None
    }

    fn way_on(&self) -> String {
        let Self { namespace, name, kind, .. } = self;
        format!(
            "To follow it: outrigger pull --resume {name} -n {namespace}; to stop it: kubectl -n {namespace} delete {} {name}",
            qualified(*kind)
        )
    }

    /// The last words, and the exit code.
    fn close(&self, output: Output, end: End, began: Instant) -> ExitCode {
        let progress = self.view.progress();
        let failures = self.view.failures();
        let is_nothing = end == End::Complete && progress.desired == 0;
        let code = match end {
            End::Complete if progress.failed > 0 || is_nothing => 1,
            End::Complete | End::Detached => 0,
            End::Interrupted | End::Late => 3,
        };
        if output == Output::Json {
            say(&self.report(end, &progress, &failures, began).to_string());
            return ExitCode::from(code);
        }
        for line in told(&failures, progress.failed) {
            say(&line);
        }
        let unknown = self.view.unknown(&self.nodes);
        if !unknown.is_empty() && end != End::Detached {
            say_error(&format!("not on the list of nodes, and left out: {}", unknown.join(", ")));
        }
        if is_nothing {
            say_error("no node was chosen, so nothing was pulled; see kubectl get nodeimages --show-labels");
        }
        if matches!(end, End::Interrupted | End::Late | End::Detached) {
            let why = if end == End::Late { "--timeout is over; the job goes on" } else { "the job goes on" };
            say_error(&format!("{why}. {}", self.way_on()));
        }
        ExitCode::from(code)
    }

    /// For programs. Members are added, never taken away.
    fn report(&self, end: End, progress: &Progress, failures: &[Failure], began: Instant) -> Value {
        let state = match end {
            End::Complete => "Complete",
            End::Interrupted => "Interrupted",
            End::Late => "Late",
            End::Detached => "Detached",
        };
        json!({
            "kind": self.kind.name(),
            "namespace": self.namespace,
            "name": self.name,
            "state": state,
            "seconds": began.elapsed().as_secs(),
            "progress": progress,
            "images": self.view.fared(),
            "failures": failures,
        })
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}

/// The failures as a table, and how many more there are: a job names its first ones only (WEAK-41).
fn told(failures: &[Failure], failed: usize) -> Vec<String> {
    if failures.is_empty() {
        return Vec::new();
    }
    let head = ["NODE", "IMAGE", "REASON"].map(str::to_owned);
    let row = |failure: &Failure| [failure.node.clone(), failure.image.clone(), one_line(&failure.reason)];
    let rows: Vec<[String; 3]> = std::iter::once(head).chain(failures.iter().take(TOLD).map(row)).collect();
    let mut lines = table(&rows);
    let more = failed.max(failures.len()) - failures.len().min(TOLD);
    if more > 0 {
        lines.push(format!("and {more} more; -o json tells all that are known"));
    }
    lines
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where progress is told.
struct Screen {
    output: Output,
    is_terminal: bool,
    counts: String,
    line: String,
    told: Option<Instant>,
    hint: String,
}

// === impl Screen ===

impl Screen {
    fn new(output: Output, is_terminal: bool) -> Self {
        Self { output, is_terminal, counts: String::new(), line: String::new(), told: None, hint: String::new() }
    }

    fn show(&mut self, progress: &Progress) {
        self.write(progress, false);
    }

    fn last(&mut self, progress: &Progress) {
        self.write(progress, true);
    }

    fn write(&mut self, progress: &Progress, is_last: bool) {
        if self.output == Output::Json {
            return;
        }
        let line = progress.line(if self.is_terminal { width() } else { WIDTH });
        if self.is_terminal {
            rewrite(&line, is_last);
            return;
        }
        let counts = progress.counts();
        let is_due = self.told.is_none_or(|told| told.elapsed() >= SLOW_LOOK);
        if line != self.line && (counts != self.counts || is_due || is_last) {
            say(&line);
            (self.line, self.counts, self.told) = (line, counts, Some(Instant::now()));
        }
    }

    /// Once for each.
    fn hint(&mut self, hint: &str) {
        if self.hint != hint {
            if self.is_terminal && self.output == Output::Text {
                say("");
            }
            say_error(hint);
            hint.clone_into(&mut self.hint);
        }
    }
}

/// Characters of a line of this terminal, as far as the shell tells.
fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.filter(|columns| *columns >= 20).unwrap_or(WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(node: &str, reason: &str) -> Failure {
        Failure { node: node.to_owned(), image: "cart:v7".to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn failures_are_a_table_of_single_lines() {
        let lines = told(&[failure("worker-b", "not\n found"), failure("w", "401")], 2);
        assert_eq!(lines, ["NODE      IMAGE    REASON", "worker-b  cart:v7  not found", "w         cart:v7  401"]);
        assert_eq!(told(&[], 0), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_in_the_table_is_counted() {
        let failures: Vec<Failure> = (0..60).map(|number| failure(&number.to_string(), "x")).collect();
        assert_eq!(told(&failures, 60).last().unwrap(), "and 10 more; -o json tells all that are known");
        assert_eq!(told(&failures[..1], 3).last().unwrap(), "and 2 more; -o json tells all that are known");
    }
}
