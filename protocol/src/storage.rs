//! Where the text and the lists of a message live.

use core::fmt::Debug;

use serde::Serialize;

/// What a list may hold.
pub trait Item: Debug + Clone + PartialEq + Serialize {}

impl<T: Debug + Clone + PartialEq + Serialize> Item for T {}

/// A way to hold text and lists; the type that implements it is a mark and never a value.
pub trait Storage: Debug + Clone + PartialEq {
    /// Text.
    type Text: AsRef<str> + Item;
    /// A list.
    type List<T: Item>: AsRef<[T]> + Item;
}

/// Text that lies elsewhere, lists of at most `ITEMS` in place: for messages to be written, and for messages that are
/// read from a frame and used before it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Borrowed<'a, const ITEMS: usize = 16>(core::marker::PhantomData<&'a str>);

impl<'a, const ITEMS: usize> Storage for Borrowed<'a, ITEMS> {
    type Text = &'a str;
    type List<T: Item> = heapless::Vec<T, ITEMS>;
}

/// Everything in place: texts of at most `TEXT_BYTES`, lists of at most `ITEMS`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed<const TEXT_BYTES: usize, const ITEMS: usize>;

impl<const TEXT_BYTES: usize, const ITEMS: usize> Storage for Fixed<TEXT_BYTES, ITEMS> {
    type Text = heapless::String<TEXT_BYTES>;
    type List<T: Item> = heapless::Vec<T, ITEMS>;
}
