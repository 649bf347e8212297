//! Secrets: named in the configuration, never written there.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// Where a secret is: `{ credential = "name" }` or `{ file = "/path" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A name in the folder that systemd puts credentials in.
    Credential(String),
    /// A file.
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    credential: Option<String>,
    file: Option<PathBuf>,
}

const NAME_IT: &str =
    "a secret is not written here but named: { credential = \"name\" } or { file = \"/path\" }";

// By hand, because an error must not repeat a password that was written in its place.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;

        impl<'de> Visitor<'de> for Place {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a credential or a file")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Secret, E> {
                Err(E::custom(NAME_IT))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
                match Named::deserialize(MapAccessDeserializer::new(map))? {
                    Named { credential: Some(name), file: None } => Ok(Secret::Credential(name)),
                    Named { credential: None, file: Some(path) } => Ok(Secret::File(path)),
                    _ => Err(de::Error::custom(NAME_IT)),
                }
            }
        }

        deserializer.deserialize_any(Place)
    }
}

impl Secret {
    /// The file that holds it; `None` for a credential where systemd has given no folder.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Secret::File(path) => Some(path.clone()),
            Secret::Credential(name) => {
                std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
            }
        }
    }

    /// Its content. `what` it is goes into the message of a failure.
    ///
    /// # Errors
    /// Says which file could not be read and why.
    pub fn read(&self, what: &str) -> Result<Vec<u8>, String> {
        let path = self.path().ok_or_else(|| {
            format!(
                "{what} is a credential, and there is no CREDENTIALS_DIRECTORY; run under systemd with \
                 LoadCredential= or name a file"
            )
        })?;
        std::fs::read(&path).map_err(|error| format!("cannot read {what} '{}': {error}", path.display()))
    }

    /// As [`Secret::read`], one line of text.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8.
    pub fn read_line(&self, what: &str) -> Result<String, String> {
        let text = String::from_utf8(self.read(what)?).map_err(|_| format!("{what} is not UTF-8"))?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}
