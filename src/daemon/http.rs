//! The HTTP request of a hook (CRR-57): one GET, as the kubelet sends it. Certificates are not checked, since a hook speaks
//! to the pod that it is part of; a server that answers HTTPS in the clear is asked again so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

/// Bytes of an answer that are read.
const ANSWER: usize = 64 << 10;

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// Whether over TLS.
    pub is_https: bool,
    /// Host or address, an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
}

/// Why a request is no good.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It cannot be sent at all.
    #[error("the hook's httpGet is not in order: {0}")]
    Unusable(String),
    /// Nobody answers.
    #[error("{host}:{port} cannot be connected: {error}")]
    Unreachable {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        error: io::Error,
    },
    /// No TLS.
    #[error("TLS fails: {0}")]
    Tls(io::Error),
    /// The connection broke.
    #[error("the answer cannot be read: {0}")]
    Broken(hyper::Error),
    /// It says that it failed.
    #[error("the answer is {0}")]
    Refused(StatusCode),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
}

/// Asks, and takes any answer below 400 for success.
pub async fn get(get: &Get, limit: Duration) -> Result<StatusCode, HttpError> {
    let asked = async {
        match ask(get, get.is_https).await {
            // The server speaks HTTP where HTTPS was expected. Credentials are not sent in the clear.
            Err(HttpError::Tls(error)) if get.is_https && is_plain(&error) => {
                let headers = get.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(AUTHORIZATION.as_str()));
                ask(&Get { headers: headers.cloned().collect(), ..get.clone() }, false).await
            }
            asked => asked,
        }
    };
    let status = tokio::time::timeout(limit, asked).await.map_err(|_| HttpError::Slow(limit))??;
    if status.is_client_error() || status.is_server_error() {
        return Err(HttpError::Refused(status));
    }
    Ok(status)
}

/// Whether what came was no TLS at all.
fn is_plain(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

async fn ask(get: &Get, is_https: bool) -> Result<StatusCode, HttpError> {
    let Get { host, port, .. } = get;
    let request = request(get)?;
    let unreachable = |error| HttpError::Unreachable { host: host.clone(), port: *port, error };
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
    if !is_https {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|error| HttpError::Unusable(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(unchecked()?));
    send(connector.connect(name, stream).await.map_err(HttpError::Tls)?, request).await
}

fn request(get: &Get) -> Result<Request<Empty<Bytes>>, HttpError> {
    let unusable = |what: &str| HttpError::Unusable(what.to_owned());
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let uri: Uri = path.parse().map_err(|error| unusable(&format!("path {path:?}: {error}")))?;
    let host = if get.host.contains(':') { format!("[{}]", get.host) } else { get.host.clone() };
    let authority = format!("{host}:{}", get.port);
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(uri)
        .body(Empty::new())
        .map_err(|error| unusable(&error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(authority).map_err(|error| unusable(&error.to_string()))?);
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION"))));
    let mut own = Vec::new();
    for (name, value) in &get.headers {
        let bad = || unusable(&format!("header {name:?}"));
        let (name, value) =
            (HeaderName::try_from(name).map_err(|_| bad())?, HeaderValue::try_from(value).map_err(|_| bad())?);
        // A header of the hook's own stands in for ours; two of its own are both sent.
        if own.contains(&name) {
            headers.append(name, value);
        } else {
            headers.insert(&name, value);
            own.push(name);
        }
    }
    Ok(request)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Broken)?;
    let _connection = Ends(tokio::spawn(connection).abort_handle());
    let answer: Response<_> = sender.send_request(request).await.map_err(HttpError::Broken)?;
    let status = answer.status();
    drain(answer.into_body()).await;
    Ok(status)
}

/// Reads an answer, so that the server sees it taken. What it says is of no concern.
async fn drain<B: Body<Data = Bytes, Error = hyper::Error> + Unpin>(body: B) {
    let mut body = Limited::new(body, ANSWER);
    while let Some(Ok(_)) = body.frame().await {}
}

/// A connection that ends with who holds this.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS that takes any certificate.
fn unchecked() -> Result<ClientConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| HttpError::Unusable(error.to_string()))?;
    let verifier = Arc::new(Unchecked(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Any certificate will do.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
