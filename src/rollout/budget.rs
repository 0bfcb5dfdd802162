//! How many pods: partition, maxUnavailable, and the walk along the candidates (STR-7 … STR-11).

use crate::api::IntOrString;

/// A strategy that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.updateStrategy.{member} {shown} is neither a number of pods nor a percentage such as \"30%\"; correct it"
)]
pub(super) struct Unreadable {
    member: &'static str,
    shown: String,
}

/// STR-7: how many of `all` pods keep the old version.
pub(super) fn partition(given: Option<&IntOrString>, all: usize) -> Result<usize, Unreadable> {
    let keep = match given {
        None => 0,
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|number| share(number, all));
            // W-15: what cannot be read updates nothing.
            let keep = percent.ok_or_else(|| Unreadable { member: "partition", shown: format!("{text:?}") })?;
            if keep == all && all > 1 && text != "100%" { all - 1 } else { keep }
        }
    };
    Ok(keep.min(all))
}

/// STR-8: how many of `all` pods may be unavailable.
pub(super) fn max_unavailable(given: Option<&IntOrString>, all: usize) -> Result<usize, Unreadable> {
    match given {
        None => Ok(1),
        Some(IntOrString::Int(number)) => Ok(usize::try_from(*number).unwrap_or(0)),
        Some(IntOrString::String(text)) => {
            let number = text.strip_suffix('%').unwrap_or(text);
            let whole = Some(number).filter(|number| !number.contains('.')).and_then(|number| share(number, all));
            whole.ok_or_else(|| Unreadable { member: "maxUnavailable", shown: format!("{text:?}") })
        }
    }
}

/// ⌈percent · all / 100⌉ of a decimal number; exact. A negative one is 0.
fn share(percent: &str, all: usize) -> Option<usize> {
    /// More decimals than anybody writes, and few enough for 128 bits.
    const DECIMALS: usize = 9;
    let (is_negative, percent) = percent.strip_prefix('-').map_or((false, percent), |rest| (true, rest));
    let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_number(whole) || !is_number(fraction) || whole.len() > 9 {
        return None;
    }
    let fraction = fraction.get(..DECIMALS).unwrap_or(fraction);
    let digits: u128 = format!("{whole}{fraction:0<DECIMALS$}").parse().ok()?;
    if is_negative {
        return Some(0);
    }
    let divisor = 100 * 10_u128.pow(9);
    usize::try_from((digits * all as u128).div_ceil(divisor)).ok()
}

/// What became of the candidates.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many, from the first on, are updated now or wait for the budget.
    pub(super) within_partition: usize,
    /// How many, from the first on, are updated now.
    pub(super) taken: usize,
    /// The budget that is used afterwards.
    pub(super) used: usize,
}

/// STR-7 and STR-10. `costly` says of each candidate, in order, whether it is available and would not be; `keep_back` of
/// them stay; `used` of `limit` pods are unavailable already.
pub(super) fn cut(costly: &[bool], keep_back: usize, used: usize, limit: usize) -> Cut {
    let within_partition = costly.len().saturating_sub(keep_back);
    let mut cut = Cut { within_partition, taken: 0, used };
    for costs in &costly[..within_partition] {
        if *costs {
            if cut.used >= limit {
                break;
            }
            cut.used += 1;
        }
        cut.taken += 1;
    }
    cut
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn text(text: &str) -> IntOrString {
        IntOrString::String(text.to_owned())
    }

    #[rstest]
    #[case::absent(None, 10, 0)]
    #[case::a_number(Some(IntOrString::Int(3)), 10, 3)]
    #[case::more_than_there_are(Some(IntOrString::Int(30)), 10, 10)]
    #[case::a_negative_number(Some(IntOrString::Int(-3)), 10, 0)]
    #[case::a_quarter_of_twelve(Some(text("25%")), 12, 3)]
    #[case::rounded_up(Some(text("33%")), 10, 4)]
    #[case::decimals(Some(text("33.3%")), 1000, 333)]
    #[case::exact_where_floats_are_not(Some(text("55%")), 100, 55)]
    #[case::all_but_one(Some(text("99%")), 10, 9)]
    #[case::really_all(Some(text("100%")), 10, 10)]
    #[case::all_in_other_words(Some(text("100.0%")), 10, 9)]
    #[case::of_one_pod(Some(text("1%")), 1, 1)]
    #[case::of_none(Some(text("50%")), 0, 0)]
    #[case::more_than_all(Some(text("150%")), 10, 10)]
    fn a_partition_is_rounded_up_but_leaves_one_str_7(
        #[case] given: Option<IntOrString>,
        #[case] all: usize,
        #[case] keep: usize,
    ) {
        assert_eq!(partition(given.as_ref(), all), Ok(keep));
    }

    #[rstest]
    #[case::words("half")]
    #[case::no_percent_sign("50")]
    #[case::nothing("")]
    #[case::a_sign_alone("%")]
    #[case::a_power("1e1%")]
    fn a_partition_that_cannot_be_read_is_an_error_w_15(#[case] given: &str) {
        let error = partition(Some(&text(given)), 10).unwrap_err().to_string();
        assert!(error.starts_with("spec.updateStrategy.partition \""), "{error}");
    }

    #[rstest]
    #[case::absent(None, 10, Ok(1))]
    #[case::none(Some(IntOrString::Int(0)), 10, Ok(0))]
    #[case::rounded_up(Some(text("10%")), 12, Ok(2))]
    #[case::without_a_sign(Some(text("10")), 12, Ok(2))]
    #[case::all(Some(text("100%")), 12, Ok(12))]
    #[case::decimals(Some(text("10.5%")), 12, Err(()))]
    #[case::words(Some(text("half")), 12, Err(()))]
    fn max_unavailable_is_rounded_up_str_8(
        #[case] given: Option<IntOrString>,
        #[case] all: usize,
        #[case] limit: Result<usize, ()>,
    ) {
        assert_eq!(max_unavailable(given.as_ref(), all).map_err(drop), limit);
    }

    #[rstest]
    #[case::the_worked_example_str_11(&[false, false, true, true, true, true, true, true], 3, 1, 2, 3)]
    #[case::no_budget_left(&[false, true, false], 0, 1, 1, 1)]
    #[case::the_first_that_does_not_fit_ends_the_walk(&[true, true, false], 0, 0, 1, 1)]
    #[case::everything_is_kept(&[false, true], 2, 0, 9, 0)]
    fn the_walk_str_10(
        #[case] costly: &[bool],
        #[case] keep_back: usize,
        #[case] used: usize,
        #[case] limit: usize,
        #[case] taken: usize,
    ) {
        let cut = cut(costly, keep_back, used, limit);
        assert_eq!(cut.taken, taken);
    }
}
