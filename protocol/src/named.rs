//! Fields that only forms with names carry: JSON lines and TOML files.
//!
//! Frames have no names, so a struct that lies within another can never grow there without another version. What is added
//! to one all the same is left out of frames, and is absent when it is read from one.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer, T: Serialize>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    // A unit takes no bytes in a frame.
    if serializer.is_human_readable() { value.serialize(serializer) } else { serializer.serialize_unit() }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    if deserializer.is_human_readable() { Option::deserialize(deserializer) } else { Ok(None) }
}
