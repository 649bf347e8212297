//! A kernel set: a name, the weight layout it reads and tables of functions, behind wrappers that check shapes.
//!
//! Lengths are asserted here, once a call, so that back ends may read without checks; a failed assertion is a bug in
//! the caller, never in a model file. [`ternary`] is the product that a set exists for, one table for each layout and
//! tier, [`grouped`] that of a matrix in groups of columns; [`vector`] is everything else on the path of a token, one
//! table for each tier.

pub mod attention;
pub mod elementwise;
pub mod grouped;
pub mod head;
pub mod ternary;
pub mod vector;

use crate::layout::Layout;
pub use attention::{AttentionOps, Cached, PLAIN_ATTENTION};
pub use elementwise::{ElementOps, Gate, PLAIN_ELEMENTS};
pub use grouped::{GroupedOps, GroupedTile};
pub use head::{HeadOps, Nibbles, PLAIN_HEAD};
pub use ternary::{Grain, TernaryOps, Tile};
pub use vector::VectorOps;

/// A complete set of kernels for one kind of machine.
#[derive(Debug)]
pub struct KernelSet {
    /// `{arch}-{weights}{acts}-{tier}`, for example `aarch64-t2i8-dotprod`.
    pub name: &'static str,
    /// The layout that `multiply` reads.
    pub layout: Layout,
    ternary: TernaryOps,
    vector: VectorOps,
}

impl KernelSet {
    /// A set that reads `layout`. Back ends hand out sets only where the machine has what they need.
    pub const fn new(name: &'static str, layout: Layout, ternary: TernaryOps, vector: VectorOps) -> Self {
        KernelSet { name, layout, ternary, vector }
    }
}
