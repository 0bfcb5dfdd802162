//! The floor that `make bench` measures against: a webhook that admits everything, on the same listener, TLS, axum and
//! allocator. It finds the uid of the request, which every webhook must, and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use outrigger::admission::certs::{self, Paths, Resolver};
use outrigger::admission::server::{Limits, Server, read_body};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    request: RequestUid<'a>,
}

#[derive(Deserialize)]
struct RequestUid<'a> {
    uid: &'a str,
}

fn answer(body: &Bytes) -> Result<String, serde_json::Error> {
    let review: Review<'_> = serde_json::from_slice(body)?;
    let uid = review.request.uid;
    Ok(format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"{uid}","allowed":true,"status":{{"code":200}}}}}}"#
    ))
}

async fn admit(request: Request) -> Response {
    match read_body(request.into_body(), &Limits::default()).await {
        Err(error) => error.status().into_response(),
        Ok(body) => match answer(&body) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        },
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let certificates = PathBuf::from(args.next().context("usage: noop CERT_DIR PORT")?);
    let port: u16 = args.next().context("usage: noop CERT_DIR PORT")?.parse()?;
    let resolver = Arc::new(Resolver::new(certs::load(&Paths::within(&certificates))?));
    let tls = Arc::new(certs::server_config(resolver));
    let bound = Server::bind(([127, 0, 0, 1], port).into(), tls, Limits::default()).await?;
    let router = Router::new().route("/mutate-pod", post(admit));
    bound.serve(router, CancellationToken::new(), std::time::Duration::from_secs(1)).await;
    Ok(())
}
