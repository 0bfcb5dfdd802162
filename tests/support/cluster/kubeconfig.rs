//! Kubeconfig files: who one is for the API server, and how to trust it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// How a client shows who it is.
#[derive(Clone)]
pub enum Credentials {
    /// Both PEM.
    Certificate {
        cert: String,
        key: String,
    },
    Token(String),
}

/// Everything inside, no file beside.
pub fn of(server: &str, ca_pem: &str, credentials: &Credentials) -> Value {
    let user = match credentials {
        Credentials::Certificate { cert, key } => json!({
            "client-certificate-data": BASE64_STANDARD.encode(cert),
            "client-key-data": BASE64_STANDARD.encode(key),
        }),
        Credentials::Token(token) => json!({ "token": token }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": {"server": server, "certificate-authority-data": BASE64_STANDARD.encode(ca_pem)},
        }],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me"}}],
        "current-context": "test",
    })
}

/// JSON is YAML. Only we may read it: it holds a key.
pub fn write(path: &Path, kubeconfig: &Value) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(kubeconfig.to_string().as_bytes())?)
}
