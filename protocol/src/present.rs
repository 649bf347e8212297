//! Writing a struct for people and for machines.
//!
//! In JSON a field that is absent is left out. A binary form has no names, so there every field must be written.

use serde::ser::{Serialize, SerializeStruct};

/// A field that may be left out.
pub(crate) trait MayBeAbsent {
    fn is_absent(&self) -> bool;
}

impl<T> MayBeAbsent for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl MayBeAbsent for bool {
    fn is_absent(&self) -> bool {
        !self
    }
}

/// Writes a field unless it is absent and `may_skip`.
pub(crate) fn write<S: SerializeStruct, T: MayBeAbsent + Serialize>(
    out: &mut S,
    may_skip: bool,
    name: &'static str,
    value: &T,
) -> Result<(), S::Error> {
    if may_skip && value.is_absent() { out.skip_field(name) } else { out.serialize_field(name, value) }
}

/// Implements `Serialize` for a struct: fields that are always there, then fields that may be absent, both in the order
/// of their declaration.
macro_rules! serialize_present {
    ($name:ident { $($always:ident),*; $($optional:ident),* }) => {
        impl<F: Storage> serde::Serialize for $name<F> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct as _;
                const FIELDS: usize = [$(stringify!($always),)* $(stringify!($optional)),*].len();
                let may_skip = serializer.is_human_readable();
                let mut out = serializer.serialize_struct(stringify!($name), FIELDS)?;
                $(out.serialize_field(stringify!($always), &self.$always)?;)*
                $($crate::present::write(&mut out, may_skip, stringify!($optional), &self.$optional)?;)*
                out.end()
            }
        }
    };
}

pub(crate) use serialize_present;
