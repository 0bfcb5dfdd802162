//! `outrigger manager`: the webhooks and what belongs to them, in a cluster or, with `--standalone DIR`, from files.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use kube::Config;
use tokio_util::sync::CancellationToken;

use super::{Operator, say, say_error};
use crate::admission::{MUTATE_POD, server::Limits};
use crate::api::names;
use crate::app::cluster::InCluster;
use crate::app::signalled;
use crate::app::standalone::{NotInOrder, Running, Standalone};
use crate::cluster::authority;
use crate::cluster::registration::hooks::{Endpoint, FailurePolicy, Wanted};
use crate::cluster::registration::{self, Scope};
use crate::controllers::recreate::decide::Patience;
use crate::controllers::{images, recreate, sidecarset};
use crate::gates::Gates;
use crate::telemetry::{LogFormat, init_logging};

/// How long requests are still answered after a signal, in the cluster: until every proxy has heard that we go.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    standalone: StandaloneArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Address to listen on [default: every address, or 127.0.0.1 with --standalone].
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Port of the webhooks; 0 takes a free one [default: 9876, or 8443 with --standalone].
    #[arg(long, env = "WEBHOOK_PORT")]
    port: Option<u16>,
    /// What to log, such as info, debug or outrigger=debug.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// How to log.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
    #[command(flatten)]
    operator: Operator,
}

/// Without a cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Without a cluster")]
struct StandaloneArgs {
    /// Serve SidecarSets, Namespaces and ConfigMaps from the *.yaml, *.yml and *.json files of this directory. Changes
    /// are taken within a second; a bad change keeps the last good state.
    #[arg(long, value_name = "DIR")]
    standalone: Option<PathBuf>,
    /// A file with an AdmissionReview: once the server listens, the curl that posts it is printed.
    #[arg(long, value_name = "FILE", requires = "standalone")]
    example: Option<PathBuf>,
    /// Directory of ca.crt, tls.crt and tls.key; made when missing, read again when changed [default: certs with
    /// --standalone]. In a cluster it belongs to --cert-source=files.
    #[arg(long, env = "WEBHOOK_CERT_DIR", value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

/// In a cluster, or beside one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "In a cluster")]
struct ClusterArgs {
    /// The host, and the port if it is not --port, by which the API server reaches a manager outside of the cluster;
    /// registers URLs instead of the Service.
    #[arg(long, env = "WEBHOOK_HOST", value_name = "HOST[:PORT]", value_parser = host)]
    webhook_host: Option<(String, Option<u16>)>,
    /// Who keeps the certificate.
    #[arg(long, value_enum, value_name = "SOURCE", default_value_t)]
    cert_source: CertSource,
    /// What becomes of a pod when no manager answers: refused, or created without its sidecars.
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pod_failure_policy: FailurePolicy,
    /// Which pods the API server sends: all outside of the excluded namespaces, or only those that a SidecarSet can select.
    #[arg(long, value_enum, value_name = "SCOPE", default_value_t)]
    webhook_scope: Scope,
    /// Address of /healthz and /readyz, in the clear.
    #[arg(long, value_name = "[IP]:PORT", default_value = ":8000", value_parser = address)]
    health_probe_addr: SocketAddr,
    /// Address of /metrics, in the clear.
    #[arg(long, value_name = "[IP]:PORT", default_value = ":8080", value_parser = address)]
    metrics_addr: SocketAddr,
    /// Whether this replica may run the controllers; webhooks are served by all.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    enable_leader_election: bool,
    /// SidecarSets whose rollouts are decided upon at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    sidecarset_workers: u16,
    /// ContainerRecreateRequests that are looked at at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    crr_workers: u16,
    /// Seconds for which a ContainerRecreateRequest is kept after its end that has no ttlSecondsAfterFinished [default: for
    /// good].
    #[arg(long, value_name = "SECONDS")]
    crr_default_ttl: Option<u32>,
    /// Seconds within which a node's daemon must have taken a ContainerRecreateRequest.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, hide = true)]
    crr_response: u32,
    /// ImagePullJobs that are written at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    imagepulljob_workers: u16,
    /// NodeImages that are written at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    nodeimage_workers: u16,
    /// Seconds that a node must have been Ready before it gets a NodeImage.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    nodeimage_creation_delay: u32,
    /// Seconds for which the entry of an image that an ImagePullJob wanted is kept in a NodeImage, beyond the time that the
    /// job gives it; up to 31 days.
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(0..=2_678_400))]
    default_ttlseconds_for_always_nodeimage: u32,
    /// The namespace to which pull secrets are copied for the daemons to read.
    #[arg(long, env = names::DAEMON_CONFIG_ENV, value_name = "NAMESPACE", default_value = names::DAEMON_CONFIG_NAMESPACE)]
    daemon_config_namespace: String,
    /// What is switched on or off, such as InPlaceUpdateNativeSidecar=false. Gates that are not known here are ignored.
    #[arg(long, value_name = "GATE=BOOL,…", default_value = "")]
    feature_gates: Gates,
    /// Seconds for which requests are still answered after a signal [default: 5, or 0 with --webhook-host].
    #[arg(long, value_name = "SECONDS")]
    shutdown_delay: Option<u16>,
    /// Seconds for which a new CA is published before a certificate of it is served.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, hide = true)]
    ca_settle: u32,
    /// Name of this replica [default: the host's name and a number].
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// The Secret of the certificates.
    #[arg(long, env = "SECRET_NAME", value_name = "NAME", default_value = names::CERTS_SECRET)]
    cert_secret: String,
    /// The Service that the API server calls.
    #[arg(long, env = "SERVICE_NAME", value_name = "NAME", default_value = names::SERVICE)]
    service: String,
}

/// Who keeps the certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum CertSource {
    /// We do, in a Secret that all replicas share.
    #[default]
    Secret,
    /// cert-manager: it writes the Secret and, by its annotation, every caBundle.
    CertManager,
    /// The files of --cert-dir.
    Files,
}

/// An address as the reference's flags take it: `:8000` is every address.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
        return Ok(SocketAddr::new(everywhere(), port));
    }
    text.parse().map_err(|_| format!("{text:?} is not an address such as :8000 or 127.0.0.1:8000"))
}

/// A host with or without a port: `127.0.0.1`, `outside.example:9443`, `[::1]:9443`.
fn host(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map(|port| port.parse().map_err(|_| format!("{port:?} is not a port"))).transpose()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { Err("a host is missing".to_owned()) } else { Ok((host.to_owned(), port)) }
}

/// Every address, of IPv6 too where the machine has it.
fn everywhere() -> IpAddr {
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    if has_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log, args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        match args.standalone.standalone.clone() {
            Some(manifests) => from_files(manifests, args).await,
            None => in_cluster(args).await,
        }
    })
}

async fn in_cluster(args: Args) -> anyhow::Result<ExitCode> {
    let settings = settings(args).await?;
    let running = settings.start().await?;
    let [webhook, health, metrics] = running.addresses()?;
    tracing::info!(%webhook, %health, %metrics, "listening; requests are answered once the caches are full");
    let drained = until_signalled(|shutdown| running.run(shutdown)).await??;
    tracing::info!(open = drained.open, cut = drained.cut, "stopped");
    Ok(ExitCode::SUCCESS)
}

async fn settings(args: Args) -> anyhow::Result<InCluster> {
    let Args { standalone, cluster, bind, port, operator, .. } = args;
    let namespace = operator.operator_namespace;
    let config = Config::infer()
        .await
        .context("no cluster is known: set KUBECONFIG, run in a pod, or serve files with --standalone DIR")?;
    let port = port.unwrap_or(9876);
    let host = cluster.webhook_host;
    let endpoint = match &host {
        Some((host, other)) => Endpoint::Host { host: host.clone(), port: other.unwrap_or(port) },
        None => Endpoint::Service {
            namespace: namespace.clone(),
            name: cluster.service.clone(),
            conversion: names::CONVERSION_SERVICE.to_owned(),
        },
    };
    let mut certificates = authority::Settings::new(&namespace, host.as_ref().map(|(host, _)| host.as_str()));
    if host.is_none() {
        let services = [cluster.service.as_str(), names::CONVERSION_SERVICE];
        certificates.hosts = services.map(|service| format!("{service}.{namespace}.svc")).to_vec();
    }
    certificates.secret = cluster.cert_secret;
    certificates.settle = jiff::SignedDuration::from_secs(cluster.ca_settle.into());
    certificates.source = match cluster.cert_source {
        CertSource::Secret => authority::Source::Secret,
        CertSource::CertManager => authority::Source::CertManager,
        CertSource::Files => authority::Source::Files(
            standalone
                .cert_dir
                .context("--cert-source=files needs --cert-dir: where are tls.crt, tls.key and ca.crt?")?,
        ),
    };
    let linger = match (cluster.shutdown_delay, &host) {
        (Some(seconds), _) => Duration::from_secs(seconds.into()),
        (None, Some(_)) => Duration::ZERO,
        (None, None) => LINGER,
    };
    Ok(InCluster {
        config,
        identity: cluster.identity.unwrap_or_else(identity),
        webhook: SocketAddr::new(bind.unwrap_or_else(everywhere), port),
        health: cluster.health_probe_addr,
        metrics: cluster.metrics_addr,
        certificates,
        registration: registration::Settings {
            wanted: Wanted { endpoint, namespace: namespace.clone(), pod_failure_policy: cluster.pod_failure_policy },
            scope: cluster.webhook_scope,
        },
        rollout: sidecarset::Settings {
            workers: cluster.sidecarset_workers.into(),
            gates: cluster.feature_gates,
            ..sidecarset::Settings::new(&namespace)
        },
        recreate: recreate::Settings {
            workers: cluster.crr_workers.into(),
            patience: Patience {
                response: Duration::from_secs(cluster.crr_response.into()),
                default_ttl: cluster.crr_default_ttl.map(|seconds| Duration::from_secs(seconds.into())),
                ..recreate::Settings::default().patience
            },
        },
        images: images::Settings {
            creation_delay: cluster.nodeimage_creation_delay,
            default_ttl: cluster.default_ttlseconds_for_always_nodeimage,
            workers: cluster.imagepulljob_workers.into(),
            writes: cluster.nodeimage_workers.into(),
            namespace: cluster.daemon_config_namespace,
        },
        elects: cluster.enable_leader_election,
        linger,
        limits: Limits::default(),
        operator_namespace: namespace,
    })
}

/// A name that no other replica has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "outrigger".to_owned(),
        host => host.to_lowercase(),
    };
    format!("{host}-{:08x}", fastrand::u32(..))
}

async fn from_files(manifests: PathBuf, args: Args) -> anyhow::Result<ExitCode> {
    let certs = args.standalone.cert_dir.clone().unwrap_or_else(|| "certs".into());
    let settings = Standalone {
        manifests: manifests.clone(),
        address: SocketAddr::new(args.bind.unwrap_or(Ipv4Addr::LOCALHOST.into()), args.port.unwrap_or(8443)),
        certs: certs.clone(),
        operator_namespace: args.operator.operator_namespace.clone(),
        limits: Limits::default(),
    };
    let running = match settings.start().await {
        Ok(running) => running,
        Err(error) => {
            if let Some(NotInOrder { notices }) = error.downcast_ref() {
                for notice in notices {
                    say_error(&notice.to_string());
                }
            }
            return Err(error);
        }
    };
    for warning in &running.warnings {
        tracing::warn!("{warning}");
    }
    announce(&running, &manifests.into_os_string(), args.standalone.example.as_deref(), &certs);
    let drained = until_signalled(|shutdown| running.run(shutdown)).await?;
    tracing::info!(open = drained.open, cut = drained.cut, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Runs until it ends by itself, or is told to by a signal.
pub(super) async fn until_signalled<F: Future>(run: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<F::Output> {
    let shutdown = CancellationToken::new();
    let mut running = std::pin::pin!(run(shutdown.clone()));
    tokio::select! {
        ended = &mut running => return Ok(ended),
        name = signalled() => {
            tracing::info!(signal = name?, "requests in flight are finished, then the process ends");
            shutdown.cancel();
        }
    }
    Ok(running.await)
}

fn announce(running: &Running, manifests: &OsString, example: Option<&std::path::Path>, certs: &std::path::Path) {
    let address = running.address();
    let (sets, manifests) = (running.sidecarsets(), manifests.display());
    let plural = if sets == 1 { "" } else { "s" };
    say(&format!("listening on https://{address} with {sets} SidecarSet{plural} from {manifests}"));
    if let Some(example) = example {
        let curl = format!(
            "curl -sS --cacert {} -H 'Content-Type: application/json' --data-binary @{} https://{address}{MUTATE_POD}",
            certs.join("ca.crt").display(),
            example.display(),
        );
        say("post a pod from another shell; the answer holds a JSON patch in base64:");
        say(&format!("  {curl}"));
        say("the same, with the patch in the clear:");
        say(&format!("  {curl} | sed 's/.*\"patch\":\"\\([^\"]*\\)\".*/\\1/' | base64 -d"));
    }
}
