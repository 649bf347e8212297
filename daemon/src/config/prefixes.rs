//! `[prefixes]`: what tasks begin with, kept on disk for the next start.

use serde::Deserialize;

use super::{ConfigError, in_range};

/// `[prefixes]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixSection {
    /// Whether files are read and written.
    pub keep: bool,
    /// Bytes of all files together; those not used for longest go first.
    pub max_bytes: u64,
}

impl Default for PrefixSection {
    fn default() -> Self {
        PrefixSection { keep: true, max_bytes: 256 << 20 }
    }
}

impl PrefixSection {
    /// Checks the numbers.
    ///
    /// # Errors
    /// If one is outside its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        in_range(&[("prefixes.max_bytes", self.max_bytes, 1 << 16, 1 << 42)])
    }
}
