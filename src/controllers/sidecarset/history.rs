//! Carries out what [`revisions`](crate::rollout::revisions) finds (REV-1 … REV-9).

use kube::Client;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::Value;

use crate::api::names;
use crate::api::sidecarset::SidecarSet;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::rollout::revisions::{NoNameFree, Registered, Revision, Write, register};

/// Writes until there is nothing left to write.
const ROUNDS: usize = 20;

/// Why a revision could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The API server did not do its part.
    #[error("ControllerRevisions cannot be {0}: {1}")]
    Call(&'static str, CallError),
    /// No name is free.
    #[error(transparent)]
    NoNameFree(#[from] NoNameFree),
    /// Somebody else writes them all the time.
    #[error("ControllerRevisions change faster than they can be read")]
    Unsteady,
}

/// The ControllerRevisions of one namespace.
#[derive(Clone)]
pub struct Revisions {
    client: Client,
    namespace: String,
    request: Request,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

// === impl Revisions ===

impl Revisions {
    /// Those in `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        let request = Request::new(format!("/apis/apps/v1/namespaces/{namespace}/controllerrevisions"));
        Self { client, namespace: namespace.to_owned(), request }
    }

    /// Finds or makes the revision of the current content of `set`.
    pub async fn register(&self, set: &SidecarSet, uid: &str, collisions: i32) -> Result<Registered, HistoryError> {
        let (mut collisions, mut taken) = (collisions, Vec::new());
        for _ in 0..ROUNDS {
            let mut known = self.list(&set.metadata.name).await?;
            known.extend(taken.iter().cloned());
            let registered = register(set, uid, collisions, &self.namespace, &known)?;
            collisions = registered.collision_count;
            match &registered.write {
                None => return Ok(registered),
                Some(Write::Create(document)) => {
                    if !self.create(document).await? {
                        // REV-7
                        taken.extend(self.named(&registered.name).await?);
                    }
                }
                Some(Write::Patch(name, patch)) => self.patch(name, patch).await?,
            }
        }
        Err(HistoryError::Unsteady)
    }

    /// All with the label of the set `name`, whoever owns them.
    pub async fn list(&self, name: &str) -> Result<Vec<Revision>, HistoryError> {
        let params = ListParams::default().labels(&format!("{}={name}", names::REVISION_OF));
        let list: List = self.call("listed", self.request.list(&params)).await?;
        Ok(list.items.iter().map(Revision::read).collect())
    }

    /// Whether it was created; if not, its name is taken.
    async fn create(&self, document: &Value) -> Result<bool, HistoryError> {
        let body = document.to_string().into_bytes();
        let params = PostParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PostParams::default() };
        match self.call::<Value>("created", self.request.create(&params, body)).await {
            Err(HistoryError::Call(_, error)) if error.code() == Some(409) => Ok(false),
            created => created.map(|_| true),
        }
    }

    /// The one of this name, whatever its labels: a list of one, which asks for no further right.
    async fn named(&self, name: &str) -> Result<Option<Revision>, HistoryError> {
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        let list: List = self.call("listed", self.request.list(&params)).await?;
        Ok(list.items.first().map(Revision::read))
    }

    async fn patch(&self, name: &str, patch: &Value) -> Result<(), HistoryError> {
        let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
        match self.call::<Value>("renumbered", self.request.patch(name, &params, &Patch::Merge(patch))).await {
            // Gone meanwhile: the next look finds that out.
            Err(HistoryError::Call(_, error)) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            patched => patched.map(drop),
        }
    }

    /// Deletes these; one that is gone is no error.
    pub async fn delete(&self, revisions: &[String]) -> Result<(), HistoryError> {
        for name in revisions {
            match self.call::<Value>("deleted", self.request.delete(name, &DeleteParams::default())).await {
                Err(HistoryError::Call(_, error)) if error.code() == Some(404) => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        request: Result<axum::http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, HistoryError> {
        let made = async { self.client.request(request.map_err(kube::Error::BuildRequest)?).await };
        call(made).await.map_err(|error| HistoryError::Call(what, error))
    }
}
