//! What is to be registered, as the bodies of server-side apply, and what of it is not so (WH-2, WH-4, WH-8, WH-9).
//!
//! Only what Outrigger decides is in a body; members of others (an `objectSelector`, labels, a condition of
//! one's own) stay. Where a server-side apply cannot do it, a JSON patch comes first: entries that call us and that we
//! do not serve (WH-9.3), a `service` where a `url` belongs, a condition of ours that is wanted no more.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::scope::{Terms, expression};
use crate::admission::{
    MUTATE_IMAGE_LIST, MUTATE_NODE_IMAGE, MUTATE_POD, MUTATE_PULL_JOB, MUTATE_RECREATE, MUTATE_SIDECARSET,
    VALIDATE_IMAGE_LIST, VALIDATE_NODE_IMAGE, VALIDATE_PULL_JOB, VALIDATE_SIDECARSET,
};
use crate::api::names;

/// A row of WH-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the entry.
    pub name: &'static str,
    /// Where it is served.
    pub path: &'static str,
    /// Which configuration it belongs to.
    pub kind: HookKind,
    /// API group of the resource.
    pub group: &'static str,
    /// Its versions.
    pub versions: &'static [&'static str],
    /// The resource.
    pub resource: &'static str,
    /// What is done to it.
    pub operations: &'static [&'static str],
}

/// The two configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// [`names::MUTATING_CONFIGURATION`].
    Mutating,
    /// [`names::VALIDATING_CONFIGURATION`].
    Validating,
}

/// The hook for pods: the one that could stand in the way.
pub const POD_HOOK: &str = "mpod.kb.io";

/// Everything that is served, in the order of WH-2. A new webhook is a new row.
pub const HOOKS: &[Hook] = &[
    Hook {
        name: POD_HOOK,
        path: MUTATE_POD,
        kind: HookKind::Mutating,
        group: "",
        versions: &["v1"],
        resource: "pods",
        operations: &["CREATE"],
    },
    Hook {
        name: "msidecarset.kb.io",
        path: MUTATE_SIDECARSET,
        kind: HookKind::Mutating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "sidecarsets",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "vsidecarset.kb.io",
        path: VALIDATE_SIDECARSET,
        kind: HookKind::Validating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "sidecarsets",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "mcontainerrecreaterequest.kb.io",
        path: MUTATE_RECREATE,
        kind: HookKind::Mutating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "containerrecreaterequests",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "mimagepulljob-v1beta1.kb.io",
        path: MUTATE_PULL_JOB,
        kind: HookKind::Mutating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "imagepulljobs",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "vimagepulljob-v1beta1.kb.io",
        path: VALIDATE_PULL_JOB,
        kind: HookKind::Validating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "imagepulljobs",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "mimagelistpulljob-v1beta1.kb.io",
        path: MUTATE_IMAGE_LIST,
        kind: HookKind::Mutating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "imagelistpulljobs",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "vimagelistpulljob-v1beta1.kb.io",
        path: VALIDATE_IMAGE_LIST,
        kind: HookKind::Validating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "imagelistpulljobs",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "mnodeimage.kb.io",
        path: MUTATE_NODE_IMAGE,
        kind: HookKind::Mutating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "nodeimages",
        operations: &["CREATE", "UPDATE"],
    },
    Hook {
        name: "vnodeimage.kb.io",
        path: VALIDATE_NODE_IMAGE,
        kind: HookKind::Validating,
        group: names::GROUP,
        versions: &["v1alpha1", "v1beta1"],
        resource: "nodeimages",
        operations: &["CREATE", "UPDATE"],
    },
];

/// The CRDs whose versions differ, so that `/convert` is called for them (WH-9.4). A new kind is a new row.
pub const CONVERTED: &[&str] = &["containerrecreaterequests.apps.kruise.io", "sidecarsets.apps.kruise.io"];
pub use crate::crds::CONVERT;

/// The API server waits no longer for the answer about a pod.
const POD_TIMEOUT: u32 = 3;
/// For our own kinds: widening the registration may take its time.
const KIND_TIMEOUT: u32 = 10;

/// A mirror pod only shows what a kubelet runs from a file: a sidecar would appear in it and run nowhere. The kubelet
/// removes a mirror pod that it did not make, so nobody escapes injection by this.
const NO_MIRROR_PODS: &str = "no-mirror-pods";
const IS_NO_MIRROR_POD: &str =
    "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)";
const SELECTED_PODS: &str = "selected-pods";

/// How the API server reaches us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// By the Service, in the cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Name of the Service for conversion, which also has replicas that are not ready: none could become so if it
        /// had to read SidecarSets that only a ready one converts.
        conversion: String,
    },
    /// By URL, out of the cluster (`--webhook-host`).
    Host {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// What the API server does with a pod when we do not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FailurePolicy {
    /// The pod is refused: none misses its sidecar.
    #[default]
    Fail,
    /// The pod is created without: none waits for us.
    Ignore,
}

/// What a registration is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How we are reached.
    pub endpoint: Endpoint,
    /// The operator's namespace, which is never sent to us.
    pub namespace: String,
    /// For pods.
    pub pod_failure_policy: FailurePolicy,
}

/// One object that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A webhook configuration.
    Hooks(HookKind),
    /// A CRD, by its place in [`CONVERTED`].
    Crd(usize),
}

/// The `caBundle` to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaBundle<'a> {
    /// This PEM.
    Pem(&'a str),
    /// Whatever is there: another writes it.
    Keep,
}

/// Who owns the configurations, so that they go when it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the Namespace.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Of what a body is made besides [`Wanted`].
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The object as it is, if it is.
    pub live: Option<&'a Value>,
    /// The bundle.
    pub ca: CaBundle<'a>,
    /// The Namespace.
    pub owner: Option<&'a Owner>,
    /// Which pods are sent; `None` is all.
    pub terms: Option<&'a Terms>,
}

// === impl Target ===

impl Target {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let hooks = [Self::Hooks(HookKind::Mutating), Self::Hooks(HookKind::Validating)];
        hooks.into_iter().chain((0..CONVERTED.len()).map(Self::Crd))
    }

    /// The object's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hooks(HookKind::Mutating) => names::MUTATING_CONFIGURATION,
            Self::Hooks(HookKind::Validating) => names::VALIDATING_CONFIGURATION,
            Self::Crd(place) => CONVERTED[place],
        }
    }

    /// Its apiVersion and kind.
    pub fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Hooks(HookKind::Mutating) => ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
            Self::Hooks(HookKind::Validating) => ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
            Self::Crd(_) => ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn client_config(&self, path: &str, ca: Option<Value>) -> Value {
        let mut config = match self {
            Self::Service { namespace, name, conversion } => {
                let name = if path == CONVERT { conversion } else { name };
                json!({ "service": { "namespace": namespace, "name": name, "path": path, "port": 443 } })
            }
            Self::Host { host, port } => json!({ "url": format!("{}{path}", origin(host, *port)) }),
        };
        if let Some(ca) = ca {
            config["caBundle"] = ca;
        }
        config
    }

    /// Whether an entry calls us, wherever.
    fn is_called_by(&self, config: &Value) -> bool {
        match self {
            Self::Service { namespace, name, .. } => {
                let service = &config["service"];
                service["namespace"] == namespace.as_str() && service["name"] == name.as_str()
            }
            Self::Host { host, port } => {
                config["url"].as_str().is_some_and(|url| url.starts_with(&format!("{}/", origin(host, *port))))
            }
        }
    }

    /// Whether it has the member of the other way.
    fn is_other_way(&self, config: &Value) -> bool {
        let other = match self {
            Self::Service { .. } => "url",
            Self::Host { .. } => "service",
        };
        !config[other].is_null()
    }
}

fn origin(host: &str, port: u16) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') { format!("https://[{bare}]:{port}") } else { format!("https://{bare}:{port}") }
}

// === what is wanted ===

/// The body of a server-side apply. A CRD is touched only when it is converted by a webhook already (WH-9.4): `None`
/// otherwise. With a live object, the body bears its uid and resourceVersion: an object that was deleted or
/// changed meanwhile is neither made again nor written over.
pub fn body(target: Target, wanted: &Wanted, moment: Moment<'_>) -> Option<Value> {
    let (api_version, kind) = target.kind();
    let mut metadata = json!({ "name": target.name() });
    if let Some(live) = moment.live {
        for member in ["uid", "resourceVersion"] {
            metadata[member] = live["metadata"][member].clone();
        }
    }
    let mut body = json!({ "apiVersion": api_version, "kind": kind });
    match target {
        Target::Hooks(kind) => {
            if let Some(Owner { name, uid }) = moment.owner {
                let owner = json!({ "apiVersion": "v1", "kind": "Namespace", "name": name, "uid": uid });
                metadata["ownerReferences"] = json!([owner]);
            }
            let hooks = HOOKS.iter().filter(|hook| hook.kind == kind);
            body["webhooks"] = hooks.map(|hook| entry(hook, wanted, moment)).collect();
        }
        Target::Crd(_) => {
            let live = moment.live.filter(|live| is_converted(live))?;
            let ca = bundle(moment.ca, &live["spec"]["conversion"]["webhook"]["clientConfig"]);
            body["spec"]["conversion"]["webhook"] = json!({
                "clientConfig": wanted.endpoint.client_config(CONVERT, ca),
                "conversionReviewVersions": ["v1", "v1beta1"],
            });
        }
    }
    body["metadata"] = metadata;
    Some(body)
}

fn entry(hook: &Hook, wanted: &Wanted, moment: Moment<'_>) -> Value {
    let live = moment.live.and_then(|live| named(&live["webhooks"], hook.name));
    let ca = bundle(moment.ca, live.map_or(&Value::Null, |live| &live["clientConfig"]));
    let mut entry = json!({
        "name": hook.name,
        "admissionReviewVersions": ["v1", "v1beta1"],
        "clientConfig": wanted.endpoint.client_config(hook.path, ca),
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": KIND_TIMEOUT,
        "rules": [{
            "apiGroups": [hook.group],
            "apiVersions": hook.versions,
            "operations": hook.operations,
            "resources": [hook.resource],
            "scope": "*",
        }],
    });
    if hook.kind == HookKind::Mutating {
        // POD-5: a second call is not the same as one.
        entry["reinvocationPolicy"] = json!("Never");
    }
    if hook.name == POD_HOOK {
        entry["timeoutSeconds"] = json!(POD_TIMEOUT);
        entry["failurePolicy"] = match wanted.pod_failure_policy {
            FailurePolicy::Fail => json!("Fail"),
            FailurePolicy::Ignore => json!("Ignore"),
        };
        // Differs: WH-5, neither the cluster's own pods nor ours may wait for us.
        let away = BTreeSet::from(["kube-system", wanted.namespace.as_str()]);
        entry["namespaceSelector"] = json!({ "matchExpressions": [
            { "key": "control-plane", "operator": "DoesNotExist" },
            { "key": names::NAMESPACE_NAME, "operator": "NotIn", "values": away },
        ]});
        let mut conditions = vec![json!({ "name": NO_MIRROR_PODS, "expression": IS_NO_MIRROR_POD })];
        if let Some(terms) = moment.terms {
            conditions.push(json!({ "name": SELECTED_PODS, "expression": expression(terms) }));
        }
        entry["matchConditions"] = Value::Array(conditions);
    }
    entry
}

fn bundle(ca: CaBundle<'_>, live: &Value) -> Option<Value> {
    match ca {
        CaBundle::Pem(pem) => Some(Value::String(STANDARD.encode(pem))),
        CaBundle::Keep => live.get("caBundle").cloned(),
    }
}

/// WH-9.4: of our group, and converted by a webhook already.
pub fn is_converted(crd: &Value) -> bool {
    crd["spec"]["group"] == names::GROUP && crd["spec"]["conversion"]["strategy"] == "Webhook"
}

/// The expression by which pods are selected, as it is registered; `None` when every pod is sent.
pub fn live_expression(mutating: &Value) -> Option<&str> {
    let entry = named(&mutating["webhooks"], POD_HOOK)?;
    named(&entry["matchConditions"], SELECTED_PODS)?["expression"].as_str()
}

/// The `caBundle`s, decoded, by which the API server would call us. What is not registered refuses nobody.
pub fn live_bundles(target: Target, live: &Value) -> Vec<Vec<u8>> {
    let decoded = |config: &Value| STANDARD.decode(config["caBundle"].as_str().unwrap_or_default()).unwrap_or_default();
    match target {
        Target::Hooks(kind) => HOOKS
            .iter()
            .filter(|hook| hook.kind == kind)
            .filter_map(|hook| named(&live["webhooks"], hook.name))
            .map(|entry| decoded(&entry["clientConfig"]))
            .collect(),
        Target::Crd(_) if is_converted(live) => vec![decoded(&live["spec"]["conversion"]["webhook"]["clientConfig"])],
        Target::Crd(_) => Vec::new(),
    }
}

// === what is not so ===

/// What a JSON patch must do before `body` can be applied; empty when nothing. It holds for this version of the object only.
pub fn clearing(target: Target, wanted: &Wanted, live: &Value, body: &Value) -> Vec<Value> {
    let mut steps = Vec::new();
    match target {
        Target::Hooks(kind) => {
            let entries = live["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
            // From the end, so that places stay right.
            for (place, entry) in entries.iter().enumerate().rev() {
                let config = &entry["clientConfig"];
                let Some(desired) = entry["name"].as_str().and_then(|name| named(&body["webhooks"], name)) else {
                    if wanted.endpoint.is_called_by(config) {
                        steps.push(json!({ "op": "remove", "path": format!("/webhooks/{place}") }));
                    }
                    continue;
                };
                if wanted.endpoint.is_other_way(config) {
                    let path = format!("/webhooks/{place}/clientConfig");
                    steps.push(json!({ "op": "replace", "path": path, "value": desired["clientConfig"] }));
                }
                if let Some(condition) = stale_condition(kind, entry, desired) {
                    let path = format!("/webhooks/{place}/matchConditions/{condition}");
                    steps.push(json!({ "op": "remove", "path": path }));
                }
            }
        }
        Target::Crd(_) => {
            if wanted.endpoint.is_other_way(&live["spec"]["conversion"]["webhook"]["clientConfig"]) {
                let value = &body["spec"]["conversion"]["webhook"]["clientConfig"];
                let path = "/spec/conversion/webhook/clientConfig";
                steps.push(json!({ "op": "replace", "path": path, "value": value }));
            }
        }
    }
    if !steps.is_empty() {
        let version = &live["metadata"]["resourceVersion"];
        steps.insert(0, json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": version }));
    }
    steps
}

fn stale_condition(kind: HookKind, entry: &Value, desired: &Value) -> Option<usize> {
    let wanted = named(&desired["matchConditions"], SELECTED_PODS).is_some();
    if kind != HookKind::Mutating || desired["name"] != POD_HOOK || wanted {
        return None;
    }
    entry["matchConditions"].as_array()?.iter().position(|condition| condition["name"] == SELECTED_PODS)
}

/// The path of the first member that is not as `body` says; `None` when all are.
pub fn drift(live: &Value, body: &Value) -> Option<String> {
    // Items of a list come without kind and version.
    ["metadata", "webhooks", "spec"].into_iter().filter(|member| !body[member].is_null()).find_map(|member| {
        let mut path = format!(".{member}");
        differs(&live[member], &body[member], &mut path).then_some(path)
    })
}

fn differs(live: &Value, body: &Value, path: &mut String) -> bool {
    let before = path.len();
    let found = match (live, body) {
        (Value::Object(live), Value::Object(body)) => body.iter().any(|(key, body)| {
            path.truncate(before);
            path.push('.');
            path.push_str(key);
            differs(live.get(key).unwrap_or(&Value::Null), body, path)
        }),
        (live, Value::Array(body)) if body.iter().any(|item| key_of(item).is_some()) => body.iter().any(|body| {
            let Some((key, name)) = key_of(body) else { return live != body };
            path.truncate(before);
            path.extend(["[", name, "]"]);
            let live = live.as_array().and_then(|all| all.iter().find(|item| item[key] == *name));
            differs(live.unwrap_or(&Value::Null), body, path)
        }),
        (live, body) => live != body,
    };
    if !found {
        path.truncate(before);
    }
    found
}

/// Lists of the API whose items have a name, or a UID (owners), are maps.
fn key_of(item: &Value) -> Option<(&'static str, &str)> {
    let item: &Map<String, Value> = item.as_object()?;
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    text("uid").map(|uid| ("uid", uid)).or_else(|| text("name").map(|name| ("name", name)))
}

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item["name"] == name)
}
