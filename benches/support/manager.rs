//! The manager as a process of its own, beside an API server: what it costs, the kernel tells.

#![allow(dead_code, unreachable_pub, reason = "shared by benchmarks, each a crate of its own")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{self, Cluster, Process, until};

pub const OPERATOR: &str = "kruise-system";
/// Its ServiceAccount, as the API server calls it.
pub const USER: &str = "system:serviceaccount:kruise-system:outrigger-manager";

/// A running manager.
pub struct Manager {
    pub process: Process,
    health: u16,
}

// === impl Manager ===

impl Manager {
    /// Applies the manifests, starts it and waits until it is ready. `OUTRIGGER` names another binary, such as the image's.
    pub async fn install(cluster: &Cluster) -> Result<Self> {
        let manifests = format!("{}/manifests", env!("CARGO_MANIFEST_DIR"));
        cluster.kubectl_says(&["apply", "--server-side", "--force-conflicts", "-k", &manifests]).await?;
        let manager = Self::start(cluster).await?;
        until("the manager is ready", harness::START, async || manager.is_ready().await)
            .await
            .map_err(|error| manager.process.explain(error))?;
        Ok(manager)
    }

    async fn start(cluster: &Cluster) -> Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let held = [listen()?, listen()?, listen()?];
        let mut ports = Vec::new();
        for listener in held {
            ports.push(listener.local_addr()?.port());
        }
        let at = |n: usize| format!("127.0.0.1:{}", ports[n]);
        let own = env!("CARGO_BIN_EXE_outrigger");
        let mut command = Command::new(std::env::var_os("OUTRIGGER").unwrap_or_else(|| own.into()));
        command
            .env("KUBECONFIG", cluster.kubeconfig_of(OPERATOR, "outrigger-manager").await?)
            .env("POD_NAMESPACE", OPERATOR)
            .envs(allocator()?)
            .args(["manager", "--bind", "127.0.0.1", "--identity", "bench", "--webhook-host", &at(0)])
            .args(["--port", &ports[0].to_string(), "--health-probe-addr", &at(1), "--metrics-addr", &at(2)])
            .args(["--log", "warn"]);
        Ok(Self { process: cluster.spawn("manager", &command)?, health: ports[1] })
    }

    async fn is_ready(&self) -> Result<bool> {
        if let Some(exit) = self.process.exit() {
            bail!("the manager ended: {exit}");
        }
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.health)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> Result<f64> {
        const TICKS: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit_once(')').context("an odd /proc/stat")?.1;
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() / TICKS)
    }

    /// Resident memory, and the most it ever was; MiB.
    pub fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0).context("an odd /proc/status")
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }
}

/// How the Deployment has the allocator work.
fn allocator() -> Result<Vec<(String, String)>> {
    let file = format!("{}/manifests/base/deployment.yaml", env!("CARGO_MANIFEST_DIR"));
    let deployment: Value = serde_saphyr::from_str(&fs::read_to_string(&file).with_context(|| file.clone())?)?;
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().context("no env")?;
    let text = |member: &Value| member.as_str().map(str::to_owned);
    let all = env.iter().filter_map(|it| Some((text(&it["name"])?, text(&it["value"])?)));
    Ok(all.filter(|(name, _)| name.starts_with("MIMALLOC_")).collect())
}
