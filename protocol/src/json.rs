//! A JSON document inside a message, such as a schema: kept as its text, so that a machine without a heap can carry it.
//!
//! In JSON and TOML it is written as what it is, an object, or as a string that holds its text; both come in as compact
//! text whose members keep their order. It goes out as a string in every form.

use core::fmt::{self, Write};

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::storage::Storage;

/// The text of a JSON document. Whether it is one was not looked at where it came as a string.
#[derive(Debug, Clone, PartialEq)]
pub struct Json<F: Storage>(pub F::Text);

impl<F: Storage> Json<F> {
    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

impl<F: Storage> Serialize for Json<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, F: Storage> Deserialize<'de> for Json<F>
where
    F::Text: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return F::Text::deserialize(deserializer).map(Json);
        }
        deserializer.deserialize_any(DocumentVisitor::<F>(core::marker::PhantomData)).map(Json)
    }
}

struct DocumentVisitor<F>(core::marker::PhantomData<F>);

impl<'de, F: Storage> Visitor<'de> for DocumentVisitor<F>
where
    F::Text: Deserialize<'de>,
{
    type Value = F::Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object, or a string that holds one")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<F::Text, E> {
        F::Text::deserialize(BorrowedStrDeserializer::new(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<F::Text, E> {
        F::Text::deserialize(StrDeserializer::new(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<F::Text, A::Error> {
        let mut outcome = Ok(());
        let composed = F::compose(|out| {
            outcome = Transcript { out }.visit_map(map);
        });
        outcome?;
        composed
            .ok_or_else(|| Error::custom("this storage cannot hold an object; send a string that holds it"))
    }
}

/// Writes down what it visits.
struct Transcript<'o> {
    out: &'o mut dyn Write,
}

/// A write that found no more room.
fn no_room<E: Error>(_: fmt::Error) -> E {
    E::custom("the JSON document is longer than there is room for")
}

impl<'de> DeserializeSeed<'de> for Transcript<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcript<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        write!(self.out, "{value}").map_err(no_room)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        write!(self.out, "{value}").map_err(no_room)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        write!(self.out, "{value}").map_err(no_room)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            return Err(E::custom("a number that JSON cannot say"));
        }
        // The form for programmers: it has an exponent where digits would run on.
        write!(self.out, "{value:?}").map_err(no_room)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.out.write_str("null").map_err(no_room)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        quote(self.out, text).map_err(no_room)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let out = self.out;
        out.write_char('[').map_err(no_room)?;
        let mut first = true;
        while list.next_element_seed(Entry { out, first, end: "" })?.is_some() {
            first = false;
        }
        out.write_char(']').map_err(no_room)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let out = self.out;
        out.write_char('{').map_err(no_room)?;
        let mut first = true;
        while map.next_key_seed(Entry { out, first, end: ":" })?.is_some() {
            map.next_value_seed(Transcript { out })?;
            first = false;
        }
        out.write_char('}').map_err(no_room)
    }
}

/// A value behind its comma, and what follows it.
struct Entry<'o> {
    out: &'o mut dyn Write,
    first: bool,
    end: &'static str,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !self.first {
            self.out.write_char(',').map_err(no_room)?;
        }
        Transcript { out: self.out }.deserialize(deserializer)?;
        self.out.write_str(self.end).map_err(no_room)
    }
}

/// Writes `text` as a JSON string.
fn quote(out: &mut dyn Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for char in text.chars() {
        match char {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            char if char < ' ' => write!(out, "\\u{:04x}", u32::from(char))?,
            char => out.write_char(char)?,
        }
    }
    out.write_char('"')
}
