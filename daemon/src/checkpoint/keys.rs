//! The keys of the packed file, named as the published converters name them.

use tern_runtime::gguf::Header;

use super::Checkpoint;
use super::config::Shape;
use crate::packing::{ALIGNMENT_BYTES, LAYOUT_KEY, SOURCE_KEY, VERSION, VERSION_KEY};

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
        header
            .f32(&format!("{arch}.attention.layer_norm_rms_epsilon"), self.shape.rms_eps)
            .f32(&format!("{arch}.rope.freq_base"), self.shape.rope_theta);
        self.vocabulary.write(&mut header);
        header
    }

    /// [`keys`](Self::keys) and those that say how the file is packed.
    pub(super) fn packed_keys(&self, layout: tern_kernels::Layout) -> Header {
        let mut header = self.keys();
        header.u32(VERSION_KEY, VERSION).str(LAYOUT_KEY, layout.name()).str(SOURCE_KEY, &self.note());
        header
    }
}
