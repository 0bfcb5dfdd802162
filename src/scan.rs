//! A scanner over JSON that hands out pieces of the text instead of values.
//!
//! The hot path reads a review of several kilobytes to learn a few names. This scanner checks the grammar of all of it in
//! one pass, borrows what it is asked for and builds nothing. Lists and objects are read by callbacks; what nobody asks
//! for is skipped without recursion, so the depth of a document costs no stack.

use std::borrow::Cow;

/// How deep a skipped value may be nested; deeper documents are refused. Kubernetes has none deeper than about 30.
const DEPTH: u32 = u128::BITS;

/// The text is not the JSON that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub struct ScanError {
    /// What was expected.
    pub expected: &'static str,
    /// Where, counted in bytes from the start of the text.
    pub at: usize,
}

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// A bit for each byte of the text: set for quotes, backslashes and control characters.
    marks: Vec<u64>,
    ahead: Ahead,
}

/// The marks that are not passed yet: all that lie behind the place of the scanner, and maybe some that lie before it.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    /// Number of a word of the marks.
    word: usize,
    /// What is left of it.
    bits: u64,
}

impl<'a> Scanner<'a> {
    /// Begins at the start of `text`.
    pub fn new(text: &'a str) -> Self {
        let marks = marks(text.as_bytes());
        let ahead = Ahead::from(&marks, 0);
        Self { text, at: 0, marks, ahead }
    }

    /// Reads an object: `member` is called with each key and must read the value.
    pub fn object<E: From<ScanError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.members(|scanner, key| member(scanner, &key))
    }

    /// As [`Scanner::object`], for who keeps the keys.
    pub fn members<E: From<ScanError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.token(b'{', "an object")?;
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.token(b':', "a colon")?;
            member(self, key)?;
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("a comma or the end of the object").into()),
            }
        }
    }

    /// Where the next value begins, for [`Scanner::since`].
    pub fn mark(&mut self) -> usize {
        self.peek();
        self.at
    }

    /// The text from a mark to here.
    pub fn since(&self, mark: usize) -> &'a str {
        &self.text[mark..self.at]
    }

    /// Goes back to a mark, to read the value there in another way.
    pub fn back_to(&mut self, mark: usize) {
        self.at = mark;
        self.ahead = Ahead::from(&self.marks, mark);
    }

    /// Reads an array: `item` is called for each element and must read it.
    pub fn array<E: From<ScanError>>(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.token(b'[', "an array")?;
        if self.peek() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.peek() {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("a comma or the end of the array").into()),
            }
        }
    }

    /// Reads a string; borrowed unless it holds escapes.
    pub fn string(&mut self) -> Result<Cow<'a, str>, ScanError> {
        if self.peek() != b'"' {
            return Err(self.wrong("a string"));
        }
        let start = self.at;
        let (end, has_escapes) = past_string(self.text.as_bytes(), start, &self.marks, &mut self.ahead)?;
        self.at = end;
        if has_escapes {
            return self.unescape(start);
        }
        Ok(Cow::Borrowed(&self.text[start + 1..end - 1]))
    }

    #[cold]
    fn unescape(&self, start: usize) -> Result<Cow<'a, str>, ScanError> {
        let unescaped: Result<String, _> = serde_json::from_str(self.since(start));
        unescaped.map(Cow::Owned).map_err(|_| ScanError { expected: "a string without wrong escapes", at: start })
    }

    /// Reads `null`, if it is there.
    pub fn null(&mut self) -> Result<bool, ScanError> {
        let is_null = self.peek() == b'n';
        if is_null {
            self.literal("null")?;
        }
        Ok(is_null)
    }

    /// Reads `true` or `false`.
    pub fn boolean(&mut self) -> Result<bool, ScanError> {
        match self.peek() {
            b't' => self.literal("true").map(|()| true),
            b'f' => self.literal("false").map(|()| false),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// Reads any value, and gives its text.
    pub fn value(&mut self) -> Result<&'a str, ScanError> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Checks that nothing but white space follows.
    pub fn end(&mut self) -> Result<(), ScanError> {
        self.peek();
        if self.at < self.text.len() { Err(self.wrong("the end of the document")) } else { Ok(()) }
    }

    /// Reads any value. Brackets that are open are kept as bits, the innermost lowest: set for an object.
    pub fn skip(&mut self) -> Result<(), ScanError> {
        let bytes = self.text.as_bytes();
        let marks = self.marks.as_slice();
        let (mut at, mut ahead) = (self.at, self.ahead);
        let mut next;
        let mut objects = 0_u128;
        let mut depth = 0;
        'value: loop {
            if objects & 1 != 0 {
                at = past_key(bytes, at, marks, &mut ahead)?;
            }
            (at, next) = seek(bytes, at);
            match next {
                b'"' => (at, _) = past_string(bytes, at, marks, &mut ahead)?,
                open @ (b'{' | b'[') => {
                    let is_object = open == b'{';
                    (at, next) = seek(bytes, at + 1);
                    if next == if is_object { b'}' } else { b']' } {
                        at += 1;
                    } else {
                        if depth == DEPTH {
                            return wrong(at, "a document that is not nested so deeply");
                        }
                        objects = objects << 1 | u128::from(is_object);
                        depth += 1;
                        continue 'value;
                    }
                }
                b'-' | b'0'..=b'9' => at = past_number(bytes, at)?,
                b't' => at = past_literal(bytes, at, "true")?,
                b'f' => at = past_literal(bytes, at, "false")?,
                b'n' => at = past_literal(bytes, at, "null")?,
                _ => return wrong(at, "a value"),
            }
            // A value ended: so may the lists and objects around it.
            loop {
                if depth == 0 {
                    (self.at, self.ahead) = (at, ahead);
                    return Ok(());
                }
                let in_object = objects & 1 != 0;
                (at, next) = seek(bytes, at);
                match next {
                    b',' => {
                        at += 1;
                        continue 'value;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return wrong(at, "a comma or a closing bracket"),
                }
                at += 1;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// The next byte that is not white space, and 0 at the end. Moves to it.
    fn peek(&mut self) -> u8 {
        let next;
        (self.at, next) = seek(self.text.as_bytes(), self.at);
        next
    }

    fn token(&mut self, token: u8, expected: &'static str) -> Result<(), ScanError> {
        if self.peek() != token {
            return Err(self.wrong(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), ScanError> {
        self.at = past_literal(self.text.as_bytes(), self.at, literal)?;
        Ok(())
    }

    fn wrong(&self, expected: &'static str) -> ScanError {
        ScanError { expected, at: self.at }
    }
}

// === steps ===
//
// From one place to the next, by value: a place that nobody holds a reference to stays in a register.

/// The next byte from `at` on that is not white space, and 0 at the end; with its place.
#[inline]
fn seek(bytes: &[u8], at: usize) -> (usize, u8) {
    match bytes.get(at) {
        Some(byte) if *byte > b' ' => (at, *byte),
        _ => seek_past_space(bytes, at),
    }
}

/// API servers send none.
#[cold]
fn seek_past_space(bytes: &[u8], mut at: usize) -> (usize, u8) {
    loop {
        match bytes.get(at) {
            Some(b' ' | b'\n' | b'\r' | b'\t') => at += 1,
            Some(byte) => return (at, *byte),
            None => return (at, 0),
        }
    }
}

/// Behind the key and the colon of the member that begins here.
#[inline]
fn past_key(bytes: &[u8], at: usize, marks: &[u64], ahead: &mut Ahead) -> Result<usize, ScanError> {
    let (at, first) = seek(bytes, at);
    if first != b'"' {
        return wrong(at, "a key");
    }
    let (at, _) = past_string(bytes, at, marks, ahead)?;
    let (at, next) = seek(bytes, at);
    if next != b':' {
        return wrong(at, "a colon");
    }
    Ok(at + 1)
}

/// Behind the string that begins here; whether it holds escapes. Their spelling is checked by who reads them.
#[inline]
fn past_string(bytes: &[u8], at: usize, marks: &[u64], ahead: &mut Ahead) -> Result<(usize, bool), ScanError> {
    let end = ahead.next_from(marks, at + 1);
    if bytes.get(end) == Some(&b'"') {
        return Ok((end + 1, false));
    }
    let behind;
    (behind, *ahead) = past_escapes(bytes, end, marks, *ahead)?;
    Ok((behind, true))
}

/// Behind a string of which the first escape is here.
#[cold]
fn past_escapes(bytes: &[u8], mut at: usize, marks: &[u64], mut ahead: Ahead) -> Result<(usize, Ahead), ScanError> {
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok((at + 1, ahead)),
            Some(b'\\') if at + 1 < bytes.len() => at = ahead.next_from(marks, at + 2),
            _ => return wrong(at.min(bytes.len()), "the end of a string"),
        }
    }
}

/// Behind the number that begins here.
fn past_number(bytes: &[u8], start: usize) -> Result<usize, ScanError> {
    let digits = |mut at: usize| {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        (at > start).then_some(at)
    };
    let no_digit = |at| ScanError { expected: "a digit", at };
    let first = start + usize::from(bytes[start] == b'-');
    let mut at = digits(first).ok_or(no_digit(first))?;
    if bytes[first] == b'0' && at > first + 1 {
        return wrong(first, "a number without leading zeros");
    }
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1).ok_or(no_digit(at + 1))?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(at).ok_or(no_digit(at))?;
    }
    Ok(at)
}

/// Behind this word.
fn past_literal(bytes: &[u8], at: usize, literal: &'static str) -> Result<usize, ScanError> {
    if bytes[at..].starts_with(literal.as_bytes()) { Ok(at + literal.len()) } else { wrong(at, literal) }
}

#[cold]
fn wrong<T>(at: usize, expected: &'static str) -> Result<T, ScanError> {
    Err(ScanError { expected, at })
}

// === marks ===

fn marks(text: &[u8]) -> Vec<u64> {
    let mut marks = Vec::with_capacity(text.len() / 64 + 1);
    let (blocks, rest) = text.as_chunks();
    marks.extend(blocks.iter().map(marks_of));
    let mut last = [b' '; 64];
    last[..rest.len()].copy_from_slice(rest);
    marks.push(marks_of(&last));
    marks
}

#[inline]
fn marks_of(block: &[u8; 64]) -> u64 {
    // The compiler does this with vectors.
    let is_mark = block.map(|byte| u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte < 0x20));
    let (eights, _) = is_mark.as_chunks();
    // The product moves bit 0 of each of eight bytes side by side into the highest byte.
    let packed = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    eights.iter().enumerate().fold(0, |bits, (n, eight)| bits | packed(eight) << (8 * n))
}

impl Ahead {
    fn from(marks: &[u64], at: usize) -> Self {
        let word = at / 64;
        Self { word, bits: marks.get(word).map_or(0, |bits| bits & u64::MAX << (at % 64)) }
    }

    /// Passes all marks up to the first one that lies at `at` or behind it; a place beyond the text when there is none.
    #[inline]
    fn next_from(&mut self, marks: &[u64], at: usize) -> usize {
        loop {
            while self.bits == 0 {
                self.word += 1;
                match marks.get(self.word) {
                    Some(bits) => self.bits = *bits,
                    None => return usize::MAX,
                }
            }
            let mark = self.word * 64 + self.bits.trailing_zeros() as usize;
            self.bits &= self.bits - 1;
            if mark >= at {
                return mark;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    fn scan(text: &str) -> Result<&str, ScanError> {
        let mut scanner = Scanner::new(text);
        let value = scanner.value()?;
        scanner.end()?;
        Ok(value)
    }

    #[rstest]
    #[case::nothing("")]
    #[case::open_object(r#"{"a":1"#)]
    #[case::open_array("[1,2")]
    #[case::open_string(r#""abc"#)]
    #[case::wrong_bracket(r#"{"a":[1}"#)]
    #[case::trailing_comma("[1,]")]
    #[case::trailing_comma_in_object(r#"{"a":1,}"#)]
    #[case::missing_colon(r#"{"a" 1}"#)]
    #[case::bare_word("{a:1}")]
    #[case::leading_zero("[01]")]
    #[case::no_fraction("[1.]")]
    #[case::no_exponent("[1e]")]
    #[case::control_character("\"a\nb\"")]
    #[case::two_values("1 2")]
    #[case::half_a_literal("[tru]")]
    fn what_is_not_json_is_refused(#[case] text: &str) {
        assert!(scan(text).is_err());
        assert!(serde_json::from_str::<Value>(text).is_err(), "the library agrees");
    }

    #[test]
    fn a_value_is_given_as_its_text() {
        assert_eq!(
            scan(" {\"a\" : [ -1.5e+3 , true,null,\"x\\\"}\" ] } ").unwrap(),
            "{\"a\" : [ -1.5e+3 , true,null,\"x\\\"}\" ] }"
        );
    }

    #[test]
    fn depth_costs_no_stack_and_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(scan(&nested(DEPTH as usize)).is_ok());
        assert!(scan(&nested(1_000_000)).is_err());
    }

    #[test]
    fn strings_are_borrowed_unless_escaped() {
        assert!(matches!(Scanner::new(r#""web""#).string(), Ok(Cow::Borrowed("web"))));
        assert!(matches!(Scanner::new(r#""w\u0065b""#).string(), Ok(Cow::Owned(text)) if text == "web"));
    }

    #[test]
    fn an_error_says_what_was_expected_and_where() {
        let error = scan(r#"{"a":x}"#).unwrap_err();
        assert_eq!(error.to_string(), "expected a value at byte 5");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((".*", inner), 0..6).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_library_prints_is_accepted(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            prop_assert_eq!(scan(&text), Ok(text.as_str()));
        }

        #[test]
        fn what_the_library_refuses_is_refused(text in r#"[\[\]{}:,"\\ a0-9.eE+\-tfn]{0,24}"#) {
            // Wrong escapes are left to who reads the string.
            if serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok() {
                prop_assert!(scan(&text).is_ok(), "{}", text);
            } else if !text.contains('\\') {
                prop_assert!(scan(&text).is_err(), "{}", text);
            }
        }

        #[test]
        fn a_document_with_one_other_byte_is_judged_as_by_the_library(
            value in json(),
            pretty: bool,
            place: proptest::sample::Index,
            byte in r#"[\[\]{}:," a0\n\x01]"#,
        ) {
            let mut text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let place = place.index(text.len());
            prop_assume!(text.is_char_boundary(place) && text.is_char_boundary(place + 1));
            text.replace_range(place..=place, &byte);
            prop_assume!(!text.contains('\\'));
            let judged = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            prop_assert_eq!(scan(&text).is_ok(), judged.is_ok(), "{}", text);
        }

        #[test]
        fn no_text_makes_it_crash(text in ".*") {
            let _ = scan(&text);
        }
    }
}
