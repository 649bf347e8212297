//! The fields of a body of JSON, taken one by one, so that none is left that nobody looked at. Each stays as it was
//! written until it is taken, so that what has an order keeps it: the properties of a schema, the options of a choice.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::ApiError;

/// An object whose fields keep their order.
#[derive(Clone, Debug, Serialize)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries: Vec<(String, T)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if entries.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom(format_args!("{name:?} is given twice")));
                    }
                    entries.push((name, value));
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Fields not looked at yet.
#[derive(Debug)]
pub struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// The fields of a body.
    ///
    /// # Errors
    /// If it is no object of JSON.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields: Ordered<Box<RawValue>> = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad(format!("the body is not a JSON object that can be used: {error}"))
        })?;
        Ok(Fields(fields.0))
    }

    /// The fields of the object `value`, which is the field `name` of another.
    ///
    /// # Errors
    /// If it is no object.
    pub fn of(name: &str, value: &RawValue) -> Result<Self, ApiError> {
        let fields: Ordered<Box<RawValue>> = serde_json::from_str(value.get())
            .map_err(|error| ApiError::field(name, format!("{name} cannot be used: {error}")))?;
        Ok(Fields(fields.0))
    }

    fn remove(&mut self, name: &str) -> Option<Box<RawValue>> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes a field; one that is null is as good as missing.
    ///
    /// # Errors
    /// If it is not of this type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.remove(name) {
            Some(value) if value.get() != "null" => serde_json::from_str(value.get())
                .map(Some)
                .map_err(|error| ApiError::field(name, format!("{name} cannot be used: {error}"))),
            _ => Ok(None),
        }
    }

    /// Takes a field that must be there.
    ///
    /// # Errors
    /// If it is missing or not of this type.
    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::field(name, format!("{name} is missing")))
    }

    /// Drops fields that change no answer.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.remove(name);
        }
    }

    /// Drops fields that we have no use for where they ask for nothing: where they are as written here.
    pub fn ignore_if(&mut self, plain: &[(&str, &[&str])]) {
        self.0.retain(|(name, value)| {
            !plain.iter().any(|(known, values)| known == name && values.contains(&value.get()))
        });
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// If there is a field left that is not null: it would have changed the answer, and cannot.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.0.into_iter().find(|(_, value)| value.get() != "null") {
            None => Ok(()),
            Some((name, value)) => {
                let mut shown = value.get().to_owned();
                if shown.chars().count() > 40 {
                    shown = shown.chars().take(37).collect::<String>() + "...";
                }
                let message = format!("{name} = {shown} is not supported here; leave {name} out");
                Err(ApiError::field(name, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_refused_by_name() {
        let body = br#"{"n": 1, "user": "me", "tools": [{"type": "function"}], "seed": null, "x": null}"#;
        let mut fields = Fields::parse(body).expect("JSON");
        fields.ignore(&["user"]);
        fields.ignore_if(&[("n", &["1"]), ("tools", &["[]"])]);
        assert_eq!(fields.take::<u64>("seed").expect("null is missing"), None);
        let error = fields.finish().expect_err("tools");
        assert_eq!(error.param.as_deref(), Some("tools"));
        assert!(error.message.contains("function"), "{error:?}");
    }

    #[test]
    fn types_are_checked_with_their_names() {
        let mut fields = Fields::parse(br#"{"max_tokens": "many"}"#).expect("JSON");
        let error = fields.take::<u32>("max_tokens").expect_err("a string");
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("max_tokens")));
        assert!(
            fields.need::<String>("prompt").is_err_and(|error| error.message.contains("prompt is missing"))
        );
        for bad in [&b"[1]"[..], b"{", b"", b"\xff", b"{\"a\": 1, \"a\": 2}", b"{} {}"] {
            assert_eq!(Fields::parse(bad).expect_err("no object").status.as_u16(), 400);
        }
    }
}
