//! Which credentials a pull is tried with: pull secrets are read, and matched with the image as the kubelet does (IMG-53 …
//! IMG-55).
//!
//! A [`Keyring`] holds what the secrets of one tag say. Nothing here prints a secret, not even in an error: it says where in
//! a text something is wrong, and never what stands there.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value};

use crate::api::image::full_name;

/// Type of a Secret whose logins are below `auths`.
pub const CONFIG_JSON: &str = "kubernetes.io/dockerconfigjson";
/// Its only member that is read.
pub const CONFIG_JSON_KEY: &str = ".dockerconfigjson";
/// Type of a Secret whose logins are a flat object.
pub const CONFIG: &str = "kubernetes.io/dockercfg";
/// Its only member that is read.
pub const CONFIG_KEY: &str = ".dockercfg";

/// The registry of images that name none, as its credentials are filed.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
}

/// Where a credential is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Host, port and the beginning of the path; the host's parts may be globs.
    place: String,
    credential: Credential,
}

/// The logins of several secrets.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Places in reverse alphabetical order, so that longer paths come first; equal ones in the order of the secrets.
    logins: Vec<Login>,
}

/// Why a Secret cannot be used. IMG-53: the attempt fails then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no JSON.
    #[error(
        "its {key} is not JSON (line {line}, column {column}); make it with `kubectl create secret docker-registry`"
    )]
    NotJson {
        /// Member of the Secret's data.
        key: &'static str,
        /// Where it goes wrong, from 1.
        line: usize,
        /// Where it goes wrong, from 1.
        column: usize,
    },
    /// Something in it is not what it should be.
    #[error("its {key} is not a docker configuration: {what}; make it with `kubectl create secret docker-registry`")]
    Shape {
        /// Member of the Secret's data.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
}

// === impl Login ===

impl Login {
    /// The logins of one Secret of this type. None for a type without logins, and for one without data (IMG-53).
    pub fn read(r#type: &str, data: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Self>, Unusable> {
        let key = match r#type {
            CONFIG_JSON => CONFIG_JSON_KEY,
            CONFIG => CONFIG_KEY,
            _ => return Ok(Vec::new()),
        };
        let Some(text) = data.get(key).filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
        // Its own words may quote what they are about.
        let not_json =
            |error: &serde_json::Error| Unusable::NotJson { key, line: error.line(), column: error.column() };
        let config: Value = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        let shape = |what: String| Unusable::Shape { key, what };
        let config = object(&config).ok_or_else(|| shape("it is not an object".to_owned()))?;
        let logins = if key == CONFIG_JSON_KEY {
            match config.get("auths") {
                None | Some(Value::Null) => return Ok(Vec::new()),
                Some(auths) => object(auths).ok_or_else(|| shape("`auths` is not an object".to_owned()))?,
            }
        } else {
            config
        };
        let mut read = Vec::new();
        for (location, entry) in logins {
            let credential = credential(entry).map_err(|what| shape(format!("the entry of {location:?} {what}")))?;
            // Nothing to log in with, as where the password is kept by a helper program.
            if credential.username.is_empty() && credential.password.is_empty() {
                continue;
            }
            read.extend(place(location).map(|place| Self { place, credential }));
        }
        Ok(read)
    }
}

// === impl Keyring ===

impl Keyring {
    /// All logins of these secrets, in their order.
    pub fn new(secrets: impl IntoIterator<Item = Vec<Login>>) -> Self {
        let mut logins: Vec<Login> = secrets.into_iter().flatten().collect();
        logins.sort_by(|a, b| b.place.cmp(&a.place));
        Self { logins }
    }

    /// The credentials to try with an image of this name without tag, in order, each once. When there are none it is pulled
    /// anonymously, and only then (IMG-54, IMG-55).
    pub fn matching(&self, name: &str) -> Vec<&Credential> {
        let repository = repository(name);
        let mut found = self.of(|login| is_within(&login.place, &repository));
        if found.is_empty() && repository.starts_with("docker.io/") {
            found = self.of(|login| login.place == DEFAULT_REGISTRY);
        }
        found
    }

    fn of(&self, is_for: impl Fn(&Login) -> bool) -> Vec<&Credential> {
        let mut found: Vec<&Credential> = Vec::new();
        for login in self.logins.iter().filter(|login| is_for(login)) {
            if !found.contains(&&login.credential) {
                found.push(&login.credential);
            }
        }
        found
    }
}

// === impl Credential ===

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

/// An image's name with its registry: `docker.io/library/nginx` for `nginx`.
pub fn repository(name: &str) -> String {
    // What ends in a digest gets no tag.
    full_name(&format!("{name}@"))
}

fn object(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

/// What an entry logs in with.
fn credential(entry: &Value) -> Result<Credential, String> {
    if entry.is_null() {
        return Ok(Credential { username: String::new(), password: String::new() });
    }
    let entry = object(entry).ok_or("is not an object")?;
    let text = |member: &str| match entry.get(member) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(format!("has a `{member}` that is not a string")),
    };
    let (username, password, auth) = (text("username")?, text("password")?, text("auth")?.trim());
    if auth.is_empty() {
        return Ok(Credential { username: username.to_owned(), password: password.to_owned() });
    }
    let engine = if auth.ends_with('=') { STANDARD } else { STANDARD_NO_PAD };
    let decoded = engine.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or("has an `auth` that is not base64 of a text")?;
    let (username, password) = decoded.split_once(':').ok_or("has an `auth` that is not base64 of user:password")?;
    Ok(Credential { username: username.to_owned(), password: password.to_owned() })
}

/// The place that a key of a docker configuration means: without its scheme, and without `/v1/` or `/v2/`.
fn place(location: &str) -> Option<String> {
    let rest = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = ["/v1", "/v2"]
        .iter()
        .find_map(|version| path.strip_prefix(version).filter(|path| path.is_empty() || path.starts_with('/')))
        .unwrap_or(path);
    let path = if path == "/" { "" } else { path };
    (!host.is_empty()).then(|| format!("{host}{path}"))
}

/// Whether a repository is at a place, or below it.
fn is_within(place: &str, repository: &str) -> bool {
    let (place_host, place_path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let (host, path) = repository.split_at(repository.find('/').unwrap_or(repository.len()));
    let ((place_host, place_port), (host, port)) = (split_port(place_host), split_port(host));
    let (globs, parts): (Vec<&str>, Vec<&str>) = (place_host.split('.').collect(), host.split('.').collect());
    place_port == port
        && globs.len() == parts.len()
        && path.starts_with(place_path)
        && globs.iter().zip(parts).all(|(glob, part)| fits(glob.as_bytes(), part.as_bytes()))
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        // Not the last part of an address in brackets.
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

/// Whether a text fits a glob of `*`, `?`, `[a-z]`, `[^a-z]` and `\`. A glob that is not in order fits nothing.
fn fits(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    // Where to go on when what follows the last star does not fit: one character later.
    let mut retry = None;
    while of < text.len() {
        if glob.get(at) == Some(&b'*') {
            retry = Some((at + 1, of));
            at += 1;
        } else if let Some(length) = one(&glob[at.min(glob.len())..], text[of]) {
            at += length;
            of += 1;
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            (at, of) = (after, from + 1);
        } else {
            return false;
        }
    }
    glob[at.min(glob.len())..].iter().all(|byte| *byte == b'*')
}

/// How long the first piece of a glob is, if it fits this character.
fn one(glob: &[u8], byte: u8) -> Option<usize> {
    match *glob.first()? {
        b'?' => Some(1),
        b'\\' => (*glob.get(1)? == byte).then_some(2),
        b'[' => {
            let is_not = glob.get(1) == Some(&b'^');
            let mut at = if is_not { 2 } else { 1 };
            let mut is_in = false;
            let begin = at;
            while at == begin || *glob.get(at)? != b']' {
                let low = class(glob, &mut at)?;
                let high = if glob.get(at) == Some(&b'-') {
                    at += 1;
                    class(glob, &mut at)?
                } else {
                    low
                };
                is_in |= (low..=high).contains(&byte);
            }
            (is_in != is_not).then_some(at + 1)
        }
        other => (other == byte).then_some(1),
    }
}

/// One character of a class.
fn class(glob: &[u8], at: &mut usize) -> Option<u8> {
    if glob.get(*at) == Some(&b'\\') {
        *at += 1;
    }
    let byte = *glob.get(*at)?;
    *at += 1;
    (*at < glob.len()).then_some(byte)
}

#[cfg(test)]
mod tests;
