//! The keys of the packed file, named as the published converters name them.

use std::io;

use tern_runtime::gguf::{Header, TensorType};
use tern_runtime::model::Multipliers;
use tern_runtime::model::ternary::GROUP_KEY;

use super::Checkpoint;
use super::config::Shape;
use super::pack::little_endian;
use super::rope::Rope;
use crate::packing::{ALIGNMENT_BYTES, GROUPED_VERSION, LAYOUT_KEY, SOURCE_KEY, VERSION, VERSION_KEY};

impl Checkpoint {
    /// A header with the keys of the model: its shape and its tokenizer.
    pub(super) fn keys(&self) -> Header {
        let mut header = Header::aligned(ALIGNMENT_BYTES);
        let Shape { architecture: arch, hidden, heads, head_dim, .. } = self.shape;
        header.str("general.architecture", arch).str("general.name", &self.name());
        let mut number = |suffix: &str, value: u32| {
            header.u32(&format!("{arch}.{suffix}"), value);
        };
        number("vocab_size", self.shape.vocab);
        number("context_length", self.shape.context);
        number("embedding_length", hidden);
        number("block_count", self.shape.layers);
        number("feed_forward_length", self.shape.ffn);
        number("rope.dimension_count", head_dim);
        number("attention.head_count", heads);
        number("attention.head_count_kv", self.shape.kv_heads);
        if heads.checked_mul(head_dim) != Some(hidden) || self.shape.head_norms {
            number("attention.key_length", head_dim);
            number("attention.value_length", head_dim);
        }
        let number = |suffix: &str| format!("{arch}.{suffix}");
        header.f32(&number("attention.layer_norm_rms_epsilon"), self.shape.rms_eps);
        self.shape.rope.write(&mut header, arch);
        if let Some(Multipliers { embedding, residual, logits }) = self.shape.multipliers {
            header
                .f32(&number("embedding_scale"), embedding)
                .f32(&number("residual_scale"), residual)
                .f32(&number("logit_scale"), logits);
        }
        self.vocabulary.write(&mut header);
        header
    }

    /// [`keys`](Self::keys) and those that say how the file is packed.
    pub(super) fn packed_keys(&self, layout: tern_kernels::Layout) -> Header {
        let mut header = self.keys();
        header.u32(VERSION_KEY, if self.group.is_some() { GROUPED_VERSION } else { VERSION });
        header.str(LAYOUT_KEY, layout.name()).str(SOURCE_KEY, &self.note());
        if let Some(group) = self.group {
            header.u32(GROUP_KEY, group as u32);
        }
        header
    }
}

/// The bytes of a file with the keys of `header` and the tensors of `rope`, which belong to a model's shape.
pub(super) fn with_tensors(mut header: Header, rope: &Rope) -> io::Result<Vec<u8>> {
    for (name, values) in rope.tensors() {
        header.tensor(name, TensorType::F32, &[values.len() as u64])?;
    }
    let mut data = header.begin(Vec::new())?;
    for (_, values) in rope.tensors() {
        data.write(&little_endian(values))?;
    }
    data.finish()
}
