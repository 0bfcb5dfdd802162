//! The way to the API server: one connection for all requests and watches of a process.
//!
//! kube's own client speaks HTTP/1.1, with a connection for each request that is under way: a rollout leaves dozens of
//! TLS sessions behind, and a connection that is dead without a word is noticed by nobody before the next renewal of its
//! watch. Over HTTP/2 they share one, and pings tell within seconds whether it lives. A server that has no HTTP/2 gets
//! HTTP/1.1.

use std::time::Duration;

use anyhow::Context as _;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Builder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _, retry::RetryPolicy};
use kube::{Client, Config};
use rustls::pki_types::ServerName;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// While requests wait, a connection that was silent for so long is pinged; if it is for as long again, it counts as dead.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that nobody has read yet.
const STREAM_WINDOW: u32 = 512 << 10;
/// The same of all answers: who reads slowly must not hold up the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of a request that are not on their way yet.
const SEND_BUFFER: usize = 64 << 10;
/// How long a connection stays that nobody uses.
const IDLE: Duration = Duration::from_mins(1);

/// A client for the API server that `config` names. An error says what in it cannot be used; nothing is connected yet.
pub fn client(config: Config) -> anyhow::Result<Client> {
    patient(config, SILENCE)
}

fn patient(config: Config, silence: Duration) -> anyhow::Result<Client> {
    anyhow::ensure!(config.proxy_url.is_none(), "the kubeconfig has a proxy-url, which is not supported: remove it");
    let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    let tls = match config.tls_server_name.clone() {
        Some(name) => {
            let name = ServerName::try_from(name).context("tls-server-name is no name")?;
            tls.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
        None => tls,
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(tls.enable_all_versions().wrap_connector(tcp));
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);

    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(silence)
        .http2_keep_alive_timeout(silence)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_send_buf_size(SEND_BUFFER)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connection);
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::{Request as HttpRequest, Response, Version};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use hyper_util::server::conn::auto;
    use rcgen::{CertificateParams, KeyPair};
    use rstest::rstest;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{Barrier, Notify};
    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Answers with the version of HTTP that it was asked in, once so many ask at a time.
    struct ApiServer {
        config: Config,
        connections: Arc<AtomicUsize>,
        _tasks: JoinSet<()>,
    }

    async fn api_server(alpn: &[&str], abreast: usize) -> ApiServer {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(format!("https://{}", listener.local_addr().unwrap()).parse().unwrap());
        config.root_cert = Some(vec![certificate.der().to_vec()]);
        config.default_retry = false;
        let connections = Arc::new(AtomicUsize::new(0));
        let (acceptor, counted) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(&connections));
        let together = Arc::new(Barrier::new(abreast));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(acceptor.clone(), stream, Arc::clone(&together)));
            }
        });
        ApiServer { config, connections, _tasks: tasks }
    }

    async fn serve(acceptor: TlsAcceptor, stream: TcpStream, together: Arc<Barrier>) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let answer = service_fn(move |request: HttpRequest<Incoming>| {
            let together = Arc::clone(&together);
            async move {
                if request.uri().path() == "/together" {
                    together.wait().await;
                }
                Ok::<_, Infallible>(Response::new(format!("{:?}", request.version())))
            }
        });
        let server = auto::Builder::new(TokioExecutor::new());
        let _ended = server.serve_connection(TokioIo::new(stream), answer).await.map_err(|error| error.to_string());
    }

    fn get(path: &str) -> HttpRequest<Vec<u8>> {
        HttpRequest::get(path).body(Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn requests_that_are_under_way_together_share_one_connection() {
        const ABREAST: usize = 40;
        let server = api_server(&["h2", "http/1.1"], ABREAST).await;
        let client = client(server.config.clone()).unwrap();
        assert_eq!(client.request_text(get("/version")).await.unwrap(), format!("{:?}", Version::HTTP_2));
        let all = futures::future::join_all((0..ABREAST).map(|_| client.request_text(get("/together"))));
        for answer in timeout(Duration::from_secs(20), all).await.expect("none waits for another") {
            answer.unwrap();
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    }

    #[rstest]
    #[case::says_so(&["http/1.1"])]
    #[case::says_nothing(&[])]
    #[tokio::test]
    async fn a_server_that_has_no_http_2_gets_http_1(#[case] alpn: &[&str]) {
        let server = api_server(alpn, 1).await;
        let client = client(server.config.clone()).unwrap();
        assert_eq!(client.request_text(get("/version")).await.unwrap(), format!("{:?}", Version::HTTP_11));
    }

    #[tokio::test]
    async fn a_connection_that_died_without_a_word_is_noticed_and_the_next_request_gets_another() {
        let server = api_server(&["h2"], usize::MAX).await;
        // A wire that is cut later, with both ends left open.
        let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut config, cut) = (server.config.clone(), Arc::new(Notify::new()));
        let to = config.cluster_url.authority().unwrap().to_string();
        config.cluster_url = format!("https://{}", wire.local_addr().unwrap()).parse().unwrap();
        let (mut relays, is_cut) = (JoinSet::new(), Arc::clone(&cut));
        relays.spawn(async move {
            let mut kept = Vec::new();
            let mut open = JoinSet::new();
            for number in 0.. {
                let (mut near, mut far) = (wire.accept().await.unwrap().0, TcpStream::connect(&to).await.unwrap());
                let is_cut = Arc::clone(&is_cut);
                if number > 0 {
                    open.spawn(async move { drop(copy_bidirectional(&mut near, &mut far).await) });
                    continue;
                }
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => panic!("closed too early"),
                    () = is_cut.notified() => kept.push((near, far)),
                }
            }
        });
        let client = patient(config, Duration::from_millis(200)).unwrap();
        client.request_text(get("/version")).await.unwrap();
        let hangs = tokio::spawn({
            let client = client.clone();
            async move { client.request_text(get("/together")).await }
        });
        sleep(Duration::from_millis(100)).await;
        cut.notify_one();
        let ended = timeout(Duration::from_secs(20), hangs).await.expect("it is noticed").unwrap();
        ended.expect_err("nothing can have come");
        client.request_text(get("/version")).await.expect("over a new connection");
    }

    #[test]
    fn a_proxy_is_refused_in_words() {
        let mut config = Config::new("https://127.0.0.1:1".parse().unwrap());
        config.proxy_url = Some("http://127.0.0.1:2".parse().unwrap());
        let error = client(config).err().unwrap().to_string();
        assert!(error.contains("proxy-url"), "{error}");
    }
}
