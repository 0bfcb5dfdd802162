//! Can two label selectors select one object? (SEL)
//!
//! Two answers: that of the reference, which decides what is refused, and the exact one, which decides what is told.

use std::collections::BTreeMap;

use crate::api::meta::LabelSelector;
use crate::selector::{Operator, Selector};

/// Value by which the reference marks a key that may have any value.
const ANY: &str = "ALL";

/// Whether the reference takes the selectors to overlap (SEL-1).
pub(super) fn overlap(a: &LabelSelector, b: &LabelSelector) -> bool {
    !disjoint(a, b) && !disjoint(b, a)
}

/// SEL-2, with what SEL-3 says about it.
fn disjoint(x: &LabelSelector, y: &LabelSelector) -> bool {
    let table = table(x);
    let values = |key: &str| table.get(key).map(Vec::as_slice);
    let lacks = |key: &str, accepted: &[&str]| {
        values(key).is_some_and(|values| !values.iter().any(|value| *value == ANY || accepted.contains(value)))
    };
    let by_label = y.match_labels.iter().any(|(key, value)| lacks(key, &[value]));
    by_label
        || y.match_expressions.iter().any(|expression| {
            let key = &expression.key;
            let listed: Vec<&str> = expression.values.iter().map(String::as_str).collect();
            match expression.operator.as_str() {
                "In" => lacks(key, &listed),
                "NotIn" => values(key).is_some_and(|values| values.iter().all(|value| listed.contains(value))),
                "Exists" => values(key).is_none(),
                "DoesNotExist" => values(key).is_some(),
                _ => false,
            }
        })
}

fn table(selector: &LabelSelector) -> BTreeMap<&str, Vec<&str>> {
    let mut table: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in &selector.match_labels {
        table.insert(key, vec![value]);
    }
    for expression in &selector.match_expressions {
        match expression.operator.as_str() {
            "In" => table.entry(&expression.key).or_default().extend(expression.values.iter().map(String::as_str)),
            "Exists" => {
                table.insert(&expression.key, vec![ANY]);
            }
            _ => {}
        }
    }
    table
}

/// Whether one object can meet both selectors (SEL-3), decided key by key. A selector that cannot be compiled selects
/// nothing.
pub(super) fn can_meet(a: &LabelSelector, b: &LabelSelector) -> bool {
    let (Ok(a), Ok(b)) = (Selector::try_from(a), Selector::try_from(b)) else { return false };
    let mut by_key: BTreeMap<&str, Vec<&Operator>> = BTreeMap::new();
    for requirement in a.requirements().iter().chain(b.requirements()) {
        by_key.entry(&requirement.key).or_default().push(&requirement.operator);
    }
    by_key.values().all(|operators| is_satisfiable(operators))
}

/// Whether one label, or its absence, meets all of these.
fn is_satisfiable(operators: &[&Operator]) -> bool {
    let needs_absence = operators.iter().any(|operator| matches!(operator, Operator::DoesNotExist));
    let needs_presence = operators.iter().any(|operator| matches!(operator, Operator::In(_) | Operator::Exists));
    if needs_absence {
        return !needs_presence;
    }
    let mut choices = operators.iter().filter_map(|operator| match operator {
        Operator::In(values) => Some(values),
        _ => None,
    });
    // Without `In` there are always values that no `NotIn` lists.
    let Some(first) = choices.next() else { return true };
    first.iter().any(|value| {
        operators.iter().all(|operator| match operator {
            Operator::In(values) => values.contains(value),
            Operator::NotIn(values) => !values.contains(value),
            Operator::Exists | Operator::DoesNotExist => true,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::api::meta::LabelSelectorRequirement;

    /// `a=h`, `a in h|i`, `a notin h|i`, `a exists`, `a absent`; several with commas between them.
    fn selector(text: &str) -> LabelSelector {
        let mut selector = LabelSelector::default();
        for part in text.split(',') {
            if let Some((key, value)) = part.split_once('=') {
                selector.match_labels.insert(key.into(), value.into());
                continue;
            }
            let mut words = part.split(' ');
            let key = words.next().unwrap().to_owned();
            let operator = match words.next().unwrap() {
                "in" => "In",
                "notin" => "NotIn",
                "exists" => "Exists",
                "absent" => "DoesNotExist",
                other => other,
            };
            let values = words.next().map(|values| values.split('|').map(str::to_owned).collect()).unwrap_or_default();
            let expression = LabelSelectorRequirement { key, operator: operator.into(), values };
            selector.match_expressions.push(expression);
        }
        selector
    }

    #[rstest]
    // The table of SEL-3.
    #[case::same_label("a=h", "a=h", true)]
    #[case::other_value("a=h", "a=i", false)]
    #[case::other_key("a=h", "b=i", true)]
    #[case::one_of_three_differs("a=h,b=i,c=j", "a=h,b=x,c=j", false)]
    #[case::listed_value("a=h", "a in h|i|j", true)]
    #[case::unlisted_value("a=h", "a in i|j", false)]
    #[case::excluded_value("a notin h|i", "a=h", false)]
    #[case::present_key("a=h", "a exists", true)]
    #[case::absent_key("a absent", "a=h", false)]
    #[case::a_key_that_only_one_side_names("b=i", "a exists", false)]
    // What SEL-2 says beside it.
    #[case::in_and_in_with_a_common_value("a in h|i", "a in i|j", true)]
    #[case::in_and_in_without("a in h", "a in i|j", false)]
    #[case::not_in_with_a_value_left("a in h|i", "a notin h", true)]
    #[case::not_in_ignores_other_keys("b=i", "a notin h", true)]
    #[case::in_twice_is_a_union("a in h,a in i", "a in h|i", true)]
    #[case::exists_stands_for_any_value("a exists", "a in h|i", true)]
    #[case::exists_forgets_values("a in h,a exists", "a in i,a exists", true)]
    #[case::the_value_all_is_a_wild_card_one_way_only("a=ALL", "a=h", false)]
    #[case::the_value_all_on_both_sides("a=ALL", "a in ALL|h", true)]
    #[case::two_absences("a absent", "a absent", true)]
    fn overlap_is_that_of_the_reference(#[case] a: &str, #[case] b: &str, #[case] expected: bool) {
        let (a, b) = (selector(a), selector(b));
        assert_eq!(overlap(&a, &b), expected);
        assert_eq!(overlap(&b, &a), expected, "turned round");
    }

    #[rstest]
    #[case::sel_3("a=b", "c exists", true)]
    #[case::other_value("a=h", "a=i", false)]
    #[case::absence_and_value("a absent", "a=h", false)]
    #[case::absence_and_exclusion("a absent", "a notin h", true)]
    #[case::no_value_left("a in h|i", "a notin h|i", false)]
    #[case::a_value_left("a in h|i", "a notin h", true)]
    #[case::in_twice_is_an_intersection("a in h,a in i", "b=x", false)]
    #[case::the_value_all_is_a_value("a=ALL", "a=h", false)]
    #[case::presence_with_exclusion("a exists", "a notin h", true)]
    #[case::cannot_be_compiled("a=h", "a like h", false)]
    fn meeting_is_decided_key_by_key(#[case] a: &str, #[case] b: &str, #[case] expected: bool) {
        let (a, b) = (selector(a), selector(b));
        assert_eq!(can_meet(&a, &b), expected);
        assert_eq!(can_meet(&b, &a), expected, "turned round");
    }

    /// All objects with labels `a` and `b`, of values that selectors below name and one that they do not.
    fn objects() -> Vec<BTreeMap<String, String>> {
        let values = [None, Some("x"), Some("y"), Some("other")];
        let pairs = values.iter().flat_map(|a| values.iter().map(move |b| [("a", *a), ("b", *b)]));
        let labels = |pair: [(&str, Option<&str>); 2]| {
            pair.iter().filter_map(|(key, value)| Some(((*key).to_owned(), (*value)?.to_owned()))).collect()
        };
        pairs.map(labels).collect()
    }

    proptest! {
        #[test]
        fn two_selectors_can_meet_when_an_object_matches_both(
            a in "[ab] (in|notin) (x|y|x\\|y)(,[ab] (exists|absent|notin x|in y)){0,2}",
            b in "[ab](=[xy]| exists| absent)(,[ab] (exists|absent|in x|notin y)){0,2}",
        ) {
            let (a, b) = (selector(&a), selector(&b));
            let (left, right) = (Selector::try_from(&a).unwrap(), Selector::try_from(&b).unwrap());
            let matches = |object| left.mismatch(object).is_none() && right.mismatch(object).is_none();
            prop_assert_eq!(can_meet(&a, &b), objects().iter().any(matches));
        }
    }
}
