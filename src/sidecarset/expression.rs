//! The formulas of `resourcesPolicy`, such as `max(cpu*50%, 50m)`: text in, quantity out (EXPR-1 to EXPR-14).
//!
//! Admission of a SidecarSet parses a formula strictly and checks it; admission of a pod parses the stored formula and
//! evaluates it over the pod's containers. Numbers and notation follow the reference to the bit.
//! Reads top to bottom: the public face, tokens, grammar, values.

use std::fmt;

use crate::quantity::{Format, ParseQuantityError, Quantity};

#[cfg(test)]
mod tests;

/// The longest text accepted, in bytes.
const MAX_LENGTH: usize = 4096;

/// The deepest nesting of parentheses accepted, those of functions included.
const MAX_DEPTH: usize = 64;

/// A parsed formula: its steps in postfix order.
///
/// `max(cpu*50%, 50m)` is `cpu`, `50%`, multiply, `50m`, max. Evaluating, cloning and dropping a list needs no recursion,
/// so no text can exhaust the stack.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    steps: Vec<Step>,
}

/// The one variable a formula may use: the amount its target containers have.
///
/// Differs: EXPR-12. It is given by the field the formula stands in, not guessed from the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `cpu`, in a cpu field.
    Cpu,
    /// `memory`, in a memory field.
    Memory,
}

/// Why a formula has no result, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {}: {problem}", at + 1)]
pub struct ExpressionError {
    /// The byte the problem begins at, from zero.
    at: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("the expression is blank")]
    Blank,
    #[error("the expression is longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("parentheses nest deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("unexpected character `{0}`")]
    UnexpectedCharacter(char),
    #[error("expected {wanted}, found {found}")]
    Expected { wanted: &'static str, found: String },
    #[error("`{0}` is neither a number nor a quantity")]
    BadNumber(String),
    #[error("`{text}` is not a quantity: {reason}")]
    BadQuantity { text: String, reason: ParseQuantityError },
    #[error("unknown function `{0}`, expected max or min")]
    UnknownFunction(String),
    #[error("unknown variable `{0}`, expected cpu or memory")]
    UnknownVariable(String),
    #[error("`{used}` has no value here, only `{bound}` has")]
    OtherVariable { used: Variable, bound: Variable },
    #[error("a quantity cannot be multiplied by a quantity")]
    QuantityByQuantity,
    #[error("nothing can be divided by a quantity")]
    DivisionByQuantity,
    #[error("division by zero")]
    DivisionByZero,
    #[error("the value is too large for a quantity")]
    TooLarge,
    #[error("the result {0} is negative")]
    Negative(Quantity),
}

impl Expression {
    /// Parses a formula that somebody is submitting now.
    ///
    /// Differs: EXPR-6. A number that cannot be read, such as `50mi`, is an error. The reference takes it as 0.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        Self::parse_with(text, BadNumbers::AreErrors)
    }

    /// Parses a formula that is stored already.
    ///
    /// The reference has let mistakes like `50mi` in, and stored sets may hold them. Refusing them here would make every
    /// matching pod uncreatable on the day of the switch, so they are 0 as they have always been.
    pub fn parse_stored(text: &str) -> Result<Self, ExpressionError> {
        Self::parse_with(text, BadNumbers::AreZero)
    }

    fn parse_with(text: &str, bad_numbers: BadNumbers) -> Result<Self, ExpressionError> {
        if text.len() > MAX_LENGTH {
            return Err(Problem::TooLong.at(MAX_LENGTH));
        }
        let lexemes = scan(text, bad_numbers)?;
        if lexemes.is_empty() {
            return Err(Problem::Blank.at(0));
        }
        Parser { end: text.len(), lexemes: lexemes.into_iter().peekable(), depth: 0, steps: Vec::new() }.parse()
    }

    /// Finds what would fail for every pod: wrong operands, the other field's variable, a constant divisor of zero.
    ///
    /// Differs: EXPR-13. The variable is a quantity, as it will be, and the sign is not judged: `cpu - 2` may be fine.
    pub fn check(&self, variable: Variable) -> Result<(), ExpressionError> {
        // Which errors arise does not depend on the amount, since quantities never turn into numbers. `TooLarge` alone does;
        // with the smallest amount it is found only where nearly every pod would meet it.
        let smallest = Quantity::from_millis(1, Format::DecimalSi);
        self.value(variable, &smallest).map(drop)
    }

    /// The result for one pod, with the variable being what its target containers have.
    pub fn evaluate(&self, variable: Variable, value: &Quantity) -> Result<Quantity, ExpressionError> {
        let result = self.value(variable, value)?.canonical();
        if result.is_negative() { Err(Problem::Negative(result).at(self.outermost())) } else { Ok(result) }
    }

    /// Where the last step stands.
    fn outermost(&self) -> usize {
        self.steps.last().map_or(0, |step| step.at)
    }

    /// The result, which may be negative.
    fn value(&self, variable: Variable, value: &Quantity) -> Result<Quantity, ExpressionError> {
        let mut stack = Vec::new();
        let pop = |stack: &mut Vec<Value>| stack.pop().expect("an operand precedes its operator in postfix order");
        for Step { at, action } in &self.steps {
            let result = match action {
                Action::Number(number) => Value::Number(*number),
                Action::Quantity(quantity) => Value::Quantity(quantity.clone()),
                Action::Variable(used) if *used == variable => Value::Quantity(value.clone()),
                Action::Variable(used) => {
                    return Err(Problem::OtherVariable { used: *used, bound: variable }.at(*at));
                }
                Action::Negate => pop(&mut stack).negated(),
                Action::Apply(operator) => {
                    let right = pop(&mut stack);
                    let left = pop(&mut stack);
                    operator.apply(left, right).map_err(|problem| problem.at(*at))?
                }
            };
            stack.push(result);
        }
        pop(&mut stack).into_quantity().map_err(|problem| problem.at(self.outermost()))
    }
}

impl ExpressionError {
    /// The byte of the text the problem begins at, counted from zero.
    pub const fn offset(&self) -> usize {
        self.at
    }
}

impl Problem {
    const fn at(self, at: usize) -> ExpressionError {
        ExpressionError { at, problem: self }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}

// ---- Tokens (EXPR-1, EXPR-3 to EXPR-6) ----

/// What a number that cannot be read means.
#[derive(Clone, Copy)]
enum BadNumbers {
    AreErrors,
    AreZero,
}

struct Lexeme<'a> {
    at: usize,
    text: &'a str,
    token: Token,
}

enum Token {
    Number(f64),
    Quantity(Quantity),
    Name,
    /// One of `+ - * / ( ) ,`.
    Symbol(u8),
}

fn scan(text: &str, bad_numbers: BadNumbers) -> Result<Vec<Lexeme<'_>>, ExpressionError> {
    let mut lexemes = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (length, token) = match first {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                at += 1;
                continue;
            }
            '+' | '-' | '*' | '/' | '(' | ')' | ',' => (1, Token::Symbol(rest.as_bytes()[0])),
            'a'..='z' | 'A'..='Z' => (name_length(rest), Token::Name),
            '0'..='9' | '.' => {
                let length = number_length(rest.as_bytes());
                (length, number_token(&rest[..length], bad_numbers).map_err(|problem| problem.at(at))?)
            }
            other => return Err(Problem::UnexpectedCharacter(other).at(at)),
        };
        lexemes.push(Lexeme { at, text: &rest[..length], token });
        at += length;
    }
    Ok(lexemes)
}

fn name_length(text: &str) -> usize {
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
}

/// How far a number or quantity reaches (EXPR-4): as far as it can, whether or not that makes sense.
fn number_length(text: &[u8]) -> usize {
    let (mut has_point, mut has_exponent, mut has_percent) = (false, false, false);
    let mut length = 0;
    while let Some(byte) = text.get(length) {
        match byte {
            b'0'..=b'9' => {}
            b'.' if !(has_point || has_exponent || has_percent) => has_point = true,
            b'e' | b'E' if !(has_exponent || has_percent) => {
                has_exponent = true;
                if matches!(text.get(length + 1), Some(b'+' | b'-')) {
                    length += 1;
                }
            }
            b'%' if !has_percent => has_percent = true,
            _ => break,
        }
        length += 1;
    }
    let ends_in_exponent = text[..length].ends_with(b"e") || text[..length].ends_with(b"E");
    if !ends_in_exponent {
        length += text[length..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    }
    length
}

fn number_token(text: &str, bad_numbers: BadNumbers) -> Result<Token, Problem> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || ".eE+-".contains(c));
    if matches!(unit, "m" | "k" | "M" | "G" | "T" | "P" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi") {
        return match Quantity::parse(text) {
            Ok(quantity) => Ok(Token::Quantity(quantity)),
            Err(reason) => Err(Problem::BadQuantity { text: text.to_owned(), reason }),
        };
    }
    match (parse_number(text), bad_numbers) {
        (Some(number), _) => Ok(Token::Number(number)),
        (None, BadNumbers::AreZero) => Ok(Token::Number(0.0)),
        (None, BadNumbers::AreErrors) => Err(Problem::BadNumber(text.to_owned())),
    }
}

fn parse_number(text: &str) -> Option<f64> {
    let (digits, divisor) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 100.0));
    digits.parse().ok().filter(|number: &f64| number.is_finite()).map(|number| number / divisor)
}

// ---- Grammar (EXPR-2) ----

/// What to do, and the byte of the text that says so.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    at: usize,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Number(f64),
    Quantity(Quantity),
    Variable(Variable),
    Negate,
    Apply(Operator),
}

/// An operation on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Max,
    Min,
}

/// Recursive descent, one method per level of the grammar, loosest first.
struct Parser<'a> {
    /// Where the text ends.
    end: usize,
    lexemes: std::iter::Peekable<std::vec::IntoIter<Lexeme<'a>>>,
    /// Parentheses open now.
    depth: usize,
    steps: Vec<Step>,
}

impl<'a> Parser<'a> {
    fn parse(mut self) -> Result<Expression, ExpressionError> {
        self.sum()?;
        match self.lexemes.next() {
            None => Ok(Expression { steps: self.steps }),
            other => Err(self.expected("an operator or the end", other.as_ref())),
        }
    }

    /// `product (('+' | '-') product)*`
    fn sum(&mut self) -> Result<(), ExpressionError> {
        self.product()?;
        while let Some((at, symbol)) = self.take_any(b"+-") {
            self.product()?;
            self.push(at, Action::Apply(if symbol == b'+' { Operator::Add } else { Operator::Subtract }));
        }
        Ok(())
    }

    /// `unary (('*' | '/') unary)*`
    fn product(&mut self) -> Result<(), ExpressionError> {
        self.unary()?;
        while let Some((at, symbol)) = self.take_any(b"*/") {
            self.unary()?;
            self.push(at, Action::Apply(if symbol == b'*' { Operator::Multiply } else { Operator::Divide }));
        }
        Ok(())
    }

    /// `'-'* primary`
    fn unary(&mut self) -> Result<(), ExpressionError> {
        let minuses: Vec<_> = std::iter::from_fn(|| self.take_any(b"-")).collect();
        self.primary()?;
        for (at, _) in minuses {
            self.push(at, Action::Negate);
        }
        Ok(())
    }

    /// `number | quantity | variable | '(' sum ')' | function`
    fn primary(&mut self) -> Result<(), ExpressionError> {
        let Some(lexeme) = self.lexemes.next() else {
            return Err(self.expected("a value", None));
        };
        match lexeme.token {
            Token::Number(number) => self.push(lexeme.at, Action::Number(number)),
            Token::Quantity(quantity) => self.push(lexeme.at, Action::Quantity(quantity)),
            Token::Symbol(b'(') => {
                self.enter(lexeme.at)?;
                self.sum()?;
                self.leave("an operator or `)`")?;
            }
            Token::Name => match self.take_any(b"(") {
                Some((parenthesis, _)) => self.function(&lexeme, parenthesis)?,
                None => self.variable(&lexeme)?,
            },
            Token::Symbol(_) => return Err(self.expected("a value", Some(&lexeme))),
        }
        Ok(())
    }

    fn variable(&mut self, name: &Lexeme<'a>) -> Result<(), ExpressionError> {
        let variable = match name.text.to_ascii_lowercase().as_str() {
            "cpu" => Variable::Cpu,
            "memory" => Variable::Memory,
            _ => return Err(Problem::UnknownVariable(name.text.to_owned()).at(name.at)),
        };
        self.push(name.at, Action::Variable(variable));
        Ok(())
    }

    /// `sum ',' sum ')'`, the name and the opening parenthesis being read.
    fn function(&mut self, name: &Lexeme<'a>, parenthesis: usize) -> Result<(), ExpressionError> {
        let operator = match name.text.to_ascii_lowercase().as_str() {
            "max" => Operator::Max,
            "min" => Operator::Min,
            _ => return Err(Problem::UnknownFunction(name.text.to_owned()).at(name.at)),
        };
        self.enter(parenthesis)?;
        self.sum()?;
        self.expect(b',', "an operator or `,`")?;
        self.sum()?;
        self.leave("an operator or `)`")?;
        self.push(name.at, Action::Apply(operator));
        Ok(())
    }

    fn enter(&mut self, parenthesis: usize) -> Result<(), ExpressionError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Problem::TooDeep.at(parenthesis)) } else { Ok(()) }
    }

    fn leave(&mut self, wanted: &'static str) -> Result<(), ExpressionError> {
        self.depth -= 1;
        self.expect(b')', wanted)
    }

    fn push(&mut self, at: usize, action: Action) {
        self.steps.push(Step { at, action });
    }

    /// Takes the next symbol if it is one of these; gives where and which.
    fn take_any(&mut self, symbols: &[u8]) -> Option<(usize, u8)> {
        let wanted = |lexeme: &Lexeme<'_>| matches!(lexeme.token, Token::Symbol(symbol) if symbols.contains(&symbol));
        let lexeme = self.lexemes.next_if(wanted)?;
        Some((lexeme.at, lexeme.text.as_bytes()[0]))
    }

    fn expect(&mut self, symbol: u8, wanted: &'static str) -> Result<(), ExpressionError> {
        if self.take_any(&[symbol]).is_some() {
            return Ok(());
        }
        let found = self.lexemes.next();
        Err(self.expected(wanted, found.as_ref()))
    }

    fn expected(&self, wanted: &'static str, found: Option<&Lexeme<'_>>) -> ExpressionError {
        match found {
            Some(lexeme) => Problem::Expected { wanted, found: format!("`{}`", lexeme.text) }.at(lexeme.at),
            None => Problem::Expected { wanted, found: "the end".to_owned() }.at(self.end),
        }
    }
}

// ---- Values (EXPR-7 to EXPR-11, EXPR-14) ----

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    Quantity(Quantity),
}

impl Value {
    fn negated(self) -> Self {
        match self {
            Self::Number(number) => Self::Number(-number),
            Self::Quantity(quantity) => Self::Quantity(-quantity),
        }
    }

    /// A number counts in whole thousandths, in decimal notation (EXPR-8, EXPR-11).
    fn into_quantity(self) -> Result<Quantity, Problem> {
        match self {
            Self::Number(number) => truncated_millis(number * 1000.0, Format::DecimalSi),
            Self::Quantity(quantity) => Ok(quantity),
        }
    }
}

impl Operator {
    fn apply(self, left: Value, right: Value) -> Result<Value, Problem> {
        use Value::{Number, Quantity};
        match (self, left, right) {
            (Self::Divide, _, Quantity(_)) => Err(Problem::DivisionByQuantity),
            (Self::Divide, _, Number(0.0)) => Err(Problem::DivisionByZero),
            (Self::Multiply, Quantity(_), Quantity(_)) => Err(Problem::QuantityByQuantity),
            (_, Number(left), Number(right)) => Ok(Number(self.of_numbers(left, right))),
            (Self::Multiply, Quantity(quantity), Number(factor))
            | (Self::Multiply, Number(factor), Quantity(quantity)) => {
                truncated_millis(millis(&quantity) * factor, quantity.format()).map(Quantity)
            }
            (Self::Divide, Quantity(quantity), Number(divisor)) => {
                truncated_millis(millis(&quantity) / divisor, quantity.format()).map(Quantity)
            }
            (Self::Add, left, right) => Ok(Quantity(left.into_quantity()? + right.into_quantity()?)),
            (Self::Subtract, left, right) => Ok(Quantity(left.into_quantity()? - right.into_quantity()?)),
            (Self::Max, left, right) => {
                let (left, right) = (left.into_quantity()?, right.into_quantity()?);
                Ok(Quantity(if right > left { right } else { left }))
            }
            (Self::Min, left, right) => {
                let (left, right) = (left.into_quantity()?, right.into_quantity()?);
                Ok(Quantity(if right < left { right } else { left }))
            }
        }
    }

    fn of_numbers(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide => left / right,
            Self::Max if right > left => right,
            Self::Min if right < left => right,
            Self::Max | Self::Min => left,
        }
    }
}

/// The thousandths of a quantity, for double arithmetic.
#[expect(
    clippy::cast_precision_loss,
    reason = "the reference computes in doubles, and results must equal its own (EXPR-14)"
)]
fn millis(quantity: &Quantity) -> f64 {
    quantity.millis() as f64
}

/// So many thousandths, any fraction of one cut off (EXPR-14).
#[expect(clippy::cast_possible_truncation, reason = "the range is checked, and cutting off the fraction is the point")]
fn truncated_millis(millis: f64, format: Format) -> Result<Quantity, Problem> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    // Differs: EXPR-8. The reference wraps around, which is below zero, and so nearly always an error as well.
    if millis.abs() < LIMIT { Ok(Quantity::from_millis(millis as i64, format)) } else { Err(Problem::TooLarge) }
}
