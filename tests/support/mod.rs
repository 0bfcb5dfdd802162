//! What tests of the running server share: a server on port 0 with certificates of its own, and clients that
//! keep one TLS connection, so that a test can see what happens to that connection.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate and uses its part")]

pub mod review;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use outrigger::admission::certs::{self, Paths, Resolver};
use outrigger::admission::server::{Counts, Drained, Limits, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// No step of a test may take longer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A server with its own directory of certificates.
pub struct Running {
    pub addr: SocketAddr,
    pub ca_pem: String,
    pub dir: TempDir,
    pub paths: Paths,
    pub resolver: Arc<Resolver>,
    pub counts: Arc<Counts>,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Drained>,
}

/// Makes connections that trust one CA and resume no session.
#[derive(Clone)]
pub struct TlsClient {
    roots: Arc<RootCertStore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

pub const BOTH: [Http; 2] = [Http::One, Http::Two];

/// One open connection.
pub struct Connection {
    sender: Sender,
    /// The leaf that the server showed.
    pub leaf: CertificateDer<'static>,
    /// Ends with the connection.
    pub driver: JoinHandle<()>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Starts a server that drains for at most `drain`.
pub async fn start(router: Router, limits: Limits, drain: Duration) -> Result<Running> {
    start_with(|_, _| router, limits, drain).await
}

/// The same with a router that wants to know the counts of the listener and the news of the shutdown.
pub async fn start_with(
    router: impl FnOnce(Arc<Counts>, CancellationToken) -> Router,
    limits: Limits,
    drain: Duration,
) -> Result<Running> {
    let dir = tempfile::tempdir()?;
    let paths = certs::ensure(dir.path(), &[], now())?;
    let resolver = Arc::new(Resolver::new(certs::load(&paths)?));
    let tls = Arc::new(certs::server_config(Arc::clone(&resolver)));
    let bound = Server::bind(([127, 0, 0, 1], 0).into(), tls, limits).await?;
    let shutdown = CancellationToken::new();
    let router = router(bound.counts(), shutdown.clone());
    Ok(Running {
        addr: bound.local_addr(),
        ca_pem: std::fs::read_to_string(dir.path().join("ca.crt"))?,
        counts: bound.counts(),
        served: tokio::spawn(bound.serve(router, shutdown.clone(), drain)),
        dir,
        paths,
        resolver,
        shutdown,
    })
}

impl Running {
    pub fn client(&self) -> Result<TlsClient> {
        tls_client(&self.ca_pem)
    }

    pub async fn connect(&self, http: Http) -> Result<Connection> {
        self.client()?.connect(self.addr, http).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates of tests are valid now")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A pair that the CA in `ca_dir` has not issued before, in a directory beside.
pub fn another_pair(ca_dir: &Path) -> Result<(TempDir, Paths)> {
    let dir = tempfile::tempdir()?;
    for name in ["ca.crt", "ca.key"] {
        std::fs::copy(ca_dir.join(name), dir.path().join(name))?;
    }
    let paths = certs::ensure(dir.path(), &[], now())?;
    Ok((dir, paths))
}

/// Replaces a pair as a careful writer does: each file in one step.
pub fn put_pair(from: &Paths, to: &Paths) -> Result<()> {
    for (from, to) in [(&from.key, &to.key), (&from.cert, &to.cert)] {
        let beside: PathBuf = to.with_extension("next");
        std::fs::copy(from, &beside)?;
        std::fs::rename(&beside, to)?;
    }
    Ok(())
}

/// A client that trusts `ca_pem` and nothing else.
pub fn tls_client(ca_pem: &str) -> Result<TlsClient> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(cert?)?;
    }
    Ok(TlsClient { roots: Arc::new(roots) })
}

impl TlsClient {
    /// The bare stream, for those who do not speak properly.
    pub async fn stream(&self, addr: SocketAddr, http: Http) -> Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = match http {
            Http::One => vec![b"http/1.1".to_vec()],
            Http::Two => vec![b"h2".to_vec()],
        };
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(timeout(PATIENCE, connector.connect(name, stream)).await??)
    }

    pub async fn connect(&self, addr: SocketAddr, http: Http) -> Result<Connection> {
        let stream = self.stream(addr, http).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let leaf =
            shown.and_then(|chain| chain.first()).context("the server showed no certificate")?.clone().into_owned();
        let io = TokioIo::new(stream);
        let (sender, driver) = match http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await?;
                (Sender::One(sender), tokio::spawn(drop_result(connection)))
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                (Sender::Two(sender), tokio::spawn(drop_result(connection)))
            }
        };
        Ok(Connection { sender, leaf, driver })
    }
}

async fn drop_result<T>(connection: impl Future<Output = T>) {
    drop(connection.await);
}

impl Connection {
    /// Sends a POST on this connection and waits for the whole answer.
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        timeout(PATIENCE, self.send(path, body.into())?).await?
    }

    /// Begins a POST; on HTTP/2 many can be under way.
    pub fn send(&mut self, path: &str, body: Bytes) -> Result<impl Future<Output = Result<Answer>> + Send + use<>> {
        let request = Request::post(format!("https://localhost{path}")).header("content-type", "application/json");
        Ok(self.begin(request.body(Full::new(body))?))
    }

    /// Sends a GET on this connection and waits for the whole answer.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        let request = Request::get(format!("https://localhost{path}")).body(Full::default())?;
        timeout(PATIENCE, self.begin(request)).await?
    }

    /// Begins any request.
    pub fn begin(&mut self, mut request: Request<Full<Bytes>>) -> impl Future<Output = Result<Answer>> + Send + use<> {
        request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
        let (one, two) = match &mut self.sender {
            Sender::One(sender) => (Some(sender.send_request(request)), None),
            Sender::Two(sender) => (None, Some(sender.send_request(request))),
        };
        async move {
            let response = match (one, two) {
                (Some(answer), _) => answer.await?,
                (_, Some(answer)) => answer.await?,
                _ => bail!("a connection speaks one protocol"),
            };
            let (parts, body) = response.into_parts();
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
        }
    }

    /// Waits until the connection can carry a request.
    pub async fn ready(&mut self) -> Result<()> {
        match &mut self.sender {
            Sender::One(sender) => timeout(PATIENCE, sender.ready()).await??,
            Sender::Two(sender) => timeout(PATIENCE, sender.ready()).await??,
        }
        Ok(())
    }

    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

/// Sends a POST on `connection` and waits for the whole answer.
pub async fn post(connection: &mut Connection, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
    connection.post(path, body).await
}

/// Polls until `condition` holds; `what` names it when it never does.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            bail!("waited in vain until {what}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
