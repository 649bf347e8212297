//! What the layers of an architecture do differently from those of others.
//!
//! | name in files | gate | sub-norms | rotary pairs | head norms | multiplies | models |
//! |---|---|---|---|---|---|---|
//! | `bitnet-b1.58`, `bitnet-25` | squared ReLU | yes | halves | no | no | BitNet b1.58 2B4T |
//! | `bitnet` | SiLU | yes | halves | no | no | those of 1bitLLM |
//! | `llama` | SiLU | no | neighbours | no | no | Falcon-E, Falcon3-1.58bit, Llama3-8B-1.58, TriLM |
//! | `qwen3` | SiLU | no | halves | yes | no | Ternary-Bonsai |
//! | `minicpm` | SiLU | no | neighbours | no | yes | BitCPM4 |
//!
//! Sources: arXiv 2504.12285, section 2; 2404.06395, section 3 (what MiniCPM multiplies with); the Hugging Face graphs
//! `BitNetForCausalLM`, `LlamaForCausalLM` and `Qwen3ForCausalLM`. GGUF files of `llama` and `minicpm` hold query and key
//! matrices with their rows in another order. How angles are scaled is [`rope`]'s, whatever the name.

use tern_kernels::Gate;

use super::rope;
use crate::head::planes;

/// Names of architectures that this build runs, as files give them.
pub const ARCHITECTURES: [&str; 6] = ["bitnet-b1.58", "bitnet-25", "bitnet", "llama", "qwen3", "minicpm"];

/// What the layers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Between the two halves of a feed-forward block.
    pub gate: Gate,
    /// Whether the inputs of the attention's output and of the second half of a feed-forward block are normalised.
    pub sub_norms: bool,
    /// Which values of a query or key turn together.
    pub pairs: RotaryPairs,
    /// Whether every head of queries and keys is normalised before it turns.
    pub head_norms: bool,
    /// Whether it has [`Multipliers`](super::Multipliers) other than 1.
    pub multiplies: bool,
}

/// Which values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairs {
    /// `j` and `j + head_dim / 2`.
    Halves,
    /// `2 j` and `2 j + 1`.
    Neighbours,
}

impl Graph {
    /// The graph of BitNet b1.58 2B4T.
    pub const BITNET: Graph = Graph {
        gate: Gate::Relu2,
        sub_norms: true,
        pairs: RotaryPairs::Halves,
        head_norms: false,
        multiplies: false,
    };

    /// The graph of Llama.
    pub const LLAMA: Graph = Graph {
        gate: Gate::Silu,
        sub_norms: false,
        pairs: RotaryPairs::Neighbours,
        head_norms: false,
        multiplies: false,
    };

    /// Whether `tensor` is one of a model with this graph and so many layers.
    #[must_use]
    pub fn has(&self, tensor: &str, layers: usize) -> bool {
        const OF_ALL: [&str; 6] = [
            "token_embd.weight",
            "output.weight",
            "output_norm.weight",
            rope::FREQS,
            rope::SHORT_FACTORS,
            rope::LONG_FACTORS,
        ];
        const OF_A_LAYER: [&str; 9] = [
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ];
        const SUB_NORMS: [&str; 2] = ["attn_sub_norm", "ffn_sub_norm"];
        const HEAD_NORMS: [&str; 2] = ["attn_q_norm", "attn_k_norm"];
        if OF_ALL.contains(&tensor) || planes::NAMES.contains(&tensor) {
            return true;
        }
        let of_a_layer = || {
            let (layer, rest) = tensor.strip_prefix("blk.")?.split_once('.')?;
            let is_there = layer.parse().is_ok_and(|layer: usize| layer < layers);
            // The scales of a matrix in groups stand beside it.
            let name = rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".scales"))?;
            let is_known = OF_A_LAYER.contains(&name)
                || self.sub_norms && SUB_NORMS.contains(&name)
                || self.head_norms && HEAD_NORMS.contains(&name);
            Some(is_there && is_known)
        };
        of_a_layer().unwrap_or(false)
    }

    /// The graph of the architecture called `name`, if this build has it.
    #[must_use]
    pub fn of(name: &str) -> Option<Graph> {
        match name {
            "bitnet-b1.58" | "bitnet-25" => Some(Graph::BITNET),
            "bitnet" => Some(Graph { gate: Gate::Silu, ..Graph::BITNET }),
            "llama" => Some(Graph::LLAMA),
            "qwen3" => Some(Graph { pairs: RotaryPairs::Halves, head_norms: true, ..Graph::LLAMA }),
            "minicpm" => Some(Graph { multiplies: true, ..Graph::LLAMA }),
            _ => None,
        }
    }
}

impl RotaryPairs {
    /// Puts the values of `head: [head_dim]` into the order in which halves turn together; `scratch` is as long.
    ///
    /// The product of a query and a key does not depend on the order of their values, so nothing needs to be put back.
    pub(crate) fn to_halves(self, head: &mut [f32], scratch: &mut [f32]) {
        if self == RotaryPairs::Halves {
            return;
        }
        scratch.copy_from_slice(head);
        let (first, second) = head.split_at_mut(scratch.len() / 2);
        for ((first, second), pair) in first.iter_mut().zip(second).zip(scratch.chunks_exact(2)) {
            (*first, *second) = (pair[0], pair[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_graph_and_no_other() {
        assert!(ARCHITECTURES.iter().all(|name| Graph::of(name).is_some()));
        assert!(["", "bitnet-b1", "Llama", "qwen2"].iter().all(|name| Graph::of(name).is_none()));
    }

    #[test]
    fn tensors_of_a_graph_are_known_and_others_are_not() {
        let llama = Graph::of("llama").expect("known");
        for name in ["token_embd.weight", "output.weight", "blk.1.attn_q.weight", "blk.0.ffn_down.weight"] {
            assert!(llama.has(name, 2), "{name}");
        }
        for name in [
            "blk.2.attn_q.weight",
            "blk.0.attn_q.bias",
            "blk.0.attn_sub_norm.weight",
            "blk.0.attn_q_norm.weight",
            "blk.x",
        ] {
            assert!(!llama.has(name, 2), "{name}");
        }
        assert!(Graph::BITNET.has("blk.0.attn_sub_norm.weight", 1) && llama.has("rope_freqs.weight", 1));
        assert!(Graph::of("qwen3").is_some_and(|qwen3| qwen3.has("blk.0.attn_q_norm.weight", 1)));
    }

    #[test]
    fn neighbours_become_halves() {
        let mut scratch = [0.0; 6];
        let mut head = [0.0, 3.0, 1.0, 4.0, 2.0, 5.0];
        RotaryPairs::Halves.to_halves(&mut head, &mut scratch);
        assert_eq!(head, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        RotaryPairs::Neighbours.to_halves(&mut head, &mut scratch);
        assert_eq!(head, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}
