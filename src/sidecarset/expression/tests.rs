//! Formulas against the rules of the specification (EXPR), and laws for any text.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap()
}

/// The printed result of a formula over cpu.
fn of_cpu(text: &str, cpu: &str) -> String {
    Expression::parse(text).unwrap().evaluate(Variable::Cpu, &quantity(cpu)).unwrap().to_string()
}

/// The printed result of a formula over memory.
fn of_memory(text: &str, memory: &str) -> String {
    Expression::parse(text).unwrap().evaluate(Variable::Memory, &quantity(memory)).unwrap().to_string()
}

/// The printed result of a formula without a variable.
fn of_nothing(text: &str) -> String {
    of_cpu(text, "0")
}

#[rstest]
#[case::percentage_above_floor("max(cpu*50%, 50m)", "200m", "100m")]
#[case::percentage_below_floor("max(cpu*50%, 50m)", "60m", "50m")]
#[case::percentage_and_base("cpu*50% + 100m", "600m", "400m")]
#[case::slopes("0.5*cpu - 0.3*max(0, cpu-4) + 0.3*max(0, cpu-8)", "6", "2400m")]
#[case::negative_branch("max(-cpu + 3, 0.25)", "5", "250m")]
#[case::zero_request("cpu*2", "0", "0")]
#[case::names_ignore_case("MAX(CPU, Cpu*2)", "1", "2")]
#[case::doubles_truncate("cpu*29%", "100m", "28m")]
#[case::finer_than_thousandths_rounds_up_first("cpu*1", "1u", "1m")]
#[case::number_from_the_left("2*cpu", "3", "6")]
#[case::quotient_truncates("cpu/3", "1", "333m")]
#[case::quantity_plus_number("cpu + 0.0019", "1", "1001m")]
#[case::variable_alone_is_canonical("cpu", "007m", "7m")]
fn evaluates_over_cpu(#[case] text: &str, #[case] cpu: &str, #[case] result: &str) {
    assert_eq!(of_cpu(text, cpu), result);
}

#[rstest]
#[case::base_above_floor("max(memory*20% + 100Mi, 200Mi)", "1000Mi", "300Mi")]
#[case::slopes("0.5*memory + max(0, memory-2Gi)", "8Gi", "10Gi")]
#[case::fractional_bytes("memory*10%", "1Gi", "107374182400m")]
#[case::upper_case_variable("MEMORY*2", "1Gi", "2Gi")]
#[case::difference_below_nothing("max(0, memory - 2Gi)", "1Gi", "0")]
fn evaluates_over_memory(#[case] text: &str, #[case] memory: &str, #[case] result: &str) {
    assert_eq!(of_memory(text, memory), result);
}

#[rstest]
#[case::number("2", "2")]
#[case::fraction("0.25", "250m")]
#[case::percentage("25%", "250m")]
#[case::no_integer(".5", "500m")]
#[case::no_decimals("5.", "5")]
#[case::exponent("1e3", "1k")]
#[case::signed_exponent("5E-1", "500m")]
#[case::exponent_with_percent("1e3%", "10")]
#[case::finer_than_thousandths("0.0019", "1m")]
#[case::tiny_negative_number("-0.0001", "0")]
#[case::quantity("2048Mi", "2Gi")]
#[case::quantity_is_canonical("007m", "7m")]
#[case::kilo("5k", "5k")]
#[case::quantity_and_number("max(40m, 20)", "20")]
#[case::binary_sum("1Gi + 100Mi", "1124Mi")]
#[case::minus_minus("10--5", "15")]
#[case::many_minuses("---2 + 3", "1")]
#[case::minus_binds_tighter("-2*-3", "6")]
#[case::sums_from_the_left("10-3-2", "5")]
#[case::products_from_the_left("100/10*5", "50")]
#[case::products_first("1+2*3", "7")]
#[case::parentheses("(1+2)*3", "9")]
#[case::white_space(" \t\r\n\x0b\x0c1\n+\n1 ", "2")]
#[case::minus_quantity("3 + -40m", "2960m")]
#[case::minimum("min(40m, 20)", "40m")]
#[case::numbers_compare("max(1, 2) * min(3, 4)", "6")]
#[case::constants_divide("1/4", "250m")]
fn evaluates_constants(#[case] text: &str, #[case] result: &str) {
    assert_eq!(of_nothing(text), result);
}

#[rstest]
#[case::max_of_equals_is_left("max(2Ki, 2048)", "2Ki")]
#[case::max_of_equals_is_left_swapped("max(2048, 2Ki)", "2048")]
#[case::min_of_equals_is_left("min(2Ki, 2048)", "2Ki")]
#[case::winner("max(1Ki, 2048)", "2048")]
#[case::sum_is_left("1Ki + 1024", "2Ki")]
#[case::sum_is_left_swapped("1024 + 1Ki", "2048")]
#[case::left_is_zero("0 + 2Ki", "2Ki")]
#[case::left_became_zero("1 - 1 + 2Ki", "2Ki")]
#[case::product("2 * 1Ki", "2Ki")]
#[case::quotient("4Ki / 2", "2Ki")]
#[case::binary_below_a_kibi("1Ki / 2", "512")]
#[case::binary_with_a_fraction("2Ki + 1m", "2048001m")]
fn chooses_the_notation(#[case] text: &str, #[case] result: &str) {
    assert_eq!(of_nothing(text), result);
}

#[rstest]
#[case::empty("", "column 1: the expression is blank")]
#[case::blank(" \n", "column 1: the expression is blank")]
#[case::unary_plus("+1", "column 1: expected a value, found `+`")]
#[case::dangling_operator("cpu *", "column 6: expected a value, found the end")]
#[case::two_values("1 2", "column 3: expected an operator or the end, found `2`")]
#[case::unclosed("(2+3", "column 5: expected an operator or `)`, found the end")]
#[case::unopened("2+3)", "column 4: expected an operator or the end, found `)`")]
#[case::empty_parentheses("()", "column 2: expected a value, found `)`")]
#[case::no_argument("max()", "column 5: expected a value, found `)`")]
#[case::one_argument("max(1)", "column 6: expected an operator or `,`, found `)`")]
#[case::three_arguments("max(1, 2, 3)", "column 9: expected an operator or `)`, found `,`")]
#[case::comma_outside("1, 2", "column 2: expected an operator or the end, found `,`")]
#[case::two_points("5..5", "column 3: expected an operator or the end, found `.5`")]
#[case::two_percents("5%%", "column 3: unexpected character `%`")]
#[case::stray_character("cpu ^ 2", "column 5: unexpected character `^`")]
#[case::beyond_ascii("1 × 2", "column 3: unexpected character `×`")]
#[case::lone_percent("%", "column 1: unexpected character `%`")]
#[case::lone_underscore("_a", "column 1: unexpected character `_`")]
#[case::unknown_function("1 + avg(1, 2)", "column 5: unknown function `avg`, expected max or min")]
#[case::unknown_variable("1 + foo", "column 5: unknown variable `foo`, expected cpu or memory")]
#[case::unit_of_wrong_case("max(cpu, 50mi)", "column 10: `50mi` is neither a number nor a quantity")]
#[case::implicit_product("2cpu", "column 1: `2cpu` is neither a number nor a quantity")]
#[case::exponent_and_unit("1e3m", "column 1: `1e3m` is not a quantity: unknown suffix `e3m`")]
#[case::overflow("1e999", "column 1: `1e999` is neither a number nor a quantity")]
fn refuses_to_parse(#[case] text: &str, #[case] message: &str) {
    let error = Expression::parse(text).unwrap_err().to_string();
    assert!(error.starts_with(message), "{error}");
}

#[rstest]
#[case("1e")]
#[case("1e+")]
#[case(".")]
#[case("2E")]
#[case("100Xi")]
#[case("100MiB")]
#[case("50mi")]
#[case("5%Mi")]
#[case("2cpu")]
#[case("1e999")]
fn takes_a_bad_number_as_zero_only_when_stored(#[case] number: &str) {
    let error = Expression::parse(number).unwrap_err();
    assert_eq!(error.to_string(), format!("column 1: `{number}` is neither a number nor a quantity"));

    let stored = Expression::parse_stored(&format!("max(cpu, {number})")).unwrap();
    assert_eq!(stored.evaluate(Variable::Cpu, &quantity("7m")).unwrap().to_string(), "7m");
    assert_eq!(stored.evaluate(Variable::Cpu, &quantity("0")).unwrap().to_string(), "0");
}

#[rstest]
#[case::quantity_that_does_not_parse("1e3m")]
#[case::two_exponents("1e3e2")]
#[case::unit_after_a_dangling_exponent("1eKi")]
#[case::exbi("1Ei")]
#[case::two_points("5..5")]
#[case::two_percents("5%%")]
#[case::blank(" ")]
#[case::undefined("foo")]
#[case::one_argument("max(1)")]
#[case::unclosed("(2+3")]
fn refuses_even_when_stored(#[case] text: &str) {
    assert!(Expression::parse_stored(text).is_err());
}

#[rstest]
#[case::product_of_variables("cpu * cpu", "column 5: a quantity cannot be multiplied by a quantity")]
#[case::product_of_quantities("40m*2m", "column 4: a quantity cannot be multiplied by a quantity")]
#[case::variable_as_divisor("1 / cpu", "column 3: nothing can be divided by a quantity")]
#[case::quantity_as_divisor("2/40m", "column 2: nothing can be divided by a quantity")]
#[case::quotient_of_quantities("cpu/40m", "column 4: nothing can be divided by a quantity")]
#[case::number_by_zero("10/0", "column 3: division by zero")]
#[case::quantity_by_zero("cpu/0%", "column 4: division by zero")]
#[case::computed_zero("cpu / (2 - 2)", "column 5: division by zero")]
#[case::negative_zero("1 / -0", "column 3: division by zero")]
#[case::winner_stays_a_quantity("1 / max(cpu, 2)", "column 3: nothing can be divided by a quantity")]
#[case::other_field("max(memory, 1)", "column 5: `memory` has no value here, only `cpu` has")]
#[case::too_large("1e300", "column 1: the value is too large for a quantity")]
#[case::not_finite("1e300*1e300", "column 6: the value is too large for a quantity")]
fn checks_and_evaluates_to_the_same_error(#[case] text: &str, #[case] message: &str) {
    let expression = Expression::parse(text).unwrap();
    let checked = expression.check(Variable::Cpu).unwrap_err();
    let evaluated = expression.evaluate(Variable::Cpu, &quantity("1")).unwrap_err();
    assert_eq!(checked.to_string(), message);
    assert_eq!(checked, evaluated);
}

#[rstest]
#[case::subtraction("cpu - 2")]
#[case::negation("-cpu")]
#[case::negative_constant("-1")]
#[case::product_with_a_computed_number("cpu * (2 - 1/4)")]
fn does_not_judge_the_sign(#[case] text: &str) {
    assert_eq!(Expression::parse(text).unwrap().check(Variable::Cpu), Ok(()));
}

#[rstest]
#[case::number("1 - 3", "column 3: the result -2 is negative")]
#[case::quantity("cpu - 2", "column 5: the result -1 is negative")]
fn refuses_a_negative_result(#[case] text: &str, #[case] message: &str) {
    let error = Expression::parse(text).unwrap().evaluate(Variable::Cpu, &quantity("1")).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn each_field_has_its_own_variable() {
    let expression = Expression::parse("cpu").unwrap();
    assert_eq!(expression.check(Variable::Cpu), Ok(()));
    let error = expression.check(Variable::Memory).unwrap_err();
    assert_eq!(error.to_string(), "column 1: `cpu` has no value here, only `memory` has");
    assert_eq!(error.offset(), 0);
}

#[test]
fn bounds_the_length() {
    let longest = format!("1{}", "+1".repeat((MAX_LENGTH - 1) / 2));
    assert_eq!(of_nothing(&longest), "2048");
    let too_long = " ".repeat(MAX_LENGTH + 1);
    assert_eq!(Expression::parse(&too_long).unwrap_err().problem, Problem::TooLong);
}

#[rstest]
#[case::parentheses("(", "1", ")")]
#[case::functions("max(1,", "1", ")")]
fn bounds_the_depth(#[case] open: &str, #[case] inner: &str, #[case] close: &str) {
    let nested = |depth: usize| format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
    assert_eq!(of_nothing(&nested(MAX_DEPTH)), "1");
    let error = Expression::parse(&nested(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(error.problem, Problem::TooDeep);
    let last_parenthesis = nested(MAX_DEPTH + 1).rfind('(');
    assert_eq!(Some(error.offset()), last_parenthesis);
}

#[test]
fn depth_counts_what_is_open_not_what_was() {
    assert_eq!(of_nothing(&format!("0{}", "+(1)".repeat(MAX_DEPTH + 1))), "65");
    assert_eq!(of_nothing(&format!("{}1", "-".repeat(1000))), "1");
}

/// Formulas that parse, over all tokens and levels of the grammar.
fn well_formed() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![Just("cpu".to_owned()), "[0-9]{1,4}(\\.[0-9]{0,3})?%?", "[0-9]{1,4}(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)",];
    leaf.prop_recursive(6, 40, 2, |inner| {
        prop_oneof![
            (inner.clone(), "[-+*/]", inner.clone()).prop_map(|(left, op, right)| format!("{left} {op} {right}")),
            (inner.clone(), "max|min|MAX", inner.clone()).prop_map(|(left, f, right)| format!("{f}({left}, {right})")),
            inner.clone().prop_map(|inner| format!("-{inner}")),
            inner.prop_map(|inner| format!("({inner})")),
        ]
    })
}

/// Texts that are mostly made of the language's own tokens.
fn token_soup() -> impl Strategy<Value = String> {
    "([0-9.eE%+*/(),-]|[0-9]{1,3}|cpu|memory|max\\(|min|[mkMGKTPi]|[ \t]|.){0,30}"
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in token_soup()) {
        for parsed in [Expression::parse(&text), Expression::parse_stored(&text)] {
            match parsed {
                Ok(expression) => {
                    let _ = expression.evaluate(Variable::Cpu, &Quantity::zero());
                }
                Err(error) => prop_assert!(error.offset() <= text.len()),
            }
        }
    }

    #[test]
    fn reading_strictly_changes_no_meaning(text in token_soup()) {
        if let Ok(strict) = Expression::parse(&text) {
            prop_assert_eq!(Ok(strict), Expression::parse_stored(&text));
        }
    }

    #[test]
    fn well_formed_formulas_parse(text in well_formed()) {
        prop_assert!(Expression::parse(&text).is_ok(), "{}", text);
    }

    #[test]
    fn a_checked_formula_fails_only_by_its_amount(text in well_formed(), millis in 0..1_000_000_i64) {
        let expression = Expression::parse(&text).unwrap();
        let cpu = Quantity::from_millis(millis, Format::DecimalSi);
        if expression.check(Variable::Cpu).is_ok() {
            match expression.evaluate(Variable::Cpu, &cpu) {
                Ok(result) => prop_assert_eq!(quantity(&result.to_string()), result),
                Err(error) => prop_assert!(matches!(error.problem, Problem::Negative(_) | Problem::TooLarge), "{}", error),
            }
        }
    }
}
