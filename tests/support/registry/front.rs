//! What stands before the registries: passes on what it is asked, writes down who asked for what, and misbehaves as told,
//! each repository by itself.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use futures::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How a repository misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers nothing, until it does so no longer.
    Hang,
    /// It answers 429 to everything.
    TooMany,
    /// No layer is sent beyond so many bytes: then the connection is cut, also when the rest is asked for.
    Truncate(u64),
    /// It sends so many bytes in a second, all layers together.
    Throttle(u32),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Manifest,
    Blob,
    Other,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub kind: Kind,
    /// Tag or digest.
    pub reference: String,
    pub at: Instant,
    /// Whether somebody said who they are.
    pub authorized: bool,
    /// What was answered; none while it was not.
    pub status: Option<StatusCode>,
}

/// What is known of a repository.
#[derive(Default)]
struct Repository {
    fault: Option<Fault>,
    asked: Vec<Asked>,
    /// Bytes of blobs that were sent.
    sent: u64,
    /// Requests of blobs that are under way.
    open: usize,
    /// When the next bytes may be sent.
    next: Option<Instant>,
}

struct State {
    /// Where the registries are: by the beginning of the repository's name, the last that fits.
    behind: Vec<(String, u16)>,
    repositories: Mutex<BTreeMap<String, Repository>>,
    /// Told when a fault changes.
    changes: watch::Sender<()>,
}

/// The front, at a port of the loopback. Ends when it is dropped.
pub struct Front {
    state: Arc<State>,
    port: u16,
    task: JoinHandle<()>,
}

// === impl Front ===

impl Front {
    /// Before these registries, by the beginning of the names of their repositories; the last that fits is asked.
    pub async fn start(behind: &[(&str, u16)]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let behind = behind.iter().map(|(prefix, port)| ((*prefix).to_owned(), *port)).collect();
        let state = Arc::new(State { behind, repositories: Mutex::default(), changes: watch::Sender::default() });
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { state, port, task })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on this repository behaves so; requests that hang go on when it does not hang any more.
    pub fn set(&self, repository: &str, fault: Option<Fault>) {
        let mut repositories = self.state.lock();
        let repository = repositories.entry(repository.to_owned()).or_default();
        repository.fault = fault;
        repository.next = None;
        drop(repositories);
        let _ = self.state.changes.send(());
    }

    /// All that was asked of this repository.
    pub fn asked(&self, repository: &str) -> Vec<Asked> {
        self.state.lock().get(repository).map(|it| it.asked.clone()).unwrap_or_default()
    }

    /// Bytes of this repository's blobs that were sent.
    pub fn sent(&self, repository: &str) -> u64 {
        self.state.lock().get(repository).map(|it| it.sent).unwrap_or_default()
    }

    /// Requests of this repository's blobs that are under way.
    pub fn open(&self, repository: &str) -> usize {
        self.state.lock().get(repository).map(|it| it.open).unwrap_or_default()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl State ===

impl State {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Repository>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, repository: &str) -> Option<Fault> {
        self.lock().get(repository)?.fault
    }

    fn port(&self, repository: &str) -> Option<u16> {
        self.behind.iter().rev().find(|(prefix, _)| repository.starts_with(prefix.as_str())).map(|(_, port)| *port)
    }

    /// Counts bytes that are about to be sent; when they may be.
    fn pace(&self, repository: &str, bytes: usize) -> Option<Instant> {
        let mut repositories = self.lock();
        let repository = repositories.get_mut(repository)?;
        repository.sent += bytes as u64;
        let Some(Fault::Throttle(rate)) = repository.fault else { return None };
        let takes = Duration::from_secs(bytes as u64) / rate.max(1);
        let next = repository.next.filter(|next| *next > Instant::now()).unwrap_or_else(Instant::now) + takes;
        repository.next = Some(next);
        Some(next)
    }
}

/// A request of a blob that is under way.
struct Open {
    state: Arc<State>,
    repository: String,
}

impl Open {
    fn new(state: &Arc<State>, repository: &str) -> Self {
        state.lock().entry(repository.to_owned()).or_default().open += 1;
        Self { state: Arc::clone(state), repository: repository.to_owned() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(repository) = self.state.lock().get_mut(&self.repository) {
            repository.open -= 1;
        }
    }
}

// === what is served ===

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with the task, and then all of them end.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(Arc::clone(&state), request));
        connections.spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (repository, kind, reference) = parse(request.uri().path());
    let number = {
        let mut repositories = state.lock();
        let asked = &mut repositories.entry(repository.clone()).or_default().asked;
        asked.push(Asked {
            method: request.method().clone(),
            kind,
            reference,
            at: Instant::now(),
            authorized: request.headers().contains_key(header::AUTHORIZATION),
            status: None,
        });
        asked.len() - 1
    };
    let open = (kind == Kind::Blob).then(|| Open::new(&state, &repository));
    let mut changes = state.changes.subscribe();
    while state.fault(&repository) == Some(Fault::Hang) {
        changes.changed().await.map_err(io::Error::other)?;
    }
    let response = match state.fault(&repository) {
        Some(Fault::TooMany) => too_many(),
        _ => pass_on(&state, &repository, kind, open, request).await.map_err(io::Error::other)?,
    };
    if let Some(asked) = state.lock().get_mut(&repository).and_then(|it| it.asked.get_mut(number)) {
        asked.status = Some(response.status());
    }
    Ok(response)
}

/// `/v2/team/app/manifests/1`: the repository, what is asked for, and its tag or digest.
fn parse(path: &str) -> (String, Kind, String) {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    let at = |part: &str, kind| {
        let (repository, reference) = path.rsplit_once(part)?;
        Some((repository.to_owned(), kind, reference.to_owned()))
    };
    at("/manifests/", Kind::Manifest)
        .or_else(|| at("/blobs/", Kind::Blob))
        .unwrap_or_else(|| (path.to_owned(), Kind::Other, String::new()))
}

fn too_many() -> Response<Body> {
    let text = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "you have reached your pull rate limit"}]});
    let mut response = Response::new(full(text.to_string()));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

async fn pass_on(
    state: &Arc<State>,
    repository: &str,
    kind: Kind,
    open: Option<Open>,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let port = state.port(repository).context("there is no registry behind")?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut registry, connection) = client::handshake(TokioIo::new(stream)).await?;
    // Ends with the response, or when either side has gone.
    tokio::spawn(connection);
    let asks_for_bytes = kind == Kind::Blob && request.method() == Method::GET;
    let (parts, body) = registry.send_request(request).await?.into_parts();
    if !asks_for_bytes || !parts.status.is_success() {
        return Ok(Response::from_parts(parts, body.map_err(io::Error::other).boxed_unsync()));
    }
    // A part of a blob begins here: `bytes 100-199/1000`.
    let range = parts.headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let begin = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    let (state, repository, mut at) = (Arc::clone(state), repository.to_owned(), begin.unwrap_or_default());
    let bytes = body.into_data_stream().map_err(io::Error::other).and_then(move |mut bytes| {
        let _open = &open;
        let cut = match state.fault(&repository) {
            Some(Fault::Truncate(end)) => usize::try_from(end.saturating_sub(at)).ok().filter(|n| *n < bytes.len()),
            _ => None,
        };
        let piece = match cut {
            Some(0) => Err(io::Error::other("cut")),
            Some(end) => Ok(bytes.split_to(end)),
            None => Ok(bytes),
        };
        at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let due = piece.as_ref().ok().and_then(|piece| state.pace(&repository, piece.len()));
        async move {
            if let Some(due) = due {
                sleep_until(due).await;
            }
            piece
        }
    });
    Ok(Response::from_parts(parts, StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync()))
}
