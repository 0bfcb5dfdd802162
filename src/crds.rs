//! The CustomResourceDefinitions, made of the Rust types (API-1 … API-4).
//!
//! v1beta1 is stored; v1alpha1 has the schema of its own type, or that of v1beta1 without what it lacks. Where the two
//! differ, the API server converts through `/convert` (CONV-1); the authority's certificate is added to the objects in the
//! cluster, not here.

use serde_json::{Map, Value, json};

use crate::api::imagelist::ImageListPullJob;
use crate::api::sidecarset::{SidecarSet, v1alpha1};
use crate::api::{names, nodeimage::NodeImage, pulljob::ImagePullJob, recreate::ContainerRecreateRequest, schema};

/// Path of the conversion webhook (CONV-1).
pub const CONVERT: &str = "/convert";
/// Names of the definitions whose objects are converted by the webhook.
pub const CONVERTED: [&str; 2] = ["sidecarsets.apps.kruise.io", "containerrecreaterequests.apps.kruise.io"];

/// A column of `kubectl get`: name, type, path and description.
type Column = (&'static str, &'static str, &'static str, &'static str);

/// What tells one kind from another (API-1).
struct Kind {
    name: &'static str,
    short: Option<&'static str>,
    scope: &'static str,
    columns: &'static [Column],
    /// Columns of v1alpha1 alone.
    older_columns: &'static [Column],
    /// Whether a webhook converts, or the API server by itself.
    is_converted: bool,
    /// Schema of v1alpha1.
    older: fn() -> Value,
    /// Schema of v1beta1.
    newer: fn() -> Value,
}

const AGE: Column = ("AGE", "date", ".metadata.creationTimestamp", "When the object was created.");

const KINDS: [Kind; 5] = [
    Kind {
        name: "SidecarSet",
        short: None,
        scope: "Cluster",
        columns: &[
            ("MATCHED", "integer", ".status.matchedPods", "Pods that the selectors match."),
            ("UPDATED", "integer", ".status.updatedPods", "Matching pods with the current spec."),
            ("READY", "integer", ".status.readyPods", "Matching pods that are ready."),
            AGE,
        ],
        older_columns: &[],
        is_converted: true,
        older: schema::of::<v1alpha1::SidecarSet>,
        newer: schema::of::<SidecarSet>,
    },
    Kind {
        name: "ContainerRecreateRequest",
        short: Some("crr"),
        scope: "Namespaced",
        columns: &[
            ("PHASE", "string", ".status.phase", "How far the request got."),
            ("POD", "string", ".spec.podName", "The pod whose containers are restarted."),
            ("NODE", "string", r".metadata.labels.crr\.apps\.kruise\.io/node-name", "The node of the pod."),
            AGE,
        ],
        older_columns: &[],
        is_converted: true,
        older: older_recreate,
        newer: schema::of::<ContainerRecreateRequest>,
    },
    Kind {
        name: "ImagePullJob",
        short: None,
        scope: "Namespaced",
        columns: &[
            ("TOTAL", "integer", ".status.desired", "Nodes that shall have the image."),
            ("ACTIVE", "integer", ".status.active", "Nodes that are pulling."),
            ("SUCCEED", "integer", ".status.succeeded", "Nodes that have the image."),
            ("FAILED", "integer", ".status.failed", "Nodes that gave up."),
            AGE,
        ],
        older_columns: &[("MESSAGE", "string", ".status.message", "How far the job is.")],
        is_converted: false,
        older: schema::of::<ImagePullJob>,
        newer: schema::of::<ImagePullJob>,
    },
    Kind {
        name: "ImageListPullJob",
        short: None,
        scope: "Namespaced",
        columns: &[
            ("TOTAL", "integer", ".status.desired", "Images of the list."),
            ("SUCCEEDED", "integer", ".status.succeeded", "Images that every node has."),
            ("COMPLETED", "integer", ".status.completed", "Images of which every node has ended."),
            AGE,
        ],
        older_columns: &[],
        is_converted: false,
        older: schema::of::<ImageListPullJob>,
        newer: schema::of::<ImageListPullJob>,
    },
    Kind {
        name: "NodeImage",
        short: None,
        scope: "Cluster",
        columns: &[
            ("DESIRED", "integer", ".status.desired", "Tags that the node shall have."),
            ("PULLING", "integer", ".status.pulling", "Tags that it is pulling."),
            ("SUCCEED", "integer", ".status.succeeded", "Tags that it has."),
            ("FAILED", "integer", ".status.failed", "Tags that it gave up."),
            AGE,
        ],
        older_columns: &[],
        is_converted: false,
        older: schema::of::<NodeImage>,
        newer: schema::of::<NodeImage>,
    },
];

/// One definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name, such as `sidecarsets.apps.kruise.io`.
    pub name: String,
    /// The whole object, as for `apiextensions.k8s.io/v1`.
    pub object: Value,
}

/// All definitions. `namespace` is that of the Service which converts.
pub fn all(namespace: &str) -> Vec<Definition> {
    KINDS.iter().map(|kind| kind.define(namespace)).collect()
}

// === impl Kind ===

impl Kind {
    fn define(&self, namespace: &str) -> Definition {
        let singular = self.name.to_ascii_lowercase();
        let plural = format!("{singular}s");
        let name = format!("{plural}.{}", names::GROUP);
        let mut declared = json!({
            "kind": self.name,
            "listKind": format!("{}List", self.name),
            "plural": plural,
            "singular": singular,
        });
        if let Some(short) = self.short {
            declared["shortNames"] = json!([short]);
        }
        let older_columns = [self.columns, self.older_columns].concat();
        let object = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {
                "group": names::GROUP,
                "names": declared,
                "scope": self.scope,
                "conversion": self.conversion(namespace),
                "versions": [
                    version("v1alpha1", false, &older_columns, (self.older)()),
                    version("v1beta1", true, self.columns, (self.newer)()),
                ],
            },
        });
        Definition { name, object }
    }

    fn conversion(&self, namespace: &str) -> Value {
        if !self.is_converted {
            return json!({"strategy": "None"});
        }
        let service = json!({"name": names::CONVERSION_SERVICE, "namespace": namespace, "port": 443, "path": CONVERT});
        json!({
            "strategy": "Webhook",
            "webhook": {"clientConfig": {"service": service}, "conversionReviewVersions": ["v1", "v1beta1"]},
        })
    }
}

fn version(name: &str, is_stored: bool, columns: &[Column], schema: Value) -> Value {
    let column = |(name, kind, path, description): &Column| json!({"name": name, "type": kind, "jsonPath": path, "description": description});
    json!({
        "name": name,
        "served": true,
        "storage": is_stored,
        "additionalPrinterColumns": columns.iter().map(column).collect::<Vec<_>>(),
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": rooted(schema)},
    })
}

/// The schema of a whole object. Metadata has a schema of its own in the API server, which allows no other.
fn rooted(mut schema: Value) -> Value {
    if let Some(Value::Object(members)) = schema.get_mut("properties") {
        let text = |description: &str| json!({"type": "string", "description": description});
        members.insert("apiVersion".to_owned(), text("Group and version of this object."));
        members.insert("kind".to_owned(), text("Kind of this object."));
        members.insert("metadata".to_owned(), json!({"type": "object"}));
    }
    schema
}

/// API-20 … API-23: v1alpha1 has neither enums nor minimums, and two members of the status less.
fn older_recreate() -> Value {
    let mut schema = schema::of::<ContainerRecreateRequest>();
    if let Some(Value::Object(status)) = schema.pointer_mut("/properties/status/properties") {
        status.remove("containerStatusSnapshot");
        status.remove("conditions");
    }
    unbind(&mut schema);
    schema
}

fn unbind(schema: &mut Value) {
    let Value::Object(members) = schema else { return };
    members.remove("enum");
    members.remove("minimum");
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(unbind);
    }
    members.get_mut("items").into_iter().for_each(unbind);
}

// === impl Definition ===

impl Definition {
    /// The definition as a YAML document, the same for the same types.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::SerializeError> {
        Ok(format!("---\n{}", serde_saphyr::to_string(&self.object)?))
    }

    /// Name of its file, as controller-gen names them.
    pub fn file_name(&self) -> String {
        let (plural, group) = self.name.split_once('.').unwrap_or((&self.name, names::GROUP));
        format!("{group}_{plural}.yaml")
    }

    /// The schema of one version.
    pub fn schema(&self, version: &str) -> Option<&Map<String, Value>> {
        let versions = self.object.pointer("/spec/versions")?.as_array()?;
        let version = versions.iter().find(|candidate| candidate["name"] == version)?;
        version.pointer("/schema/openAPIV3Schema")?.as_object()
    }
}
