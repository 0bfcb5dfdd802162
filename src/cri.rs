//! Container runtimes: CRI v1 over a unix socket of this node, with the calls that are made here and no others (CRI).
//!
//! A [`Client`] connects when it is first asked something, and again after the runtime went away and came back. Every call
//! has its time; what fails says which call on which socket, why, and what to do about it. [`detect`] finds the sockets.
//! On the same socket containerd also tells what it has of images that are on their way ([`content`]).

mod blobs;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated; see tests/support/proto.rs")]
pub mod content;
pub mod detect;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated; see tests/support/proto.rs")]
pub mod v1;

use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tower::service_fn;

use self::content::content_client::ContentClient;
use self::v1::image_service_client::ImageServiceClient;
use self::v1::runtime_service_client::RuntimeServiceClient;

/// Label of a container: the UID of its pod (CRI-4).
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label of a container: its name in the pod (CRI-5).
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation of a container: how often it was restarted before (CRR-43).
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";

/// The longest message either way (CRI-2).
const MESSAGE: usize = 16 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer about containers may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an answer about images may take.
const IMAGES: Duration = Duration::from_secs(10);
/// How long a list of all images may take.
const ALL_IMAGES: Duration = Duration::from_mins(1);
/// How much longer than its grace a stop may take: as long as the kubelet waits. WEAK-3: the reference waits 5 s.
pub const STOP_SLACK: Duration = Duration::from_mins(2);
/// Containers of a pod that are asked about at a time.
const ABREAST: usize = 8;

/// The calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Who are you?
    Version,
    /// Containers of a pod.
    ListContainers,
    /// One container.
    ContainerStatus,
    /// Stops a container.
    StopContainer,
    /// Runs a command in a container.
    ExecSync,
    /// The sandbox of a pod.
    PodSandboxStatus,
    /// Where images are kept.
    ImageFsInfo,
    /// All images.
    ListImages,
    /// One image.
    ImageStatus,
    /// Pulls an image.
    PullImage,
    /// Blobs on their way; containerd alone.
    ListStatuses,
    /// Blobs that are there; containerd alone.
    ListContent,
    /// One blob; containerd alone.
    Info,
    /// The bytes of a blob; containerd alone.
    ReadContent,
}

/// A call that did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} on {}: {why}", .socket.display())]
pub struct CallError {
    /// Which call.
    pub call: Call,
    /// On which socket.
    pub socket: Arc<Path>,
    /// Why.
    pub why: Why,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No answer in time.
    #[error("no answer within {} s; the container runtime hangs or has too much to do, its log on this node says more", .0.as_secs())]
    Slow(Duration),
    /// Nobody is there.
    #[error("cannot be reached: {0}; check that the container runtime runs and that this process may open its socket")]
    Unreachable(String),
    /// Somebody is there who does not know the call.
    #[error("not served ({0}); CRI v1 is needed: containerd 1.6, CRI-O 1.24 or later, with its CRI plugin switched on")]
    NotServed(String),
    /// What was asked about does not exist, or no longer.
    #[error("not found: {0}")]
    Gone(String),
    /// The runtime does not do it.
    #[error("the container runtime answers {code:?}: {message}")]
    Refused {
        /// Its code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// The answer cannot be used.
    #[error("the answer of the container runtime lacks {0}")]
    Incomplete(&'static str),
}

/// Metrics of the calls. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    calls: Family<[(&'static str, &'static str); 2], Counter>,
}

/// One runtime, by its socket. A clone shares the connection.
#[derive(Clone)]
pub struct Client {
    socket: Arc<Path>,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    content: ContentClient<Channel>,
    metrics: Metrics,
}

/// Who a runtime says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `containerd`, `cri-o` or `docker`: also the scheme of its containers' ids (DMN-11).
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code.
    pub exit_code: i32,
    /// The end of what it wrote to standard error, or else to standard output; a few hundred bytes for people.
    pub said: String,
}

// === impl Call ===

impl Call {
    /// Every call.
    pub const ALL: [Self; 14] = [
        Self::Version,
        Self::ListContainers,
        Self::ContainerStatus,
        Self::StopContainer,
        Self::ExecSync,
        Self::PodSandboxStatus,
        Self::ImageFsInfo,
        Self::ListImages,
        Self::ImageStatus,
        Self::PullImage,
        Self::ListStatuses,
        Self::ListContent,
        Self::Info,
        Self::ReadContent,
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "Version",
            Self::ListContainers => "ListContainers",
            Self::ContainerStatus => "ContainerStatus",
            Self::StopContainer => "StopContainer",
            Self::ExecSync => "ExecSync",
            Self::PodSandboxStatus => "PodSandboxStatus",
            Self::ImageFsInfo => "ImageFsInfo",
            Self::ListImages => "ListImages",
            Self::ImageStatus => "ImageStatus",
            Self::PullImage => "PullImage",
            Self::ListStatuses => "ListStatuses",
            Self::ListContent => "ListContent",
            Self::Info => "Info",
            Self::ReadContent => "ReadContent",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl CallError ===

impl CallError {
    /// Whether it failed because what was asked about does not exist, or no longer (WEAK-7).
    pub fn is_gone(&self) -> bool {
        matches!(self.why, Why::Gone(_))
    }
}

// === impl Why ===

impl Why {
    const RESULTS: [&'static str; 7] = ["ok", "slow", "unreachable", "not_served", "gone", "refused", "incomplete"];

    fn result(&self) -> &'static str {
        match self {
            Self::Slow(_) => "slow",
            Self::Unreachable(_) => "unreachable",
            Self::NotServed(_) => "not_served",
            Self::Gone(_) => "gone",
            Self::Refused { .. } => "refused",
            Self::Incomplete(_) => "incomplete",
        }
    }
}

impl From<Status> for Why {
    fn from(status: Status) -> Self {
        // The end of the chain is what a person needs: who refused what.
        let mut cause = status.source();
        while let Some(deeper) = cause.and_then(std::error::Error::source) {
            cause = Some(deeper);
        }
        if let Some(cause) = cause
            && status.code() != Code::OutOfRange
        {
            return Self::Unreachable(cause.to_string());
        }
        let message = status.message().to_owned();
        match status.code() {
            Code::Unimplemented => Self::NotServed(message),
            Code::NotFound => Self::Gone(message),
            // cri-dockerd has no code for it.
            Code::Unknown if message.to_ascii_lowercase().contains("no such container") => Self::Gone(message),
            code => Self::Refused { code, message },
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers them under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("cri_calls", "Calls to container runtimes by call and result", self.calls.clone());
        for call in Call::ALL {
            for result in Why::RESULTS {
                drop(self.calls.get_or_create(&[("call", call.name()), ("result", result)]));
            }
        }
    }

    fn called(&self, call: Call, result: &'static str) {
        self.calls.get_or_create(&[("call", call.name()), ("result", result)]).inc();
    }
}

// === impl Client ===

impl Client {
    /// A client of the runtime behind `socket`, which need not be there yet. Needs a tokio runtime.
    pub fn new(socket: &Path, metrics: Metrics) -> Self {
        let socket: Arc<Path> = socket.into();
        let path = Arc::clone(&socket);
        let connector = service_fn(move |_| {
            let path = Arc::clone(&path);
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is only what the `:authority` says; the connector knows better.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT);
        let channel = endpoint.connect_with_connector_lazy(connector);
        Self {
            socket,
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(MESSAGE),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(MESSAGE),
            content: ContentClient::new(channel).max_decoding_message_size(MESSAGE),
            metrics,
        }
    }

    /// Where the runtime is.
    pub fn socket(&self) -> &Arc<Path> {
        &self.socket
    }

    /// Who the runtime is.
    pub async fn version(&self) -> Result<Version, CallError> {
        let mut runtime = self.runtime.clone();
        let asked = runtime.version(v1::VersionRequest { version: "v1".to_owned() });
        let answer = self.call(Call::Version, ANSWER, asked).await?;
        for (member, name) in [
            (&answer.version, "version"),
            (&answer.runtime_name, "runtime_name"),
            (&answer.runtime_version, "runtime_version"),
            (&answer.runtime_api_version, "runtime_api_version"),
        ] {
            if member.is_empty() {
                return Err(self.failed(Call::Version, Why::Incomplete(name)));
            }
        }
        Ok(Version { name: answer.runtime_name, version: answer.runtime_version })
    }

    /// All containers of the pod with this UID, whatever their state, the newest first (CRI-4, CRR-40).
    pub async fn containers(&self, pod_uid: &str) -> Result<Vec<v1::ContainerStatus>, CallError> {
        let filter = v1::ContainerFilter {
            label_selector: [(POD_UID.to_owned(), pod_uid.to_owned())].into(),
            ..v1::ContainerFilter::default()
        };
        let mut runtime = self.runtime.clone();
        let asked = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) });
        let listed = self.call(Call::ListContainers, ANSWER, asked).await?.containers;
        let statuses = stream::iter(listed).map(async |container| self.container(&container.id).await);
        let mut found: Vec<v1::ContainerStatus> =
            statuses.buffer_unordered(ABREAST).try_filter_map(async |status| Ok(status)).try_collect().await?;
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(found)
    }

    /// One container. WEAK-7: one that went away since it was listed is `None` and no error.
    pub async fn container(&self, id: &str) -> Result<Option<v1::ContainerStatus>, CallError> {
        let mut runtime = self.runtime.clone();
        let asked = runtime.container_status(v1::ContainerStatusRequest { container_id: id.to_owned() });
        let status = match self.call(Call::ContainerStatus, ANSWER, asked).await {
            Err(error) if error.is_gone() => return Ok(None),
            answer => answer?.status,
        };
        // CRI-6. Differs: what is not used need not be there.
        let lacks = |what| Err(self.failed(Call::ContainerStatus, Why::Incomplete(what)));
        match status {
            None => lacks("the status"),
            Some(status) if status.id.is_empty() => lacks("an id"),
            Some(status) if status.created_at == 0 => lacks("the time of creation"),
            Some(status) if name_of(&status).is_none() => lacks("the name of the container"),
            Some(status) => Ok(Some(status)),
        }
    }

    /// Stops a container: asks it to end, and makes it end after `grace`. One that does not exist is stopped (WEAK-7).
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), CallError> {
        let mut runtime = self.runtime.clone();
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let asked = runtime.stop_container(v1::StopContainerRequest { container_id: id.to_owned(), timeout });
        match self.call(Call::StopContainer, grace.saturating_add(STOP_SLACK), asked).await {
            Err(error) if error.is_gone() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Runs a command in a container and waits for its end, for `limit` at most; who stops waiting ends the command.
    pub async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Executed, CallError> {
        let mut runtime = self.runtime.clone();
        // No timeout of the runtime: it would not tell what the command said (CRR-56).
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: 0 };
        let answer = self.call(Call::ExecSync, limit, runtime.exec_sync(request)).await?;
        let said = if answer.stderr.trim_ascii().is_empty() { &answer.stdout } else { &answer.stderr };
        Ok(Executed { exit_code: answer.exit_code, said: tail(said) })
    }

    /// A pod's sandbox, which knows the pod's addresses. `None` when there is none (CRI-12).
    pub async fn sandbox(&self, id: &str) -> Result<Option<v1::PodSandboxStatus>, CallError> {
        let mut runtime = self.runtime.clone();
        let asked = runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned() });
        match self.call(Call::PodSandboxStatus, ANSWER, asked).await {
            Err(error) if error.is_gone() => Ok(None),
            answer => Ok(answer?.status),
        }
    }

    /// Where images are kept, and how full that is; the cheapest question to the service of images.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CallError> {
        let mut images = self.images.clone();
        self.call(Call::ImageFsInfo, IMAGES, images.image_fs_info(v1::ImageFsInfoRequest {})).await
    }

    /// All images of the node.
    pub async fn images(&self) -> Result<Vec<v1::Image>, CallError> {
        let mut images = self.images.clone();
        let asked = images.list_images(v1::ListImagesRequest::default());
        Ok(self.call(Call::ListImages, ALL_IMAGES, asked).await?.images)
    }

    /// The image of this reference, if the node has it.
    pub async fn image(&self, reference: &str) -> Result<Option<v1::Image>, CallError> {
        let mut images = self.images.clone();
        let image = v1::ImageSpec { image: reference.to_owned(), ..v1::ImageSpec::default() };
        let asked = images.image_status(v1::ImageStatusRequest { image: Some(image) });
        match self.call(Call::ImageStatus, IMAGES, asked).await {
            Err(error) if error.is_gone() => Ok(None),
            answer => Ok(answer?.image),
        }
    }

    /// Pulls an image, for `limit` at most; who stops waiting ends the pull. What it became is told by its reference.
    pub async fn pull(&self, request: v1::PullImageRequest, limit: Duration) -> Result<String, CallError> {
        let mut images = self.images.clone();
        Ok(self.call(Call::PullImage, limit, images.pull_image(request)).await?.image_ref)
    }

    /// One call, bounded in time.
    async fn call<T>(
        &self,
        call: Call,
        limit: Duration,
        made: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let why = match tokio::time::timeout(limit, made).await {
            Ok(Ok(answer)) => {
                self.metrics.called(call, "ok");
                return Ok(answer.into_inner());
            }
            Ok(Err(status)) => status.into(),
            Err(_) => Why::Slow(limit),
        };
        self.metrics.called(call, why.result());
        Err(self.failed(call, why))
    }

    fn failed(&self, call: Call, why: Why) -> CallError {
        CallError { call, socket: Arc::clone(&self.socket), why }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// The name of a container in its pod.
pub fn name_of(status: &v1::ContainerStatus) -> Option<&str> {
    let label = status.labels.get(CONTAINER_NAME).map(String::as_str);
    let name = label.or_else(|| status.metadata.as_ref().map(|metadata| metadata.name.as_str()));
    name.filter(|name| !name.is_empty())
}

/// The end of what a command said.
fn tail(output: &[u8]) -> String {
    const TAIL: usize = 400;
    let text = String::from_utf8_lossy(&output[output.len().saturating_sub(TAIL)..]);
    text.trim_matches(|c: char| c.is_whitespace() || c == char::REPLACEMENT_CHARACTER).to_owned()
}

/// Passwords are not printed.
impl fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}
