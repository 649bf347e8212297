//! Which tensor of a checkpoint becomes which of a GGUF.

use std::collections::BTreeSet;
use std::ops::Range;

use tern_runtime::gguf::{Header, TensorType};
use tern_runtime::model::loading::scales_name;

use super::config::{Convention, Shape};
use super::matrix::Matrix;
use super::shard::Tensor;
use super::tensors::Tensors;
use super::{Checkpoint, CheckpointError};
use crate::packing::PackError;
use crate::packing::head::HeadRows;

/// A tensor of the file to be written.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    /// Its name in GGUF files.
    pub name: String,
    pub content: Content<'a>,
}

/// What it is made of.
#[derive(Clone, Debug)]
pub(super) enum Content<'a> {
    /// Floats as they are.
    Same(Dense<'a>),
    /// A norm, widened to binary32.
    Norm(Dense<'a>),
    /// Ternary weights.
    Matrix(Matrix<'a>),
    /// The scales of the matrix in front, which is in groups.
    Scales(Matrix<'a>),
    /// Numbers that config.json says or that follow from it.
    Made(&'a [f32]),
}

/// A matrix or vector of floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dense<'a> {
    pub tensors: &'a Tensors,
    pub tensor: &'a Tensor,
    pub rows: usize,
    pub cols: usize,
}

impl<'a> Dense<'a> {
    fn find(tensors: &'a Tensors, name: &str, shape: &[u32]) -> Result<Self, CheckpointError> {
        let tensor = tensors.get(name).ok_or_else(|| CheckpointError::tensor(name, "it is missing"))?;
        let expected: Vec<u64> = shape.iter().map(|dim| (*dim).into()).collect();
        if tensor.dtype.gguf().is_none() || tensor.shape != expected {
            let problem = format!(
                "it is {} {:?}; BF16, F16 or F32 {expected:?} is expected",
                tensor.dtype, tensor.shape
            );
            return Err(CheckpointError::tensor(name, problem));
        }
        let cols = shape.last().copied().unwrap_or(1) as usize;
        Ok(Dense { tensors, tensor, rows: shape.iter().product::<u32>() as usize / cols, cols })
    }

    /// The type that a GGUF has for its values.
    pub fn ty(&self) -> TensorType {
        // Checked by `find`.
        self.tensor.dtype.gguf().unwrap_or(TensorType::F32)
    }

    /// Reads `rows` as they are.
    pub fn read(&self, rows: Range<usize>, into: &mut Vec<u8>) -> Result<(), CheckpointError> {
        let row_bytes = self.tensor.bytes as usize / self.rows;
        into.resize(rows.len() * row_bytes, 0);
        self.tensors.read(self.tensor, (rows.start * row_bytes) as u64, into)
    }
}

impl HeadRows for Dense<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn widen(&self, rows: Range<usize>, wide: &mut [f32]) -> Result<(), PackError> {
        let mut bytes = Vec::new();
        self.read(rows, &mut bytes)?;
        self.tensor.dtype.widen(&bytes, wide);
        Ok(())
    }
}

/// Names of a layer's norms: in a checkpoint, in a GGUF, in that of 1bitLLM's first code.
const NORMS: [(&str, &str); 4] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
];
const SUB_NORMS: [([&str; 2], &str); 2] = [
    (["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"], "attn_sub_norm"),
    (["mlp.ffn_sub_norm", "mlp.ffn_layernorm"], "ffn_sub_norm"),
];

impl Checkpoint {
    /// The tensors of the file to be written, in its order. Each is found and has the right shape, and none is left over.
    pub(super) fn parts(&self) -> Result<Vec<Part<'_>>, CheckpointError> {
        let Shape { hidden, ffn, heads, kv_heads, head_dim, vocab, layers, .. } = self.shape;
        let (q, kv) = (size(&self.shape, heads, head_dim)?, size(&self.shape, kv_heads, head_dim)?);
        let mut used: BTreeSet<String> = BTreeSet::new();
        let mut parts = Vec::new();
        let tensors = &self.tensors;
        let dense = |name: &str, shape: &[u32], used: &mut BTreeSet<String>| {
            used.insert(name.to_owned());
            Dense::find(tensors, name, shape)
        };
        let embedding = dense("model.embed_tokens.weight", &[vocab, hidden], &mut used)?;
        parts.push(Part { name: "token_embd.weight".into(), content: Content::Same(embedding) });
        for (name, values) in self.shape.rope.tensors() {
            parts.push(Part { name: name.into(), content: Content::Made(values) });
        }
        for layer in 0..layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let named = |name: &str| format!("blk.{layer}.{name}.weight");
            for (theirs, ours) in &NORMS[..if self.shape.head_norms { 4 } else { 2 }] {
                let len = if ours.ends_with("_norm") && theirs.starts_with("self_attn") {
                    head_dim
                } else {
                    hidden
                };
                let norm = dense(&format!("{}.weight", at(theirs)), &[len], &mut used)?;
                parts.push(Part { name: named(ours), content: Content::Norm(norm) });
            }
            for ((theirs, ours), len) in SUB_NORMS.iter().zip([q, ffn]).filter(|_| self.shape.sub_norms) {
                let names = theirs.map(|name| format!("{}.weight", at(name)));
                let name = names.iter().find(|name| tensors.get(name).is_some()).unwrap_or(&names[0]);
                let norm = dense(name, &[len], &mut used)?;
                parts.push(Part { name: named(ours), content: Content::Norm(norm) });
            }
            for (theirs, ours, rows, cols) in [
                ("self_attn.q_proj", "attn_q", q, hidden),
                ("self_attn.k_proj", "attn_k", kv, hidden),
                ("self_attn.v_proj", "attn_v", kv, hidden),
                ("self_attn.o_proj", "attn_output", hidden, q),
                ("mlp.gate_proj", "ffn_gate", ffn, hidden),
                ("mlp.up_proj", "ffn_up", ffn, hidden),
                ("mlp.down_proj", "ffn_down", hidden, ffn),
            ] {
                let (name, shape) = (at(theirs), (rows as usize, cols as usize));
                let (convention, computes) = (self.shape.convention, self.shape.dtype.as_ref());
                let matrix = Matrix::find(tensors, &name, shape, convention, computes)?;
                let turns = matches!(ours, "attn_q" | "attn_k") && self.shape.permuted;
                let matrix = if turns { matrix.permuted(head_dim as usize) } else { matrix };
                let matrix = matrix.grouped(self.group);
                let scales = scales_name(&named(ours)).filter(|_| self.group.is_some());
                parts.push(Part { name: named(ours), content: Content::Matrix(matrix.clone()) });
                if let Some(scales) = scales {
                    parts.push(Part { name: scales.as_str().into(), content: Content::Scales(matrix) });
                }
                used.insert(format!("{name}.weight"));
                if matches!(convention, Convention::Packed | Convention::PackedInverse) {
                    used.insert(format!("{name}.weight_scale"));
                }
            }
        }
        let norm = dense("model.norm.weight", &[hidden], &mut used)?;
        parts.push(Part { name: "output_norm.weight".into(), content: Content::Norm(norm) });
        if self.tied()? {
            // A head that was stored beside the embedding it is tied to is not used by anybody.
            used.insert("lm_head.weight".into());
        } else {
            let head = dense("lm_head.weight", &[vocab, hidden], &mut used)?;
            parts.push(Part { name: "output.weight".into(), content: Content::Same(head) });
        }
        // Computed anew from rope_theta by every implementation.
        let is_table = |name: &str| name.ends_with(".rotary_emb.inv_freq");
        let mut unknown =
            tensors.iter().filter(|tensor| !used.contains(&tensor.name) && !is_table(&tensor.name));
        match unknown.next() {
            None => Ok(parts),
            Some(tensor) => {
                let more = unknown.count();
                let problem = format!(
                    "{} of {} layers, {}, has no such tensor (nor {more} others that are here); config.json and the \
                     weights may be of different models",
                    self.shape.class, layers, self.shape.convention
                );
                Err(CheckpointError::tensor(&tensor.name, problem))
            }
        }
    }

    /// Whether the embedding serves as head.
    fn tied(&self) -> Result<bool, CheckpointError> {
        match (self.shape.tied, self.tensors.get("lm_head.weight")) {
            (Some(tied), _) => Ok(tied),
            (None, None) => Ok(true),
            (None, Some(_)) => Err(CheckpointError::Setting {
                file: Shape::FILE,
                key: "tie_word_embeddings".into(),
                found: "nothing, and there is a tensor lm_head.weight".into(),
                understood: "true or false: whether that tensor is used; add what its maker says",
            }),
        }
    }

    /// Its ternary matrices.
    pub(super) fn matrices(&self) -> Result<Vec<Matrix<'_>>, CheckpointError> {
        let parts = self.parts()?.into_iter();
        Ok(parts
            .filter_map(|part| match part.content {
                Content::Matrix(matrix) => Some(matrix),
                _ => None,
            })
            .collect())
    }

    /// The head: its own, or the embedding where that serves as one.
    pub(super) fn head<'p>(parts: &[Part<'p>]) -> Option<Dense<'p>> {
        let dense = |name: &str| {
            parts.iter().find(|part| part.name == name).and_then(|part| match part.content {
                Content::Same(dense) => Some(dense),
                _ => None,
            })
        };
        dense("output.weight").or_else(|| dense("token_embd.weight"))
    }
}

impl Part<'_> {
    /// Adds its description to `header`, ternary matrices as `ternary`.
    pub(super) fn describe(&self, header: &mut Header, ternary: TensorType) -> Result<(), PackError> {
        let (ty, dims) = match &self.content {
            Content::Same(dense) => (dense.ty(), vec![dense.cols as u64, dense.rows as u64]),
            Content::Norm(norm) => (TensorType::F32, vec![norm.cols as u64]),
            Content::Made(values) => (TensorType::F32, vec![values.len() as u64]),
            Content::Matrix(matrix) => {
                let (rows, cols) = matrix.shape();
                (ternary, vec![cols as u64, rows as u64])
            }
            Content::Scales(matrix) => {
                (TensorType::F16, vec![matrix.shape().0 as u64, matrix.scales() as u64])
            }
        };
        header.tensor(&self.name, ty, &dims).map(|_| ()).map_err(PackError::Write)
    }
}

/// Values of all heads.
fn size(shape: &Shape, heads: u32, head_dim: u32) -> Result<u32, CheckpointError> {
    heads.checked_mul(head_dim).filter(|values| *values <= 1 << 20).ok_or_else(|| CheckpointError::Setting {
        file: Shape::FILE,
        key: "num_attention_heads".into(),
        found: format!("{} with a head_dim of {}", shape.heads, shape.head_dim),
        understood: "heads of 1048576 values together at most",
    })
}
