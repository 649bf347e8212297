//! Where the text and the lists of a message live.

use core::fmt::{Debug, Write};
use core::marker::PhantomData;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a list may hold.
pub trait Item: Debug + Clone + PartialEq + Serialize {}

impl<T: Debug + Clone + PartialEq + Serialize> Item for T {}

/// A way to hold text and lists; the type that implements it is a mark and never a value.
pub trait Storage: Debug + Clone + PartialEq {
    /// Text.
    type Text: AsRef<str> + Item;
    /// A list.
    type List<T: Item>: AsRef<[T]> + Item;
    /// A list of lists that only a machine with a heap keeps; elsewhere its entries are read and [`Dropped`].
    type Detail<T: Item>: AsRef<[T]> + Item;

    /// Text that is put together by `write`; `None` if text cannot be put together. What `write` writes fails where there
    /// is no room for it.
    fn compose(write: impl FnOnce(&mut dyn Write)) -> Option<Self::Text>;
}

/// A list whose entries were not kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Dropped<T>(PhantomData<T>);

impl<T> Default for Dropped<T> {
    fn default() -> Self {
        Dropped(PhantomData)
    }
}

impl<T> AsRef<[T]> for Dropped<T> {
    fn as_ref(&self) -> &[T] {
        &[]
    }
}

impl<T> Serialize for Dropped<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_seq(Some(0))?.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Dropped<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dropping<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Dropping<T> {
            type Value = Dropped<T>;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Dropped<T>, A::Error> {
                while list.next_element::<T>()?.is_some() {}
                Ok(Dropped(PhantomData))
            }
        }

        deserializer.deserialize_seq(Dropping(PhantomData))
    }
}

/// Text that lies elsewhere, lists of at most `ITEMS` in place: for messages to be written, and for messages that are
/// read from a frame and used before it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Borrowed<'a, const ITEMS: usize = 16>(PhantomData<&'a str>);

impl<'a, const ITEMS: usize> Storage for Borrowed<'a, ITEMS> {
    type Text = &'a str;
    type List<T: Item> = heapless::Vec<T, ITEMS>;
    type Detail<T: Item> = Dropped<T>;

    fn compose(_: impl FnOnce(&mut dyn Write)) -> Option<&'a str> {
        None
    }
}

/// Everything in place: texts of at most `TEXT_BYTES`, lists of at most `ITEMS`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed<const TEXT_BYTES: usize, const ITEMS: usize>;

impl<const TEXT_BYTES: usize, const ITEMS: usize> Storage for Fixed<TEXT_BYTES, ITEMS> {
    type Text = heapless::String<TEXT_BYTES>;
    type List<T: Item> = heapless::Vec<T, ITEMS>;
    type Detail<T: Item> = Dropped<T>;

    fn compose(write: impl FnOnce(&mut dyn Write)) -> Option<Self::Text> {
        let mut text = heapless::String::new();
        write(&mut text);
        Some(text)
    }
}
