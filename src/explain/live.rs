//! Why live pods carry their SidecarSets or lack them: for people in lines of at most 80 columns, for programs as JSON.
//!
//! Findings come from [`audit`](crate::sidecarset::audit), their words with them.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::sidecarset::audit::{Finding, Registration, Standing};

/// Columns of a line.
const WIDTH: usize = 80;
/// Pods that are named for one reason.
const NAMED: usize = 3;

/// The explanation of one live pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    kind: &'static str,
    namespace: String,
    name: String,
    created: Option<Timestamp>,
    phase: String,
    standing: &'static str,
    webhook: Webhook,
    sidecar_sets: Vec<SetLine>,
    notes: Vec<String>,
    #[serde(skip)]
    worst: Standing,
}

/// One SidecarSet of a [`PodReport`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SetLine {
    name: String,
    standing: &'static str,
    reason: &'static str,
    message: String,
    #[serde(skip)]
    rank: Standing,
}

/// The explanation of one SidecarSet and its pods.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetReport {
    kind: &'static str,
    name: String,
    created: Option<Timestamp>,
    healthy: bool,
    standing: &'static str,
    webhook: Webhook,
    pods: Counts,
    reasons: Vec<Group>,
    problems: Vec<String>,
    notes: Vec<String>,
    #[serde(skip)]
    worst: Standing,
}

/// How many pods of a SidecarSet there are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    /// Those that its selector matches by their labels.
    matched: usize,
    /// Of these, those that carry it.
    injected: usize,
    /// Of the injected, those with another revision than they should have.
    outdated: usize,
    /// Those that lack it by no fault of the webhook.
    lacking: usize,
    /// Those that were missed.
    missed: usize,
}

/// Pods of which the same is found.
#[derive(Debug, Serialize)]
struct Group {
    reason: &'static str,
    standing: &'static str,
    count: usize,
    /// The sentence of the first of them.
    message: String,
    /// The first few, `namespace/name`.
    pods: Vec<String>,
    #[serde(skip)]
    rank: Standing,
}

/// How pods are sent to the webhook.
#[derive(Debug, Serialize)]
struct Webhook {
    /// Whether the registration was read; else it is assumed to be the default one.
    known: bool,
    hooks: Vec<HookLine>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HookLine {
    name: String,
    failure_policy: &'static str,
}

/// Gathers what is found of one SidecarSet, pod by pod.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    groups: BTreeMap<&'static str, Group>,
}

// === impl PodReport ===

impl PodReport {
    /// The report of a pod. `notes` are what the reader should know beside, such as what may not be read.
    pub fn new(
        (namespace, name): (&str, &str),
        (created, phase): (Option<Timestamp>, &str),
        findings: &[(&str, Finding<'_>)],
        registration: &Registration,
        mut notes: Vec<String>,
    ) -> Self {
        let mut lines: Vec<SetLine> = findings.iter().map(|(name, finding)| SetLine::new(name, finding)).collect();
        lines.sort_by(|a, b| b.rank.cmp(&a.rank).then_with(|| a.name.cmp(&b.name)));
        let worst = lines.first().map_or(Standing::NotConcerned, |line| line.rank);
        if matches!(worst, Standing::Missed | Standing::Lacking) {
            notes.push(format!(
                "sidecars are injected only when a pod is created. Where a workload owns the pod, kubectl delete pod \
                 {name} -n {namespace} has it created anew."
            ));
        }
        Self {
            kind: "Pod",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            created,
            phase: phase.to_owned(),
            standing: worst.name(),
            webhook: Webhook::of(registration),
            sidecar_sets: lines,
            notes,
            worst,
        }
    }

    /// The worst that is found.
    pub fn standing(&self) -> Standing {
        self.worst
    }
}

impl SetLine {
    fn new(name: &str, finding: &Finding<'_>) -> Self {
        let rank = finding.standing();
        let message = finding.to_string();
        Self { name: name.to_owned(), standing: rank.name(), reason: finding.reason(), message, rank }
    }
}

impl fmt::Display for PodReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Pod {} in namespace {}", self.name, self.namespace)?;
        if let Some(created) = self.created {
            writeln!(f, "  created {created}, {}", if self.phase.is_empty() { "phase unknown" } else { &self.phase })?;
        }
        write_wrapped(f, "  ", &self.webhook.to_string())?;
        if self.sidecar_sets.is_empty() {
            writeln!(f, "  there are no SidecarSets")?;
        }
        for line in &self.sidecar_sets {
            writeln!(f, "  SidecarSet {}", line.name)?;
            write_wrapped(f, "    ", &line.message)?;
        }
        write_notes(f, "note", &self.notes)
    }
}

// === impl Tally ===

impl Tally {
    /// Adds what is found for one pod.
    pub fn add(&mut self, namespace: &str, name: &str, finding: &Finding<'_>) {
        let rank = finding.standing();
        self.counts.matched += 1;
        match rank {
            Standing::Covered => self.counts.injected += 1,
            Standing::Lacking => self.counts.lacking += 1,
            Standing::Missed => self.counts.missed += 1,
            Standing::NotConcerned | Standing::Undecided => {}
        }
        if finding.reason() == "InjectedOutdated" {
            self.counts.outdated += 1;
        }
        let group = self.groups.entry(finding.reason()).or_insert_with(|| Group {
            reason: finding.reason(),
            standing: rank.name(),
            count: 0,
            message: finding.to_string(),
            pods: Vec::new(),
            rank,
        });
        group.count += 1;
        if group.pods.len() < NAMED {
            group.pods.push(format!("{namespace}/{name}"));
        }
    }

    /// The report of the SidecarSet. `problems` are what is wrong with the set itself.
    pub fn report(
        self,
        name: &str,
        created: Option<Timestamp>,
        registration: &Registration,
        problems: Vec<String>,
        mut notes: Vec<String>,
    ) -> SetReport {
        let mut reasons: Vec<Group> = self.groups.into_values().collect();
        reasons.sort_by_key(|group| std::cmp::Reverse((group.rank, group.count)));
        let worst = reasons.first().map_or(Standing::NotConcerned, |group| group.rank);
        let first = reasons.iter().find(|group| group.rank == Standing::Missed).and_then(|group| group.pods.first());
        if let Some((namespace, pod)) = first.and_then(|pod| pod.split_once('/')) {
            notes.push(format!("for one pod and all of its SidecarSets: outrigger explain pod {pod} -n {namespace}"));
        }
        SetReport {
            kind: "SidecarSet",
            name: name.to_owned(),
            created,
            healthy: problems.is_empty() && worst != Standing::Missed,
            standing: worst.name(),
            webhook: Webhook::of(registration),
            pods: self.counts,
            reasons,
            problems,
            notes,
            worst,
        }
    }
}

// === impl SetReport ===

impl SetReport {
    /// The worst that is found.
    pub fn standing(&self) -> Standing {
        self.worst
    }
}

impl fmt::Display for SetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SidecarSet {}: {}", self.name, if self.healthy { "healthy" } else { "not healthy" })?;
        match self.created {
            Some(created) => writeln!(f, ", created {created}")?,
            None => writeln!(f)?,
        }
        write_wrapped(f, "  ", &self.webhook.to_string())?;
        write_notes(f, "problem", &self.problems)?;
        let Counts { matched, injected, outdated, lacking, missed } = self.pods;
        let line = format!(
            "pods: {matched} matched by label, {injected} injected ({outdated} outdated), {lacking} lacking, {missed} missed"
        );
        write_wrapped(f, "  ", &line)?;
        for group in &self.reasons {
            writeln!(f, "  {} {}", group.count, group.reason)?;
            write_wrapped(f, "    ", &group.message)?;
            let more = group.count - group.pods.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            write_wrapped(f, "    ", &format!("pods: {}{more}", group.pods.join(", ")))?;
        }
        write_notes(f, "note", &self.notes)
    }
}

// === impl Webhook ===

impl Webhook {
    fn of(registration: &Registration) -> Self {
        let policy = |is_ignorable| if is_ignorable { "Ignore" } else { "Fail" };
        let hooks = registration.hooks().iter();
        Self {
            known: registration.is_known(),
            hooks: hooks
                .map(|hook| HookLine { name: hook.name.clone(), failure_policy: policy(hook.is_ignorable) })
                .collect(),
        }
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.known {
            return write!(f, "webhook: its registration may not be read; the default one is assumed");
        }
        if self.hooks.is_empty() {
            return write!(f, "webhook: NOT REGISTERED for new pods; nothing is injected");
        }
        write!(f, "webhook: registered as ")?;
        self.hooks.iter().take(NAMED).enumerate().try_for_each(|(place, hook)| {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{} with failurePolicy {}", hook.name, hook.failure_policy)
        })?;
        let more = self.hooks.len().saturating_sub(NAMED);
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}

// === lines ===

fn write_notes(f: &mut fmt::Formatter<'_>, what: &str, notes: &[String]) -> fmt::Result {
    notes.iter().try_for_each(|note| write_wrapped(f, "  ", &format!("{what}: {note}")))
}

/// Breaks a text between words; a longer word has a line to itself.
fn write_wrapped(f: &mut fmt::Formatter<'_>, indent: &str, text: &str) -> fmt::Result {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(f, "{indent}{line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(f, "{indent}{line}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecarset::audit::{Away, Currency, Doubt};
    use crate::sidecarset::select::Verdict;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn findings() -> Vec<(&'static str, Finding<'static>)> {
        vec![
            ("logs", Finding::NotSelected(Verdict::Paused)),
            ("mesh", Finding::Missed(Away::Fail)),
            ("trace", Finding::Injected(Currency::UpToDate)),
        ]
    }

    #[test]
    fn a_pod_is_explained_in_lines_of_80_columns_the_worst_first() {
        let created = Some(time("2026-03-02T00:00:00Z"));
        let report = PodReport::new(
            ("shop", "web-0"),
            (created, "Running"),
            &findings(),
            &Registration::assumed("kruise-system"),
            vec!["the namespace may not be read".to_owned()],
        );
        let expected = "\
Pod web-0 in namespace shop
  created 2026-03-02T00:00:00Z, Running
  webhook: its registration may not be read; the default one is assumed
  SidecarSet mesh
    MISSED: it applied when the pod was created, and the webhook was away: it
    has failurePolicy Fail today, so it was not registered, or under Ignore, or
    excluded the pod, then
  SidecarSet trace
    injected, up to date
  SidecarSet logs
    does not apply: spec.injectionStrategy.paused is true
  note: the namespace may not be read
  note: sidecars are injected only when a pod is created. Where a workload owns
  the pod, kubectl delete pod web-0 -n shop has it created anew.
";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.standing(), Standing::Missed);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["sidecarSets"][0]["reason"], "WebhookAway");
        assert_eq!(json["sidecarSets"][2]["standing"], "NotConcerned");
    }

    #[test]
    fn the_pods_of_a_set_are_counted_by_reason_and_a_few_are_named() {
        let mut tally = Tally::default();
        for n in 0..5 {
            tally.add("shop", &format!("web-{n}"), &Finding::Missed(Away::Ignored));
        }
        let (carried, newest) = ("mesh-1".to_owned(), "mesh-2".to_owned());
        tally.add("shop", "old", &Finding::Injected(Currency::Outdated { carried, newest }));
        tally.add("shop", "new", &Finding::Unproven(Doubt::NoTimes));
        let problems = vec!["injection is paused".to_owned()];
        let report = tally.report("mesh", None, &Registration::of(None), problems, Vec::new());
        let expected = "\
SidecarSet mesh: not healthy
  webhook: NOT REGISTERED for new pods; nothing is injected
  problem: injection is paused
  pods: 7 matched by label, 1 injected (1 outdated), 1 lacking, 5 missed
  5 WebhookIgnored
    MISSED: it applied when the pod was created, and the webhook was away: with
    failurePolicy Ignore, pods are let in when it does not answer
    pods: shop/web-0, shop/web-1, shop/web-2 and 2 more
  1 NoTimes
    not injected: the creation times are not known; a new pod will get it
    pods: shop/new
  1 InjectedOutdated
    injected, outdated: the SidecarSet has changed since; carries mesh-1, newest
    is mesh-2
    pods: shop/old
  note: for one pod and all of its SidecarSets: outrigger explain pod web-0 -n
  shop
";
        assert_eq!(report.to_string(), expected);
        assert_eq!(serde_json::to_value(&report).unwrap()["pods"]["missed"], 5);
    }
}
