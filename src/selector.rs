//! Label selectors, compiled once and asked often (MATCH-5, MATCH-6).
//!
//! Standard semantics: all requirements must hold; `NotIn` and `DoesNotExist` hold for an object that lacks the key.
//! [`Selector::mismatch`] answers with the requirement that failed, because users ask why.

use std::collections::BTreeMap;
use std::fmt;

use crate::api::meta::{LabelSelector, LabelSelectorRequirement};

/// Something with labels.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// A compiled label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What must be true of its value.
    pub operator: Operator,
}

/// What a [`Requirement`] asks of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Present with one of these values.
    In(Vec<String>),
    /// Absent, or present with another value.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

/// A selector that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The operator is none of the four.
    #[error("`{operator}` is not an operator of label selectors; use In, NotIn, Exists or DoesNotExist (key `{key}`)")]
    UnknownOperator {
        /// Key of the requirement.
        key: String,
        /// What stands there.
        operator: String,
    },
    /// `In` or `NotIn` without values, or `Exists` or `DoesNotExist` with some.
    #[error("operator {operator} of key `{key}` {}", if *needed { "needs values" } else { "takes no values" })]
    Values {
        /// Key of the requirement.
        key: String,
        /// Its operator.
        operator: String,
        /// Whether values are needed or forbidden.
        needed: bool,
    },
}

// === impl Selector ===

impl TryFrom<&LabelSelector> for Selector {
    type Error = SelectorError;

    fn try_from(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let labels = selector
            .match_labels
            .iter()
            .map(|(key, value)| Ok(Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) }));
        let expressions = selector.match_expressions.iter().map(Requirement::try_from);
        Ok(Self { requirements: labels.chain(expressions).collect::<Result<_, _>>()? })
    }
}

impl Selector {
    /// Whether the selector has no requirement. Such a one matches every namespace (MATCH-5) but no pod (MATCH-6).
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The first requirement that `labels` do not meet.
    pub fn mismatch(&self, labels: &impl Labels) -> Option<&Requirement> {
        self.requirements.iter().find(|requirement| !requirement.holds(labels.label(&requirement.key)))
    }

    /// All requirements, in the order they are checked.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

// === impl Requirement ===

impl Requirement {
    /// Whether a label with this value, or its absence, meets the requirement.
    pub fn holds(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Operator::NotIn(values), Some(value)) => values.iter().all(|v| v != value),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::In(_), None) => false,
            (Operator::NotIn(_), None) => true,
        }
    }
}

impl TryFrom<&LabelSelectorRequirement> for Requirement {
    type Error = SelectorError;

    fn try_from(expression: &LabelSelectorRequirement) -> Result<Self, SelectorError> {
        let LabelSelectorRequirement { key, operator, values } = expression;
        let wrong = |needed| SelectorError::Values { key: key.clone(), operator: operator.clone(), needed };
        let operator = match (operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values.clone()),
            ("NotIn", false) => Operator::NotIn(values.clone()),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            ("In" | "NotIn", true) => return Err(wrong(true)),
            ("Exists" | "DoesNotExist", false) => return Err(wrong(false)),
            _ => return Err(SelectorError::UnknownOperator { key: key.clone(), operator: operator.clone() }),
        };
        Ok(Self { key: key.clone(), operator })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Operator::In(values) => write!(f, "{key} in ({})", values.join(", ")),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(", ")),
            Operator::Exists => write!(f, "{key} exists"),
            Operator::DoesNotExist => write!(f, "{key} does not exist"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: vec![LabelSelectorRequirement {
                key: "a".into(),
                operator: operator.into(),
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
            ..LabelSelector::default()
        }
    }

    #[rstest]
    #[case::in_matches_a_listed_value("In", &["x", "y"], &[("a", "y")], true)]
    #[case::in_needs_the_key("In", &["x"], &[("b", "x")], false)]
    #[case::not_in_refuses_a_listed_value("NotIn", &["x"], &[("a", "x")], false)]
    #[case::not_in_matches_without_the_key("NotIn", &["x"], &[], true)]
    #[case::exists_takes_any_value("Exists", &[], &[("a", "")], true)]
    #[case::exists_needs_the_key("Exists", &[], &[], false)]
    #[case::does_not_exist_matches_without_the_key("DoesNotExist", &[], &[("b", "x")], true)]
    #[case::does_not_exist_refuses_the_key("DoesNotExist", &[], &[("a", "x")], false)]
    fn requirement(
        #[case] operator: &str,
        #[case] values: &[&str],
        #[case] on: &[(&str, &str)],
        #[case] matches: bool,
    ) {
        let selector = Selector::try_from(&expression(operator, values)).unwrap();
        assert_eq!(selector.mismatch(&labels(on)).is_none(), matches);
    }

    #[rstest]
    #[case::in_without_values("In", &[])]
    #[case::exists_with_values("Exists", &["x"])]
    #[case::unknown_operator("Like", &["x"])]
    fn a_selector_that_means_nothing_is_refused(#[case] operator: &str, #[case] values: &[&str]) {
        assert!(Selector::try_from(&expression(operator, values)).is_err());
    }

    #[test]
    fn the_mismatch_is_the_requirement_that_failed() {
        let selector =
            LabelSelector { match_labels: labels(&[("app", "web"), ("tier", "front")]), ..Default::default() };
        let selector = Selector::try_from(&selector).unwrap();
        let mismatch = selector.mismatch(&labels(&[("app", "web"), ("tier", "back")])).unwrap();
        assert_eq!(mismatch.to_string(), "tier=front");
    }
}
