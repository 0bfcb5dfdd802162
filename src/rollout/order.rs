//! Which pods go first: by their state, by priority, then scattered (STR-3 … STR-6).

use std::cmp::{Ordering, Reverse};

use super::pod::{Phase, Pod};
use crate::api::sidecarset::{PriorityStrategy, ScatterTerm, UpdateStrategy};
use crate::selector::Selector;

/// Puts candidates into the order in which they are updated. `all` are all matching pods; both are sorted by namespace
/// and name, which breaks ties (W-14).
pub(super) fn sort<'p, T>(
    candidates: &mut Vec<T>,
    pod: impl Fn(&T) -> &'p Pod + Copy,
    all: &[&Pod],
    strategy: &UpdateStrategy,
) {
    candidates.sort_by(|a, b| base(pod(a), pod(b)));
    if let Some(priority) = &strategy.priority_strategy {
        prioritise(candidates, pod, priority);
    }
    for term in terms(&strategy.scatter_strategy, candidates, pod, all) {
        scatter(
            candidates,
            |candidate| matches(&term, pod(candidate)),
            all.iter().filter(|pod| matches(&term, pod)).count(),
            all.len(),
        );
    }
}

/// STR-3.
fn base(a: &Pod, b: &Pod) -> Ordering {
    fn phase(pod: &Pod) -> u8 {
        match pod.phase {
            Phase::Unknown => 1,
            Phase::Running => 2,
            _ => 0,
        }
    }
    // Zero times count as latest, and the latest goes first.
    let latest = |a: Option<jiff::Timestamp>, b: Option<jiff::Timestamp>| match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    let since = |pod: &Pod| pod.ready.and_then(|ready| ready.since);
    let both_ready = || if a.is_ready() && b.is_ready() { latest(since(a), since(b)) } else { Ordering::Equal };
    a.is_assigned
        .cmp(&b.is_assigned)
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(both_ready)
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| latest(a.created, b.created))
}

/// The highest restart count of containers, then of native sidecars.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most = |containers: &mut dyn Iterator<Item = &super::pod::Container>| {
        containers.filter_map(|container| container.status.as_ref()).map(|status| status.restarts).max().unwrap_or(0)
    };
    let mut natives = pod.init_containers.iter().filter(|container| container.restarts_always);
    (most(&mut pod.containers.iter()), most(&mut natives))
}

/// STR-4.
fn prioritise<'p, T>(candidates: &mut [T], pod: impl Fn(&T) -> &'p Pod, priority: &PriorityStrategy) {
    if priority.weight_priority.is_empty() {
        let keys: Vec<&str> = priority.order_priority.iter().map(|term| term.ordered_key.as_str()).collect();
        if keys.is_empty() {
            return;
        }
        // W-29: pods without any of the keys go first, as in the reference.
        candidates.sort_by_cached_key(|candidate| {
            let labels = &pod(candidate).labels;
            let found = keys.iter().enumerate().find_map(|(level, key)| Some((level, labels.get(key)?)));
            found.map(|(level, value)| (level, Reverse(trailing_number(value))))
        });
        return;
    }
    let terms: Vec<(Selector, i64)> = priority
        .weight_priority
        .iter()
        .filter_map(|term| Some((Selector::try_from(&term.match_selector).ok()?, i64::from(term.weight))))
        .collect();
    candidates.sort_by_cached_key(|candidate| {
        let labels = &pod(candidate).labels;
        let met = terms.iter().filter(|(selector, _)| selector.mismatch(labels).is_none());
        Reverse(met.map(|(_, weight)| weight).sum::<i64>())
    });
}

/// The integer at the end of a text; 0 when there is none, or one beyond 64 bits.
fn trailing_number(text: &str) -> i64 {
    let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
    text[digits..].parse().unwrap_or(0)
}

/// STR-5: the terms to scatter by, in the order in which they are applied.
fn terms<'p, T>(
    given: &[ScatterTerm],
    candidates: &[T],
    pod: impl Fn(&T) -> &'p Pod,
    all: &[&Pod],
) -> Vec<ScatterTerm> {
    let mut terms: Vec<ScatterTerm> = Vec::new();
    let mut add = |term: ScatterTerm| {
        if !terms.contains(&term) {
            terms.push(term);
        }
    };
    for term in given {
        if term.value == "*" {
            let values = all.iter().filter_map(|pod| pod.labels.get(&term.key));
            values.for_each(|value| add(ScatterTerm { key: term.key.clone(), value: value.to_owned() }));
        } else {
            add(term.clone());
        }
    }
    if terms.len() > 1 {
        let count = |term: &ScatterTerm| candidates.iter().filter(|candidate| matches(term, pod(candidate))).count();
        let mut counted: Vec<(usize, ScatterTerm)> = terms.into_iter().map(|term| (count(&term), term)).collect();
        counted.retain(|(count, _)| *count > 0);
        counted.sort_by_key(|(count, _)| Reverse(*count));
        terms = counted.into_iter().map(|(_, term)| term).collect();
    }
    terms
}

fn matches(term: &ScatterTerm, pod: &Pod) -> bool {
    pod.labels.get(&term.key) == Some(&term.value)
}

/// STR-6: spreads the candidates of one term. `all_matching` of `all` pods match it.
fn scatter<T>(candidates: &mut Vec<T>, is_match: impl Fn(&T) -> bool, all_matching: usize, all: usize) {
    let matching = candidates.iter().filter(|candidate| is_match(candidate)).count();
    if matching <= 1 || candidates.len() - matching <= 1 {
        return;
    }
    let (mut m, u): (Vec<T>, Vec<T>) = std::mem::take(candidates).into_iter().partition(is_match);
    let last = m.pop();
    let (total_m, total_u) = (all_matching.saturating_sub(1).max(1), all.saturating_sub(all_matching));
    let sizes = |m: usize, u: usize| {
        let groups = m.min(u).max(1);
        let round = |count: usize| (2 * count + groups) / (2 * groups);
        (groups, round(m).max(1), round(u).max(1))
    };
    let (groups, each_m, each_u, rest) = if total_u * m.len() >= u.len() * total_m {
        let (groups, each_m, each_u) = sizes(m.len(), u.len());
        (groups, each_m, each_u, 0)
    } else {
        let (_, each_m, each_u) = sizes(total_m, total_u);
        let groups = (m.len() / each_m).min(u.len() / each_u);
        (groups, each_m, each_u, u.len() - groups * each_u)
    };
    let (mut m, mut u) = (m.into_iter(), u.into_iter());
    candidates.extend(u.by_ref().take(rest));
    for _ in 0..groups {
        candidates.extend(m.by_ref().take(each_m));
        candidates.extend(u.by_ref().take(each_u));
    }
    candidates.extend(m.chain(u).chain(last));
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn pods(documents: &[Value]) -> Vec<Pod> {
        documents.iter().map(|document| Pod::read(document).unwrap()).collect()
    }

    fn sorted(documents: &[Value], strategy: &Value) -> Vec<String> {
        let pods = pods(documents);
        let all: Vec<&Pod> = pods.iter().collect();
        let mut candidates = all.clone();
        let strategy: UpdateStrategy = serde_json::from_value(strategy.clone()).unwrap();
        sort(&mut candidates, |pod| *pod, &all, &strategy);
        candidates.iter().map(|pod| pod.name.to_string()).collect()
    }

    /// `name` and what differs from a ready pod of a node.
    fn pod(name: &str, more: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": [{"name": "a"}],
                "initContainers": [{"name": "i", "restartPolicy": "Always"}]},
            "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-01T00:01:00Z"}]},
        });
        json_patch::merge(&mut pod, more);
        pod
    }

    fn ready_since(time: &str) -> Value {
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}})
    }

    #[rstest]
    #[case::unassigned_before_assigned(json!({}), json!({"spec": {"nodeName": null}}))]
    #[case::pending_before_unknown(json!({"status": {"phase": "Unknown"}}), json!({"status": {"phase": "Pending"}}))]
    #[case::unknown_before_running(json!({}), json!({"status": {"phase": "Unknown"}}))]
    #[case::not_ready_before_ready(json!({}), json!({"status": {"conditions": null}}))]
    #[case::ready_later_first(json!({}), ready_since("2026-03-01T00:02:00Z"))]
    #[case::no_ready_time_is_latest(json!({}), ready_since(""))]
    #[case::more_restarts_first(json!({}), json!({"status": {"containerStatuses": [{"name": "a", "restartCount": 1}]}}))]
    #[case::then_more_restarts_of_natives(
        json!({}), json!({"status": {"initContainerStatuses": [{"name": "i", "restartCount": 1}]}})
    )]
    #[case::newer_first(json!({}), json!({"metadata": {"creationTimestamp": "2026-03-01T00:00:01Z"}}))]
    #[case::no_creation_time_is_newest(json!({}), json!({"metadata": {"creationTimestamp": null}}))]
    fn the_base_order_str_3(#[case] a: Value, #[case] b: Value) {
        assert_eq!(sorted(&[pod("a", &a), pod("b", &b)], &json!({})), ["b", "a"]);
    }

    #[test]
    fn ties_are_broken_by_namespace_and_name_w_14() {
        assert_eq!(sorted(&[pod("a", &json!({})), pod("b", &json!({}))], &json!({})), ["a", "b"]);
    }

    fn labelled(labels: &[Value]) -> Vec<Value> {
        let named =
            |(index, labels): (usize, &Value)| pod(&format!("p{index}"), &json!({"metadata": {"labels": labels}}));
        labels.iter().enumerate().map(named).collect()
    }

    #[rstest]
    #[case::the_heavier_first(
        json!({"weightPriority": [{"weight": 20, "matchSelector": {"matchLabels": {"a": "x"}}},
            {"weight": 30, "matchSelector": {"matchLabels": {"b": "x"}}}], "orderPriority": [{"orderedKey": "n"}]}),
        &[json!({"n": "9"}), json!({"a": "x"}), json!({"b": "x"}), json!({"a": "x", "b": "x"})], &["p3", "p2", "p1", "p0"]
    )]
    #[case::a_malformed_selector_is_skipped(
        json!({"weightPriority": [
            {"weight": 90, "matchSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}},
            {"weight": 1, "matchSelector": {"matchLabels": {"b": "x"}}}]}),
        &[json!({"a": "x"}), json!({"b": "x"})], &["p1", "p0"]
    )]
    #[case::by_trailing_digits(
        json!({"orderPriority": [{"orderedKey": "n"}, {"orderedKey": "m"}]}),
        &[json!({"m": "99"}), json!({"n": "web-2"}), json!({"n": "web-10"}), json!({"n": "x"}), json!({}),
            json!({"n": "99999999999999999999"})],
        &["p4", "p2", "p1", "p3", "p5", "p0"]
    )]
    fn priority_str_4(#[case] priority: Value, #[case] labels: &[Value], #[case] order: &[&str]) {
        assert_eq!(sorted(&labelled(labels), &json!({"priorityStrategy": priority})), order);
    }

    fn scattered(names: &[&str], matching: &[&str], all_matching: usize, all: usize) -> String {
        let mut names = names.to_vec();
        scatter(&mut names, |name| matching.contains(name), all_matching, all);
        names.join(" ")
    }

    #[test]
    fn the_worked_examples_of_one_term_str_6() {
        let names = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];
        assert_eq!(scattered(&names, &["p1", "p2", "p3"], 3, 8), "p1 p0 p4 p5 p2 p6 p7 p3");
        let names = ["m0", "m1", "m2", "u0", "u1", "u2", "u3"];
        assert_eq!(scattered(&names, &["m0", "m1", "m2"], 9, 13), "u0 u1 u2 m0 m1 u3 m2");
    }

    #[rstest]
    #[case::one_that_matches(&["a", "b", "c"], &["a"])]
    #[case::one_that_does_not(&["a", "b", "c"], &["a", "b"])]
    fn too_few_are_left_as_they_are_str_6(#[case] names: &[&str], #[case] matching: &[&str]) {
        assert_eq!(scattered(names, matching, matching.len(), names.len()), names.join(" "));
    }

    #[test]
    fn a_star_stands_for_each_value_and_the_most_frequent_goes_first_str_5() {
        let labels = ["x", "y", "y", "z"].map(|value| json!({"k": value}));
        let pods = pods(&labelled(&labels));
        let all: Vec<&Pod> = pods.iter().collect();
        let star =
            [ScatterTerm { key: "k".into(), value: "*".into() }, ScatterTerm { key: "k".into(), value: "y".into() }];
        let terms = terms(&star, &all[..3], |pod| *pod, &all);
        let values: Vec<&str> = terms.iter().map(|term| term.value.as_str()).collect();
        assert_eq!(values, ["y", "x"]);
    }
}
