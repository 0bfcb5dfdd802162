//! Regular expressions as users of the reference write them: RE2, as Go compiles it.
//!
//! The `regex` crate reads nearly the same language. What the two read differently is translated here, so that an
//! expression that was stored keeps its meaning (RES-2, SSV-31). The size of what is compiled is bounded: whoever may
//! create SidecarSets must not be able to fill the memory.

use regex::{Regex, RegexBuilder};

/// Bytes of a compiled expression. One that names a few containers or keys takes a few kilobytes.
const SIZE_LIMIT: usize = 1 << 20;

/// What is wrong with a regular expression, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(String);

/// Compiles an RE2 expression.
pub fn compile(text: &str) -> Result<Regex, RegexError> {
    RegexBuilder::new(&translate(text)).size_limit(SIZE_LIMIT).build().map_err(|error| RegexError(fault(&error)))
}

fn fault(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(limit) = error {
        return format!("it takes more than {limit} bytes when it is compiled");
    }
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// The expression in the words of the `regex` crate.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_class = false;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        let length = match first {
            '\\' => {
                if let Some(quoted) = after.strip_prefix('Q').filter(|_| !in_class) {
                    let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                    out += &regex::escape(literal);
                    rest = after;
                    continue;
                }
                push_escape(&mut out, after, in_class)
            }
            '[' if !in_class => {
                in_class = true;
                // A bracket at the beginning of a class is one of its characters.
                let begin = if after.starts_with('^') { "[^" } else { "[" };
                let literal = rest[begin.len()..].starts_with(']');
                out += begin;
                out += if literal { "\\]" } else { "" };
                begin.len() + usize::from(literal)
            }
            '[' => match after.strip_prefix(':').and_then(|name| name.find(":]")) {
                Some(end) => push(&mut out, &rest[..end + "[::]".len()]),
                None => push_literal(&mut out, first),
            },
            ']' => {
                in_class = false;
                push(&mut out, "]")
            }
            // Set operations are unknown to RE2.
            '&' | '~' if in_class => push_literal(&mut out, first),
            '{' if !in_class && !is_repetition(after) => push_literal(&mut out, first),
            _ => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out
}

/// Writes an escape; `after` is what follows the backslash. Returns its length with the backslash.
fn push_escape(out: &mut String, after: &str, in_class: bool) -> usize {
    let Some(escaped) = after.chars().next() else { return push(out, "\\") };
    match escaped {
        // These are of ASCII only in RE2. (`\B` cannot be here, where text is UTF-8.)
        'd' => *out += "[0-9]",
        'D' => *out += "[^0-9]",
        'w' => *out += "[0-9A-Za-z_]",
        'W' => *out += "[^0-9A-Za-z_]",
        's' => *out += r"[\t\n\f\r ]",
        'S' => *out += r"[^\t\n\f\r ]",
        'b' if !in_class => *out += r"(?-u:\b)",
        // Word boundaries to the crate, characters to RE2.
        '<' | '>' => out.push(escaped),
        _ => {
            push_literal(out, escaped);
        }
    }
    1 + escaped.len_utf8()
}

/// Writes a character that would mean something; returns its length without the backslash.
fn push_literal(out: &mut String, literal: char) -> usize {
    out.push('\\');
    out.push(literal);
    literal.len_utf8()
}

fn push(out: &mut String, text: &str) -> usize {
    out.push_str(text);
    text.len()
}

/// Whether `{` and what follows it is `{n}`, `{n,}` or `{n,m}`; anything else is text.
fn is_repetition(after: &str) -> bool {
    let Some((counts, _)) = after.split_once('}') else { return false };
    let (least, most) = counts.split_once(',').unwrap_or((counts, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && (text.len() < 2 || !text.starts_with('0'));
    !least.is_empty() && is_number(least) && is_number(most)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("^app-[0-9]+$", &["app-1"], &["app-", "xapp-1"])]
    #[case::quoted(r"^\Qa.b[\E+$", &["a.b[", "a.b[["], &["axb[", "a.b"])]
    #[case::quoted_to_the_end(r"^x\Q.*", &["x.*"], &["xyz"])]
    #[case::quoted_nothing(r"^\Q\Ea$", &["a"], &[""])]
    #[case::repeated("^a{2}b{1,}c{0,2}$", &["aab", "aabbcc"], &["ab", "aabccc"])]
    #[case::no_least("^a{,2}$", &["a{,2}"], &["a", "aa"])]
    #[case::not_a_number("^a{x}{$", &["a{x}{"], &["a"])]
    #[case::a_leading_zero("^a{02}$", &["a{02}"], &["aa"])]
    #[case::digits_are_ascii(r"^\d\w\s$", &["1a "], &["٣a ", "1é ", "1a\u{a0}"])]
    #[case::not_those(r"^[^\D_]\W[\S]$", &["1éx"], &["éé "])]
    #[case::boundary(r"\bapp\b", &["my-app", "éappé"], &["myapp"])]
    #[case::no_boundary(r"a\Bb", &["ab"], &["a b"])]
    #[case::boundary_with_text(r"^\b{start}a$", &[], &["a"])]
    #[case::angle(r"^\<a\>$", &["<a>"], &["a"])]
    #[case::bracket_first("^[]a]+[^]]$", &["]ab"], &["]]"])]
    #[case::bracket_inside("^[[a]+$", &["[a"], &["]"])]
    #[case::named_class("^[[:digit:]x]+$", &["1x"], &[":"])]
    #[case::no_set_operations("^[a&&b~~c]+$", &["a&b~c"], &["d"])]
    #[case::brace_in_a_class("^[{,2}]+$", &["{2,}"], &["1"])]
    #[case::no_ascii("^é.$", &["éü"], &["e"])]
    fn an_expression_means_what_it_means_in_re2(#[case] text: &str, #[case] yes: &[&str], #[case] no: &[&str]) {
        let regex = compile(text).unwrap();
        for name in yes {
            assert!(regex.is_match(name), "{text} matches {name}");
        }
        for name in no {
            assert!(!regex.is_match(name), "{text} does not match {name}");
        }
    }

    #[rstest]
    #[case::unclosed_class("[", "unclosed character class")]
    #[case::unclosed_group("(a", "unclosed group")]
    #[case::look_around("(?=a)", "look-around, including look-ahead and look-behind, is not supported")]
    #[case::ends_in_a_backslash("a\\", "incomplete escape sequence, reached end of pattern prematurely")]
    #[case::quoted_in_a_class(r"[\Qa\E]", "unrecognized escape sequence")]
    #[case::nothing_to_repeat("{2}", "repetition operator missing expression")]
    #[case::huge("((a{1000}){1000}){1000}", "it takes more than 1048576 bytes when it is compiled")]
    fn what_is_wrong_is_said_in_one_line(#[case] text: &str, #[case] message: &str) {
        assert_eq!(compile(text).unwrap_err().to_string(), message);
    }
}
