//! Resources of a sidecar, computed from the containers of its pod (RES).
//!
//! A policy names its target containers by a regular expression, adds up or compares their resources, and puts the
//! result into up to four expressions (`expression`).

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::json;

use super::expression::{Expression, ExpressionError, Variable};
use crate::api::container::{ResourceExprs, ResourcesPolicy};
use crate::api::re2::{self, RegexError};
use crate::pod::Resources;
use crate::quantity::Quantity;

/// A compiled [`ResourcesPolicy`].
#[derive(Debug)]
pub struct Policy {
    mode: Mode,
    /// The expression as its author wrote it.
    pattern: String,
    targets: Regex,
    limits: Expressions,
    requests: Expressions,
}

/// How the resources of several targets become one (RES-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Sum,
    Max,
    /// Anything else: no limits, zero requests.
    Nothing,
}

#[derive(Debug, Default)]
struct Expressions {
    cpu: Option<Expression>,
    memory: Option<Expression>,
}

/// A policy that cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The regular expression for target containers.
    #[error("resourcesPolicy.targetContainersNameRegex `{regex}` is not a regular expression: {reason}")]
    Regex {
        /// What stands there.
        regex: String,
        /// What is wrong with it.
        reason: RegexError,
    },
    /// One of the four expressions.
    #[error("resourcesPolicy.resourcesExpr.{field}: {reason}")]
    Expression {
        /// Which, such as `limits.cpu`.
        field: &'static str,
        /// What is wrong with it.
        reason: ExpressionError,
    },
}

/// Resources cannot be computed for a pod, which is then refused (RES-4, RES-10).
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    /// No container to compute from.
    #[error("no containers match the regex pattern {regex:?} of the resourcesPolicy")]
    NoTarget {
        /// The expression that found nothing.
        regex: String,
    },
    /// An expression that has no value for this pod.
    #[error("resourcesPolicy.resourcesExpr.{field}: {reason}")]
    Expression {
        /// Which, such as `limits.cpu`.
        field: &'static str,
        /// Why not.
        reason: ExpressionError,
    },
}

/// Resources that were computed, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computed {
    /// Compact JSON for the container's `resources`.
    pub json: String,
    /// Names of the target containers, in pod order.
    pub targets: Vec<String>,
}

// === impl Policy ===

impl Policy {
    /// Compiles a policy. Expressions are read as an earlier controller stored them: mistakes that were let through then
    /// must not make pods uncreatable now (EXPR-6).
    pub fn new(policy: &ResourcesPolicy) -> Result<Self, PolicyError> {
        let regex = &policy.target_containers_name_regex;
        Ok(Self {
            mode: match policy.target_containers_mode.as_str() {
                "sum" => Mode::Sum,
                "max" => Mode::Max,
                _ => Mode::Nothing,
            },
            pattern: regex.clone(),
            targets: re2::compile(regex).map_err(|reason| PolicyError::Regex { regex: regex.clone(), reason })?,
            limits: Expressions::new(policy.resources_expr.limits.as_ref(), ["limits.cpu", "limits.memory"])?,
            requests: Expressions::new(policy.resources_expr.requests.as_ref(), ["requests.cpu", "requests.memory"])?,
        })
    }

    /// Computes from `candidates`: native sidecars, then containers of the pod, without those that SidecarSets inject
    /// (RES-2).
    pub fn compute<'a>(
        &self,
        candidates: impl Iterator<Item = (&'a str, &'a Resources)>,
    ) -> Result<Computed, ResourcesError> {
        let (targets, resources): (Vec<_>, Vec<_>) = candidates.filter(|(name, _)| self.targets.is_match(name)).unzip();
        if targets.is_empty() {
            return Err(ResourcesError::NoTarget { regex: self.pattern.clone() });
        }
        let limits = resources.iter().map(|resources| &resources.limits);
        let requests = resources.iter().map(|resources| &resources.requests);

        let mut result = BTreeMap::new();
        let wanted = [
            ("limits", "limits.cpu", "cpu", &self.limits.cpu, Variable::Cpu),
            ("limits", "limits.memory", "memory", &self.limits.memory, Variable::Memory),
            ("requests", "requests.cpu", "cpu", &self.requests.cpu, Variable::Cpu),
            ("requests", "requests.memory", "memory", &self.requests.memory, Variable::Memory),
        ];
        for (kind, field, name, expression, variable) in wanted {
            let Some(expression) = expression else { continue };
            let total = if kind == "limits" {
                // RES-6: one target without the limit means there is none.
                self.combine(limits.clone().map(|limits| limits.as_ref().and_then(|limits| limits.get(name))))
            } else {
                // RES-7: a missing request counts as zero.
                let zero = Quantity::default();
                let requests =
                    requests.clone().map(|requests| requests.as_ref().and_then(|requests| requests.get(name)));
                Some(self.combine(requests.map(|request| Some(request.unwrap_or(&zero)))).unwrap_or_default())
            };
            let Some(total) = total else { continue };
            let value =
                expression.evaluate(variable, &total).map_err(|reason| ResourcesError::Expression { field, reason })?;
            result.entry(kind).or_insert_with(BTreeMap::new).insert(name, value);
        }
        Ok(Computed { json: json!(result).to_string(), targets: targets.into_iter().map(str::to_owned).collect() })
    }

    /// One quantity from those of all targets; `None` if any is absent.
    fn combine<'a>(&self, mut quantities: impl Iterator<Item = Option<&'a Quantity>>) -> Option<Quantity> {
        let first = quantities.next()??.clone();
        match self.mode {
            Mode::Nothing => None,
            Mode::Sum => quantities.try_fold(first, |sum, next| Some(sum + next?.clone())),
            Mode::Max => quantities.try_fold(first, |max, next| Some(if *next? > max { next?.clone() } else { max })),
        }
    }
}

// === impl Expressions ===

impl Expressions {
    fn new(exprs: Option<&ResourceExprs>, fields: [&'static str; 2]) -> Result<Self, PolicyError> {
        let Some(exprs) = exprs else { return Ok(Self::default()) };
        let parse = |text: &str, field| {
            if text.is_empty() {
                return Ok(None);
            }
            Expression::parse_stored(text).map(Some).map_err(|reason| PolicyError::Expression { field, reason })
        };
        Ok(Self { cpu: parse(&exprs.cpu, fields[0])?, memory: parse(&exprs.memory, fields[1])? })
    }
}
