//! `--webhook-scope=selected`: which pods are sent, as one CEL expression made of the SidecarSets (MATCH-5, MATCH-6).
//!
//! The expression is a list of terms, one a line, joined by `||`; it is true for every pod that a SidecarSet selects, that
//! asks for launch priority (PRI-3, PRI-4), or that an apps.kruise.io workload owns (RG-1), and perhaps for more: of a
//! namespaceSelector only the namespace's name can be told here. What cannot be told at all becomes the term `true`.
//! The terms in the registered expression are the memory that all replicas share; see `registration` for the race.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::api::meta::LabelSelector;
use crate::api::names;
use crate::selector::{Operator, Selector};

/// The terms of an expression.
pub type Terms = BTreeSet<String>;

/// The term that is true for every pod.
pub const EVERY_POD: &str = "true";
/// A longer expression becomes [`EVERY_POD`]; the API server's own limits are far above.
pub const MOST_BYTES: usize = 16 * 1024;

const OR: &str = " ||\n";

/// What every registration sends, whatever the SidecarSets.
fn always() -> [String; 3] {
    let (priority, ordered, env) = (names::LAUNCH_PRIORITY, names::LAUNCH_PRIORITY_ORDERED, names::PRIORITY_ENV);
    let group = names::GROUP;
    [
        format!(
            "(has(object.metadata.annotations) && '{priority}' in object.metadata.annotations \
             && object.metadata.annotations['{priority}'] == '{ordered}')"
        ),
        format!(
            "(has(object.spec.containers) && object.spec.containers != null && object.spec.containers\
             .exists(c, has(c.env) && c.env != null && c.env.exists(e, e.name == '{env}')))"
        ),
        format!(
            "(has(object.metadata.ownerReferences) && object.metadata.ownerReferences\
             .exists(o, o.apiVersion.startsWith('{group}/')))"
        ),
    ]
}

/// The term of one SidecarSet; `None` when it can select no pod.
pub fn term(selector: Option<&LabelSelector>, namespaces: Option<&LabelSelector>) -> Option<String> {
    let Ok(labels) = Selector::try_from(selector?) else {
        return Some(EVERY_POD.to_owned());
    };
    if labels.is_empty() {
        return None;
    }
    let every = || Some(EVERY_POD.to_owned());
    let mut parts = Vec::new();
    for requirement in labels.requirements() {
        let Some(part) = on_label(&requirement.key, &requirement.operator) else { return every() };
        parts.push(part);
    }
    // A selector that cannot be read selects no namespace today; send the pod and let admission say so.
    if let Some(Ok(namespaces)) = namespaces.map(Selector::try_from) {
        for requirement in namespaces.requirements().iter().filter(|it| it.key == names::NAMESPACE_NAME) {
            let (not, values) = match &requirement.operator {
                Operator::In(values) => ("", values),
                Operator::NotIn(values) => ("!", values),
                Operator::Exists | Operator::DoesNotExist => continue,
            };
            let Some(list) = list(values) else { return every() };
            parts.push(format!("{not}(request.namespace in {list})"));
        }
    }
    let term = format!("({})", parts.join(" && "));
    if term.len() > MOST_BYTES { every() } else { Some(term) }
}

fn on_label(key: &str, operator: &Operator) -> Option<String> {
    let key = quoted(key)?;
    let there = format!("has(object.metadata.labels) && {key} in object.metadata.labels");
    Some(match operator {
        Operator::In(values) => format!("{there} && object.metadata.labels[{key}] in {}", list(values)?),
        Operator::NotIn(values) => format!("!({there} && object.metadata.labels[{key}] in {})", list(values)?),
        Operator::Exists => there,
        Operator::DoesNotExist => format!("!({there})"),
    })
}

fn list(values: &[String]) -> Option<String> {
    let mut text = String::from("[");
    for (place, value) in values.iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        write!(text, "{comma}{}", quoted(value)?).ok()?;
    }
    text.push(']');
    Some(text)
}

/// Only what can be a label's key or value comes between quotes, so nothing has to be escaped.
fn quoted(text: &str) -> Option<String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    plain.then(|| format!("'{text}'"))
}

/// The expression of some terms.
pub fn expression(terms: &Terms) -> String {
    let mut terms = terms.clone();
    terms.extend(always());
    let lines = |terms: &Terms| terms.iter().map(String::as_str).collect::<Vec<_>>().join(OR);
    let whole = lines(&terms);
    if whole.len() <= MOST_BYTES { whole } else { EVERY_POD.to_owned() }
}

/// The terms of an expression that [`expression`] made.
pub fn parse(expression: &str) -> Terms {
    expression.split(OR).map(str::to_owned).collect()
}

/// The terms to register. `live`: those that are registered, `None` when every pod is sent without a condition;
/// `wanted`: those of all SidecarSets, and of those being admitted; `idle`: whether a term has been wanted by nobody
/// for so long that no SidecarSet being admitted can need it.
pub fn next(live: Option<&Terms>, wanted: &Terms, idle: impl Fn(&str) -> bool) -> Terms {
    let mut terms = wanted.clone();
    terms.extend(always());
    match live {
        Some(live) => terms.extend(live.iter().filter(|term| !idle(term)).cloned()),
        // The first condition changes nothing; it becomes narrow when `true` has been idle.
        None => {
            terms.insert(EVERY_POD.to_owned());
        }
    }
    terms
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn selector(value: Value) -> LabelSelector {
        serde_json::from_value(value).unwrap()
    }

    const LABELS: &str = "object.metadata.labels";

    #[rstest]
    #[case::one_label(json!({"matchLabels": {"app": "web"}}), "(has(L) && 'app' in L && L['app'] in ['web'])")]
    #[case::several(
        json!({"matchLabels": {"a/b": "c"}, "matchExpressions": [{"key": "d", "operator": "In", "values": ["e", "f"]}]}),
        "(has(L) && 'a/b' in L && L['a/b'] in ['c'] && has(L) && 'd' in L && L['d'] in ['e', 'f'])"
    )]
    #[case::not_in(
        json!({"matchExpressions": [{"key": "d", "operator": "NotIn", "values": ["e"]}]}),
        "(!(has(L) && 'd' in L && L['d'] in ['e']))"
    )]
    #[case::exists(json!({"matchExpressions": [{"key": "d", "operator": "Exists"}]}), "(has(L) && 'd' in L)")]
    #[case::does_not_exist(
        json!({"matchExpressions": [{"key": "d", "operator": "DoesNotExist"}]}), "(!(has(L) && 'd' in L))")]
    #[case::an_unknown_operator_is_every_pod(json!({"matchExpressions": [{"key": "d", "operator": "Gt"}]}), "true")]
    #[case::what_needs_escaping_is_every_pod(json!({"matchLabels": {"app": "a' || true"}}), "true")]
    fn match_6_a_selector_becomes_a_term(#[case] labels: Value, #[case] want: &str) {
        assert_eq!(term(Some(&selector(labels)), None), Some(want.replace('L', LABELS)));
    }

    #[test]
    fn match_6_no_selector_and_an_empty_one_select_no_pod() {
        assert_eq!(term(None, None), None);
        assert_eq!(term(Some(&selector(json!({}))), None), None);
    }

    #[rstest]
    #[case::by_name(json!({"matchLabels": {names::NAMESPACE_NAME: "shop"}}), " && (request.namespace in ['shop'])")]
    #[case::but_for_names(
        json!({"matchExpressions": [{"key": names::NAMESPACE_NAME, "operator": "NotIn", "values": ["a", "b"]}]}),
        " && !(request.namespace in ['a', 'b'])"
    )]
    #[case::other_labels_cannot_be_told(json!({"matchLabels": {"team": "shop"}}), "")]
    #[case::every_namespace(json!({}), "")]
    fn match_5_of_a_namespace_only_the_name_narrows(#[case] namespaces: Value, #[case] want: &str) {
        let web = selector(json!({"matchLabels": {"app": "web"}}));
        let text = term(Some(&web), Some(&selector(namespaces))).unwrap();
        assert_eq!(text, format!("(has(L) && 'app' in L && L['app'] in ['web']{want})").replace('L', LABELS));
    }

    #[test]
    fn an_expression_reads_back_and_too_long_a_one_sends_every_pod() {
        let some = Terms::from(["(a)".to_owned(), "(b)".to_owned()]);
        let text = expression(&some);
        assert!(parse(&text).is_superset(&some));
        assert_eq!(expression(&parse(&text)), text);
        assert!(text.contains("KRUISE_CONTAINER_PRIORITY") && text.contains("container-launch-priority"));
        let many = (0..2000).map(|place| format!("(term {place})")).collect();
        assert_eq!(expression(&many), EVERY_POD);
    }

    #[test]
    fn a_term_goes_only_when_nobody_has_wanted_it_for_long() {
        let terms = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Terms>();
        let plain = |set: Terms| set.into_iter().filter(|term| term.len() < 10).collect::<Terms>();
        let wanted = terms(&["a"]);
        assert_eq!(plain(next(None, &wanted, |_| true)), terms(&["a", "true"]));
        assert_eq!(plain(next(Some(&terms(&["b", "true"])), &wanted, |_| false)), terms(&["a", "b", "true"]));
        assert_eq!(plain(next(Some(&terms(&["b", "true"])), &wanted, |term| term == "true")), terms(&["a", "b"]));
        // A wanted term stays, however idle it looks.
        assert_eq!(plain(next(Some(&terms(&["a"])), &wanted, |_| true)), terms(&["a"]));
    }
}
