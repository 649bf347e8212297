//! What the fuzz targets call; `tests/mutations` calls the same.

mod targets;

pub use targets::*;
