//! The listener over real TLS: its limits, its drain, and certificates that change while it serves.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use outrigger::admission::certs;
use outrigger::admission::server::{Limits, ServeError, Server, read_body};
use rustls::pki_types::CertificateDer;
use support::{BOTH, Connection, Http, PATIENCE, Running, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const SHORT: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(5);

/// What the handlers of a test have seen.
#[derive(Clone, Default)]
struct Seen {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct CountsDrop(Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// `/echo` answers with the body, `/slow` after 300 ms, `/never` not at all, `/panic` by a panic.
fn router(limits: &Limits, seen: &Seen) -> Router {
    let limits = limits.clone();
    let (slow, never) = (seen.clone(), seen.clone());
    Router::new()
        .route("/echo", post(async move |body: Body| echo(body, &limits).await))
        .route(
            "/slow",
            post(async move || {
                slow.begun.fetch_add(1, SeqCst);
                sleep(Duration::from_millis(300)).await;
                "slow"
            }),
        )
        .route(
            "/never",
            post(async move || {
                let _drop = CountsDrop(Arc::clone(&never.dropped));
                never.begun.fetch_add(1, SeqCst);
                std::future::pending::<()>().await;
            }),
        )
        .route("/panic", post(fall))
}

async fn echo(body: Body, limits: &Limits) -> Response {
    match read_body(body, limits).await {
        Ok(body) => body.into_response(),
        Err(err) => (err.status(), err.to_string()).into_response(),
    }
}

#[expect(clippy::panic, reason = "what a test wants to survive")]
async fn fall() -> StatusCode {
    panic!("as asked")
}

async fn start(limits: Limits) -> Result<(Running, Seen)> {
    let seen = Seen::default();
    let router = router(&limits, &seen);
    Ok((support::start(router, limits, DRAIN).await?, seen))
}

/// Reads until the server closes; what came before.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<String> {
    let mut bytes = Vec::new();
    // A connection that is cut ends without a close_notify or with a reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn answers_over_both_protocols_on_a_kept_connection() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        for body in ["{}", "", "{\"a\": 1}"] {
            let answer = support::post(&mut connection, "/echo", body).await?;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.body, body);
        }
        let large = Bytes::from(vec![b'x'; 3 << 20]);
        let answer = connection.post("/echo", large.clone()).await?;
        assert_eq!(answer.body, large);
        assert!(!connection.is_closed());
    }
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    let tls = Arc::new(certs::server_config(Arc::clone(&server.resolver)));
    let err = Server::bind(server.addr, tls, Limits::default()).await;
    assert!(matches!(err, Err(ServeError::Bind { addr, .. }) if addr == server.addr));
    Ok(())
}

// === bodies ===

fn small() -> Limits {
    Limits { body_bytes: 1000, request: SHORT, header: SHORT, ..Limits::default() }
}

#[tokio::test]
async fn a_body_announced_too_large_is_refused_before_it_is_sent() -> Result<()> {
    let (server, _) = start(small()).await?;
    let mut stream = server.client()?.stream(server.addr, Http::One).await?;
    let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let answer = rest(&mut stream).await?;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.ends_with("larger than 1000 bytes"), "{answer}");

    let mut connection = server.connect(Http::Two).await?;
    let answer = connection.post("/echo", vec![b'x'; 1001]).await?;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let answer = connection.post("/echo", vec![b'x'; 1000]).await?;
    assert_eq!(answer.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_body_of_unknown_length_is_refused_at_the_limit() -> Result<()> {
    let (server, _) = start(small()).await?;
    let mut stream = server.client()?.stream(server.addr, Http::One).await?;
    let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..3 {
        let chunk = format!("190\r\n{}\r\n", "x".repeat(400));
        stream.write_all(chunk.as_bytes()).await?;
    }
    let answer = rest(&mut stream).await?;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_slow_body_is_answered_with_a_timeout() -> Result<()> {
    let (server, _) = start(small()).await?;
    let mut stream = server.client()?.stream(server.addr, Http::One).await?;
    let part = "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhalf";
    stream.write_all(part.as_bytes()).await?;
    let answer = rest(&mut stream).await?;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    Ok(())
}

// === connections ===

#[tokio::test]
async fn a_stalled_handshake_is_cut() -> Result<()> {
    let limits = Limits { handshake: SHORT, ..Limits::default() };
    let (server, _) = start(limits).await?;
    let mut stream = TcpStream::connect(server.addr).await?;
    assert_eq!(rest(&mut stream).await?, "");
    assert_eq!(server.counts.handshakes_failed.load(SeqCst), 1);
    Ok(())
}

#[tokio::test]
async fn a_slow_head_is_cut_and_so_is_a_client_that_says_nothing() -> Result<()> {
    let (server, _) = start(small()).await?;
    let client = server.client()?;
    let mut slow = client.stream(server.addr, Http::One).await?;
    slow.write_all(b"POST /echo HTTP/1.1\r\nhost: l").await?;
    assert_eq!(rest(&mut slow).await?, "");
    for http in BOTH {
        let mut silent = client.stream(server.addr, http).await?;
        rest(&mut silent).await?;
    }
    eventually("all are counted", || server.counts.cut.load(SeqCst) >= 2).await
}

#[tokio::test]
async fn a_slow_head_is_cut_on_a_kept_connection_too() -> Result<()> {
    let (server, _) = start(small()).await?;
    let mut stream = server.client()?.stream(server.addr, Http::One).await?;
    let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut first = [0; 15];
    stream.read_exact(&mut first).await?;
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stream.write_all(&head.as_bytes()[..20]).await?;
    let began = Instant::now();
    rest(&mut stream).await?;
    assert!(began.elapsed() >= SHORT / 2);
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_may_rest_longer_than_a_head_may_take() -> Result<()> {
    let (server, _) = start(small()).await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        connection.post("/echo", "1").await?;
        sleep(SHORT * 2).await;
        assert_eq!(connection.post("/echo", "2").await?.body, "2");
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() -> Result<()> {
    let limits = Limits { idle: SHORT, ..Limits::default() };
    let (server, _) = start(limits).await?;
    for http in BOTH {
        let mut idle = server.connect(http).await?;
        let mut busy = server.connect(http).await?;
        idle.post("/echo", "{}").await?;
        let answer = busy.post("/slow", "").await?;
        assert_eq!(answer.body, "slow");
        assert!(!busy.is_closed());
        eventually("the idle one is closed", || idle.is_closed()).await?;
        eventually("the busy one is closed when it rests", || busy.is_closed()).await?;
    }
    assert_eq!(server.counts.cut.load(SeqCst), 0);
    Ok(())
}

#[tokio::test]
async fn surplus_connections_are_closed_at_once_and_later_ones_served() -> Result<()> {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (server, _) = start(limits).await?;
    let mut first = server.connect(Http::One).await?;
    let mut second = server.connect(Http::Two).await?;
    for connection in [&mut first, &mut second] {
        assert_eq!(connection.post("/echo", "{}").await?.body, "{}");
    }
    let began = Instant::now();
    assert!(server.connect(Http::Two).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(server.counts.refused.load(SeqCst), 1);

    first.driver.abort();
    let end = Instant::now() + PATIENCE;
    let mut later = loop {
        match server.connect(Http::Two).await {
            Ok(connection) => break connection,
            Err(err) if Instant::now() > end => return Err(err),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(later.post("/echo", "3").await?.body, "3");
    assert_eq!(second.post("/echo", "2").await?.body, "2");
    Ok(())
}

#[tokio::test]
async fn a_panic_costs_one_request() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    let mut kept = server.connect(Http::Two).await?;
    assert!(kept.post("/panic", "").await.is_err());
    assert_eq!(kept.post("/echo", "on").await?.body, "on");
    assert!(server.connect(Http::One).await?.post("/panic", "").await.is_err());
    let mut next = server.connect(Http::One).await?;
    assert_eq!(next.post("/echo", "on").await?.body, "on");
    Ok(())
}

// === certificates ===

fn watch(server: &Running) -> tokio::task::JoinHandle<()> {
    tokio::spawn(certs::reload_when_changed(
        server.paths.clone(),
        Arc::clone(&server.resolver),
        Duration::from_millis(20),
        server.shutdown.clone(),
    ))
}

async fn shown(server: &Running) -> Result<CertificateDer<'static>> {
    Ok(server.connect(Http::Two).await?.leaf)
}

async fn until_shown(server: &Running, leaf: &CertificateDer<'_>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while shown(server).await? != *leaf {
        anyhow::ensure!(Instant::now() < end, "the new certificate is never shown");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Keeps one connection busy until told to stop; the number of answers.
fn hammer(mut connection: Connection, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Result<usize>> {
    tokio::spawn(async move {
        let mut answers = 0;
        while !stop.load(SeqCst) {
            connection.ready().await?;
            let answer = connection.post("/echo", "{}").await?;
            anyhow::ensure!(answer.status == StatusCode::OK, "{answer:?}");
            answers += 1;
        }
        Ok(answers)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_lose_nothing() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    let _reload = watch(&server);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for http in BOTH {
        clients.push(hammer(server.connect(http).await?, Arc::clone(&stop)));
    }
    let before = shown(&server).await?;
    for _ in 0..3 {
        let (_dir, next) = support::another_pair(server.dir.path())?;
        let leaf = certs::load(&next)?.cert[0].clone();
        assert_ne!(leaf, before);
        support::put_pair(&next, &server.paths)?;
        until_shown(&server, &leaf).await?;
    }
    stop.store(true, SeqCst);
    for client in clients {
        assert!(client.await?? > 10);
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old_certificate_until_a_good_one_comes() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    let _reload = watch(&server);
    let before = shown(&server).await?;
    let (_dir, next) = support::another_pair(server.dir.path())?;
    let old_key = std::fs::read(&server.paths.key)?;

    // A new certificate with the old key, half a certificate, no certificate.
    let cert = std::fs::read(&next.cert)?;
    for bad in [Some(&cert[..]), Some(&cert[..cert.len() / 2]), None] {
        match bad {
            Some(bad) => std::fs::write(&server.paths.cert, bad)?,
            None => std::fs::remove_file(&server.paths.cert)?,
        }
        sleep(Duration::from_millis(100)).await;
        assert_eq!(shown(&server).await?, before);
    }
    assert_eq!(std::fs::read(&server.paths.key)?, old_key);

    support::put_pair(&next, &server.paths)?;
    until_shown(&server, &certs::load(&next)?.cert[0]).await
}

#[tokio::test]
async fn an_exchanged_link_is_seen_as_the_kubelet_makes_it() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    let mount = tempfile::tempdir()?;
    let (first, _) = support::another_pair(server.dir.path())?;
    let (second, next) = support::another_pair(server.dir.path())?;
    let data = mount.path().join("..data");
    std::os::unix::fs::symlink(first.path(), &data)?;
    for name in ["tls.crt", "tls.key"] {
        let target = std::path::Path::new("..data").join(name);
        std::os::unix::fs::symlink(target, mount.path().join(name))?;
    }
    let paths = certs::Paths::within(mount.path());
    server.resolver.replace(certs::load(&paths)?);
    let _reload = tokio::spawn(certs::reload_when_changed(
        paths,
        Arc::clone(&server.resolver),
        Duration::from_millis(20),
        server.shutdown.clone(),
    ));
    sleep(Duration::from_millis(100)).await;

    let swap = mount.path().join("..data_tmp");
    std::os::unix::fs::symlink(second.path(), &swap)?;
    std::fs::rename(&swap, &data)?;
    until_shown(&server, &certs::load(&next)?.cert[0]).await
}

#[tokio::test]
async fn the_end_of_the_certificate_can_be_read() -> Result<()> {
    let (server, _) = start(Limits::default()).await?;
    let year = 365 * 24 * 3600;
    let left = server.resolver.not_after().unwrap() - support::now().as_second();
    assert!((year - 60..=year).contains(&left), "{left}");
    Ok(())
}

// === drain ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_complete_when_the_server_drains() -> Result<()> {
    let (mut server, seen) = start(Limits::default()).await?;
    let mut answers = Vec::new();
    let mut kept = Vec::new();
    let mut h2 = server.connect(Http::Two).await?;
    for _ in 0..20 {
        answers.push((Http::Two, tokio::spawn(h2.send("/slow", Bytes::new())?)));
        let mut h1 = server.connect(Http::One).await?;
        answers.push((Http::One, tokio::spawn(h1.send("/slow", Bytes::new())?)));
        kept.push(h1);
    }
    eventually("all are in flight", || seen.begun.load(SeqCst) == 40).await?;
    let began = Instant::now();
    server.shutdown.cancel();
    let addr = server.addr;
    eventually("new connections are refused", || std::net::TcpStream::connect(addr).is_err()).await?;
    for (http, answer) in answers {
        let answer = answer.await??;
        assert_eq!(answer.body, "slow");
        if http == Http::One {
            assert_eq!(answer.headers["connection"], "close");
        }
    }
    let drained = timeout(DRAIN, &mut server.served).await??;
    assert_eq!(drained.cut, 0);
    assert!(began.elapsed() < Duration::from_secs(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_client_is_told_to_go_and_loses_no_request() -> Result<()> {
    let (mut server, _) = start(Limits::default()).await?;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut connection = server.connect(Http::One).await?;
        clients.push(tokio::spawn(async move {
            loop {
                let answer = connection.post("/echo", "{}").await?;
                if answer.headers.contains_key("connection") {
                    return anyhow::Ok(());
                }
                connection.ready().await?;
            }
        }));
    }
    sleep(Duration::from_millis(50)).await;
    server.shutdown.cancel();
    for client in clients {
        client.await??;
    }
    let drained = timeout(DRAIN, &mut server.served).await??;
    assert_eq!(drained.cut, 0);
    Ok(())
}

#[tokio::test]
async fn connections_at_rest_end_within_a_short_drain() -> Result<()> {
    let limits = Limits::default();
    let router = router(&limits, &Seen::default());
    let mut server = support::start(router, limits, SHORT * 2).await?;
    let mut kept = Vec::new();
    for http in [Http::One, Http::Two, Http::One, Http::Two] {
        let mut connection = server.connect(http).await?;
        if kept.len() < 2 {
            connection.post("/echo", "{}").await?;
        }
        kept.push(connection);
    }
    let began = Instant::now();
    server.shutdown.cancel();
    let drained = timeout(DRAIN, &mut server.served).await??;
    assert_eq!((drained.open, drained.cut), (4, 0));
    assert!(began.elapsed() < Duration::from_secs(2));
    for connection in kept {
        eventually("it is closed", || connection.is_closed()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_ends_is_cut_at_the_end_of_the_drain() -> Result<()> {
    let limits = Limits::default();
    let seen = Seen::default();
    let mut server = support::start(router(&limits, &seen), limits, SHORT).await?;
    let mut answers = Vec::new();
    let mut kept = Vec::new();
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        answers.push(tokio::spawn(connection.send("/never", Bytes::new())?));
        kept.push(connection);
    }
    eventually("both are in flight", || seen.begun.load(SeqCst) == 2).await?;
    server.shutdown.cancel();
    let drained = timeout(Duration::from_secs(2), &mut server.served).await??;
    assert_eq!((drained.open, drained.cut), (2, 2));
    assert_eq!(seen.dropped.load(SeqCst), 2, "no handler outlives the server");
    for answer in answers {
        assert!(answer.await?.is_err());
    }
    Ok(())
}
