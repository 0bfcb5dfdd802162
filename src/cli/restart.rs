//! `outrigger restart`: restarts a container of many pods by ContainerRecreateRequests, few enough at a time.
//!
//! Everything that a batch knows is its requests, which carry its name as a label: it can be interrupted, and taken up again
//! with `--resume`, by anybody and anywhere. The name of a request follows from batch and pod, so that none is made twice.
//!
//! Exit codes: 0 all restarted, 1 it cannot be done, 2 wrong usage, 3 interrupted or late, 4 some could not be restarted.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ArgAction;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::explain::{PAGE, ReadError, config, each, read};
use super::{rewrite, say, say_error};
use crate::api::names;
use crate::apiserver;
use crate::cluster::FIELD_OWNER;
use crate::recreate::Request;
use crate::recreate::batch::{Limit, Standing, Target, Wave, wave};

/// The label that says of which batch a request is.
const BATCH: &str = "outrigger/restart";
/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// Failures that are told one by one.
const TOLD: usize = 20;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes:\n  0  all containers were restarted\n  1  it cannot be done: an error, or a right is \
                        missing\n  2  wrong usage\n  3  interrupted, or --timeout is over: go on with --resume\n  4  some \
                        pods failed; with --max-failures exceeded, the others were not asked for"
)]
pub(super) struct Args {
    /// Which pods, by their labels.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: String,
    /// Which container; several are restarted in this order.
    #[arg(short, long, value_name = "NAME", required = true)]
    container: Vec<String>,
    /// Namespace of the pods [default: that of the kubeconfig].
    #[arg(short, long)]
    namespace: Option<String>,
    /// How many pods may be away at a time: a number, or a share of all of them.
    #[arg(long, value_name = "NUMBER|PERCENT", default_value = "10%")]
    max_unavailable: Limit,
    /// Pods that may fail before nothing more is asked for.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, conflicts_with = "keep_going")]
    max_failures: usize,
    /// Go on whatever fails.
    #[arg(long)]
    keep_going: bool,
    /// Take up the batch of this name again.
    #[arg(long, value_name = "BATCH")]
    resume: Option<String>,
    /// Restart the next container of a pod only when the one before is ready.
    #[arg(long)]
    ordered: bool,
    /// Seconds for which a new container must have run, and be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    min_started: u16,
    /// Seconds for which a pod gets no new traffic before its containers are stopped; it needs the readiness gate
    /// KruisePodReady.
    #[arg(long, value_name = "SECONDS")]
    drain: Option<u16>,
    /// Seconds that a container has to stop [default: those of its pod].
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u16>,
    /// Seconds after which a pod that is not through has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(3..))]
    deadline: u32,
    /// Seconds for which finished requests are kept; so long can the batch be resumed.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    ttl: u32,
    /// Seconds after which to stop waiting. What is under way goes on.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Say which pods would be restarted, and do nothing.
    #[arg(long, action = ArgAction::SetTrue)]
    dry_run: bool,
    /// The kubeconfig to use (default: $KUBECONFIG, else ~/.kube/config, else the pod's own account).
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use.
    #[arg(long)]
    context: Option<String>,
}

/// A batch in a cluster.
struct Batch<'a> {
    args: &'a Args,
    name: String,
    namespace: String,
    began: Timestamp,
    pods: Api<DynamicObject>,
    requests: Api<DynamicObject>,
    /// Pods that admission refused a request for, and why.
    refused: Vec<(String, String)>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(restart(args))
}

async fn restart(args: &Args) -> anyhow::Result<ExitCode> {
    let config = config(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = apiserver::client(config).context("the kubeconfig cannot be used")?;
    let mut batch = Batch::new(args, client, namespace).await?;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let end = args.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let is_terminal = std::io::stdout().is_terminal();
    let mut said = String::new();
    if !args.dry_run {
        say(&format!("batch {} of namespace {}", batch.name, batch.namespace));
    }
    loop {
        let targets = batch.targets().await?;
        if targets.is_empty() {
            bail!("no pod of namespace {} has the labels {:?}", batch.namespace, args.selector);
        }
        let wave = wave(&targets, args.max_unavailable, (!args.keep_going).then_some(args.max_failures));
        if args.dry_run {
            return Ok(dry_run(&targets, &wave));
        }
        let is_late = end.is_some_and(|end| Instant::now() >= end);
        let is_last = wave.is_over() || is_late;
        let line = wave.counts.to_string();
        if is_terminal {
            rewrite(&line, is_last);
        } else if line != said {
            say(&line);
        }
        said = line;
        if is_last {
            report(&targets);
            return Ok(batch.close(&wave));
        }
        for target in wave.next.iter().filter_map(|index| targets.get(*index)) {
            batch.ask(target).await?;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = &mut interrupted => {
                say("");
                report(&targets);
                return Ok(batch.close(&wave));
            }
        }
    }
}

fn dry_run(targets: &[Target], wave: &Wave) -> ExitCode {
    for target in targets {
        match &target.standing {
            Standing::Waits => say(&format!("{} would be restarted", target.name)),
            Standing::Spared(why) => say(&format!("{} is left alone: {why}", target.name)),
            Standing::UnderWay => say(&format!("{} is under way", target.name)),
            Standing::Done => say(&format!("{} is done", target.name)),
            Standing::Failed(why) => say(&format!("{} has failed: {why}", target.name)),
        }
    }
    say(&format!("{}; {} at once", wave.counts, wave.next.len()));
    ExitCode::SUCCESS
}

/// Who failed, and why.
fn report(targets: &[Target]) {
    let failed = targets.iter().filter_map(|target| match &target.standing {
        Standing::Failed(why) => Some((&target.name, why)),
        _ => None,
    });
    let failed: Vec<_> = failed.collect();
    for (name, why) in failed.iter().take(TOLD) {
        say_error(&format!("pod {name} failed: {why}"));
    }
    if failed.len() > TOLD {
        say_error(&format!("and {} more", failed.len() - TOLD));
    }
}

// === impl Batch ===

impl<'a> Batch<'a> {
    async fn new(args: &'a Args, client: Client, namespace: String) -> anyhow::Result<Self> {
        let kind = |group: &str, version: &str, kind: &str, plural: &str| ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let requests = kind(names::GROUP, "v1beta1", "ContainerRecreateRequest", "containerrecreaterequests");
        let now = crate::app::now();
        let name = args.resume.clone().unwrap_or_else(|| format!("restart-{:x}", now.as_millisecond()));
        let mut batch = Self {
            args,
            name,
            pods: Api::namespaced_with(client.clone(), &namespace, &kind("", "v1", "Pod", "pods")),
            requests: Api::namespaced_with(client, &namespace, &requests),
            namespace,
            began: now,
            refused: Vec::new(),
        };
        if args.resume.is_some() {
            let made = batch.made().await?;
            batch.began =
                made.iter().filter_map(|request| request.created).min().with_context(|| {
                    format!("namespace {} has no requests of a batch {}", batch.namespace, batch.name)
                })?;
        }
        Ok(batch)
    }

    /// The requests that it made so far.
    async fn made(&self) -> Result<Vec<Request>, ReadError> {
        let mut made = Vec::new();
        let params = ListParams::default().labels(&format!("{BATCH}={}", self.name)).limit(PAGE);
        each("containerrecreaterequests.apps.kruise.io", &self.requests, params, |request| {
            made.push(Request::read(&json!(request)));
        })
        .await?;
        Ok(made)
    }

    /// The selected pods, and how far each of them is, by name.
    async fn targets(&self) -> Result<Vec<Target>, ReadError> {
        // First the requests: a pod may be replaced in between, and is not taken for one that waits then.
        let made = self.made().await?;
        let mut targets = Vec::new();
        let params = ListParams::default().labels(&self.args.selector).limit(PAGE);
        each("pods", &self.pods, params, |pod| {
            targets.push(Target::read(&json!(pod), &made, &self.args.container, self.began));
        })
        .await?;
        for target in &mut targets {
            if let Some((_, why)) = self.refused.iter().find(|(uid, _)| *uid == target.uid) {
                target.standing = Standing::Failed(why.clone());
            }
        }
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(targets)
    }

    /// Asks for one pod. That it was asked for already is no error.
    async fn ask(&mut self, target: &Target) -> anyhow::Result<()> {
        let digest = Sha256::digest(target.uid.as_bytes());
        let suffix = digest.iter().take(6).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let request: DynamicObject =
            serde_json::from_value(self.request(&target.name, &format!("{}-{suffix}", self.name)))?;
        let params = PostParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PostParams::default() };
        match self.requests.create(&params, &request).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            // The pod may have changed this moment; or it can never be done. Only for this pod, either way.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                self.refused.push((target.uid.clone(), status.message.clone()));
            }
            other => drop(read("create", "containerrecreaterequests.apps.kruise.io", std::future::ready(other)).await?),
        }
        Ok(())
    }

    fn request(&self, pod: &str, name: &str) -> Value {
        let args = self.args;
        let containers: Vec<Value> = args.container.iter().map(|name| json!({"name": name})).collect();
        let mut strategy = json!({
            "failurePolicy": "Fail", "orderedRecreate": args.ordered, "minStartedSeconds": args.min_started,
        });
        if let Some(seconds) = args.drain {
            strategy["unreadyGracePeriodSeconds"] = seconds.into();
        }
        if let Some(seconds) = args.grace_period {
            strategy["terminationGracePeriodSeconds"] = seconds.into();
        }
        json!({
            "apiVersion": names::V1BETA1, "kind": "ContainerRecreateRequest",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {BATCH: self.name}},
            "spec": {
                "podName": pod, "containers": containers, "strategy": strategy,
                "activeDeadlineSeconds": args.deadline, "ttlSecondsAfterFinished": args.ttl,
            },
        })
    }

    /// The last words, and the exit code.
    fn close(&self, wave: &Wave) -> ExitCode {
        let counts = &wave.counts;
        if wave.is_over() {
            if counts.waiting > 0 {
                say_error(&format!(
                    "stopped at {} failures; {} pods were not asked for. To go on: outrigger restart with the same \
                     arguments, --resume {} and --max-failures {} or --keep-going",
                    counts.failed, counts.waiting, self.name, counts.failed
                ));
            }
            return if counts.failed > 0 { ExitCode::from(4) } else { ExitCode::SUCCESS };
        }
        say_error(&format!(
            "{} are under way and go on, {} were not asked for. To go on: outrigger restart with the same arguments and \
             --resume {}",
            counts.under_way, counts.waiting, self.name
        ));
        ExitCode::from(3)
    }
}
