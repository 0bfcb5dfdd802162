//! ImagePullJob: one image on many nodes (API-30, API-31). The two versions are equal.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::meta::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use super::nodeimage::SandboxConfig;
use super::{IntOrString, wire};

wire! {
    /// Pulls an image on nodes ahead of the pods that need it.
    pub struct ImagePullJob {
        /// Name, namespace, labels, annotations.
        shown metadata: ObjectMeta,
        /// Which image to pull, and where.
        shown spec: PullJobSpec,
        /// How far it got.
        opt status: PullJobStatus,
    }
    /// Spec of an ImagePullJob (API-30).
    pub struct PullJobSpec {
        /// The image, such as `registry.example/team/app:v1`.
        always image: String,
        /// Names of Secrets, in the namespace of this object, to log in to the registry with. Cannot be changed.
        opt pull_secrets: Vec<String>,
        /// Nodes to pull on; all by default. Not together with `podSelector`.
        ptr selector: NodeSelector,
        /// Pods of this namespace on whose nodes to pull. Not together with `selector`.
        ptr pod_selector: LabelSelector,
        /// Nodes that pull at the same time: a number, or a share such as `10%`; 1 by default, 0 pauses the job.
        ptr parallelism: IntOrString,
        /// Limits of the pull on one node.
        ptr pull_policy: PullPolicy,
        /// When the job ends.
        always completion_policy: CompletionPolicy,
        /// Labels and annotations that the runtime is told with the pull.
        ptr sandbox_config: SandboxConfig,
        /// `IfNotPresent` (default): a node that has the image is done; `Always`: it asks the registry for a newer one.
        opt image_pull_policy: String,
    }
    /// Nodes by name or by label, not both.
    pub struct NodeSelector {
        /// Names of nodes.
        opt names: Vec<String>,
        /// Labels that must have exactly these values.
        opt match_labels: BTreeMap<String, String>,
        /// Further requirements.
        #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
        opt match_expressions: Vec<LabelSelectorRequirement>,
    }
    /// Limits of the pull on one node.
    pub struct PullPolicy {
        /// Seconds that one attempt may take; 600 by default.
        ptr timeout_seconds: i32,
        /// Attempts after the first one; 3 by default.
        ptr backoff_limit: i32,
    }
    /// When a job ends.
    pub struct CompletionPolicy {
        /// `Always` (default): when every node is done; `Never`: it goes on with nodes that come later.
        opt r#type: String,
        /// Seconds from the start after which the job ends anyway. Only with `Always`.
        ptr active_deadline_seconds: i64,
        /// Seconds for which the finished job is kept. It is kept for good by default. Only with `Always`.
        ptr ttl_seconds_after_finished: i32,
    }
    /// Status of an ImagePullJob (API-31).
    pub struct PullJobStatus {
        /// When the job began.
        ptr start_time: Time,
        /// When it ended.
        ptr completion_time: Time,
        /// Nodes that shall have the image.
        always desired: i32,
        /// Nodes that are pulling.
        shown active: i32,
        /// Nodes that have it.
        shown succeeded: i32,
        /// Nodes that gave up.
        shown failed: i32,
        /// How far the job is, for people.
        opt message: String,
        /// Names of nodes that gave up.
        opt failed_nodes: Vec<String>,
    }
}

/// How many nodes pull at the same time: what the text or number `parallelism` says (IPJ-17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallelism {
    /// So many; 0 is a pause.
    Count(u32),
    /// So many of a hundred, 1 to 100.
    Percent(u32),
}

// === impl Parallelism ===

impl Parallelism {
    /// Reads the member; absent is 1. The error says what it must be, to go behind the name of the member.
    pub fn read(member: Option<&IntOrString>) -> Result<Self, &'static str> {
        match member {
            None => Ok(Self::Count(1)),
            Some(IntOrString::Int(number)) => u32::try_from(*number).map(Self::Count).map_err(|_| NEGATIVE),
            Some(IntOrString::String(text)) => text.parse(),
        }
    }

    /// How many of `nodes` that is. A percentage is rounded up, so that it is never a pause.
    pub fn of(self, nodes: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(percent) => {
                nodes.saturating_mul(usize::try_from(percent).unwrap_or(usize::MAX)).div_ceil(100)
            }
        }
    }

    /// The member that says so.
    pub fn member(self) -> IntOrString {
        match self {
            Self::Count(count) => IntOrString::Int(i32::try_from(count).unwrap_or(i32::MAX)),
            Self::Percent(percent) => IntOrString::String(format!("{percent}%")),
        }
    }
}

const NEGATIVE: &str = "must be 0 or more; 0 pauses the job";
const NO_NUMBER: &str = "must be a number of nodes such as 10, or a share of them such as \"10%\"";
const NO_SHARE: &str = "must be a whole percentage from 1% to 100%; the number 0 pauses the job";

impl FromStr for Parallelism {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse().ok().filter(|share| (1..=100).contains(share));
            return share.map(Self::Percent).ok_or(NO_SHARE);
        }
        let number = text.parse::<i32>().map_err(|_| NO_NUMBER)?;
        u32::try_from(number).map(Self::Count).map_err(|_| NEGATIVE)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::json::text;

    #[rstest]
    #[case::absent(Value::Null, Ok(Parallelism::Count(1)))]
    #[case::a_pause(json!(0), Ok(Parallelism::Count(0)))]
    #[case::a_number(json!(2), Ok(Parallelism::Count(2)))]
    #[case::zero_as_a_text(json!("0"), Ok(Parallelism::Count(0)))]
    #[case::a_number_as_a_text(json!("50"), Ok(Parallelism::Count(50)))]
    #[case::with_a_sign(json!("+5"), Ok(Parallelism::Count(5)))]
    #[case::a_share(json!("1%"), Ok(Parallelism::Percent(1)))]
    #[case::all(json!("100%"), Ok(Parallelism::Percent(100)))]
    #[case::negative(json!(-1), Err(NEGATIVE))]
    #[case::negative_as_a_text(json!("-1"), Err(NEGATIVE))]
    #[case::no_number(json!("abc"), Err(NO_NUMBER))]
    #[case::empty(json!(""), Err(NO_NUMBER))]
    #[case::too_large(json!("2147483648"), Err(NO_NUMBER))]
    #[case::no_share_at_all(json!("0%"), Err(NO_SHARE))]
    #[case::more_than_all(json!("101%"), Err(NO_SHARE))]
    #[case::a_fraction(json!("2.5%"), Err(NO_SHARE))]
    #[case::a_negative_share(json!("-5%"), Err(NO_SHARE))]
    fn parallelism_is_a_number_or_a_share_ipj_17(
        #[case] member: Value,
        #[case] expected: Result<Parallelism, &'static str>,
    ) {
        let member: Option<IntOrString> = serde_json::from_value(member).unwrap();
        assert_eq!(Parallelism::read(member.as_ref()), expected);
    }

    #[rstest]
    #[case::a_number(Parallelism::Count(7), 3, 7)]
    #[case::a_share(Parallelism::Percent(10), 40, 4)]
    #[case::rounded_up(Parallelism::Percent(10), 41, 5)]
    #[case::never_a_pause(Parallelism::Percent(1), 2, 1)]
    #[case::of_nothing(Parallelism::Percent(50), 0, 0)]
    fn a_share_is_rounded_up(#[case] parallelism: Parallelism, #[case] nodes: usize, #[case] expected: usize) {
        assert_eq!(parallelism.of(nodes), expected);
        assert_eq!(Parallelism::read(Some(&parallelism.member())), Ok(parallelism));
    }

    #[test]
    fn counts_are_printed_even_when_zero_api_31() {
        let counts = r#"{"desired":0,"active":0,"succeeded":0,"failed":0}"#;
        assert_eq!(text(&PullJobStatus::default()), counts);
    }
}
