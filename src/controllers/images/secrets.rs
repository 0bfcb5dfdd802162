//! Keeps the copies of pull secrets as the jobs need them (SEC-1 … SEC-14): reads the sources, decides, writes, until there
//! is nothing to write. Nothing of a Secret is kept but what stands for its content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use kube::Client;
use kube::core::Request;
use serde_json::{Value, json};

use super::calls;
use super::metrics::{Metrics, Taken};
use crate::cluster::CallError;
use crate::images::secrets::{Action, Copy, Key, Ready, Source, Want, annotations, joined, plan};

/// Sources that are read at a time.
const READS: usize = 8;
/// Rounds of deciding and writing; more are for the next time.
const ROUNDS: usize = 3;

/// What is known when it begins.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) metrics: Metrics,
    /// The namespace of copies.
    pub(super) namespace: Arc<str>,
    pub(super) wants: Vec<Want>,
    pub(super) copies: BTreeMap<String, Copy>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) ready: Vec<Ready>,
    /// Copies as the API server answered; `None` for those that were deleted.
    pub(super) written: Vec<(String, Option<Copy>)>,
    /// What went wrong, for people.
    pub(super) trouble: Option<String>,
}

impl Keeper {
    pub(super) async fn run(mut self) -> Kept {
        let mut troubles = BTreeSet::new();
        let sources = self.read(&mut troubles).await;
        let mut written = Vec::new();
        let mut ready = Vec::new();
        for _ in 0..ROUNDS {
            let (actions, now_ready) = plan(&self.namespace, &self.wants, &self.copies, &sources);
            ready = now_ready;
            if actions.is_empty() {
                break;
            }
            let mut has_failed = false;
            for action in actions {
                match self.act(&action).await {
                    Ok((name, copy)) => {
                        self.metrics.wrote("secret", Taken::Done);
                        match copy.clone() {
                            Some(copy) => _ = self.copies.insert(name.clone(), copy),
                            None => _ = self.copies.remove(&name),
                        }
                        written.push((name, copy));
                    }
                    Err(error) => {
                        self.metrics.wrote("secret", Taken::of(&error));
                        has_failed = true;
                        // Somebody was faster: the watch tells how it is now.
                        if !matches!(error.code(), Some(409 | 422)) {
                            troubles.insert(format!(
                                "pull secrets cannot be copied to the namespace {:?}: {error}",
                                self.namespace
                            ));
                        }
                    }
                }
            }
            if has_failed {
                break;
            }
        }
        let trouble = troubles.into_iter().next();
        for ready in ready.iter_mut().filter(|ready| ready.secrets.is_none()) {
            ready.remark = trouble.clone().or(ready.remark.take());
        }
        Kept { ready, written, trouble }
    }

    async fn read(&self, troubles: &mut BTreeSet<String>) -> BTreeMap<Key, Source> {
        let wanted = self.wants.iter().filter(|want| want.job.0 != self.namespace);
        let keys: BTreeSet<Key> = wanted
            .flat_map(|want| want.secrets.iter().map(|name| (Arc::clone(&want.job.0), name.as_str().into())))
            .collect();
        let read = stream::iter(keys).map(async |key: Key| {
            let found = calls::get(&self.client, &secrets(&key.0), &key.1).await;
            (key, found)
        });
        let read: Vec<(Key, Result<Option<Value>, CallError>)> = read.buffer_unordered(READS).collect().await;
        let mut sources = BTreeMap::new();
        for (key, found) in read {
            let source = match found {
                Ok(Some(object)) => Source::read(&object),
                Ok(None) => Source::Absent,
                Err(error) => {
                    troubles.insert(format!("the pull secret {:?} cannot be read: {error}", key.1));
                    Source::Unknown
                }
            };
            sources.insert(key, source);
        }
        sources
    }

    async fn act(&self, action: &Action) -> Result<(String, Option<Copy>), CallError> {
        let copies = secrets(&self.namespace);
        match action {
            Action::Create { source, name, references } => {
                let Some(object) = calls::get(&self.client, &secrets(&source.0), &source.1).await? else {
                    return Ok((name.clone(), None));
                };
                let copy = json!({
                    "apiVersion": "v1", "kind": "Secret",
                    "metadata": {
                        "namespace": &*self.namespace, "name": name, "annotations": annotations(source, references),
                    },
                    "type": object["type"], "data": object["data"],
                });
                let answer = calls::create(&self.client, &copies, &copy).await?;
                Ok((name.clone(), read(&answer)))
            }
            Action::Update { name, version, content, references } => {
                let path = "/metadata/annotations/imagepulljobs.kruise.io~1references";
                let mut operations = vec![json!({"op": "add", "path": path, "value": joined(references)})];
                if let Some(source) = content
                    && let Some(object) = calls::get(&self.client, &secrets(&source.0), &source.1).await?
                {
                    operations.push(json!({"op": "add", "path": "/data", "value": object["data"]}));
                }
                let uid = self.copies.get(name).map(|copy| copy.uid.as_str()).unwrap_or_default();
                let answer = calls::patch(&self.client, &copies, name, None, (uid, version), operations).await?;
                Ok((name.clone(), Copy::read(&answer)))
            }
            Action::Delete { name, uid } => {
                calls::delete(&self.client, &copies, name, uid, None).await?;
                Ok((name.clone(), None))
            }
        }
    }
}

fn read(answer: &str) -> Option<Copy> {
    Copy::read(&serde_json::from_str(answer).ok()?)
}

fn secrets(namespace: &str) -> Request {
    Request::new(format!("/api/v1/namespaces/{namespace}/secrets"))
}
