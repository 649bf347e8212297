//! `tojson` as `transformers` gives it to chat templates: Python's `json.dumps`, without escapes of what is no ASCII.
//!
//! `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`. Characters of plane 16 stay as they are
//! even with `ensure_ascii`: they keep messages apart from the template's own text (see the head of the module above).

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind};

/// Values inside each other at most.
const DEPTH: usize = 64;
/// Bytes of one text at most.
const MOST_BYTES: usize = 1 << 20;
/// Arguments after the value, in their order.
const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];

/// Gives `environment` the filter.
pub fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", tojson);
}

fn unfit(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", detail.into()))
}

fn tojson(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let (positional, named) = from_args::<(&[Value], Kwargs)>(&arguments)?;
    if positional.len() > NAMES.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let chosen = |name: &str| -> Result<Option<Value>, Error> {
        let given = NAMES.iter().position(|known| *known == name).and_then(|at| positional.get(at)).cloned();
        let value = if given.is_some() { given } else { named.get::<Option<Value>>(name)? };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ensure_ascii = is_true(chosen("ensure_ascii")?);
    let indent = match chosen("indent")? {
        Some(indent) => Some(match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) if text.len() <= DEPTH => text.to_owned(),
            (None, Some(width)) if width <= DEPTH as i64 => " ".repeat(width.max(0) as usize),
            _ => return Err(unfit(format!("indent is {indent}; give a number up to {DEPTH}"))),
        }),
        None => None,
    };
    let (mut between, mut after_key) =
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = chosen("separators")? {
        let parts: Vec<Value> = separators.try_iter()?.take(3).collect();
        match parts.as_slice() {
            [first, second] => match (first.as_str(), second.as_str()) {
                (Some(first), Some(second)) => (between, after_key) = (first.to_owned(), second.to_owned()),
                _ => return Err(unfit("separators are two texts")),
            },
            _ => return Err(unfit("separators are two texts")),
        }
    }
    let sort_keys = is_true(chosen("sort_keys")?);
    named.assert_all_used()?;
    let mut writer = Writer { out: String::new(), ensure_ascii, indent, between, after_key, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    ensure_ascii: bool,
    /// Of one level; without it all is in one line.
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(unfit(format!("more than {DEPTH} values inside each other")));
        }
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.push(&number(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.all(('[', ']'), items, depth, |this, item| this.value(&item, depth + 1))
            }
            ValueKind::Map => {
                let mut keys: Vec<(String, Value)> = Vec::new();
                for key in value.try_iter()? {
                    keys.push((name(&key)?, key));
                }
                if self.sort_keys {
                    keys.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.all(('{', '}'), keys.into_iter(), depth, |this, (name, key)| {
                    this.text(&name)?;
                    let after_key = this.after_key.clone();
                    this.push(&after_key)?;
                    this.value(&value.get_item(&key)?, depth + 1)
                })
            }
            kind => Err(unfit(format!("a value of the kind {kind} is not JSON"))),
        }
    }

    /// All items between brackets.
    fn all<T>(
        &mut self,
        (open, close): (char, char),
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                let between = self.between.clone();
                self.push(&between)?;
            }
            is_empty = false;
            self.line(depth + 1)?;
            write(self, item)?;
        }
        if !is_empty {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    /// A new line, where there are lines.
    fn line(&mut self, depth: usize) -> Result<(), Error> {
        match &self.indent {
            Some(indent) => {
                let line = format!("\n{}", indent.repeat(depth));
                self.push(&line)
            }
            None => Ok(()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{c}' => quoted.push_str("\\f"),
                c if c < ' ' => escape(u32::from(c) as u16, &mut quoted),
                c if self.ensure_ascii && !(' '..='~').contains(&c) && c < '\u{10_0000}' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        escape(*unit, &mut quoted);
                    }
                }
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        self.push(&quoted)
    }

    fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.out.len() + text.len() > MOST_BYTES {
            return Err(unfit(format!("the text has more than {MOST_BYTES} bytes")));
        }
        self.out.push_str(text);
        Ok(())
    }
}

fn escape(unit: u16, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\u{unit:04x}");
}

/// A key as Python's `json.dumps` spells it.
fn name(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => number(key),
        kind => Err(unfit(format!("a key of the kind {kind} is not JSON"))),
    }
}

/// A number as Python spells it: the fewest digits that say which it is, with an exponent below 1e-4 and from 1e16 on.
fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    if !number.is_finite() {
        let name = if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        return Ok(name.into());
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    Ok(if number == 0.0 || (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::tasks::markers::Markers;
    use crate::tasks::template::{NamedTokens, Segment, Template, TemplateError};
    use crate::wire::Message;
    use tern_protocol::request::Role;

    /// What a template with this expression writes after the message.
    fn written(expression: &str, content: &str) -> Result<Vec<Segment>, TemplateError> {
        let source = format!("{{{{ messages[0].content }}}}{{{{ {expression} }}}}");
        let template =
            Template::new(&source, NamedTokens::default(), Arc::new(Markers::new(std::iter::empty())))?;
        template.render(&[Message { role: Role::User, content: content.into() }])
    }

    #[test]
    fn values_are_spelt_as_transformers_spells_them() {
        let fixture = include_str!("../../../../tests/fixtures/tojson.json");
        let vectors: Vec<(String, String)> = serde_json::from_str(fixture).expect("pairs of texts");
        assert!(vectors.len() >= 40, "{} vectors", vectors.len());
        for (expression, expected) in vectors {
            let segments = written(&expression, "x").unwrap_or_else(|error| panic!("{expression}: {error}"));
            let own: Vec<_> = segments.iter().filter(|segment| matches!(segment, Segment::Own(_))).collect();
            assert_eq!(own, [&Segment::Own(expected)], "{expression}");
        }
    }

    #[test]
    fn a_message_stays_a_message_whatever_is_escaped_in_it() {
        for arguments in ["", "(ensure_ascii=true)"] {
            let segments =
                written(&format!("messages[0].content | tojson{arguments}"), "say \"no\"").expect("it runs");
            let expected = [
                Segment::Message("say \"no\"".into()),
                Segment::Own("\"".into()),
                Segment::Message("say \\\"no\\\"".into()),
                Segment::Own("\"".into()),
            ];
            assert_eq!(segments, expected, "{arguments}");
        }
    }

    #[test]
    fn what_is_no_json_or_too_much_is_refused() {
        for expression in [
            "nothing | tojson",
            "1 | tojson(indent=1000)",
            "1 | tojson(separators=(',',))",
            "1 | tojson(colour=2)",
            "('x' * 2000000) | tojson",
        ] {
            let error = written(expression, "x").expect_err(expression);
            assert!(matches!(error, TemplateError::Failed { .. }), "{expression}: {error}");
        }
    }
}
