//! A container runtime without containers, on a real unix socket: what CRI says of them, and how it misbehaves (CRI-10).
//!
//! It has a table of containers and one of images. Each stop, command and pull goes as it was told beforehand: at once,
//! slowly, with an error, or never. What was called is written down. [`Runtime::close`] and [`Runtime::open`] are a
//! restart of it: what is under way is cut, and the tables stay. Of pulls it also tells, as containerd does, which blobs
//! are there and how much there is of the others.

#![allow(dead_code, unreachable_pub, reason = "each target uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, reason = "generated; see tests/support/proto.rs")]
mod content;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, reason = "generated; see tests/support/proto.rs")]
mod server;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::{self, Stream};
use outrigger::api::image::full_name;
use outrigger::cri::content as blobs;
use outrigger::cri::{CONTAINER_NAME, POD_UID, RESTART_COUNT, v1};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};

use self::content::content_server::{Content, ContentServer};
use self::server::image_service_server::{ImageService, ImageServiceServer};
use self::server::runtime_service_server::{RuntimeService, RuntimeServiceServer};

/// The runtime.
pub struct Runtime {
    /// Its socket.
    pub socket: PathBuf,
    fake: Fake,
    server: Option<tokio::runtime::Runtime>,
    /// The directory of its socket, if it is its own.
    dir: Option<TempDir>,
}

/// What is in it.
#[derive(Default)]
pub struct World {
    /// What `Version` says: the name.
    pub name: String,
    /// Whether `Version` is answered, and CRI at all.
    pub serves: Serves,
    /// All containers by id.
    pub containers: BTreeMap<String, Container>,
    /// How the next stops of a container, by name, go; at once when nothing is said.
    pub stops: BTreeMap<String, VecDeque<Behaviour>>,
    /// How the next commands in a container, by name, go; at once when nothing is said.
    pub execs: BTreeMap<String, VecDeque<Behaviour>>,
    /// How the next pulls of an image go; at once when nothing is said.
    pub pulls: BTreeMap<String, VecDeque<Behaviour>>,
    /// Images by reference.
    pub images: BTreeMap<String, v1::Image>,
    /// Users and passwords without which an image is not given out.
    pub logins: BTreeMap<String, (String, String)>,
    /// Images that no registry has.
    pub unknown: BTreeSet<String>,
    /// Where images are kept, as `ImageFsInfo` says; empty when it does not say.
    pub mountpoint: String,
    /// Sandboxes that pulls told of.
    pub sandboxes: Vec<v1::PodSandboxConfig>,
    /// Blobs that are there, by digest, with their bytes as far as somebody reads them.
    pub blobs: BTreeMap<String, (blobs::Info, Vec<u8>)>,
    /// Blobs on their way, by what they are called.
    pub underway: BTreeMap<String, blobs::Status>,
    /// Whether it has no store of content, as all but containerd.
    pub is_mute: bool,
    /// What changed something, in order: `stop web c1 30`, `exec web c1 /drain`, `pull nginx user`.
    pub log: Vec<String>,
    /// Pulls and commands that were given up by who asked for them.
    pub cancelled: Vec<String>,
    /// Calls of any kind.
    pub calls: u64,
    /// Containers that were listed and are gone when asked for (WEAK-7).
    pub vanishing: bool,
    made: u64,
}

/// What it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// CRI v1.
    #[default]
    Well,
    /// Nothing, ever.
    Hangs,
    /// No CRI.
    Other,
    /// A version without a name.
    Nameless,
}

/// How a call goes.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// It does what it should, after a while.
    After(Duration),
    /// It fails after a while, having done nothing.
    Fails(Duration, tonic::Code, String),
    /// It does what it should after a while, and then fails.
    DoesAndFails(Duration, tonic::Code, String),
    /// It is never answered.
    Hangs,
    /// A command ends so, after a while.
    Exits(Duration, i32, String),
    /// A pull brings layers of these sizes, one after the other, for so long.
    Brings(Duration, Vec<u64>),
}

/// One container.
#[derive(Clone, Debug)]
pub struct Container {
    /// UID of its pod.
    pub pod_uid: String,
    /// Its name in the pod.
    pub name: String,
    /// What `ContainerStatus` says.
    pub status: v1::ContainerStatus,
}

#[derive(Clone)]
struct Fake {
    world: Arc<Mutex<World>>,
    changes: watch::Sender<u64>,
}

// === impl Runtime ===

impl Runtime {
    /// A containerd in a directory of its own.
    pub fn alone() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut runtime = Self::start(&dir.path().join("containerd/containerd.sock"), "containerd");
        runtime.dir = Some(dir);
        runtime
    }

    /// A runtime of this name that is served at `socket`.
    pub fn start(socket: &Path, name: &str) -> Self {
        let mut runtime = Self::closed(socket, name);
        runtime.open();
        runtime
    }

    /// The same, not served yet.
    pub fn closed(socket: &Path, name: &str) -> Self {
        let world = World { name: name.to_owned(), ..World::default() };
        let fake = Fake { world: Arc::new(Mutex::new(world)), changes: watch::Sender::new(0) };
        Self { socket: socket.to_owned(), fake, server: None, dir: None }
    }

    /// Serves it.
    pub fn open(&mut self) {
        std::fs::create_dir_all(self.socket.parent().unwrap()).unwrap();
        _ = std::fs::remove_file(&self.socket);
        // A runtime of its own: when it is dropped, connections are cut as when a process dies.
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = server.enter();
        let listener = UnixListener::bind(&self.socket).unwrap();
        drop(entered);
        let incoming = stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let serving = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(self.fake.clone()))
            .add_service(ImageServiceServer::new(self.fake.clone()))
            .add_service(ContentServer::new(self.fake.clone()))
            .serve_with_incoming(incoming);
        server.spawn(serving);
        self.server = Some(server);
    }

    /// Ends serving, and every connection.
    pub fn close(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        _ = std::fs::remove_file(&self.socket);
    }

    /// What is in it.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.fake.lock()
    }

    /// Changes whenever a container starts or ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.fake.changes.subscribe()
    }

    /// Starts a container; its id.
    pub fn run(&self, pod_uid: &str, name: &str, restart_count: i32) -> String {
        let id = self.world().run(pod_uid, name, restart_count);
        self.fake.changed();
        id
    }

    /// Ends a container from within.
    pub fn crash(&self, id: &str, exit_code: i32) {
        self.world().exit(id, exit_code);
        self.fake.changed();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl World ===

impl World {
    /// Starts a container; its id.
    pub fn run(&mut self, pod_uid: &str, name: &str, restart_count: i32) -> String {
        self.made += 1;
        // As long as real ones.
        let id = format!("{:064x}", self.made);
        let now = nanoseconds();
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: restart_count.try_into().unwrap_or_default(),
            }),
            state: v1::ContainerState::ContainerRunning.into(),
            // Two of the same nanosecond would have no order.
            created_at: now + i64::try_from(self.made).unwrap(),
            started_at: now,
            image: Some(v1::ImageSpec { image: "example/web:1".to_owned(), ..v1::ImageSpec::default() }),
            image_ref: "example/web@sha256:0".to_owned(),
            labels: BTreeMap::from([(POD_UID, pod_uid), (CONTAINER_NAME, name)].map(owned)),
            annotations: BTreeMap::from([owned((RESTART_COUNT, &restart_count.to_string()))]),
            ..v1::ContainerStatus::default()
        };
        let container = Container { pod_uid: pod_uid.to_owned(), name: name.to_owned(), status };
        self.containers.insert(id.clone(), container);
        id
    }

    /// Ends a container.
    pub fn exit(&mut self, id: &str, exit_code: i32) {
        if let Some(container) = self.containers.get_mut(id)
            && container.status.state() == v1::ContainerState::ContainerRunning
        {
            container.status.set_state(v1::ContainerState::ContainerExited);
            container.status.exit_code = exit_code;
            container.status.finished_at = nanoseconds();
        }
    }

    /// What was logged that begins so.
    pub fn logged(&self, beginning: &str) -> Vec<String> {
        self.log.iter().filter(|line| line.starts_with(beginning)).cloned().collect()
    }

    fn name_of(&self, id: &str) -> Option<String> {
        self.containers.get(id).map(|container| container.name.clone())
    }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn nanoseconds() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

// === impl Fake ===

impl Fake {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// How this runtime answers anything at all.
    async fn enter(&self) -> Result<(), Status> {
        let serves = {
            let mut world = self.lock();
            world.calls += 1;
            world.serves
        };
        match serves {
            Serves::Well | Serves::Nameless => Ok(()),
            Serves::Other => Err(Status::unimplemented("unknown service runtime.v1.RuntimeService")),
            Serves::Hangs => std::future::pending().await,
        }
    }
}

fn next(of: &mut BTreeMap<String, VecDeque<Behaviour>>, name: &str) -> Behaviour {
    of.get_mut(name).and_then(VecDeque::pop_front).unwrap_or(Behaviour::After(Duration::ZERO))
}

/// Notes that who asked went away, unless it is defused.
struct Given(Fake, Option<String>);

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(line) = self.1.take() {
            self.0.lock().cancelled.push(line);
        }
    }
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        self.enter().await?;
        let world = self.lock();
        let name = if world.serves == Serves::Nameless { String::new() } else { world.name.clone() };
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: name,
            runtime_version: "v1.7.2".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        self.enter().await?;
        Err(Status::not_found(request.into_inner().pod_sandbox_id))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        self.enter().await?;
        let v1::StopContainerRequest { container_id: id, timeout } = request.into_inner();
        let behaviour = {
            let mut world = self.lock();
            let Some(name) = world.name_of(&id) else {
                return Err(Status::not_found(format!("no container {id}")));
            };
            world.log.push(format!("stop {name} {id} {timeout}"));
            next(&mut world.stops, &name)
        };
        let exit = || {
            self.lock().exit(&id, 143);
            self.changed();
        };
        match behaviour {
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::After(while_) | Behaviour::Exits(while_, ..) | Behaviour::Brings(while_, ..) => {
                let grace = Duration::from_secs(timeout.try_into().unwrap_or_default());
                sleep(while_.min(grace)).await;
                exit();
                Ok(Response::new(v1::StopContainerResponse {}))
            }
            Behaviour::Fails(while_, code, message) => {
                sleep(while_).await;
                Err(Status::new(code, message))
            }
            Behaviour::DoesAndFails(while_, code, message) => {
                sleep(while_).await;
                exit();
                Err(Status::new(code, message))
            }
        }
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        self.enter().await?;
        let wanted = request.into_inner().filter.unwrap_or_default().label_selector;
        let mut world = self.lock();
        let has =
            |container: &Container| wanted.iter().all(|(key, value)| container.status.labels.get(key) == Some(value));
        let containers: Vec<v1::Container> = world
            .containers
            .values()
            .filter(|container| has(container))
            .map(|Container { status, pod_uid, .. }| v1::Container {
                id: status.id.clone(),
                pod_sandbox_id: format!("sandbox-{pod_uid}"),
                metadata: status.metadata.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                annotations: status.annotations.clone(),
                ..v1::Container::default()
            })
            .collect();
        if std::mem::take(&mut world.vanishing) {
            world.containers.clear();
        }
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        self.enter().await?;
        let id = request.into_inner().container_id;
        let world = self.lock();
        let container = world.containers.get(&id).ok_or_else(|| Status::not_found(format!("no container {id}")))?;
        Ok(Response::new(v1::ContainerStatusResponse { status: Some(container.status.clone()) }))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Result<Response<v1::ExecSyncResponse>, Status> {
        self.enter().await?;
        let v1::ExecSyncRequest { container_id: id, cmd, .. } = request.into_inner();
        let (line, behaviour) = {
            let mut world = self.lock();
            let Some(name) = world.name_of(&id) else {
                return Err(Status::not_found(format!("no container {id}")));
            };
            let line = format!("exec {name} {id} {}", cmd.join(" "));
            world.log.push(line.clone());
            (line, next(&mut world.execs, &name))
        };
        let mut given = Given(self.clone(), Some(line));
        let answer = match behaviour {
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::After(while_) | Behaviour::Brings(while_, ..) => {
                sleep(while_).await;
                Ok(v1::ExecSyncResponse::default())
            }
            Behaviour::Exits(while_, exit_code, said) => {
                sleep(while_).await;
                Ok(v1::ExecSyncResponse { stdout: Vec::new(), stderr: said.into_bytes(), exit_code })
            }
            Behaviour::Fails(while_, code, message) | Behaviour::DoesAndFails(while_, code, message) => {
                sleep(while_).await;
                Err(Status::new(code, message))
            }
        };
        given.1 = None;
        answer.map(Response::new)
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesResponse>, Status> {
        self.enter().await?;
        Ok(Response::new(v1::ListImagesResponse { images: self.lock().images.values().cloned().collect() }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        self.enter().await?;
        let wanted = request.into_inner().image.unwrap_or_default().image;
        Ok(Response::new(v1::ImageStatusResponse { image: self.lock().images.get(&wanted).cloned() }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        self.enter().await?;
        let v1::PullImageRequest { image, auth, sandbox_config } = request.into_inner();
        let (image, auth) = (image.unwrap_or_default().image, auth.unwrap_or_default());
        let line = format!("pull {image} {}", auth.username).trim_end().to_owned();
        let behaviour = {
            let mut world = self.lock();
            world.log.push(line.clone());
            world.sandboxes.extend(sandbox_config);
            if world.unknown.contains(&image) {
                let full = full_name(&image);
                return Err(Status::not_found(format!(
                    "failed to pull and unpack image \"{full}\": failed to resolve reference \"{full}\": {full}: not found"
                )));
            }
            if world.logins.get(&image).is_some_and(|login| *login != (auth.username, auth.password)) {
                return Err(Status::unknown(
                    "failed to authorize: unexpected status from GET request: 401 Unauthorized",
                ));
            }
            next(&mut world.pulls, &image)
        };
        let mut given = Given(self.clone(), Some(line));
        let answer = match behaviour {
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::After(while_) | Behaviour::Exits(while_, ..) => {
                sleep(while_).await;
                Ok(self.lock().pulled(&image))
            }
            Behaviour::Brings(while_, layers) => {
                self.bring(&image, while_, &layers).await;
                Ok(self.lock().pulled(&image))
            }
            Behaviour::Fails(while_, code, message) => {
                sleep(while_).await;
                Err(Status::new(code, message))
            }
            Behaviour::DoesAndFails(while_, code, message) => {
                sleep(while_).await;
                self.lock().pulled(&image);
                Err(Status::new(code, message))
            }
        };
        given.1 = None;
        answer.map(|image_ref| Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        self.enter().await?;
        let mountpoint = self.lock().mountpoint.clone();
        let fs_id = Some(v1::FilesystemIdentifier { mountpoint });
        let usage = v1::FilesystemUsage { timestamp: nanoseconds(), fs_id, ..v1::FilesystemUsage::default() };
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage],
            ..v1::ImageFsInfoResponse::default()
        }))
    }
}

impl Fake {
    /// Has blobs come in, as a pull of containerd does.
    async fn bring(&self, image: &str, while_: Duration, layers: &[u64]) {
        const STEPS: u64 = 100;
        let digest = |what: &str| format!("sha256:{:064x}", hash(&format!("{image} {what}")));
        let full = full_name(image);
        let (repository, _) = full.rsplit_once(':').unwrap();
        let (host, path) = repository.split_once('/').unwrap();
        let host = host.split(':').next().unwrap();
        let named: Vec<(String, u64)> =
            layers.iter().enumerate().map(|(number, size)| (digest(&number.to_string()), *size)).collect();
        let descriptor = |(digest, size): &(String, u64)| serde_json::json!({"digest": digest, "size": size});
        let config = (digest("config"), 7);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": descriptor(&config),
            "layers": named.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let labels = [
            (format!("containerd.io/distribution.source.{host}"), path.to_owned()),
            ("containerd.io/gc.ref.content.config".to_owned(), config.0.clone()),
        ];
        let manifest = manifest.to_string().into_bytes();
        self.lock().blob(&digest("manifest"), manifest.len() as u64, manifest, labels.into());
        self.lock().blob(&config.0, config.1, Vec::new(), BTreeMap::new());
        let all: u64 = layers.iter().sum();
        for step in 0..STEPS {
            sleep(while_ / u32::try_from(STEPS).unwrap()).await;
            let mut come = all * (step + 1) / STEPS;
            let mut world = self.lock();
            for (digest, size) in &named {
                let name = format!("layer-{digest}");
                if come >= *size {
                    world.underway.remove(&name);
                    world.blob(digest, *size, Vec::new(), BTreeMap::new());
                } else if come > 0 {
                    let (offset, total) = (i64::try_from(come).unwrap(), i64::try_from(*size).unwrap());
                    let status = blobs::Status { r#ref: name.clone(), offset, total, ..blobs::Status::default() };
                    world.underway.insert(name, status);
                }
                come = come.saturating_sub(*size);
            }
        }
    }

    /// How a store of content answers anything at all.
    async fn enter_content<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.enter().await?;
        if self.lock().is_mute {
            return Err(Status::unimplemented("unknown service containerd.services.content.v1.Content"));
        }
        let namespace = request.metadata().get("containerd-namespace").map(|value| value.to_str().unwrap().to_owned());
        if namespace.as_deref() == Some("k8s.io") {
            return Ok(());
        }
        Err(Status::failed_precondition("namespace is required"))
    }
}

impl World {
    /// Has an image; its id.
    pub fn pulled(&mut self, image: &str) -> String {
        let id = format!("sha256:{:064x}", hash(image));
        let digests = image.split_once('@').map(|(name, digest)| {
            let full = full_name(&format!("{name}@"));
            format!("{full}@{digest}")
        });
        let pulled = v1::Image {
            id: id.clone(),
            repo_tags: if digests.is_some() { Vec::new() } else { vec![full_name(image)] },
            repo_digests: digests.into_iter().collect(),
            size: 1,
            ..v1::Image::default()
        };
        self.images.insert(image.to_owned(), pulled);
        id
    }

    fn blob(&mut self, digest: &str, size: u64, bytes: Vec<u8>, labels: BTreeMap<String, String>) {
        let now = nanoseconds();
        let time = blobs::Time { seconds: now / 1_000_000_000, nanos: i32::try_from(now % 1_000_000_000).unwrap() };
        let info = blobs::Info {
            digest: digest.to_owned(),
            size: i64::try_from(size).unwrap(),
            created_at: Some(time),
            updated_at: Some(time),
            labels,
        };
        self.blobs.insert(digest.to_owned(), (info, bytes));
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[tonic::async_trait]
impl Content for Fake {
    type ListStream = Pin<Box<dyn Stream<Item = Result<blobs::ListContentResponse, Status>> + Send>>;
    type ReadStream = Pin<Box<dyn Stream<Item = Result<blobs::ReadContentResponse, Status>> + Send>>;

    async fn info(&self, request: Request<blobs::InfoRequest>) -> Result<Response<blobs::InfoResponse>, Status> {
        self.enter_content(&request).await?;
        let digest = request.into_inner().digest;
        let found = self.lock().blobs.get(&digest).map(|(info, _)| info.clone());
        let found = found.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))?;
        Ok(Response::new(blobs::InfoResponse { info: Some(found) }))
    }

    async fn list(&self, request: Request<blobs::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        self.enter_content(&request).await?;
        // Only the form that is used here: labels that must be there.
        let filter = request.into_inner().filters.pop().unwrap_or_default();
        let wanted: Vec<&str> =
            filter.split(',').filter_map(|part| part.strip_prefix("labels.\"")?.strip_suffix('"')).collect();
        let blobs = self.lock().blobs.values().map(|(info, _)| info.clone()).collect::<Vec<_>>();
        let found = blobs.into_iter().filter(|info| wanted.iter().all(|label| info.labels.contains_key(*label)));
        let answers: Vec<_> = found.map(|info| Ok(blobs::ListContentResponse { info: vec![info] })).collect();
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }

    async fn read(&self, request: Request<blobs::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.enter_content(&request).await?;
        let digest = request.into_inner().digest;
        let bytes = self.lock().blobs.get(&digest).map(|(_, bytes)| bytes.clone());
        let bytes = bytes.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))?;
        let pieces: Vec<_> =
            bytes.chunks(64).map(|piece| Ok(blobs::ReadContentResponse { offset: 0, data: piece.to_vec() })).collect();
        Ok(Response::new(Box::pin(stream::iter(pieces))))
    }

    async fn list_statuses(
        &self,
        request: Request<blobs::ListStatusesRequest>,
    ) -> Result<Response<blobs::ListStatusesResponse>, Status> {
        self.enter_content(&request).await?;
        let statuses = self.lock().underway.values().cloned().collect();
        Ok(Response::new(blobs::ListStatusesResponse { statuses }))
    }
}

/// Waits for something to become true, for ten seconds at most.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
