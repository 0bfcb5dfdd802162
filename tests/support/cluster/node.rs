//! A node on this machine: containerd, runc, CNI and a kubelet in PID and mount namespaces of their own, so that no
//! process and no mount of it can outlive it, and a registry that stands in for all registries. Needs root.
//!
//! What the kernel does not take back by itself lies in three places and is removed before a start and after an end: a
//! bridge, a control group and `target/cluster/node`. There is one node on a machine at a time.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Api;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::process::{free_ports, tail};
use super::{Cluster, Process, SERVICE_IP, START, binary, kubeconfig, until};

/// The name of the node in the cluster.
pub const NODE: &str = "node-1";

const BRIDGE: &str = "outrigger0";
/// Of its own: a bridge otherwise has the lowest of its ports', which changes as pods come and go, and for half a minute pods
/// would send to one that is gone.
const BRIDGE_MAC: &str = "0a:58:0a:d5:00:01";
const BRIDGE_IP: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
const POD_NETWORK: &str = "10.213.0.0/24";

/// Below the root of each hierarchy of control groups.
const CGROUP: &str = "outrigger-node";

/// Held while a node is there.
const LOCK: &str = "/run/outrigger-node.lock";

/// A Unix socket's path may have 107 bytes; the longest of ours needs these below the root.
const LONGEST_ROOT: usize = 107 - "/kubelet/pod-resources/kubelet.sock.temporary".len();

pub struct Node {
    process: Option<Process>,
    registry: Process,
    registry_port: u16,
    kubelet_port: u16,
    /// Carries the pods' calls of the API server to it.
    gate: JoinHandle<()>,
    root: PathBuf,
    logs: PathBuf,
    /// Released with the node.
    _lock: File,
}

impl Node {
    /// Makes the ground for a node: its network, its registry with the images of the tests, its settings.
    pub async fn prepare(cluster: &Cluster) -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = repository.join("target/cluster/node");
        ensure!(
            root.as_os_str().len() <= LONGEST_ROOT,
            "{} is too long for sockets below it: put the sources nearer to the root",
            root.display()
        );
        let lock = lock()?;
        sh(&Command::new(repository.join("tests/e2e/prepare"))).await?;
        clean(&root).await?;
        for dir in ["cni", "certs.d/_default", "kubelet"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for hierarchy in hierarchies()? {
            match fs::create_dir(hierarchy.join(CGROUP)) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
        }
        for args in [
            format!("link add {BRIDGE} address {BRIDGE_MAC} type bridge"),
            format!("addr add {BRIDGE_IP}/24 dev {BRIDGE}"),
            format!("addr add {SERVICE_IP}/32 dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ] {
            ip(&args).await?;
        }
        let gate = gate(cluster.port()).await?;
        let [registry_port, kubelet_port] = free_ports(2)?[..] else { bail!("two ports were asked for") };
        let registry = registry(cluster, repository, registry_port).await?;
        let logs = cluster.logs();
        let node = Self { process: None, registry, registry_port, kubelet_port, gate, root, logs, _lock: lock };
        node.write_settings(cluster)?;
        Ok(node)
    }

    /// `127.0.0.1:PORT`
    pub fn registry(&self) -> String {
        format!("127.0.0.1:{}", self.registry_port)
    }

    /// The Unix socket of containerd, which speaks CRI.
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/containerd.sock")
    }

    /// The runtime looks there again for each pull. As its server, not as a mirror of one: a mirror that fails is followed
    /// by the host itself, and what is told in the end is that there is no such host. Without a table of mirrors, containerd
    /// 1.6 takes the file for a bad one.
    pub fn stand_in(&self, host: &str, port: u16) -> Result<()> {
        let dir = self.root.join("certs.d").join(host);
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join("hosts.toml"), format!("server = \"http://127.0.0.1:{port}\"\n[host]\n"))?)
    }

    pub fn processes(&self) -> impl Iterator<Item = (String, u32)> {
        let all = [Some(&self.registry), self.process.as_ref()];
        all.into_iter().flatten().map(|process| (process.name().to_owned(), process.id()))
    }

    /// Switches it on and waits until it is ready. Does nothing when it runs.
    pub async fn start(&mut self, cluster: &Cluster) -> Result<()> {
        if self.process.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private"]);
        command.arg("--").arg(repository.join("tests/e2e/node")).args([&self.root, &self.logs]);
        command.arg(binary("kubelet")?);
        command.arg(format!("--config={}", self.root.join("kubelet.json").display()));
        command.arg(format!("--kubeconfig={}", self.root.join("kubelet.kubeconfig").display()));
        command.arg(format!("--root-dir={}", self.root.join("kubelet").display()));
        command.arg(format!("--cert-dir={}", self.root.join("kubelet").display()));
        command.arg(format!("--hostname-override={NODE}")).arg(format!("--node-ip={BRIDGE_IP}"));
        let started = jiff_now();
        let process = cluster.spawn("node", &command)?;
        let nodes: Api<KubeNode> = Api::all(cluster.client());
        let ready = until("the node is Ready", START, || async {
            if !process.is_running() {
                return Ok(true);
            }
            Ok(nodes.get_opt(NODE).await?.is_some_and(|node| is_ready(&node, started)))
        })
        .await;
        let ready = ready.and_then(|()| {
            ensure!(process.is_running(), "the node has ended");
            Ok(())
        });
        if let Err(error) = ready {
            let tails = ["containerd", "kubelet"].map(|name| {
                let log = self.logs.join(format!("{name}.log"));
                format!("{} ends:\n{}", log.display(), tail(&log))
            });
            return Err(process.explain(error).context(tails.join("\n")));
        }
        self.process = Some(process);
        Ok(())
    }

    /// As if its power had failed. What it had on its disk stays.
    pub async fn cut(&mut self) -> Result<()> {
        self.process = None;
        until("nothing of the node runs", Duration::from_secs(20), || async { Ok(members()?.is_empty()) }).await?;
        remove(&self.root.join("run"))
    }

    fn write_settings(&self, cluster: &Cluster) -> Result<()> {
        let root = &self.root;
        let path = |name: &str| root.join(name).display().to_string();
        fs::write(root.join("containerd.toml"), containerd(root))?;
        let hosts = format!("[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n", self.registry());
        fs::write(root.join("certs.d/_default/hosts.toml"), hosts)?;
        let network = json!({
            "cniVersion": "0.4.0",
            "name": "outrigger",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": path("run/addresses"),
                        "ranges": [[{"subnet": POD_NETWORK}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "loopback"},
            ],
        });
        fs::write(root.join("cni/10-outrigger.conflist"), network.to_string())?;

        let ca = cluster.pki.path("ca.crt");
        cluster.pki.serving("kubelet", &[&BRIDGE_IP.to_string(), NODE])?;
        let kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": BRIDGE_IP,
            "port": self.kubelet_port,
            "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": ca}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": cluster.pki.path("kubelet.crt"),
            "tlsPrivateKeyFile": cluster.pki.path("kubelet.key"),
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{CGROUP}"),
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            "resolvConf": "/dev/null",
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "podLogsDir": path("pod-logs"),
            "volumePluginDir": path("volume-plugins"),
            "makeIPTablesUtilChains": false,
            "serializeImagePulls": false,
            "maxPods": 200,
            "nodeStatusUpdateFrequency": "2s",
            // A container that ends again within ten minutes waits before its next start: 10 s, 20 s, up to 5 min. Tests
            // that restart one 200 times would take a day, so here it waits for a second each time.
            "featureGates": {"KubeletCrashLoopBackOffMax": true},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            // A full disk of the machine is nothing that the tests are about.
            "evictionHard": {"memory.available": "10Mi", "nodefs.available": "0.1%", "nodefs.inodesFree": "0.1%",
                "imagefs.available": "0.1%"},
            "imageGCHighThresholdPercent": 100,
        });
        fs::write(root.join("kubelet.json"), kubelet.to_string())?;
        let who = cluster.pki.client(&format!("system:node:{NODE}"), Some("system:nodes"))?;
        kubeconfig::write(&root.join("kubelet.kubeconfig"), &kubeconfig::of(&cluster.server(), cluster.ca_pem(), &who))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.gate.abort();
        self.process = None;
        // Its processes go one after the other. What stays is removed before the next start.
        for _ in 0..50 {
            if members().is_ok_and(|members| members.is_empty()) {
                break;
            }
            let _ = Command::new("sleep").arg("0.1").status();
        }
        let _ = Command::new("ip").args(["link", "delete", BRIDGE]).output();
        let _ = remove_cgroups();
        let _ = remove(&self.root);
    }
}

/// The settings of containerd 1.6 and later.
fn containerd(root: &Path) -> String {
    let root = root.display();
    // `native` copies layers instead of mounting overlays: it works on every file system, and our images are small.
    format!(
        r#"version = 2
root = "{root}/containerd"
state = "{root}/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{root}/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "runc"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{root}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{root}/certs.d"
"#
    )
}

/// A registry that keeps what was pushed for the next cluster, with the images of the tests in it.
async fn registry(cluster: &Cluster, repository: &Path, port: u16) -> Result<Process> {
    let script = repository.join("tests/e2e/images");
    let recipe = BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(fs::read(&script)?)[..9]);
    let images = repository.join("target/cluster/images").join(recipe);
    fs::create_dir_all(&images)?;
    let address = format!("127.0.0.1:{port}");
    let settings = json!({
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": images.join("registry")}, "delete": {"enabled": true}},
        "http": {"addr": address},
    });
    let file = cluster.dir().join("registry.json");
    fs::write(&file, settings.to_string())?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(file);
    let process = cluster.spawn("registry", &command)?;
    until("the registry answers", START, || async {
        Ok(!process.is_running() || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok())
    })
    .await
    .map_err(|error| process.explain(error))?;
    let mut command = Command::new(script);
    command.arg(images).arg(address);
    sh(&command).await.map_err(|error| process.explain(error))?;
    Ok(process)
}

/// Listens where pods look for the API server, and passes on what comes to its port of the loopback.
async fn gate(port: u16) -> Result<JoinHandle<()>> {
    let gate = TcpListener::bind((SERVICE_IP, 443)).await.context("cannot listen at the address of the Service")?;
    Ok(tokio::spawn(async move {
        while let Ok((mut pod, _)) = gate.accept().await {
            tokio::spawn(async move {
                // Either side may go whenever it likes.
                if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                    let _ = copy_bidirectional(&mut pod, &mut server).await;
                }
            });
        }
    }))
}

/// Ready by a word of the kubelet that was started then: the last word of the one before it may say so too.
fn is_ready(node: &KubeNode, started: jiff::Timestamp) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").any(|condition| {
        // Times of the API are whole seconds.
        condition.last_heartbeat_time.as_ref().is_some_and(|time| time.0.as_second() >= started.as_second())
    })
}

#[expect(clippy::disallowed_methods, reason = "the kubelet reads the same clock")]
fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn lock() -> Result<File> {
    let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(LOCK);
    let lock = lock.as_mut().map_err(|error| anyhow::anyhow!("a node needs root: cannot open {LOCK}: {error}"))?;
    match lock.try_lock() {
        Ok(()) => {
            lock.set_len(0)?;
            writeln!(lock, "{}", std::process::id())?;
            Ok(lock.try_clone()?)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(LOCK).unwrap_or_default();
            bail!("another node runs on this machine, of process {}: `make cluster-down`?", holder.trim())
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Removes what a node that was not dropped has left.
async fn clean(root: &Path) -> Result<()> {
    for id in members()? {
        let _ = Command::new("sh").args(["-c", &format!("kill -KILL {id}")]).output();
    }
    until("nothing of an earlier node runs", Duration::from_secs(20), || async { Ok(members()?.is_empty()) }).await?;
    remove_cgroups()?;
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        ip(&format!("link delete {BRIDGE}")).await?;
    }
    remove(root)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The roots of the hierarchies of control groups: one with version 2, one for each controller with version 1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup") && path.starts_with("/sys/fs/cgroup")).then(|| PathBuf::from(path))
    });
    Ok(mounts.collect())
}

/// Our control groups, those below others first.
fn cgroups() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = hierarchies()?.into_iter().map(|root| root.join(CGROUP)).collect();
    found.retain(|dir| dir.is_dir());
    let mut next = 0;
    while next < found.len() {
        // One that goes while we look is what we want.
        let below = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let below: Vec<_> = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).collect();
        found.extend(below.into_iter().map(|entry| entry.path()));
        next += 1;
    }
    found.reverse();
    Ok(found)
}

/// The processes in our control groups.
fn members() -> Result<Vec<u32>> {
    let lists = cgroups()?.into_iter().map(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default());
    Ok(lists.flat_map(|list| list.lines().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect())
}

fn remove_cgroups() -> Result<()> {
    for dir in cgroups()? {
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

async fn ip(args: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args.split(' '));
    sh(&command).await
}

/// Runs a command to its end; an error holds what it said.
pub(super) async fn sh(command: &Command) -> Result<()> {
    let shown = format!("{command:?}");
    let mut bound = super::process::bound_to_us(command);
    let output = tokio::task::spawn_blocking(move || bound.output()).await?.with_context(|| shown.clone())?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{shown} failed: {}", String::from_utf8_lossy(&said).trim());
    Ok(())
}
