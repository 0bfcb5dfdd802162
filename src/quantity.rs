//! Kubernetes quantities such as `100m` and `1.5Gi`: their text, their value, their arithmetic (QTY-1 to QTY-6).
//!
//! A quantity is read from a pod or a SidecarSet, perhaps computed with, and written back. The text matters as much as the
//! value: hashes cover it (HASH), so a quantity that nobody changed must print exactly as the reference prints it.
//! Reads top to bottom: the type, reading, rounding and arithmetic, printing, JSON.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Neg, Sub};

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

#[cfg(test)]
mod tests;

/// Billionths in one.
const NANOS_PER_UNIT: i128 = 1_000_000_000;

/// Billionths in one thousandth.
const NANOS_PER_MILLI: i128 = 1_000_000;

/// The largest magnitude held: 10²⁹, in billionths.
///
/// The reference has no bound for decimal quantities. This one is a hundred billion times the largest binary quantity, so
/// only mistakes meet it; they are capped, as binary quantities are.
const MAX_NANOS: i128 = 10_i128.pow(38);

/// The largest magnitude of a quantity with a binary suffix, in billionths (QTY-6).
const MAX_BINARY_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;

/// An exact amount of a resource, and the text it came from.
///
/// Equality and order look at the value alone: `1` equals `1000m`. Compare `to_string()` where the text matters.
#[derive(Clone, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// The text as it was read, kept only while it is what the reference would print (QTY-2).
    verbatim: Option<Box<str>>,
}

/// The family of suffixes a quantity is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Powers of 1000: `12M`.
    DecimalSi,
    /// Powers of 1024: `12Mi`.
    BinarySi,
    /// Powers of ten as an exponent: `12e6`.
    DecimalExponent,
}

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// There is no text.
    #[error("the quantity is empty")]
    Empty,
    /// The suffix stands alone.
    #[error("no digits stand before the suffix `{0}`")]
    NoDigits(String),
    /// What follows the number is neither a unit nor an exponent.
    #[error("unknown suffix `{0}`, expected one of n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or an exponent such as e3")]
    UnknownSuffix(String),
}

// ---- Reading ----

impl Quantity {
    /// Reads exactly the texts that the reference reads.
    ///
    /// These include oddities: without any digits, `+` and `m` are zero.
    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        if text.is_empty() {
            return Err(ParseQuantityError::Empty);
        }
        let (number, suffix) = Number::split(text);
        let unit = Unit::parse(suffix).ok_or_else(|| ParseQuantityError::UnknownSuffix(suffix.to_owned()))?;
        if number.has_no_digits && unit.needs_digits() {
            return Err(ParseQuantityError::NoDigits(suffix.to_owned()));
        }
        let magnitude = number.nanos(unit);
        let is_below_one = 0 < magnitude && magnitude < NANOS_PER_UNIT;
        Ok(Self {
            nanos: if number.is_negative { -magnitude } else { magnitude },
            format: match unit {
                Unit::Binary(_) if is_below_one => Format::DecimalSi,
                Unit::Binary(_) => Format::BinarySi,
                Unit::Decimal(_) => Format::DecimalSi,
                Unit::Exponent(_) => Format::DecimalExponent,
            },
            verbatim: number.prints_verbatim(unit).then(|| text.into()),
        })
    }
}

/// What a number is counted in.
#[derive(Clone, Copy)]
enum Unit {
    /// 10 to this power, written as a suffix: `k` is 3.
    Decimal(i64),
    /// 10 to this power, written as an exponent.
    Exponent(i64),
    /// 2 to this power: `Ki` is 10.
    Binary(u32),
}

impl Unit {
    fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            _ => Self::Exponent(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
        })
    }

    /// Whether the reference refuses this suffix without a number. It takes smaller suffixes as zero.
    fn needs_digits(self) -> bool {
        match self {
            Self::Decimal(exponent) | Self::Exponent(exponent) => exponent < -9,
            Self::Binary(exponent) => exponent >= 50,
        }
    }
}

/// The text before the suffix.
struct Number<'a> {
    is_negative: bool,
    has_no_digits: bool,
    /// The digits before the point, without leading zeros.
    integer: &'a str,
    /// The digits after the point, as written.
    fraction: &'a str,
}

impl<'a> Number<'a> {
    /// Splits a text into its number and its suffix.
    fn split(text: &'a str) -> (Self, &'a str) {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (integer, rest) = split_digits(unsigned);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        let number = Self {
            is_negative: text.starts_with('-'),
            has_no_digits: integer.is_empty() && fraction.is_empty(),
            integer: integer.trim_start_matches('0'),
            fraction,
        };
        (number, suffix)
    }

    /// All digits, those of the fraction last.
    fn digits(&self) -> impl DoubleEndedIterator<Item = u8> {
        self.integer.bytes().chain(self.fraction.bytes()).map(|byte| byte - b'0')
    }

    fn digit_count(&self) -> usize {
        self.integer.len() + self.fraction.len()
    }

    /// The power of ten that the last digit counts.
    fn scale(&self, exponent: i64) -> i64 {
        exponent.saturating_sub(i64::try_from(self.fraction.len()).unwrap_or(i64::MAX))
    }

    /// The magnitude in billionths; what is finer is rounded up, what is too large is capped (QTY-6).
    fn nanos(&self, unit: Unit) -> i128 {
        match unit {
            Unit::Decimal(exponent) | Unit::Exponent(exponent) => self.decimal_nanos(exponent),
            Unit::Binary(exponent) => self.binary_nanos(exponent),
        }
    }

    fn decimal_nanos(&self, exponent: i64) -> i128 {
        let shift = self.scale(exponent).saturating_add(9);
        if shift < 0 {
            let finer_than_nano = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
            let kept = self.digit_count().saturating_sub(finer_than_nano);
            let rounds_up = self.digits().skip(kept).any(|digit| digit != 0);
            return (capped_integer(self.digits().take(kept)) + i128::from(rounds_up)).min(MAX_NANOS);
        }
        let mut nanos = capped_integer(self.digits());
        for _ in 0..shift {
            if nanos == 0 || nanos == MAX_NANOS {
                break;
            }
            nanos = nanos.saturating_mul(10).min(MAX_NANOS);
        }
        nanos
    }

    fn binary_nanos(&self, exponent: u32) -> i128 {
        let unit = NANOS_PER_UNIT << exponent;
        let whole = capped_integer(self.integer.bytes().map(|byte| byte - b'0')).saturating_mul(unit);
        // The fraction of one unit, digit by digit from the finest, so that no length of it overflows.
        let mut part = 0;
        let mut rounds_up = false;
        for byte in self.fraction.bytes().rev() {
            let tenfold = part + i128::from(byte - b'0') * unit;
            part = tenfold / 10;
            rounds_up |= tenfold % 10 != 0;
        }
        whole.saturating_add(part + i128::from(rounds_up)).min(MAX_BINARY_NANOS)
    }

    /// Whether the reference prints this number as it was written (QTY-2).
    ///
    /// It does for numbers that fit its quick path and look canonical at a glance; the glance is what these limits are.
    fn prints_verbatim(&self, unit: Unit) -> bool {
        match unit {
            Unit::Decimal(exponent) | Unit::Exponent(exponent) => {
                let scale = self.scale(exponent);
                let ends_in_three_zeros =
                    self.digit_count() >= 3 && self.digits().rev().take(3).all(|digit| digit == 0);
                !self.integer.is_empty()
                    && self.digit_count() <= 18
                    && scale >= -9
                    && scale % 3 == 0
                    && !ends_in_three_zeros
            }
            Unit::Binary(exponent) => {
                let longest = match exponent {
                    10 => 11,
                    20 => 8,
                    30 => 5,
                    40 => 2,
                    _ => 0,
                };
                let is_short = self.fraction.is_empty() && self.integer.len() <= longest;
                is_short && capped_integer(self.digits()) % 8 != 0
            }
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// The integer that the digits spell, at most [`MAX_NANOS`].
fn capped_integer(digits: impl Iterator<Item = u8>) -> i128 {
    digits.fold(0, |value: i128, digit| value.saturating_mul(10).saturating_add(i128::from(digit)).min(MAX_NANOS))
}

// ---- Rounding and arithmetic ----

impl Quantity {
    /// Nothing, in decimal notation.
    pub const fn zero() -> Self {
        Self::from_nanos(0, Format::DecimalSi)
    }

    /// So many thousandths.
    pub const fn from_millis(millis: i64, format: Format) -> Self {
        Self::from_nanos(millis as i128 * NANOS_PER_MILLI, format)
    }

    const fn from_nanos(nanos: i128, format: Format) -> Self {
        Self { nanos, format, verbatim: None }
    }

    /// The value in thousandths, rounded away from zero, within the range of an `i64`.
    pub fn millis(&self) -> i64 {
        let millis = away_from_zero(self.nanos, NANOS_PER_MILLI);
        i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
    }

    /// The family of suffixes this quantity prints with.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether the value is zero.
    pub const fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is below zero.
    pub const fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Rounds a value finer than thousandths away from zero (SSD-5, QTY-3). Any other keeps its text.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        if self.nanos % NANOS_PER_MILLI == 0 {
            return self;
        }
        Self::from_nanos(away_from_zero(self.nanos, NANOS_PER_MILLI) * NANOS_PER_MILLI, self.format)
    }

    /// The same value and format, printed canonically whatever text it was read from (QTY-4).
    #[must_use]
    pub fn canonical(self) -> Self {
        Self::from_nanos(self.nanos, self.format)
    }

    /// Joins two values in the notation of the left, or of the right if the left is zero (EXPR-9).
    fn joined_with(&self, other: &Self, nanos: i128) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self::from_nanos(nanos.clamp(-MAX_NANOS, MAX_NANOS), format)
    }
}

fn away_from_zero(value: i128, unit: i128) -> i128 {
    value / unit + (value % unit).signum()
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.joined_with(&other, self.nanos.saturating_add(other.nanos))
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.joined_with(&other, self.nanos.saturating_sub(other.nanos))
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self::from_nanos(-self.nanos, self.format)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::zero()
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

// ---- Printing ----

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.verbatim {
            return f.write_str(text);
        }
        let is_whole = self.nanos % NANOS_PER_UNIT == 0;
        let is_large = self.nanos.abs() >= 1024 * NANOS_PER_UNIT;
        match self.format {
            Format::BinarySi if is_whole && is_large => self.fmt_binary(f),
            Format::BinarySi | Format::DecimalSi => self.fmt_decimal(f, decimal_suffix),
            Format::DecimalExponent => self.fmt_decimal(f, |_| None),
        }
    }
}

impl Quantity {
    fn fmt_binary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mantissa = self.nanos / NANOS_PER_UNIT;
        let mut suffixes = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
        let mut suffix = "";
        while mantissa % 1024 == 0
            && let Some(larger) = suffixes.next()
        {
            mantissa /= 1024;
            suffix = larger;
        }
        write!(f, "{mantissa}{suffix}")
    }

    /// The shortest whole mantissa and a power of 1000, the latter by name if it has one (QTY-5).
    fn fmt_decimal(&self, f: &mut fmt::Formatter<'_>, name: fn(i32) -> Option<&'static str>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let mut mantissa = self.nanos;
        let mut exponent = -9;
        while mantissa % 1000 == 0 {
            mantissa /= 1000;
            exponent += 3;
        }
        match (exponent, name(exponent)) {
            (0, _) => write!(f, "{mantissa}"),
            (_, Some(suffix)) => write!(f, "{mantissa}{suffix}"),
            // Differs: QTY-5. Beyond `E` the reference prints the mantissa alone, which is another value.
            (_, None) => write!(f, "{mantissa}e{exponent}"),
        }
    }
}

fn decimal_suffix(exponent: i32) -> Option<&'static str> {
    Some(match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => return None,
    })
}

// ---- JSON ----

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

/// Reads a string, a number by its text (QTY-1), and `null` as zero.
struct QuantityVisitor;

impl Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity, as a string or a number")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
        // Only here is white space allowed around a quantity, as in the reference.
        Quantity::parse(text.trim()).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Quantity, E> {
        // Plain digits, without an exponent and without `.0`.
        self.visit_str(&number.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Quantity, E> {
        Ok(Quantity::zero())
    }
}
