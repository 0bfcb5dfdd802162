//! The pull secrets that a NodeImage names, and no others: each is read when an attempt begins, and kept for a few seconds so
//! that tags of one job do not ask one after the other (IMG-52; WEAK-33: the reference keeps them up to ten minutes).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use tokio::time::Instant;

use crate::api::nodeimage::SecretReference;
use crate::cluster::call;
use crate::images::credentials::{Keyring, Login, Unusable};

/// How long a secret is known, and also that it cannot be had.
const KEPT: Duration = Duration::from_secs(10);

/// The secrets.
pub(super) struct Secrets {
    client: Client,
    kept: Mutex<HashMap<(String, String), Kept>>,
}

struct Kept {
    read: Logins,
    since: Instant,
}

/// What a secret says.
#[derive(Clone, PartialEq)]
pub(super) enum Logins {
    /// These.
    Are(Arc<Vec<Login>>),
    /// It is not there, or not for us: it is skipped (IMG-52).
    Missing(String),
    /// The API server cannot say.
    Unread(String),
    /// It is not in order: the attempt fails (IMG-53).
    Unusable(Unusable),
}

/// The secrets of one attempt.
#[derive(Clone, PartialEq)]
pub(super) struct Found {
    /// By namespace and name, in the order of the references.
    logins: Vec<(String, Logins)>,
}

// === impl Secrets ===

impl Secrets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// What these secrets say. `is_fresh` asks anew, whatever is kept.
    pub(super) async fn get(&self, references: &[SecretReference], is_fresh: bool) -> Found {
        let mut logins = Vec::new();
        for SecretReference { namespace, name, .. } in references {
            let key = (namespace.clone(), name.clone());
            let kept = if is_fresh { None } else { self.kept(&key) };
            let read = match kept {
                Some(read) => read,
                None => self.read(&key).await,
            };
            logins.push((format!("{namespace}/{name}"), read));
        }
        Found { logins }
    }

    /// Forgets what is old, and says when there is more of that.
    pub(super) fn forget(&self) -> Option<Instant> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.since.elapsed() < KEPT);
        kept.values().map(|kept| kept.since + KEPT).min()
    }

    fn kept(&self, key: &(String, String)) -> Option<Logins> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|kept| kept.since.elapsed() < KEPT).map(|kept| kept.read.clone())
    }

    async fn read(&self, key: &(String, String)) -> Logins {
        let (namespace, name) = key;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let read = match call(api.get(name)).await {
            Ok(secret) => {
                let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
                match Login::read(&secret.type_.unwrap_or_default(), &data) {
                    Ok(logins) => Logins::Are(Arc::new(logins)),
                    Err(why) => Logins::Unusable(why),
                }
            }
            Err(error) if matches!(error.code(), Some(403 | 404)) => Logins::Missing(error.to_string()),
            Err(error) => return Logins::Unread(error.to_string()),
        };
        match &read {
            Logins::Are(_) | Logins::Unread(_) => {}
            Logins::Missing(error) => {
                tracing::warn!(ns = namespace, name, error, "a pull secret cannot be read and is left out");
            }
            Logins::Unusable(error) => tracing::warn!(ns = namespace, name, %error, "a pull secret cannot be used"),
        }
        let kept = Kept { read: read.clone(), since: Instant::now() };
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), kept);
        read
    }
}

// === impl Found ===

impl Found {
    /// All logins, or which secret spoils them (IMG-53).
    pub(super) fn keyring(&self) -> Result<Keyring, String> {
        let mut all = Vec::new();
        for (secret, logins) in &self.logins {
            match logins {
                Logins::Are(logins) => all.push(logins.to_vec()),
                Logins::Missing(_) | Logins::Unread(_) => {}
                Logins::Unusable(why) => return Err(format!("Secret {secret}: {why}")),
            }
        }
        Ok(Keyring::new(all))
    }

    /// Why one of them is not known, though it may be there; for people.
    pub(super) fn unread(&self) -> Option<String> {
        self.logins.iter().find_map(|(secret, logins)| match logins {
            Logins::Unread(why) => Some(format!("Secret {secret} cannot be read: {why}")),
            _ => None,
        })
    }

    /// Which secrets could not be had, and why; for people.
    pub(super) fn missing(&self) -> Option<String> {
        let missing = self.logins.iter().filter_map(|(secret, logins)| match logins {
            Logins::Missing(why) => Some(format!("Secret {secret} was left out: {why}")),
            _ => None,
        });
        Some(missing.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }
}
