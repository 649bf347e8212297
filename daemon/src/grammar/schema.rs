//! A JSON schema, checked.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::keywords::{FORMATS, Holds, MOST_COUNT, TYPES, holds};
use crate::wire::Json;

/// Bytes of the longest schema.
pub const MOST_BYTES: usize = 64 << 10;
/// Schemas within schemas, in all.
const MOST_SCHEMAS: usize = 1000;
/// Schemas within schemas, one in the other.
const MOST_DEPTH: usize = 24;
/// Bytes of the longest regular expression.
const MOST_PATTERN_BYTES: usize = 1000;

/// A schema of which every keyword is known and holds what it must.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    text: Arc<str>,
}

/// A schema that cannot be used. Places are JSON pointers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is no JSON.
    NotJson {
        /// What the parser says, with line and column.
        message: String,
    },
    /// The document is no object.
    NotObject,
    /// The text is too long.
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Schemas within schemas go too deep.
    TooDeep {
        /// Where.
        at: String,
    },
    /// There are too many schemas within it.
    TooMany,
    /// A keyword that is not supported.
    Unsupported {
        /// Where.
        at: String,
        /// The keyword.
        keyword: String,
    },
    /// A keyword that holds what it cannot.
    Mistyped {
        /// Where.
        at: String,
        /// What it must hold.
        expected: String,
    },
    /// A regular expression that is too long.
    LongPattern {
        /// Where.
        at: String,
        /// Its length.
        bytes: usize,
    },
    /// A reference that leads nowhere.
    Dangling {
        /// Where.
        at: String,
        /// The reference.
        reference: String,
    },
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("schema: ")?;
        match self {
            SchemaError::NotJson { message } => write!(f, "not JSON: {message}"),
            SchemaError::NotObject => f.write_str("a schema is a JSON object"),
            SchemaError::TooLong { bytes } => write!(f, "{bytes} bytes; at most {MOST_BYTES} are taken"),
            SchemaError::TooDeep { at } => {
                write!(f, "at {at} it is more than {MOST_DEPTH} schemas deep; use $ref or flatten it")
            }
            SchemaError::TooMany => write!(f, "it has more than {MOST_SCHEMAS} schemas within it; split it"),
            SchemaError::Unsupported { at, keyword } => {
                write!(f, "at {at}: {keyword:?} is not supported and would not be kept; leave it out")
            }
            SchemaError::Mistyped { at, expected } => write!(f, "{at} must be {expected}"),
            SchemaError::LongPattern { at, bytes } => {
                write!(f, "{at} has {bytes} bytes; at most {MOST_PATTERN_BYTES} are taken")
            }
            SchemaError::Dangling { at, reference } => {
                write!(f, "{at} is {reference:?}, and there is no schema there; references begin with #/")
            }
        }
    }
}

impl Error for SchemaError {}

impl Schema {
    /// Checks the text of a schema.
    ///
    /// # Errors
    /// The first thing in it that cannot be used.
    pub fn new(json: &Json) -> Result<Self, SchemaError> {
        let text = json.as_str();
        if text.len() > MOST_BYTES {
            return Err(SchemaError::TooLong { bytes: text.len() });
        }
        let document: Value = serde_json::from_str(text)
            .map_err(|error| SchemaError::NotJson { message: error.to_string() })?;
        let Value::Object(object) = &document else { return Err(SchemaError::NotObject) };
        let mut walk = Walk { root: &document, schemas: 0 };
        walk.object(object, "#", 0)?;
        Ok(Schema { text: text.into() })
    }

    /// Its text, as it came.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// One step further down a JSON pointer.
fn below(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

struct Walk<'v> {
    root: &'v Value,
    schemas: usize,
}

impl Walk<'_> {
    fn schema(&mut self, value: &Value, at: &str, depth: usize) -> Result<(), SchemaError> {
        match value {
            Value::Bool(_) => Ok(()),
            Value::Object(object) => self.object(object, at, depth),
            _ => Err(SchemaError::Mistyped { at: at.to_owned(), expected: Holds::Schema.expected() }),
        }
    }

    fn object(&mut self, object: &Map<String, Value>, at: &str, depth: usize) -> Result<(), SchemaError> {
        self.schemas += 1;
        if self.schemas > MOST_SCHEMAS {
            return Err(SchemaError::TooMany);
        }
        if depth > MOST_DEPTH {
            return Err(SchemaError::TooDeep { at: at.to_owned() });
        }
        for (keyword, value) in object {
            let Some(holds) = holds(keyword) else {
                return Err(SchemaError::Unsupported { at: at.to_owned(), keyword: keyword.clone() });
            };
            self.keyword(holds, value, &below(at, keyword), depth)?;
        }
        Ok(())
    }

    fn keyword(&mut self, holds: Holds, value: &Value, at: &str, depth: usize) -> Result<(), SchemaError> {
        let count = value.as_u64().is_some_and(|count| count <= MOST_COUNT);
        let text = value.as_str();
        let sound = match (holds, value) {
            (Holds::Any, _) => true,
            (Holds::Schema, _) => return self.schema(value, at, depth + 1),
            (Holds::Schemas | Holds::SchemaOrSchemas, Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    self.schema(schema, &below(at, &index.to_string()), depth + 1)?;
                }
                !schemas.is_empty()
            }
            (Holds::SchemaOrSchemas, _) => return self.schema(value, at, depth + 1),
            (Holds::Named, Value::Object(named)) => {
                for (name, schema) in named {
                    self.schema(schema, &below(at, name), depth + 1)?;
                }
                true
            }
            (Holds::Count, _) => count,
            (Holds::NumberOrFlag, Value::Bool(_)) => true,
            (Holds::Number | Holds::NumberOrFlag, Value::Number(_)) => true,
            (Holds::Positive, Value::Number(number)) => number.as_f64().is_some_and(|number| number > 0.0),
            (Holds::Text, _) => text.is_some(),
            (Holds::Format, _) => text.is_some_and(|format| FORMATS.contains(&format)),
            (Holds::Pattern, Value::String(pattern)) if pattern.len() > MOST_PATTERN_BYTES => {
                return Err(SchemaError::LongPattern { at: at.to_owned(), bytes: pattern.len() });
            }
            (Holds::Pattern, _) => text.is_some(),
            (Holds::Reference, Value::String(reference)) => return self.reference(reference, at),
            (Holds::Types, Value::String(name)) => TYPES.contains(&name.as_str()),
            (Holds::Types, Value::Array(names)) => {
                let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                !names.is_empty() && names.iter().all(known)
            }
            (Holds::AnyList, Value::Array(values)) => !values.is_empty(),
            (Holds::Texts, Value::Array(values)) => values.iter().all(Value::is_string),
            _ => false,
        };
        if sound {
            Ok(())
        } else {
            Err(SchemaError::Mistyped { at: at.to_owned(), expected: holds.expected() })
        }
    }

    /// References are those that the library finds: from the root, without escapes.
    fn reference(&self, reference: &str, at: &str) -> Result<(), SchemaError> {
        let path = match reference.strip_prefix('#') {
            Some("") => Some(self.root),
            Some(path) if path.starts_with('/') && path.len() > 1 && !path.contains(['~', '%']) => {
                self.root.pointer(path)
            }
            _ => None,
        };
        match path {
            Some(Value::Object(_) | Value::Bool(_)) => Ok(()),
            _ => Err(SchemaError::Dangling { at: at.to_owned(), reference: reference.to_owned() }),
        }
    }
}
