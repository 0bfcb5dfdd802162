//! A container runtime without containers, on a real unix socket: what CRI says of them, and how it misbehaves (CRI-10).
//!
//! It has a table of containers and one of images. Each stop, command and pull goes as it was told beforehand: at once,
//! slowly, with an error, or never. What was called is written down. [`Runtime::close`] and [`Runtime::open`] are a
//! restart of it: what is under way is cut, and the tables stay.

#![allow(dead_code, unreachable_pub, reason = "each target uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, reason = "generated; see tests/support/proto.rs")]
mod server;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream;
use outrigger::cri::{CONTAINER_NAME, POD_UID, RESTART_COUNT, v1};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};

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
            Behaviour::After(while_) | Behaviour::Exits(while_, ..) => {
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
            Behaviour::After(while_) => {
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
        let v1::PullImageRequest { image, auth, .. } = request.into_inner();
        let (image, user) = (image.unwrap_or_default().image, auth.unwrap_or_default().username);
        let line = format!("pull {image} {user}").trim_end().to_owned();
        let behaviour = {
            let mut world = self.lock();
            world.log.push(line.clone());
            next(&mut world.pulls, &image)
        };
        let mut given = Given(self.clone(), Some(line));
        let answer = match behaviour {
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::After(while_) | Behaviour::Exits(while_, ..) => {
                sleep(while_).await;
                let mut world = self.lock();
                let id = format!("sha256:{:064x}", world.images.len());
                let pulled =
                    v1::Image { id: id.clone(), repo_tags: vec![image.clone()], size: 1, ..v1::Image::default() };
                world.images.insert(image, pulled);
                Ok(v1::PullImageResponse { image_ref: id })
            }
            Behaviour::Fails(while_, code, message) | Behaviour::DoesAndFails(while_, code, message) => {
                sleep(while_).await;
                Err(Status::new(code, message))
            }
        };
        given.1 = None;
        answer.map(Response::new)
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        self.enter().await?;
        Ok(Response::new(v1::ImageFsInfoResponse::default()))
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
