//! `outrigger manager --standalone DIR`: the pod webhook from files, without a cluster.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{Operator, say, say_error};
use crate::admission::{MUTATE_POD, server::Limits};
use crate::app::{NotInOrder, Running, Standalone, signalled};
use crate::telemetry::{LogFormat, init_logging};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Serve SidecarSets, Namespaces and ConfigMaps from the *.yaml, *.yml and *.json files of this directory. Changes
    /// are taken within a second; a bad change keeps the last good state.
    #[arg(long, value_name = "DIR", required = true)]
    standalone: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Directory of ca.crt, tls.crt and tls.key; made when missing, read again when changed.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    cert_dir: PathBuf,
    /// A file with an AdmissionReview: once the server listens, the curl that posts it is printed.
    #[arg(long, value_name = "FILE")]
    example: Option<PathBuf>,
    /// What to log, such as info, debug or outrigger=debug.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// How to log.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
    #[command(flatten)]
    operator: Operator,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    init_logging(&args.log, args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Standalone {
        manifests: args.standalone.clone(),
        address: SocketAddr::new(args.bind, args.port),
        certs: args.cert_dir.clone(),
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
    announce(&running, &args);

    let shutdown = CancellationToken::new();
    let signal = async {
        let name = signalled().await?;
        tracing::info!(signal = name, "requests in flight are finished, then the process ends");
        shutdown.cancel();
        anyhow::Ok(())
    };
    let (signalled, drained) = tokio::join!(signal, running.run(shutdown.clone()));
    signalled?;
    tracing::info!(open = drained.open, cut = drained.cut, "stopped");
    Ok(ExitCode::SUCCESS)
}

fn announce(running: &Running, args: &Args) {
    let address = running.address();
    let (sets, manifests) = (running.sidecarsets(), args.standalone.display());
    let plural = if sets == 1 { "" } else { "s" };
    say(&format!("listening on https://{address} with {sets} SidecarSet{plural} from {manifests}"));
    if let Some(example) = &args.example {
        let curl = format!(
            "curl -sS --cacert {} -H 'Content-Type: application/json' --data-binary @{} https://{address}{MUTATE_POD}",
            args.cert_dir.join("ca.crt").display(),
            example.display(),
        );
        say("post a pod from another shell; the answer holds a JSON patch in base64:");
        say(&format!("  {curl}"));
        say("the same, with the patch in the clear:");
        say(&format!("  {curl} | sed 's/.*\"patch\":\"\\([^\"]*\\)\".*/\\1/' | base64 -d"));
    }
}
