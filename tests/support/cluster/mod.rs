//! A real Kubernetes for tests and for people: etcd and kube-apiserver on free loopback ports, and, as [`Parts`] says,
//! the controller manager, the scheduler and a node. `tests/cluster/tools/build` makes the binaries.
//!
//! Whoever includes this names it `harness`:
//!
//! ```ignore
//! #[path = "../support/cluster/mod.rs"]
//! mod harness;
//! ```
//!
//! [`run`] holds what a test target needs: `tests![…]` and `main`. Every wait has a deadline, every failure shows the last
//! lines of the log that tells more, and no process outlives the one that started it.

#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, reason = "each crate uses its part")]

mod kubeconfig;
mod namespace;
mod node;
mod pki;
mod process;
pub mod run;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

pub use kubeconfig::Credentials;
pub use namespace::Namespace;
pub use node::NODE;
pub use process::{Process, Stop, free_ports};
pub use run::Test;
pub(crate) use run::{alone, tests};

use node::Node;
use pki::Pki;

/// How long one component may take to come up; other builds may be running beside.
pub const START: Duration = Duration::from_mins(2);

/// How long anything else may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The first address of the service network, under which pods know the API server.
const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// What runs; each level holds the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parts {
    /// etcd and kube-apiserver. Nothing makes ServiceAccounts, so nothing checks that a pod's exists.
    ApiServer,
    /// kube-controller-manager too: Deployments make pods, namespaces get their ServiceAccount, garbage is collected.
    Controllers,
    /// kube-scheduler too.
    ControlPlane,
    /// A node too, on which pods run. Needs root.
    Node,
}

/// A process of the control plane, in the order of their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
}

/// A running cluster. Dropping it ends its processes.
pub struct Cluster {
    parts: Parts,
    ports: BTreeMap<Component, u16>,
    pki: Pki,
    client: Client,
    running: Mutex<BTreeMap<Component, Process>>,
    node: Mutex<Option<Node>>,
    /// Logs, keys, the data of etcd; gone with the cluster unless [`Cluster::keep`] was called.
    dir: TempDir,
}

/// A binary of Kubernetes: from `KUBEBUILDER_ASSETS` when it is there, else as built by us.
pub fn binary(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(|assets| PathBuf::from(assets).join(name));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/bin").join(name);
    match given.filter(|given| given.is_file()) {
        Some(given) => Ok(given),
        None if built.is_file() => Ok(built),
        None => bail!("{name} is not at {}: run `make cluster-tools`", built.display()),
    }
}

/// Polls until `check` gives something. `what` names it when it never does; the last error is told too.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut check: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = tokio::time::Instant::now() + patience;
    let mut pause = Duration::from_millis(5);
    let mut last = None;
    loop {
        match tokio::time::timeout_at(end, check()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if tokio::time::Instant::now() + pause >= end {
            let vain = format!("waited {} s in vain until {what}", patience.as_secs());
            return Err(last.map_or_else(|| anyhow::anyhow!(vain.clone()), |error| error.context(vain.clone())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// The same for what is a plain yes or no.
pub async fn until(what: &str, patience: Duration, mut check: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually(what, patience, async || Ok(check().await?.then_some(()))).await
}

// === impl Component ===

impl Component {
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    fn of(parts: Parts) -> impl Iterator<Item = Self> {
        let levels = [
            (Parts::ApiServer, Self::Etcd),
            (Parts::ApiServer, Self::ApiServer),
            (Parts::Controllers, Self::ControllerManager),
            (Parts::ControlPlane, Self::Scheduler),
        ];
        levels.into_iter().filter_map(move |(level, component)| (level <= parts).then_some(component))
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts a cluster of its own, with a port and a directory for each thing that needs one.
    pub async fn start(parts: Parts) -> Result<Self> {
        // Somebody else may take a free port before our process does.
        const ATTEMPTS: usize = 3;
        let mut attempt = 1;
        loop {
            match Self::try_start(parts).await {
                Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_start(parts: Parts) -> Result<Self> {
        // The first caller wins; that it is ring is all that matters.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("outrigger-cluster-").tempdir()?;
        fs::create_dir(dir.path().join("log"))?;
        let pki = Pki::create(&dir.path().join("pki"))?;
        let free = free_ports(5)?;
        let peer = free[4];
        let at: BTreeMap<_, _> = Component::of(Parts::ControlPlane).zip(free).collect();
        let kubeconfig = kubeconfig::of(&server(&at), &pki.ca_pem, &pki.admin()?);
        let client = Client::try_from(config(&kubeconfig).await?)?;
        let cluster = Self { parts, ports: at, pki, client, running: Mutex::default(), node: Mutex::default(), dir };
        kubeconfig::write(&cluster.kubeconfig(), &kubeconfig)?;
        cluster.write_settings(peer)?;
        match cluster.start_all().await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                let kept = cluster.keep();
                Err(error.context(format!("the cluster did not start; its logs are in {}", kept.display())))
            }
        }
    }

    /// Cluster-admin.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The file that makes `kubectl` cluster-admin.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// `https://127.0.0.1:PORT`
    pub fn server(&self) -> String {
        server(&self.ports)
    }

    /// The certificate authority of the API server, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pki.ca_pem
    }

    /// Everything that this cluster writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// One file for each process.
    pub fn logs(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Leaves the directory behind when the cluster is dropped, for someone to look into; gives the logs.
    pub fn keep(mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.logs()
    }

    /// `kubectl` as cluster-admin.
    pub fn kubectl(&self) -> Result<Command> {
        let mut command = Command::new(binary("kubectl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig()).env_remove("KUBECONFIG");
        Ok(command)
    }

    /// Runs `kubectl` as cluster-admin; what it printed, or an error that holds what it complained of.
    pub async fn kubectl_says(&self, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl()?;
        command.arg("--request-timeout=60s").args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} failed: {}", args.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The settings of a client for these credentials, to change before it is made. It tries nothing twice by itself.
    pub async fn config(&self, credentials: &Credentials) -> Result<Config> {
        config(&kubeconfig::of(&self.server(), &self.pki.ca_pem, credentials)).await
    }

    pub async fn client_with(&self, credentials: &Credentials) -> Result<Client> {
        Ok(Client::try_from(self.config(credentials).await?)?)
    }

    /// A client as this user in these groups, by impersonation.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut config = self.config(&self.pki.admin()?).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(ToString::to_string).collect());
        Ok(Client::try_from(config)?)
    }

    /// A token of this ServiceAccount, as a pod would have it, for an hour.
    pub async fn token(&self, namespace: &str, service_account: &str) -> Result<Credentials> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("cannot get a token of {namespace}/{service_account}"))?;
        Ok(Credentials::Token(answer.status.context("the API server gave no token")?.token))
    }

    /// The token that this pod has of its ServiceAccount: it names the pod and its node.
    pub async fn token_of_pod(&self, namespace: &str, service_account: &str, pod: &str) -> Result<Credentials> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let uid = pods.get(pod).await?.metadata.uid;
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            uid,
        };
        let spec = TokenRequestSpec {
            expiration_seconds: Some(3600),
            bound_object_ref: Some(bound),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("cannot get the token of the pod {namespace}/{pod}"))?;
        Ok(Credentials::Token(answer.status.context("the API server gave no token")?.token))
    }

    /// A kubeconfig with these credentials, for a process that a test starts.
    pub fn kubeconfig_with(&self, name: &str, credentials: &Credentials) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("kubeconfig-{name}"));
        kubeconfig::write(&path, &kubeconfig::of(&self.server(), &self.pki.ca_pem, credentials))?;
        Ok(path)
    }

    /// A client with the rights of this ServiceAccount.
    pub async fn client_of(&self, namespace: &str, service_account: &str) -> Result<Client> {
        self.client_with(&self.token(namespace, service_account).await?).await
    }

    /// A kubeconfig with the rights of this ServiceAccount, for a process that a test starts.
    pub async fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> Result<PathBuf> {
        let token = self.token(namespace, service_account).await?;
        let path = self.dir.path().join(format!("kubeconfig-{namespace}-{service_account}"));
        kubeconfig::write(&path, &kubeconfig::of(&self.server(), &self.pki.ca_pem, &token))?;
        Ok(path)
    }

    /// Starts a process beside the cluster, such as Outrigger's manager; it logs to [`Cluster::logs`] and ends when it is
    /// dropped, and in any case with us.
    pub fn spawn(&self, name: &str, command: &Command) -> Result<Process> {
        Process::spawn(name, &self.logs(), command)
    }

    /// What ServiceAccounts outside `kube-system` asked of the API server: one audit event for each request.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        self.audited(|event: Value| all.push(event))?;
        Ok(all)
    }

    /// The same one by one, in the form that is wanted, for those who cannot hold them all.
    pub fn audited<T: DeserializeOwned>(&self, mut each: impl FnMut(T)) -> Result<()> {
        // Of 100 MB each: `audit-TIME.log` those before, `audit.log` the last.
        let files = fs::read_dir(self.logs())?.map(|entry| entry.map(|entry| entry.path()));
        let mut files = files.collect::<Result<Vec<_>, _>>()?;
        files.retain(|file| file.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("audit")));
        files.sort();
        for file in files {
            for line in BufReader::new(File::open(file)?).lines() {
                // The last line may be half written.
                if let Ok(event) = serde_json::from_str(&line?) {
                    each(event);
                }
            }
        }
        Ok(())
    }

    /// Ends a component. Does nothing when it is not running.
    pub async fn stop(&self, component: Component, how: Stop) -> Result<()> {
        match self.running.lock().await.remove(&component) {
            Some(process) => process.stop(how).await,
            None => Ok(()),
        }
    }

    /// Starts a component at its old port with its old data and waits until it answers. Does nothing when it is running.
    pub async fn resume(&self, component: Component) -> Result<()> {
        let mut running = self.running.lock().await;
        if running.get(&component).is_some_and(Process::is_running) {
            return Ok(());
        }
        running.remove(&component);
        let process = self.spawn(component.name(), &self.command(component)?)?;
        self.wait_for(component, &process).await.map_err(|error| process.explain(error))?;
        running.insert(component, process);
        Ok(())
    }

    pub async fn stop_api_server(&self, how: Stop) -> Result<()> {
        self.stop(Component::ApiServer, how).await
    }

    pub async fn start_api_server(&self) -> Result<()> {
        self.resume(Component::ApiServer).await
    }

    pub async fn restart_api_server(&self, how: Stop) -> Result<()> {
        self.stop_api_server(how).await?;
        self.start_api_server().await
    }

    /// Ends everything, the last started first; [`Cluster::start_all`] goes on with the same data. A node goes as if its
    /// power had failed.
    pub async fn stop_all(&self, how: Stop) -> Result<()> {
        if let Some(node) = self.node.lock().await.as_mut() {
            node.cut().await?;
        }
        let components: Vec<_> = Component::of(self.parts).collect();
        for component in components.into_iter().rev() {
            self.stop(component, how).await?;
        }
        Ok(())
    }

    /// Starts what is not running.
    pub async fn start_all(&self) -> Result<()> {
        for component in Component::of(self.parts) {
            self.resume(component).await?;
        }
        if self.parts == Parts::Node {
            let mut node = self.node.lock().await;
            if node.is_none() {
                *node = Some(Node::prepare(self).await?);
            }
            if let Some(node) = node.as_mut() {
                node.start(self).await?;
            }
        }
        Ok(())
    }

    /// The processes that were started: name and id.
    pub async fn processes(&self) -> Vec<(String, u32)> {
        let running = self.running.lock().await;
        let mut all: Vec<_> = running.values().map(|process| (process.name().to_owned(), process.id())).collect();
        all.extend(self.node.lock().await.iter().flat_map(Node::processes));
        all
    }

    /// The registry that stands in for all registries on the node, `127.0.0.1:PORT`.
    pub async fn registry(&self) -> Result<String> {
        Ok(self.node.lock().await.as_ref().context("this cluster has no node")?.registry())
    }

    /// The Unix socket of the node's containerd.
    pub async fn containerd(&self) -> Result<PathBuf> {
        Ok(self.node.lock().await.as_ref().context("this cluster has no node")?.socket())
    }

    /// From now on the node asks this port of the loopback for images whose names begin with this host.
    pub async fn stand_in(&self, host: &str, port: u16) -> Result<()> {
        self.node.lock().await.as_ref().context("this cluster has no node")?.stand_in(host, port)
    }

    /// Pushes an image so that pods find it as `NAME:TAG`; `source` as skopeo writes it, such as `oci-archive:FILE`.
    pub async fn push(&self, source: &str, name: &str) -> Result<()> {
        let target = format!("docker://{}/library/{name}", self.registry().await?);
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
        command.args([source, &target]);
        node::sh(&command).await
    }

    /// Takes an image out of the registry; pods that have it run on.
    pub async fn unpush(&self, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["delete", "--tls-verify=false", &format!("docker://{}/library/{name}", self.registry().await?)]);
        node::sh(&command).await
    }

    /// The port of the API server.
    fn port(&self) -> u16 {
        self.ports[&Component::ApiServer]
    }

    fn url(&self, component: Component) -> String {
        format!("http://127.0.0.1:{}", self.ports[&component])
    }

    /// The files that the components read.
    fn write_settings(&self, peer: u16) -> Result<()> {
        let dir = self.dir.path();
        fs::write(dir.join("etcd-peer"), format!("http://127.0.0.1:{peer}"))?;
        for (component, credentials) in [
            (Component::ControllerManager, self.pki.client("system:kube-controller-manager", None)?),
            (Component::Scheduler, self.pki.client("system:kube-scheduler", None)?),
        ] {
            let kubeconfig = kubeconfig::of(&self.server(), &self.pki.ca_pem, &credentials);
            kubeconfig::write(&dir.join(format!("{}.kubeconfig", component.name())), &kubeconfig)?;
        }
        let audit = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [
                {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
                {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
                {"level": "None"},
            ],
        });
        Ok(fs::write(dir.join("audit.json"), audit.to_string())?)
    }

    fn command(&self, component: Component) -> Result<Command> {
        let dir = self.dir.path();
        let path = |name: &str| dir.join(name).display().to_string();
        let pki = |name: &str| self.pki.path(name).display().to_string();
        let port = self.ports[&component];
        let flags: Vec<(&str, String)> = match component {
            Component::Etcd => vec![
                ("data-dir", path("etcd")),
                ("listen-client-urls", self.url(component)),
                ("advertise-client-urls", self.url(component)),
                ("listen-peer-urls", fs::read_to_string(dir.join("etcd-peer"))?),
                ("initial-advertise-peer-urls", fs::read_to_string(dir.join("etcd-peer"))?),
                ("initial-cluster", format!("default={}", fs::read_to_string(dir.join("etcd-peer"))?)),
                // The data need not survive the machine.
                ("unsafe-no-fsync", "true".into()),
            ],
            Component::ApiServer => {
                let mut flags = vec![
                    ("etcd-servers", self.url(Component::Etcd)),
                    ("bind-address", "127.0.0.1".into()),
                    ("secure-port", port.to_string()),
                    // No pod reaches it there: the Service `kubernetes` gets no endpoints from us.
                    ("advertise-address", "127.0.0.1".into()),
                    ("endpoint-reconciler-type", "none".into()),
                    ("service-cluster-ip-range", "10.96.0.0/16".into()),
                    ("cert-dir", path("pki")),
                    ("tls-cert-file", pki("apiserver.crt")),
                    ("tls-private-key-file", pki("apiserver.key")),
                    ("client-ca-file", pki("ca.crt")),
                    ("kubelet-certificate-authority", pki("ca.crt")),
                    ("kubelet-client-certificate", pki("kubelet-client.crt")),
                    ("kubelet-client-key", pki("kubelet-client.key")),
                    ("kubelet-preferred-address-types", "InternalIP".into()),
                    ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
                    ("service-account-key-file", pki("service-account.pub")),
                    ("service-account-signing-key-file", pki("service-account.key")),
                    ("authorization-mode", "Node,RBAC".into()),
                    ("allow-privileged", "true".into()),
                    // Otherwise a graceful end takes the minute for which watches may stay open.
                    ("shutdown-watch-termination-grace-period", "1s".into()),
                    // Without kube-proxy: webhooks named by a Service are called at the address of a pod.
                    ("enable-aggregator-routing", "true".into()),
                    ("audit-policy-file", path("audit.json")),
                    ("audit-log-path", path("log/audit.log")),
                ];
                if self.parts < Parts::Controllers {
                    flags.push(("disable-admission-plugins", "ServiceAccount".into()));
                }
                flags
            }
            Component::ControllerManager => vec![
                ("bind-address", "127.0.0.1".into()),
                ("secure-port", port.to_string()),
                ("kubeconfig", path("kube-controller-manager.kubeconfig")),
                ("use-service-account-credentials", "true".into()),
                ("service-account-private-key-file", pki("service-account.key")),
                ("root-ca-file", pki("ca.crt")),
                ("cluster-signing-cert-file", pki("ca.crt")),
                ("cluster-signing-key-file", pki("ca.key")),
                ("cert-dir", path("pki")),
                ("leader-elect", "false".into()),
                // The default of 20 requests a second would be what a test of many pods measures.
                ("kube-api-qps", "2000".into()),
                ("kube-api-burst", "2000".into()),
            ],
            Component::Scheduler => vec![
                ("bind-address", "127.0.0.1".into()),
                ("secure-port", port.to_string()),
                ("kubeconfig", path("kube-scheduler.kubeconfig")),
                ("cert-dir", path("pki")),
                ("leader-elect", "false".into()),
                ("kube-api-qps", "2000".into()),
                ("kube-api-burst", "2000".into()),
            ],
        };
        let mut command = Command::new(binary(component.name())?);
        command.args(flags.into_iter().map(|(flag, value)| format!("--{flag}={value}"))).current_dir(dir);
        Ok(command)
    }

    async fn wait_for(&self, component: Component, process: &Process) -> Result<()> {
        let port = self.ports[&component];
        until(&format!("{} answers", component.name()), START, async || {
            // A process that has ended will not answer, however long we wait.
            if !process.is_running() {
                return Ok(true);
            }
            Ok(match component {
                Component::ApiServer => self.is_ready().await?,
                _ => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok(),
            })
        })
        .await?;
        ensure!(process.is_running(), "{} has ended", component.name());
        Ok(())
    }

    /// Whether the API server says so, and holds what every cluster holds.
    async fn is_ready(&self) -> Result<bool> {
        let ask = |path: &str| axum::http::Request::get(path).body(Vec::new());
        let answers = async {
            let ready = self.client.request_text(ask("/readyz")?).await?;
            self.client.request_text(ask("/api/v1/namespaces/default")?).await?;
            anyhow::Ok(ready == "ok")
        };
        timeout(Duration::from_secs(5), answers).await.context("no answer from /readyz")?
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.node.get_mut().take());
        // The last started goes first, so that nobody logs that the API server is gone.
        while let Some((_, process)) = self.running.get_mut().pop_last() {
            drop(process);
        }
    }
}

fn server(ports: &BTreeMap<Component, u16>) -> String {
    format!("https://127.0.0.1:{}", ports[&Component::ApiServer])
}

async fn config(kubeconfig: &Value) -> Result<Config> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // A test must see what the API server answers, not what it answers in the end.
    config.default_retry = false;
    Ok(config)
}
