//! Bytes that this program streams from memory, counted where they are streamed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A shared count of bytes. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<AtomicU64>);

impl Traffic {
    /// Adds what a step of work has streamed.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All bytes so far; wraps at 2^64.
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
