//! Registries for tests of pulls: a real `docker-registry` that everybody may read, one that asks for a password, and a
//! front before both that counts what it is asked and misbehaves as told. Images are pushed past the front.
//!
//! Nodes of the test cluster find it under a host name of its own, so that nothing of the images that pods need comes here.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each target uses its part")]

mod front;
mod image;

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::harness::{Cluster, Process, START, free_ports, until};

pub use front::{Asked, Fault, Front, Kind};
pub use image::Image;

/// Repositories that begin so ask for a password.
pub const GUARDED: &str = "guarded/";
pub const USER: &str = "puller";

/// What opens guarded repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Password {
    First,
    Second,
}

/// The registries and their front. Dropping it ends them.
pub struct Registry {
    pub front: Front,
    /// The host that images have in their names.
    pub host: String,
    open: (Process, u16),
    guarded: (Process, u16),
    dir: TempDir,
}

// === impl Password ===

impl Password {
    pub fn text(self) -> &'static str {
        match self {
            Self::First => "correct horse",
            Self::Second => "battery staple",
        }
    }

    /// As htpasswd has it; bcrypt.
    fn line(self) -> &'static str {
        match self {
            Self::First => "puller:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n",
            Self::Second => "puller:$2y$04$zyxwvutsrqponmlkjihgfeEj9hZ0r426ruQozKPdS8ZvkuJvyAjnm\n",
        }
    }
}

// === impl Registry ===

impl Registry {
    /// Starts both and their front, and lets the cluster's node find it.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let registry = Self::beside(cluster).await?;
        cluster.stand_in(&registry.host, registry.front.port()).await?;
        Ok(registry)
    }

    /// Starts both and their front; no node knows of it.
    pub async fn beside(cluster: &Cluster) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir_in(cluster.dir())?;
        write_password(dir.path(), Password::First)?;
        let (open, guarded) =
            tokio::try_join!(serve(cluster, dir.path(), "open"), serve(cluster, dir.path(), "guarded"))?;
        let front = Front::start(&[("", open.1), (GUARDED, guarded.1)]).await?;
        let host = format!("images-{}.example", front.port());
        Ok(Self { front, host, open, guarded, dir })
    }

    /// `HOST/team/app:1`, or `HOST/team/app@sha256:…`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        let sign = if tag.contains(':') { '@' } else { ':' };
        format!("{}/{repository}{sign}{tag}", self.host)
    }

    /// From now on guarded repositories take this password, and no other.
    pub fn set_password(&self, password: Password) -> Result<()> {
        write_password(self.dir.path(), password)
    }

    /// Data of a Secret of type `kubernetes.io/dockerconfigjson` that names this registry.
    pub fn docker_config(&self, password: &str) -> String {
        json!({"auths": {&self.host: {"username": USER, "password": password}}}).to_string()
    }

    /// Pushes an image past the front. `password` must be what guarded repositories take at the moment.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image, password: Password) -> Result<()> {
        let is_guarded = repository.starts_with(GUARDED);
        let port = if is_guarded { self.guarded.1 } else { self.open.1 };
        let who = is_guarded.then(|| BASE64_STANDARD.encode(format!("{USER}:{}", password.text())));
        let send = async |method: Method, path: &str, kind: &str, body: &Bytes| {
            let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
            if let Some(who) = &who {
                request = request.header(header::AUTHORIZATION, format!("Basic {who}"));
            }
            send(port, request.body(Full::new(body.clone()))?).await
        };
        for (digest, bytes) in &image.blobs {
            let begin = format!("/v2/{repository}/blobs/uploads/");
            let (_, location) = send(Method::POST, &begin, "text/plain", &Bytes::new()).await?;
            let location = location.context("the registry does not say where to")?;
            let sign = if location.contains('?') { '&' } else { '?' };
            let path = format!("{location}{sign}digest={digest}");
            let (status, _) = send(Method::PUT, &path, "application/octet-stream", bytes).await?;
            ensure!(status == StatusCode::CREATED, "{path}: {status}");
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, _) = send(Method::PUT, &path, image::MANIFEST, &image.manifest).await?;
        ensure!(status == StatusCode::CREATED, "{path}: {status}");
        Ok(())
    }
}

/// In one step: the registry reads it again when it has changed.
fn write_password(dir: &Path, password: Password) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(password.line().as_bytes())?;
    file.persist(dir.join("htpasswd"))?;
    Ok(())
}

/// A registry with a directory and a port of its own.
async fn serve(cluster: &Cluster, dir: &Path, name: &str) -> Result<(Process, u16)> {
    let port = free_ports(1)?.pop().context("one port was asked for")?;
    let mut settings = json!({
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": dir.join(name)}},
        // Where uploads go on is told without a host, so that who asks here is not sent elsewhere.
        "http": {"addr": format!("127.0.0.1:{port}"), "relativeurls": true},
    });
    if name == "guarded" {
        settings["auth"] = json!({"htpasswd": {"realm": "images of the tests", "path": dir.join("htpasswd")}});
    }
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, settings.to_string())?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(file);
    let process = cluster.spawn(&format!("registry-{name}-{port}"), &command)?;
    let answers = until("the registry answers", START, async || {
        Ok(!process.is_running() || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok())
    });
    let answers = answers.await.and_then(|()| {
        ensure!(process.is_running(), "it has ended");
        Ok(())
    });
    answers.map_err(|error| process.explain(error))?;
    Ok((process, port))
}

/// The status of the answer and the place that it names, once all of it has come.
async fn send(port: u16, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Option<String>)> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    request.headers_mut().insert(header::HOST, format!("127.0.0.1:{port}").parse()?);
    let (mut registry, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (parts, body) = registry.send_request(request).await?.into_parts();
    let said = body.collect().await?.to_bytes();
    ensure!(parts.status.is_success(), "{}: {}", parts.status, String::from_utf8_lossy(&said));
    let location = parts.headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    Ok((parts.status, location.map(ToOwned::to_owned)))
}
