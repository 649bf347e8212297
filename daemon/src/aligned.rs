//! Bytes of a file in a test, where a mapping would put them.

/// What starts at a multiple of 64 bytes; `include_bytes!` alone promises no more than one.
#[repr(align(64))]
pub struct Aligned<T: ?Sized>(pub T);
