//! The one watch of all pods that a leading manager has, for everybody who acts on pods.
//!
//! Each event is read once, as text with a light [`Head`]; a [`Listener`] looks for a word in the text before it reads any
//! more. Nothing is kept here: of a list, a page is there at a time, and only until it was told.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::json::Text;
use crate::store::watch::{Line, Raw, Sink, Trouble};

/// Pods in one page of a list: about a MiB of text.
const PAGE: u32 = 100;
/// How long it waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);

/// What everybody needs to know of a pod. What is not there, or is no text, is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its namespace.
    pub namespace: Cow<'a, str>,
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its UID.
    pub uid: Cow<'a, str>,
    /// The version of this copy.
    pub resource_version: Cow<'a, str>,
    /// Whether it is being deleted.
    pub is_going_away: bool,
}

/// What a listener is told.
#[derive(Clone, Debug)]
pub enum Told<'a> {
    /// A list begins, maybe anew: each pod that there is is put before it is [`Told::Listed`].
    Listing,
    /// This pod is new, or is now like this.
    Put {
        /// Which it is.
        head: &'a Head<'a>,
        /// All of it, as JSON.
        raw: &'a str,
    },
    /// This pod is gone.
    Gone {
        /// Which it was.
        head: &'a Head<'a>,
    },
    /// A whole list was told: what was not put since [`Told::Listing`] is gone.
    Listed,
}

/// Who is told of pods.
pub trait Listener: Send + Sync {
    /// Takes note. Must be quick: everybody else waits meanwhile.
    fn told(&self, told: &Told<'_>);
}

/// Asks for all pods to be told again. A clone asks the same hub.
#[derive(Clone, Debug, Default)]
pub struct Again(Arc<Notify>);

/// `outrigger_pods_watch_restarts_total`. A clone shares it.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    restarts: Counter,
}

/// The watch, with its listeners.
pub struct Hub {
    client: Client,
    metrics: Metrics,
    listeners: Vec<Arc<dyn Listener>>,
    again: Again,
}

/// Tells the listeners.
struct Teller {
    listeners: Arc<[Arc<dyn Listener>]>,
    metrics: Metrics,
    is_down: Arc<AtomicBool>,
}

// === impl Head ===

impl<'a> Head<'a> {
    /// Reads it from an object's JSON, no further than the metadata go.
    pub fn read(object: &'a str) -> Self {
        let mut found = None;
        // An error as a rule: the object was not read to its end.
        let _unfinished = serde_json::Deserializer::from_str(object).deserialize_map(ToMetadata(&mut found));
        let Some(Metadata { namespace, name, uid, resource_version, deletion_timestamp }) = found else {
            return Self::default();
        };
        let text = |text: Option<Text<'a>>| text.map(|Text(text)| text).unwrap_or_default();
        Self {
            namespace: text(namespace),
            name: text(name),
            uid: text(uid),
            resource_version: text(resource_version),
            is_going_away: deletion_timestamp.is_some(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    uid: Option<Text<'a>>,
    #[serde(borrow)]
    resource_version: Option<Text<'a>>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// Stops at the metadata.
struct ToMetadata<'s, 'a>(&'s mut Option<Metadata<'a>>);

impl<'de> Visitor<'de> for ToMetadata<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = members.next_key()? {
            if key == "metadata" {
                *self.0 = Some(members.next_value()?);
                return Ok(());
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

// === impl Again ===

impl Again {
    /// Asks. If the watch does not run yet, it reads everything anyway.
    pub fn ask(&self) {
        self.0.notify_one();
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers it under the prefix of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "How often the watch of pods broke and began again";
        registry.register("pods_watch_restarts", help, self.restarts.clone());
    }
}

// === impl Hub ===

impl Hub {
    /// One without listeners.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics, listeners: Vec::new(), again: Again::default() }
    }

    /// Tells this one too.
    pub fn listen(&mut self, listener: Arc<dyn Listener>) {
        self.listeners.push(listener);
    }

    /// What asks this hub to tell everything again.
    pub fn again(&self) -> Again {
        self.again.clone()
    }

    /// Watches until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { client, metrics, listeners, again } = self;
        let (listeners, is_down): (Arc<[_]>, _) = (listeners.into(), Arc::new(AtomicBool::new(false)));
        loop {
            // A task of its own, since a listener could crash. It ends with the set.
            let mut watching = JoinSet::new();
            let line = Line::new("/api/v1/pods".to_owned(), client.clone()).paged(PAGE);
            let mut teller =
                Teller { listeners: Arc::clone(&listeners), metrics: metrics.clone(), is_down: Arc::clone(&is_down) };
            watching.spawn(async move { line.follow(&mut teller).await });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = again.0.notified() => continue,
                ended = watching.join_next() => {
                    let error = ended.and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
                    tracing::error!(%error, "the watch of pods crashed and starts again");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(RECOVERY) => {}
            }
        }
    }
}

// === impl Teller ===

impl Teller {
    fn tell(&self, told: &Told<'_>) {
        for listener in self.listeners.iter() {
            listener.told(told);
        }
    }

    fn tell_of(&self, object: &RawValue, told: impl for<'h> FnOnce(&'h Head<'h>, &'h str) -> Told<'h>) -> String {
        let head = Head::read(object.get());
        if !head.name.is_empty() {
            self.tell(&told(&head, object.get()));
        }
        head.resource_version.into_owned()
    }
}

impl Sink for Teller {
    async fn take(&mut self, told: Raw<'_>) -> Result<String, serde_json::Error> {
        Ok(match told {
            Raw::Item(object) | Raw::Put(object) => self.tell_of(object, |head, raw| Told::Put { head, raw }),
            Raw::Gone(object) => self.tell_of(object, |head, _| Told::Gone { head }),
            Raw::Listing => {
                self.tell(&Told::Listing);
                String::new()
            }
            Raw::Listed => {
                self.tell(&Told::Listed);
                String::new()
            }
            Raw::Current => String::new(),
        })
    }

    fn heard(&self) {
        if self.is_down.swap(false, Ordering::Relaxed) {
            tracing::info!("the watch of pods is up again");
        }
    }

    fn restarted(&self) {
        self.metrics.restarts.inc();
    }

    fn lost(&self, trouble: &Trouble) {
        self.metrics.restarts.inc();
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %trouble, "the watch of pods is down; controllers wait for what it does not tell");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::body::Body;
    use axum::http::Uri;
    use axum::response::{IntoResponse as _, Response};
    use futures::{StreamExt as _, stream};
    use rstest::rstest;
    use serde_json::{Value, json};
    use tokio::time::timeout;

    use super::*;

    #[rstest]
    #[case::whole(
        r#"{"kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{"name":"x"}},"spec":{"#,
        ["n", "a", "u", "7"], false
    )]
    #[case::metadata_last(r#"{"spec":{"metadata":{"name":"x"}},"metadata":{"name":"a"}}"#, ["", "a", "", ""], false)]
    #[case::going(r#"{"metadata":{"deletionTimestamp":"2026-03-01T08:00:00Z","name":"a"}}"#, ["", "a", "", ""], true)]
    #[case::nulls(r#"{"metadata":{"deletionTimestamp":null,"namespace":null,"name":"a"}}"#, ["", "a", "", ""], false)]
    #[case::escapes(r#"{"met\u0061data":{"name":"\u0061"}}"#, ["", "a", "", ""], false)]
    #[case::no_text(r#"{"metadata":{"name":7}}"#, [""; 4], false)]
    #[case::no_metadata("{}", [""; 4], false)]
    #[case::no_object("null", [""; 4], false)]
    fn a_head_is_read_whatever_the_object(#[case] raw: &str, #[case] texts: [&str; 4], #[case] is_going_away: bool) {
        let head = Head::read(raw);
        assert_eq!([&*head.namespace, &*head.name, &*head.uid, &*head.resource_version], texts);
        assert_eq!(head.is_going_away, is_going_away);
    }

    /// Notes what it is told, one word each.
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Listener for Notes {
        fn told(&self, told: &Told<'_>) {
            let note = match told {
                Told::Listing => "listing".to_owned(),
                Told::Put { head, raw } => {
                    let pod: Value = serde_json::from_str(raw).unwrap();
                    assert_eq!(pod["metadata"]["name"], *head.name);
                    format!("put {}", head.name)
                }
                Told::Gone { head } => format!("gone {}", head.name),
                Told::Listed => "listed".to_owned(),
            };
            self.0.lock().unwrap().push(note);
        }
    }

    fn pod(name: &str) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name, "uid": "u", "resourceVersion": "5"}})
    }

    fn page(names: &[&str], next: &str) -> String {
        let items: Vec<Value> = names.iter().map(|name| pod(name)).collect();
        json!({"metadata": {"resourceVersion": "4", "continue": next}, "items": items}).to_string()
    }

    /// Answers each request with the next text; a watch goes on for ever after its last line.
    fn api_server(answers: Vec<String>) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, requests) = (Arc::new(Mutex::new(VecDeque::from(answers))), Arc::clone(&asked));
        let answer = move |uri: Uri| {
            requests.lock().unwrap().push(uri.query().unwrap_or_default().to_owned());
            let text = answers.lock().unwrap().pop_front().unwrap_or_default();
            let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
            // In pieces that end anywhere.
            let pieces: Vec<_> =
                text.as_bytes().chunks(7).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
            let pieces = stream::iter(pieces);
            let body =
                if watches { Body::from_stream(pieces.chain(stream::pending())) } else { Body::from_stream(pieces) };
            std::future::ready(Response::new(body).into_response())
        };
        (Client::new(Router::new().fallback(answer), "default"), asked)
    }

    async fn told(notes: &Notes, expected: &[&str]) {
        let reached = timeout(Duration::from_secs(5), async {
            while *notes.0.lock().unwrap() != expected {
                sleep(Duration::from_millis(2)).await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("{:?}", notes.0.lock().unwrap()));
    }

    #[tokio::test]
    async fn every_listener_is_told_of_every_pod_page_by_page_and_all_again_when_asked() {
        let lines = [
            json!({"type": "ADDED", "object": pod("c")}).to_string(),
            // The object before the type.
            format!("{{\"object\":{},\"type\":\"DELETED\"}}", pod("a")),
            json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}).to_string(),
            json!({"type": "MODIFIED", "object": null}).to_string(),
            json!({"type": "MODIFIED", "object": pod("b")}).to_string(),
        ];
        let watch = lines.map(|line| line + "\n").concat();
        let (client, asked) = api_server(vec![page(&["a"], "next"), page(&["b"], ""), watch, page(&[], "")]);
        let (notes, others) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
        let mut hub = Hub::new(client, Metrics::default());
        hub.listen(Arc::clone(&notes) as Arc<dyn Listener>);
        hub.listen(Arc::clone(&others) as Arc<dyn Listener>);
        let (again, shutdown) = (hub.again(), CancellationToken::new());
        let running = tokio::spawn(hub.run(shutdown.clone()));
        let mut expected = vec!["listing", "put a", "put b", "listed", "put c", "gone a", "put b"];
        told(&notes, &expected).await;
        told(&others, &expected).await;
        assert!(asked.lock().unwrap()[1].contains("continue=next"));
        again.ask();
        expected.extend(["listing", "listed"]);
        told(&notes, &expected).await;
        shutdown.cancel();
        running.await.unwrap();
    }

    /// Crashes at the first pod.
    #[derive(Default)]
    struct Clumsy(AtomicUsize);

    impl Listener for Clumsy {
        fn told(&self, told: &Told<'_>) {
            if matches!(told, Told::Put { .. }) {
                assert_ne!(self.0.fetch_add(1, Ordering::Relaxed), 0, "the first time");
            }
        }
    }

    #[tokio::test]
    async fn a_listener_that_crashes_costs_a_list_and_nothing_else() {
        let (client, _) = api_server(vec![page(&["a"], ""), page(&["a"], "")]);
        let notes = Arc::new(Notes::default());
        let mut hub = Hub::new(client, Metrics::default());
        hub.listen(Arc::new(Clumsy::default()));
        hub.listen(Arc::clone(&notes) as Arc<dyn Listener>);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(hub.run(shutdown.clone()));
        told(&notes, &["listing", "listing", "put a", "listed"]).await;
        shutdown.cancel();
        running.await.unwrap();
    }
}
