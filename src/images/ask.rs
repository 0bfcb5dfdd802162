//! What a user asks for on a command line, as the job that does it: one image is an ImagePullJob, several are an
//! ImageListPullJob.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::api::json::text;
use crate::api::meta::LabelSelectorRequirement;
use crate::api::names;
use crate::api::pulljob::Parallelism;

/// Which kind of job it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of one image.
    Job,
    /// Of several.
    List,
}

/// Labels that nodes must have: `disk=ssd,zone!=b,gpu,!spot`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    labels: BTreeMap<String, String>,
    expressions: Vec<LabelSelectorRequirement>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The images.
    pub images: Vec<String>,
    /// Names of pull secrets in the namespace of the job.
    pub secrets: Vec<String>,
    /// The nodes by name; empty for no choice by name.
    pub nodes: Vec<String>,
    /// The nodes by label.
    pub terms: Option<Terms>,
    /// How many nodes pull an image at the same time.
    pub parallelism: Parallelism,
    /// Seconds that one attempt may take.
    pub attempt_timeout: u32,
    /// Whether the registry is asked even where the image is there.
    pub always: bool,
    /// Seconds for which the finished job is kept; `None` for good.
    pub ttl: Option<u32>,
}

// === impl Kind ===

impl Kind {
    /// The name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Job => "ImagePullJob",
            Self::List => "ImageListPullJob",
        }
    }

    /// The name of its resource.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Job => "imagepulljobs",
            Self::List => "imagelistpulljobs",
        }
    }
}

// === impl Terms ===

impl FromStr for Terms {
    type Err = String;

    /// The terms without sets of values, as kubectl reads them.
    fn from_str(words: &str) -> Result<Self, String> {
        let mut terms = Self::default();
        for term in words.split(',').map(str::trim) {
            let requirement = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
                key: key.trim().to_owned(),
                operator: operator.to_owned(),
                values: values.iter().map(|value| (*value).trim().to_owned()).collect(),
            };
            let key = if let Some((key, value)) = term.split_once("!=") {
                terms.expressions.push(requirement(key, "NotIn", &[value]));
                key
            } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                if terms.labels.insert(key.trim().to_owned(), value.trim().to_owned()).is_some() {
                    return Err(format!("the label {:?} is asked for twice", key.trim()));
                }
                key
            } else if let Some(key) = term.strip_prefix('!') {
                terms.expressions.push(requirement(key, "DoesNotExist", &[]));
                key
            } else {
                terms.expressions.push(requirement(term, "Exists", &[]));
                term
            };
            if key.trim().is_empty() || key.contains(['(', ')', ' ']) {
                return Err(format!("{term:?} is no term such as disk=ssd, zone!=b, gpu or !spot"));
            }
        }
        Ok(terms)
    }
}

// === impl Ask ===

impl Ask {
    /// Which kind of job does it.
    pub fn kind(&self) -> Kind {
        if self.images.len() == 1 { Kind::Job } else { Kind::List }
    }

    /// The job.
    pub fn manifest(&self, namespace: &str, name: &str) -> Value {
        let policy = if self.always { "Always" } else { "IfNotPresent" };
        let mut spec = json!({
            "parallelism": self.parallelism.member(),
            "imagePullPolicy": policy,
            "pullPolicy": {"timeoutSeconds": self.attempt_timeout},
            "completionPolicy": {"type": "Always"},
        });
        match self.kind() {
            Kind::Job => spec["image"] = self.images.first().map_or(Value::Null, |image| image.as_str().into()),
            Kind::List => spec["images"] = json!(self.images),
        }
        if !self.secrets.is_empty() {
            spec["pullSecrets"] = json!(self.secrets);
        }
        if let Some(seconds) = self.ttl {
            spec["completionPolicy"]["ttlSecondsAfterFinished"] = seconds.into();
        }
        if !self.nodes.is_empty() {
            spec["selector"] = json!({"names": self.nodes});
        } else if let Some(terms) = &self.terms {
            spec["selector"] = terms.selector();
        }
        json!({
            "apiVersion": names::V1BETA1,
            "kind": self.kind().name(),
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        })
    }
}

impl Terms {
    fn selector(&self) -> Value {
        let mut selector = json!({});
        if !self.labels.is_empty() {
            selector["matchLabels"] = json!(self.labels);
        }
        if !self.expressions.is_empty() {
            // Printed and read again, as the types leave out what is empty.
            selector["matchExpressions"] = serde_json::from_str(&text(&self.expressions)).unwrap_or_default();
        }
        selector
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn ask(images: &[&str]) -> Ask {
        Ask {
            images: images.iter().map(|image| (*image).to_owned()).collect(),
            secrets: Vec::new(),
            nodes: Vec::new(),
            terms: None,
            parallelism: Parallelism::Percent(10),
            attempt_timeout: 600,
            always: false,
            ttl: Some(600),
        }
    }

    #[test]
    fn one_image_is_a_job_and_several_are_a_list() {
        let job = ask(&["a:1"]).manifest("shop", "warm");
        let expected = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
            "metadata": {"name": "warm", "namespace": "shop"},
            "spec": {
                "image": "a:1", "parallelism": "10%", "imagePullPolicy": "IfNotPresent",
                "pullPolicy": {"timeoutSeconds": 600},
                "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 600},
            },
        });
        assert_eq!(job, expected);
        let list = ask(&["a:1", "b:1"]).manifest("shop", "warm");
        assert_eq!((&list["kind"], &list["spec"]["images"]), (&json!("ImageListPullJob"), &json!(["a:1", "b:1"])));
        assert_eq!(list["spec"].get("image"), None);
    }

    #[test]
    fn everything_that_is_asked_for_is_in_the_job() {
        let asked = Ask {
            secrets: vec!["reg".to_owned()],
            nodes: vec!["n1".to_owned()],
            parallelism: Parallelism::Count(3),
            always: true,
            ttl: None,
            ..ask(&["a:1"])
        };
        let spec = asked.manifest("shop", "warm")["spec"].take();
        assert_eq!((&spec["pullSecrets"], &spec["selector"]), (&json!(["reg"]), &json!({"names": ["n1"]})));
        assert_eq!((&spec["parallelism"], &spec["imagePullPolicy"]), (&json!(3), &json!("Always")));
        assert_eq!(spec["completionPolicy"], json!({"type": "Always"}));
    }

    #[rstest]
    #[case::labels("disk=ssd, zone==b", json!({"matchLabels": {"disk": "ssd", "zone": "b"}}))]
    #[case::an_empty_value("disk=", json!({"matchLabels": {"disk": ""}}))]
    #[case::the_others(
        "zone!=b,gpu,!spot",
        json!({"matchExpressions": [
            {"key": "zone", "operator": "NotIn", "values": ["b"]},
            {"key": "gpu", "operator": "Exists"},
            {"key": "spot", "operator": "DoesNotExist"},
        ]})
    )]
    fn nodes_are_chosen_by_their_labels(#[case] words: &str, #[case] selector: Value) {
        let asked = Ask { terms: Some(words.parse().unwrap()), ..ask(&["a:1"]) };
        assert_eq!(asked.manifest("shop", "warm")["spec"]["selector"], selector);
    }

    #[rstest]
    #[case::nothing("", "\"\" is no term")]
    #[case::no_key("=a", "\"=a\" is no term")]
    #[case::a_set("zone in (a)", "\"zone in (a)\" is no term")]
    #[case::twice("a=1,a=2", "the label \"a\" is asked for twice")]
    fn what_is_no_term_is_said(#[case] words: &str, #[case] told: &str) {
        let error = words.parse::<Terms>().unwrap_err();
        assert!(error.starts_with(told), "{error}");
    }
}
