//! The keywords that schemas may use, and what each must hold.

/// What a keyword holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A schema.
    Schema,
    /// A list of at least one schema.
    Schemas,
    /// A schema, or a list of them.
    SchemaOrSchemas,
    /// Schemas by name.
    Named,
    /// A whole number, from 0 to [`MOST_COUNT`].
    Count,
    /// A number.
    Number,
    /// A number, or true or false as in the fourth draft.
    NumberOrFlag,
    /// A number above 0.
    Positive,
    /// Text.
    Text,
    /// A regular expression.
    Pattern,
    /// The name of a format.
    Format,
    /// A place in the same schema.
    Reference,
    /// The name of a type, or a list of them.
    Types,
    /// Any JSON.
    Any,
    /// A list of at least one JSON.
    AnyList,
    /// A list of texts.
    Texts,
}

/// The greatest count of items, properties or characters.
pub const MOST_COUNT: u64 = 1000;

/// Names of types.
pub const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Names of formats.
pub const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Every keyword, and what it holds.
const KEYWORDS: [(&str, Holds); 43] = [
    ("type", Holds::Types),
    ("enum", Holds::AnyList),
    ("const", Holds::Any),
    ("anyOf", Holds::Schemas),
    ("oneOf", Holds::Schemas),
    ("allOf", Holds::Schemas),
    ("$ref", Holds::Reference),
    ("$defs", Holds::Named),
    ("definitions", Holds::Named),
    ("properties", Holds::Named),
    ("patternProperties", Holds::Named),
    ("additionalProperties", Holds::Schema),
    ("required", Holds::Texts),
    ("minProperties", Holds::Count),
    ("maxProperties", Holds::Count),
    ("items", Holds::SchemaOrSchemas),
    ("prefixItems", Holds::Schemas),
    ("additionalItems", Holds::Schema),
    ("minItems", Holds::Count),
    ("maxItems", Holds::Count),
    ("minLength", Holds::Count),
    ("maxLength", Holds::Count),
    ("pattern", Holds::Pattern),
    ("format", Holds::Format),
    ("minimum", Holds::Number),
    ("maximum", Holds::Number),
    ("exclusiveMinimum", Holds::NumberOrFlag),
    ("exclusiveMaximum", Holds::NumberOrFlag),
    ("multipleOf", Holds::Positive),
    // What follows says nothing about values.
    ("$schema", Holds::Text),
    ("$id", Holds::Text),
    ("id", Holds::Text),
    ("$comment", Holds::Any),
    ("title", Holds::Any),
    ("description", Holds::Any),
    ("default", Holds::Any),
    ("example", Holds::Any),
    ("examples", Holds::Any),
    ("readOnly", Holds::Any),
    ("writeOnly", Holds::Any),
    ("deprecated", Holds::Any),
    ("contentMediaType", Holds::Any),
    ("contentEncoding", Holds::Any),
];

/// What `keyword` holds; `None` if it is not supported.
pub fn holds(keyword: &str) -> Option<Holds> {
    KEYWORDS.iter().find(|(name, _)| *name == keyword).map(|(_, holds)| *holds)
}

impl Holds {
    /// What it is, for people.
    pub fn expected(self) -> String {
        match self {
            Holds::Schema => "a schema: an object, true or false".into(),
            Holds::Schemas => "a list of schemas".into(),
            Holds::SchemaOrSchemas => "a schema or a list of schemas".into(),
            Holds::Named => "an object of schemas".into(),
            Holds::Count => format!("a whole number from 0 to {MOST_COUNT}"),
            Holds::Number => "a number".into(),
            Holds::NumberOrFlag => "a number, true or false".into(),
            Holds::Positive => "a number above 0".into(),
            Holds::Text => "a string".into(),
            Holds::Pattern => "a regular expression".into(),
            Holds::Format => format!("one of {}", FORMATS.join(", ")),
            Holds::Reference => "a place in this schema such as \"#/$defs/name\"".into(),
            Holds::Types => format!("one of {}, or a list of them", TYPES.join(", ")),
            Holds::Any => "any JSON".into(),
            Holds::AnyList => "a list of at least one value".into(),
            Holds::Texts => "a list of strings".into(),
        }
    }
}
