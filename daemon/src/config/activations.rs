//! `activations` of `[model]`.

use serde::Deserialize;
use tern_runtime::activations::Activations;

/// What ternary products take as their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationsName {
    /// 8 bits and a scale for each token, or for each group of columns where the weights have a scale for each.
    Int8,
    /// Those of binary32, in three digits of 8 bits.
    Float,
}

impl ActivationsName {
    /// What it names.
    pub fn kind(self) -> Activations {
        match self {
            Self::Int8 => Activations::Int8,
            Self::Float => Activations::Float,
        }
    }
}
