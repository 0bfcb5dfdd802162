//! The TLS listener: who may connect, for how long, and how it all ends.
//!
//! Each connection is one task in one set, and each HTTP/2 request is one task in one tracker, so that a drain
//! can name what it waits for and what it cuts. A connection is watched by a single timer and by counters
//! that requests only bump: on the hot path nobody reads a clock, takes a lock or logs.
//! The router above sees plain requests; it reads bodies through [`read_body`], which carries the size limit
//! and the deadline.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Request, Response, StatusCode, Version};
use axum::routing::future::RouteFuture;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, error, info, warn};

/// How long an HTTP/1.1 connection may still bring a request after the drain has begun, at most half of the drain.
/// Its answer then says `connection: close`; closing at once would break the request that is already on its way.
const LINGER: Duration = Duration::from_millis(500);

/// How much of a request's head is kept in memory, for either protocol.
const HEAD_BYTES: u32 = 64 * 1024;

/// What a body gets by announcing its length; the rest it gets by sending it.
const FIRST_ROOM: usize = 256 * 1024;

/// How long the accept loop rests when the process is out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What a client may take up, and for how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; one more is closed at once. Default 1024.
    pub connections: usize,
    /// From the TCP connection to the end of the TLS handshake. Default 5 s.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head, and from the handshake to the first request.
    /// Default 10 s.
    pub header: Duration,
    /// How long a connection stays open without a request; it is closed within a quarter more. Default 120 s.
    pub idle: Duration,
    /// The largest request body. Default 8 MiB: a review holds an object twice, and etcd takes 1.5 MiB of it.
    pub body_bytes: usize,
    /// The time a request has to bring its body. Default 2.5 s, below the `timeoutSeconds: 3` of our webhooks,
    /// so that the caller reads our reason and not its own timeout.
    pub request: Duration,
    /// Requests at the same time on one HTTP/2 connection. Default 250, as Go's servers allow.
    pub streams: u32,
    /// How often a silent HTTP/2 peer is asked whether it is still there. Default 30 s.
    pub ping: Duration,
}

/// A port that is not taken yet.
#[derive(Debug)]
pub struct Server;

/// A port that is ours. The kernel already queues connections; [`Bound::serve`] answers them.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    counts: Arc<Counts>,
}

/// What the listener has seen since it was bound. Read them for metrics at any time.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because [`Limits::connections`] were open.
    pub refused: AtomicU64,
    /// Handshakes that failed or took too long.
    pub handshakes_failed: AtomicU64,
    /// Connections cut for a slow head, or because the peer did not take its answer.
    pub cut: AtomicU64,
    /// Times the kernel could not give us a connection.
    pub accept_errors: AtomicU64,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when the drain began.
    pub open: usize,
    /// Those that were cut because they had not ended in time.
    pub cut: usize,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken, or the address is not of this machine.
    #[error("cannot listen on {addr}: choose a free port and an address of this machine")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a request has no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than allowed, by its `content-length` or by what came.
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// [`Limits::body_bytes`].
        limit: usize,
    },
    /// Not complete in time.
    #[error("the request body was not complete after {} ms", after.as_millis())]
    TooSlow {
        /// [`Limits::request`].
        after: Duration,
    },
    /// The client went away or broke the protocol.
    #[error("the request body ended before it was complete")]
    Broken {
        /// What the connection said.
        source: axum::Error,
    },
}

/// What all connections of one listener share.
struct Shared {
    limits: Limits,
    linger: Duration,
    router: Router,
    h1: auto::Builder<Streams>,
    h2: auto::Builder<Streams>,
    streams: TaskTracker,
    counts: Arc<Counts>,
    /// Wakes every connection once, when the drain begins.
    drain: CancellationToken,
    /// The same news for those who are awake: a load instead of the token's lock.
    draining: AtomicBool,
}

/// The life signs of one connection, left by its requests and its socket, read by its [`Watch`].
struct Pulse {
    shared: Arc<Shared>,
    /// Requests begun.
    begun: AtomicU64,
    /// Requests answered or given up.
    ended: AtomicU64,
    /// Bytes have come that no request has claimed yet.
    head: AtomicBool,
}

/// A socket that tells its [`Pulse`] when bytes come between two requests.
struct Watched {
    stream: TlsStream<TcpStream>,
    pulse: Arc<Pulse>,
}

/// Hands requests to the router and counts them.
struct Door {
    router: Router,
    pulse: Arc<Pulse>,
}

/// A request on its way through the router.
struct Answer {
    route: RouteFuture<Infallible>,
    pulse: Arc<Pulse>,
    /// HTTP/2 says goodbye by a frame; HTTP/1.1 says it on the answer.
    says_close: bool,
}

/// Decides when a connection has had its time.
struct Watch<'a> {
    pulse: &'a Pulse,
    protocol: Protocol,
    timer: Pin<Box<Sleep>>,
    stage: Stage,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The drain's waker is left once: a task keeps its waker for life.
    drain_asked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

#[derive(Clone, Copy)]
enum Stage {
    /// A head has begun, or the connection is new: one more request must have begun when the timer ends.
    Head { begun: u64 },
    /// Between requests or in the middle of some; quiet since, with so many requests begun.
    Open { quiet: Instant, begun: u64 },
    /// Draining, HTTP/1.1: one more request may come.
    Linger,
    /// Told to end; the timer sees to it that it does.
    Closing,
}

enum Act {
    Close,
    Cut(&'static str),
}

/// Spawns HTTP/2 requests where the drain can wait for them. They end with their connection: h2 tells each
/// stream that its connection is gone, and hyper then drops the handler.
#[derive(Clone)]
struct Streams(TaskTracker);

/// Lets one log line through a second.
#[derive(Default)]
struct Quiet {
    last: Option<Instant>,
    held: u64,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            idle: Duration::from_mins(2),
            body_bytes: 8 * 1024 * 1024,
            request: Duration::from_millis(2500),
            streams: 250,
            ping: Duration::from_secs(30),
        }
    }
}

// === impl Server ===

impl Server {
    /// Takes the port, before any task starts, so that a conflict is an error of the start.
    pub async fn bind(addr: SocketAddr, tls: Arc<rustls::ServerConfig>, limits: Limits) -> Result<Bound, ServeError> {
        let failed = |source| ServeError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Bound { listener, addr, tls, limits, counts: Arc::default() })
    }
}

// === impl Bound ===

impl Bound {
    /// The address that clients can reach, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the listener has seen; shared with the running server.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Serves until `shutdown`, then lets what is in flight end, for at most `drain`.
    pub async fn serve(self, router: Router, shutdown: CancellationToken, drain: Duration) -> Drained {
        let Self { listener, tls, limits, counts, addr } = self;
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Semaphore::new(limits.connections));
        let shared = Arc::new(Shared::new(limits, drain, router, counts));
        let mut connections = JoinSet::new();
        let mut refusals = Quiet::default();
        let mut failures = Quiet::default();
        debug!(%addr, "listening");

        let mut welcome = |stream, peer, connections: &mut JoinSet<()>| {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                shared.counts.refused.fetch_add(1, Relaxed);
                if let Some(more) = refusals.pass() {
                    let limit = shared.limits.connections;
                    warn!(%peer, limit, more, "connection refused: too many are open");
                }
                return;
            };
            shared.counts.accepted.fetch_add(1, Relaxed);
            let tls = acceptor.clone();
            connections.spawn(greet(stream, peer, tls, Arc::clone(&shared), slot));
        };

        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(end) = connections.join_next() => report(end),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => welcome(stream, peer, &mut connections),
                    Err(err) if of_one_client(&err) => debug!(error = %err, "client left the queue"),
                    Err(err) => {
                        shared.counts.accept_errors.fetch_add(1, Relaxed);
                        if let Some(more) = failures.pass() {
                            error!(error = %err, more, "cannot accept connections");
                        }
                        // Not the whole of it when the shutdown comes.
                        let _ = timeout(ACCEPT_REST, shutdown.cancelled()).await;
                    }
                },
            }
        }

        // Who is in the kernel's queue has been told "connected": they are served too.
        if let Ok(listener) = listener.into_std() {
            while let Ok((stream, peer)) = listener.accept() {
                let ready = stream.set_nonblocking(true);
                if let Ok(stream) = ready.and_then(|()| TcpStream::from_std(stream)) {
                    welcome(stream, peer, &mut connections);
                }
            }
        }
        shared.draining.store(true, Relaxed);
        shared.drain.cancel();
        let open = connections.len();
        let all = async {
            while let Some(end) = connections.join_next().await {
                report(end);
            }
        };
        let in_time = timeout(drain, all).await.is_ok();
        let cut = connections.len();
        connections.shutdown().await;
        shared.streams.close();
        // Cut streams end as soon as they are polled: this is a matter of scheduling.
        let _ = timeout(Duration::from_secs(1), shared.streams.wait()).await;
        if in_time {
            info!(%addr, open, "drained");
        } else {
            warn!(%addr, open, cut, drain = ?drain, "drain took too long, connections were cut");
        }
        Drained { open, cut }
    }
}

/// From the accepted socket to its end.
async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
) {
    // Without it an answer on a quiet HTTP/2 connection waits 40 ms for a delayed acknowledgement.
    if let Err(err) = stream.set_nodelay(true) {
        debug!(%peer, error = %err, "client left before the handshake");
        return;
    }
    let stream = match timeout(shared.limits.handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(err)) => {
            shared.counts.handshakes_failed.fetch_add(1, Relaxed);
            debug!(%peer, error = %err, "handshake failed");
            return;
        }
        Err(_) => {
            shared.counts.handshakes_failed.fetch_add(1, Relaxed);
            debug!(%peer, "handshake took too long");
            return;
        }
    };
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    match converse(stream, protocol, &shared).await {
        Ok(None) => {}
        Ok(Some(reason)) => {
            shared.counts.cut.fetch_add(1, Relaxed);
            debug!(%peer, reason, "connection cut");
        }
        Err(err) => debug!(%peer, error = %err, "connection ended"),
    }
}

/// Drives one connection and does what its [`Watch`] says. `Some` is the reason why it was cut.
async fn converse(
    stream: TlsStream<TcpStream>,
    protocol: Protocol,
    shared: &Arc<Shared>,
) -> Result<Option<&'static str>, Box<dyn std::error::Error + Send + Sync>> {
    let pulse = Arc::new(Pulse {
        shared: Arc::clone(shared),
        begun: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        head: AtomicBool::new(true),
    });
    let door = Door { router: shared.router.clone(), pulse: Arc::clone(&pulse) };
    let io = TokioIo::new(Watched { stream, pulse: Arc::clone(&pulse) });
    let builder = match protocol {
        Protocol::Http1 => &shared.h1,
        Protocol::Http2 => &shared.h2,
    };
    let mut connection = pin!(builder.serve_connection(io, door));
    let mut watch = Watch {
        pulse: &pulse,
        protocol,
        timer: Box::pin(sleep(shared.limits.header)),
        stage: Stage::Head { begun: 0 },
        drain: Box::pin(shared.drain.clone().cancelled_owned()),
        drain_asked: false,
    };
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(end.map(|()| None));
            }
            match watch.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Act::Close) => connection.as_mut().graceful_shutdown(),
                Poll::Ready(Act::Cut(reason)) => return Poll::Ready(Ok(Some(reason))),
            }
        }
    })
    .await
}

fn report(end: Result<(), tokio::task::JoinError>) {
    if let Err(err) = end
        && err.is_panic()
    {
        error!(error = %err, "a connection ended in a panic");
    }
}

/// The kernel reports some clients' troubles through `accept`; the next client is not concerned.
fn of_one_client(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::Interrupted
    )
}

// === impl Shared ===

impl Shared {
    fn new(limits: Limits, drain: Duration, router: Router, counts: Arc<Counts>) -> Self {
        let streams = TaskTracker::new();
        let mut builder = auto::Builder::new(Streams(streams.clone()));
        // The watch times heads: hyper's own timer would also end an idle connection, and arms itself for
        // every request.
        builder.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(HEAD_BYTES)
            .keep_alive_interval(limits.ping)
            .keep_alive_timeout(limits.header);
        Self {
            limits,
            linger: LINGER.min(drain / 2),
            router,
            h1: builder.clone().http1_only(),
            h2: builder.http2_only(),
            streams,
            counts,
            drain: CancellationToken::new(),
            draining: AtomicBool::new(false),
        }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

// === impl Door ===

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.pulse.head.store(false, Relaxed);
        self.pulse.begun.fetch_add(1, Relaxed);
        let says_close = request.version() <= Version::HTTP_11;
        Answer { route: self.router.clone().call(request), pulse: Arc::clone(&self.pulse), says_close }
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = std::task::ready!(Pin::new(&mut self.route).poll(cx))?;
        if self.says_close && self.pulse.shared.draining.load(Relaxed) {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(answer))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pulse.ended.fetch_add(1, Relaxed);
    }
}

// === impl Pulse ===

impl Pulse {
    fn in_flight(&self) -> bool {
        // Ended first: a request that ends in between is then still in flight.
        let ended = self.ended.load(Relaxed);
        self.begun.load(Relaxed) != ended
    }
}

// === impl Watch ===

impl Watch<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Act> {
        if let Some(act) = self.heed_drain(cx) {
            return Poll::Ready(act);
        }
        self.heed_head();
        while self.timer.as_mut().poll(cx).is_ready() {
            if let Some(act) = self.time_is_up() {
                return Poll::Ready(act);
            }
        }
        Poll::Pending
    }

    fn heed_drain(&mut self, cx: &mut Context<'_>) -> Option<Act> {
        let mut draining = self.pulse.shared.draining.load(Relaxed);
        if !self.drain_asked {
            self.drain_asked = true;
            draining |= self.drain.as_mut().poll(cx).is_ready();
        }
        if !draining || matches!(self.stage, Stage::Linger | Stage::Closing) {
            return None;
        }
        match self.protocol {
            Protocol::Http1 => {
                self.enter(Stage::Linger, self.pulse.shared.linger);
                None
            }
            Protocol::Http2 => {
                self.enter(Stage::Closing, self.pulse.shared.limits.header);
                Some(Act::Close)
            }
        }
    }

    /// A head that comes in one piece is claimed within the same poll and never seen here.
    fn heed_head(&mut self) {
        let now = self.pulse.begun.load(Relaxed);
        if matches!(self.stage, Stage::Head { begun } if begun != now) {
            self.open();
        }
        if matches!(self.stage, Stage::Open { .. }) && self.protocol == Protocol::Http1 && self.pulse.head.load(Relaxed)
        {
            self.enter(Stage::Head { begun: now }, self.pulse.shared.limits.header);
        }
    }

    fn time_is_up(&mut self) -> Option<Act> {
        let limits = &self.pulse.shared.limits;
        match self.stage {
            Stage::Head { .. } if self.protocol == Protocol::Http1 => {
                return Some(Act::Cut("no complete request head in time"));
            }
            Stage::Open { quiet, begun } => {
                let now = Instant::now();
                if self.pulse.in_flight() || self.pulse.begun.load(Relaxed) != begun {
                    self.open();
                    return None;
                }
                let rest = limits.idle.saturating_sub(now - quiet);
                if !rest.is_zero() {
                    self.enter(self.stage, rest.min(limits.idle / 4));
                    return None;
                }
            }
            Stage::Closing if self.pulse.in_flight() => {
                self.enter(Stage::Closing, limits.header);
                return None;
            }
            Stage::Closing => return Some(Act::Cut("the peer neither reads nor closes")),
            Stage::Head { .. } | Stage::Linger => {}
        }
        self.enter(Stage::Closing, limits.header);
        Some(Act::Close)
    }

    fn open(&mut self) {
        let stage = Stage::Open { quiet: Instant::now(), begun: self.pulse.begun.load(Relaxed) };
        self.enter(stage, self.pulse.shared.limits.idle / 4);
    }

    fn enter(&mut self, stage: Stage, time: Duration) {
        self.stage = stage;
        self.timer.as_mut().reset(Instant::now() + time);
    }
}

// === impl Watched ===

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && !self.pulse.in_flight() {
            self.pulse.head.store(true, Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === impl Quiet ===

impl Quiet {
    /// `Some` when this one may be said, with the number of those that were not.
    fn pass(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < Duration::from_secs(1)) {
            self.held += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held))
    }
}

// === impl BodyError ===

impl BodyError {
    /// What the client is told.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Broken { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a whole request body. One that is announced too large is refused before a byte of it is read, and one
/// that comes in a single piece is not copied.
pub async fn read_body(body: Body, limits: &Limits) -> Result<Bytes, BodyError> {
    let limit = limits.body_bytes;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge { limit });
    }
    match timeout(limits.request, gather(body, announced, limit)).await {
        Ok(read) => read,
        Err(_) => Err(BodyError::TooSlow { after: limits.request }),
    }
}

async fn gather(mut body: Body, announced: usize, limit: usize) -> Result<Bytes, BodyError> {
    let mut whole = Bytes::new();
    let mut parts = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| BodyError::Broken { source })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + parts.len() + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if whole.is_empty() && parts.is_empty() {
            whole = data;
            continue;
        }
        if parts.is_empty() {
            let room = announced.min(FIRST_ROOM).max(whole.len() + data.len());
            parts.reserve_exact(room);
            parts.extend_from_slice(&std::mem::take(&mut whole));
        }
        parts.extend_from_slice(&data);
    }
    Ok(if parts.is_empty() { whole } else { Bytes::from(parts) })
}
