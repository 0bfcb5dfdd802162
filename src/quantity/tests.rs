//! Quantities against the reference: every table here was checked with its parser and printer (QTY).

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

/// The text that an arithmetic result of this value would have.
fn canonical(text: &str) -> String {
    quantity(text).canonical().to_string()
}

#[rstest]
#[case::one("1", "1")]
#[case::one_and_a_half("1.5", "1500m")]
#[case::three_decimals("1.500", "1.500")]
#[case::a_tenth("0.1", "100m")]
#[case::a_half("0.5", "500m")]
#[case::no_integer(".5", "500m")]
#[case::no_decimals("5.", "5.")]
#[case::fractional_millis("1500m", "1500m")]
#[case::whole_millis("1000m", "1")]
#[case::two_thousand_millis("2000m", "2")]
#[case::leading_zeros("007m", "007m")]
#[case::plus("+2", "+2")]
#[case::minus("-2", "-2")]
#[case::exponent("1e3", "1e3")]
#[case::upper_exponent("12E6", "12E6")]
#[case::exponent_off_by_one("1e4", "10e3")]
#[case::exponent_of_zero("15e0", "15e0")]
#[case::negative_exponent("1e-3", "1e-3")]
#[case::exa("1E", "1E")]
#[case::below_a_thousand("512", "512")]
#[case::a_thousand("1000", "1k")]
#[case::not_a_round_thousand("1024", "1024")]
#[case::mebi_to_gibi("1024Mi", "1Gi")]
#[case::two_gibi("2048Mi", "2Gi")]
#[case::gibi_and_a_half("1536Mi", "1536Mi")]
#[case::fraction_of_gibi("1.5Gi", "1536Mi")]
#[case::decimal_thousand_of_mebi("1000Mi", "1000Mi")]
#[case::odd_mebi("015Mi", "015Mi")]
#[case::even_mebi("016Mi", "16Mi")]
#[case::point_without_fraction("15.Ki", "15.Ki")]
#[case::small_kibi("1Ki", "1Ki")]
#[case::half_kibi("0.5Ki", "512")]
#[case::tiny_kibi("0.0001Ki", "102400u")]
#[case::fractional_bytes("1.1Ki", "1126400m")]
#[case::pebi("8Pi", "8Pi")]
#[case::pebi_is_never_verbatim("+1Pi", "1Pi")]
#[case::zero("0", "0")]
#[case::many_zeros("000", "0")]
#[case::minus_zero("-0", "0")]
#[case::zero_with_unit("0Gi", "0")]
#[case::zero_decimals("0.000", "0")]
#[case::nothing_but_a_sign("+", "0")]
#[case::nothing_but_a_point(".", "0")]
#[case::nothing_but_a_unit("Ki", "0")]
#[case::nanos("1n", "1n")]
#[case::below_a_nano("0.1n", "1n")]
#[case::far_below_a_nano("-1e-30", "-1e-9")]
#[case::long_fraction("1.0000000001", "1000000001n")]
#[case::nineteen_digits("1234567890123456789", "1234567890123456789")]
#[case::eight_exbi("8Ei", "9223372036854775807")]
#[case::more_than_exbi("-1024Ei", "-9223372036854775807")]
#[case::beyond_exa("1e30", "1e30")]
fn prints_what_the_reference_prints(#[case] text: &str, #[case] printed: &str) {
    assert_eq!(quantity(text).to_string(), printed);
}

#[rstest]
#[case::plus("+2", "2")]
#[case::leading_zeros("007m", "7m")]
#[case::three_decimals("1.500", "1500m")]
#[case::exponent("1e3", "1e3")]
#[case::upper_exponent("12E6", "12e6")]
#[case::exponent_of_zero("15e0", "15")]
#[case::negative_exponent("1500e-3", "1500e-3")]
#[case::below_a_kibi("1023", "1023")]
#[case::odd_mebi("015Mi", "15Mi")]
#[case::beyond_exa("1000E", "1e21")]
#[case::capped("1e40", "100e27")]
fn prints_results_canonically(#[case] text: &str, #[case] printed: &str) {
    assert_eq!(canonical(text), printed);
}

#[rstest]
#[case::empty("", "the quantity is empty")]
#[case::blank(" ", "unknown suffix ` `")]
#[case::leading_space(" 1", "unknown suffix ` 1`")]
#[case::trailing_space("1 ", "unknown suffix ` `")]
#[case::two_points("1.1.M", "unknown suffix `.M`")]
#[case::two_signs("++1", "unknown suffix `+1`")]
#[case::sum("1+1.0M", "unknown suffix `+1.0M`")]
#[case::word("aoeu", "unknown suffix `aoeu`")]
#[case::lower_mebi("0.1mi", "unknown suffix `mi`")]
#[case::upper_kilo("1K", "unknown suffix `K`")]
#[case::lone_i("1i", "unknown suffix `i`")]
#[case::lone_exponent("1e", "unknown suffix `e`")]
#[case::signed_lone_exponent("-3.01e-", "unknown suffix `e-`")]
#[case::exponent_and_unit("1e3m", "unknown suffix `e3m`")]
#[case::fractional_exponent("1e1.5", "unknown suffix `e1.5`")]
#[case::endless_exponent("1e99999999999999999999", "unknown suffix `e99999999999999999999`")]
#[case::pebi_alone("Pi", "no digits stand before the suffix `Pi`")]
#[case::tiny_exponent_alone(".e-10", "no digits stand before the suffix `e-10`")]
#[case::not_ascii("1µ", "unknown suffix `µ`")]
fn refuses(#[case] text: &str, #[case] message: &str) {
    let error = Quantity::parse(text).expect_err("the reference refuses it").to_string();
    assert!(error.starts_with(message), "{error}");
}

#[rstest]
#[case::micros("100u", "1m")]
#[case::negative("-100u", "-1m")]
#[case::four_decimals("1.2345", "1235m")]
#[case::tiny_kibi("0.0001Ki", "103m")]
#[case::exponent("1e-6", "1e-3")]
#[case::verbatim_survives("007m", "007m")]
#[case::whole_survives("+2", "+2")]
fn rounds_up_to_thousandths(#[case] text: &str, #[case] rounded: &str) {
    assert_eq!(quantity(text).round_up_to_milli().to_string(), rounded);
}

#[rstest]
#[case::whole("2", 2000)]
#[case::rounded_up("1u", 1)]
#[case::rounded_away_from_zero("-1001u", -2)]
#[case::saturated("1e30", i64::MAX)]
#[case::saturated_below("-1e30", i64::MIN)]
fn counts_thousandths(#[case] text: &str, #[case] millis: i64) {
    assert_eq!(quantity(text).millis(), millis);
}

#[rstest]
#[case::left_notation("1Gi", "100M", "1173741824")]
#[case::left_notation_when_whole("1Gi", "1024k", "1049576Ki")]
#[case::decimal_left("1024", "1Ki", "2048")]
#[case::zero_takes_the_right("0", "2048Mi", "2Gi")]
#[case::binary_below_a_kibi("0Ki", "100m", "100m")]
#[case::loses_the_text("007m", "0", "7m")]
fn adds(#[case] left: &str, #[case] right: &str, #[case] sum: &str) {
    assert_eq!((quantity(left) + quantity(right)).to_string(), sum);
}

#[rstest]
#[case::left_notation("1Gi", "512Mi", "512Mi")]
#[case::below_zero("1", "1500m", "-500m")]
#[case::zero_takes_the_right("0", "1Gi", "-1Gi")]
fn subtracts(#[case] left: &str, #[case] right: &str, #[case] difference: &str) {
    assert_eq!((quantity(left) - quantity(right)).to_string(), difference);
}

#[test]
fn compares_by_value() {
    assert_eq!(quantity("1"), quantity("1000m"));
    assert!(quantity("1k") < quantity("1Ki"));
    assert!(quantity("-1") < Quantity::zero());
}

#[test]
fn caps_sums() {
    let most = quantity("1e40");
    assert_eq!(most.clone() + most.clone(), most);
    assert_eq!(-most.clone() - most.clone(), -most);
}

#[rstest]
#[case::string(json!("1.500"), "1.500")]
#[case::padded_string(json!(" 1Gi "), "1Gi")]
#[case::integer(json!(2), "2")]
#[case::negative_integer(json!(-2), "-2")]
#[case::round_integer(json!(3000), "3k")]
#[case::integral_float(json!(2.0), "2")]
#[case::float(json!(0.5), "500m")]
#[case::large_float(json!(1e15), "1P")]
#[case::null(json!(null), "0")]
fn reads_json(#[case] value: serde_json::Value, #[case] printed: &str) {
    let read: Quantity = serde_json::from_value(value).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), json!(printed));
}

#[test]
fn refuses_json_that_is_no_quantity() {
    assert!(serde_json::from_value::<Quantity>(json!("5 apples")).is_err());
    assert!(serde_json::from_value::<Quantity>(json!(true)).is_err());
    assert!(serde_json::from_value::<Quantity>(json!({})).is_err());
}

/// Texts in the shape of a quantity, and near misses.
fn text() -> impl Strategy<Value = String> {
    "[+-]?[0-9]{0,24}(\\.[0-9]{0,24})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,3}|[a-zA-Z])?"
}

proptest! {
    #[test]
    fn printing_keeps_the_value(text in text()) {
        if let Ok(read) = Quantity::parse(&text) {
            prop_assert_eq!(&quantity(&read.to_string()), &read);
            prop_assert_eq!(&quantity(&read.clone().canonical().to_string()), &read);
        }
    }

    #[test]
    fn printing_is_stable(text in text()) {
        if let Ok(read) = Quantity::parse(&text) {
            let printed = read.to_string();
            prop_assert_eq!(quantity(&printed).to_string(), printed);
        }
    }

    #[test]
    fn rounding_never_lowers_the_magnitude(text in text()) {
        if let Ok(read) = Quantity::parse(&text) {
            let rounded = read.clone().round_up_to_milli();
            prop_assert!(rounded.nanos.abs() >= read.nanos.abs());
            prop_assert!(rounded.nanos.abs() - read.nanos.abs() < NANOS_PER_MILLI);
        }
    }

    #[test]
    fn thousandths_survive(millis: i64) {
        prop_assert_eq!(Quantity::from_millis(millis, Format::BinarySi).millis(), millis);
    }

    #[test]
    fn subtracting_undoes_adding(left: i64, right: i64) {
        let [left, right] = [left, right].map(|millis| Quantity::from_millis(millis, Format::DecimalSi));
        prop_assert_eq!(left.clone() + right.clone() - right, left);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        let _ = Quantity::parse(&text);
    }
}
