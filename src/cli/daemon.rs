//! `outrigger daemon`: restarts containers of one node, as ContainerRecreateRequests ask, and pulls images, as its NodeImage
//! asks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kube::Config;

use super::manager::{address, until_signalled};
use crate::cri::detect::{Pace, Places, RUN_DIR, endpoint};
use crate::daemon::Settings;
use crate::daemon::images::Limits;
use crate::gates::Gates;
use crate::images::disk::Reserve;
use crate::telemetry::{LogFormat, init_logging};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of this node, as the cluster calls it.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: String,
    /// Address of /healthz, /readyz and /metrics, in the clear.
    #[arg(long, value_name = "[IP]:PORT", default_value = ":10221", value_parser = address)]
    addr: SocketAddr,
    /// The only socket of a container runtime to use, such as unix:///run/containerd/containerd.sock [default: the first
    /// that answers of those of containerd, k3s, CRI-O and cri-dockerd].
    #[arg(long, value_name = "unix://PATH", value_parser = endpoint, conflicts_with = "socket_file")]
    runtime_endpoint: Option<PathBuf>,
    /// The same, as a path below --run-dir.
    #[arg(long, value_name = "PATH")]
    socket_file: Option<PathBuf>,
    /// Where the node's /run is mounted [default: /hostvarrun, or /run where that does not exist].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// How many images are pulled at a time; any number when 0 or less.
    #[arg(long, value_name = "NUMBER", default_value_t = -1, allow_negative_numbers = true)]
    max_workers_for_pull_image: i64,
    /// What pulls leave free of the image file system, as a percentage or a size such as 5Gi; 0 keeps nothing free. The
    /// default is where the kubelet begins to evict pods.
    #[arg(long, value_name = "PERCENT|SIZE", default_value = "15%")]
    image_fs_reserve: Reserve,
    /// A directory on the image file system, as this process sees it [default: where the runtime says, or the root of this
    /// container, whose writable layer is there].
    #[arg(long, value_name = "DIR")]
    image_fs_path: Option<PathBuf>,
    /// Only say what would be done: nothing is stopped or pulled, and nothing is written.
    #[arg(long)]
    dry_run: bool,
    /// What is switched on or off. Gates that are not known here are ignored.
    #[arg(long, value_name = "GATE=BOOL,…", default_value = "")]
    feature_gates: Gates,
    /// What to log, such as info, debug or outrigger=debug.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// How to log.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log, args.log_format)?;
    // One thread: it waits nearly always, and each thread costs memory on every node.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::infer().await.context("no cluster is known: set KUBECONFIG, or run in a pod")?;
    let running = settings(args, config)?.start().await?;
    let address = running.address()?;
    tracing::info!(%address, "listening");
    until_signalled(|stopping| running.run(stopping)).await??;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn settings(args: Args, config: Config) -> anyhow::Result<Settings> {
    let Args { node_name, addr, runtime_endpoint, socket_file, run_dir, dry_run, feature_gates, .. } = args;
    let limits = Limits {
        workers: usize::try_from(args.max_workers_for_pull_image).ok().filter(|count| *count > 0),
        reserve: args.image_fs_reserve,
        image_fs: args.image_fs_path,
    };
    if node_name.is_empty() {
        bail!("the name of this node is empty: set NODE_NAME to the pod's spec.nodeName, or give --node-name");
    }
    let run_dir = run_dir.unwrap_or_else(|| {
        let mounted = Path::new(RUN_DIR);
        if mounted.is_dir() { mounted.to_owned() } else { PathBuf::from("/run") }
    });
    let only = runtime_endpoint.or_else(|| {
        // As a path below, also when it is written with a slash in front.
        let file = socket_file.filter(|file| !file.as_os_str().is_empty())?;
        Some(run_dir.join(file.strip_prefix("/").unwrap_or(&file)))
    });
    Ok(Settings {
        config,
        node: node_name,
        address: addr,
        places: Places { run_dir, only },
        pace: Pace::default(),
        is_dry_run: dry_run,
        gates: feature_gates,
        limits,
    })
}
