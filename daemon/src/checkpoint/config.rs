//! config.json: what the layers do, their sizes, and how the ternary weights are written down.
//!
//! How a weight becomes a number is decided by keys alone, never by looking at numbers:
//!
//! | `quantization_config` | linear layers are stored as | a weight is |
//! |---|---|---|
//! | `autobitlinear`, `offline` | U8 and `weight_scale` | trit * weight_scale |
//! | `bitlinear`, or no `linear_class` | U8 and `weight_scale` | trit / weight_scale |
//! | `autobitlinear`, `online` | floats | absmean of the whole matrix ([`matrix`](super::matrix)) |
//! | none, but `BitnetForCausalLM` with `weight_bits` 1 and `input_bits` 8 | floats | the same |
//! | none, and a class that is not BitNet's | floats | the float, which must be -s, 0 or s ([`ternary`](super::ternary)) |
//!
//! Sources: `BitNetQuantConfig`, `AutoBitLinear` and `BitLinear` of transformers 5.23; the model cards of 1bitLLM; for
//! `MiniCPMForCausalLM` arXiv 2404.06395 section 3, and what the converters of GGUF make of its keys.

use std::fmt;

use tern_runtime::model::Multipliers;

use super::CheckpointError;
use super::dtype::Dtype;
use super::rope::Rope;
use super::settings::Settings;

/// The file.
const FILE: &str = "config.json";

/// How the ternary weights are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Packed trits and their scale.
    Packed,
    /// Packed trits and one over their scale.
    PackedInverse,
    /// Floats that are quantised each time the model runs.
    Online,
    /// Floats that are used as they stand, and are -s, 0 or s.
    Ternary,
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Convention::Packed => "packed trits, weight = trit * weight_scale",
            Convention::PackedInverse => "packed trits, weight = trit / weight_scale",
            Convention::Online => "float masters, quantised by their absolute mean",
            Convention::Ternary => "floats that are ternary already",
        })
    }
}

/// The shape of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The class in `architectures`.
    pub class: String,
    /// What GGUF files call such a model.
    pub architecture: &'static str,
    /// Whether the converters of GGUF put the rows of queries and keys into another order.
    pub permuted: bool,
    /// Whether queries and keys are normalised head by head.
    pub head_norms: bool,
    /// Whether there are norms in front of the attention's output and the second half of a feed-forward block.
    pub sub_norms: bool,
    /// How the ternary weights are written down.
    pub convention: Convention,
    /// Type that the model computes in.
    pub dtype: Option<Dtype>,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Positions.
    pub context: u32,
    /// Values of a hidden state.
    pub hidden: u32,
    /// Values inside a feed-forward block.
    pub ffn: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// What it multiplies with, where its class does.
    pub multipliers: Option<Multipliers>,
    /// Added to the mean square before its root.
    pub rms_eps: f32,
    /// Whether the embedding serves as head; `None` where the file does not say and the class does not settle it.
    pub tied: Option<bool>,
}

impl Shape {
    /// Reads `config.json`, already parsed.
    pub(super) fn read(config: &Settings) -> Result<Self, CheckpointError> {
        let known =
            "BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM or MiniCPMForCausalLM";
        let class =
            config.value("architectures").and_then(|list| list.get(0)?.as_str()).unwrap_or("").to_owned();
        let act =
            config.text("hidden_act")?.unwrap_or(if class == "BitNetForCausalLM" { "relu2" } else { "silu" });
        let architecture = match (class.as_str(), act) {
            ("BitNetForCausalLM" | "BitnetForCausalLM", "relu2") => "bitnet-b1.58",
            ("BitNetForCausalLM" | "BitnetForCausalLM", "silu") => "bitnet",
            ("LlamaForCausalLM", "silu") => "llama",
            ("Qwen3ForCausalLM", "silu") => "qwen3",
            ("MiniCPMForCausalLM", "silu") => "minicpm",
            ("BitNetForCausalLM" | "BitnetForCausalLM", _) => {
                return Err(config.refused("hidden_act", "relu2 or silu"));
            }
            ("LlamaForCausalLM" | "Qwen3ForCausalLM" | "MiniCPMForCausalLM", _) => {
                return Err(config.refused("hidden_act", "silu"));
            }
            _ => return Err(config.refused("architectures", known)),
        };
        for (key, understood) in [
            ("attention_bias", "false: there are no biases in these graphs"),
            ("mlp_bias", "false: there are no biases in these graphs"),
            ("use_sliding_window", "false: every position is attended to"),
        ] {
            if config.flag(key, false)? {
                return Err(config.refused(key, understood));
            }
        }
        if config.value("sparse_config").is_some() {
            return Err(config.refused("sparse_config", "none: every position is attended to"));
        }
        if let Some(types) = config.value("layer_types") {
            let is_full = |ty: &serde_json::Value| ty.as_str() == Some("full_attention");
            if !types.as_array().is_some_and(|types| types.iter().all(is_full)) {
                return Err(config.refused("layer_types", "full_attention in every layer"));
            }
        }
        if config.positive("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(config.refused("partial_rotary_factor", "1: all values of a head turn"));
        }
        let (hidden, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
        let head_dim = match config.count("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(config.refused("num_attention_heads", "a number that divides hidden_size")),
        };
        // Lists of factors are as long as half of it, and no graph here has larger heads.
        if !head_dim.is_multiple_of(2) || head_dim > 1024 {
            return Err(config.refused("head_dim", "an even number up to 1024"));
        }
        let kv_heads = config.count("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.refused("num_key_value_heads", "a number that divides num_attention_heads"));
        }
        let dtype = match (config.text("dtype")?, config.text("torch_dtype")?) {
            (Some(name), _) | (None, Some(name)) if name != "auto" => match Dtype::of_torch(name) {
                Some(dtype) => Some(dtype),
                None => return Err(config.refused("dtype", "float32, float16 or bfloat16")),
            },
            _ => None,
        };
        let (context, layers) =
            (config.required("max_position_embeddings")?, config.required("num_hidden_layers")?);
        // What the classes take where the file says nothing.
        let theta = if class == "BitNetForCausalLM" { 500_000.0 } else { 10_000.0 };
        let is_minicpm = architecture == "minicpm";
        Ok(Shape {
            convention: convention(config, &class)?,
            rope: Rope::read(config, theta, head_dim, context)?,
            multipliers: is_minicpm.then(|| multipliers(config, hidden, layers)).transpose()?,
            architecture,
            permuted: matches!(architecture, "llama" | "minicpm"),
            head_norms: architecture == "qwen3",
            sub_norms: architecture.starts_with("bitnet"),
            class,
            dtype,
            vocab: config.required("vocab_size")?,
            context,
            hidden,
            ffn: config.required("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            rms_eps: config
                .positive("rms_norm_eps")?
                .ok_or_else(|| config.refused("rms_norm_eps", "a number above 0"))?,
            // Where the file says nothing, older programs that save one mean yes and newer ones no.
            tied: match config.value("tie_word_embeddings") {
                None if is_minicpm => None,
                _ => Some(config.flag("tie_word_embeddings", false)?),
            },
        })
    }
}

/// What MiniCPM multiplies with; all must be said, for versions of its code differ in what they take otherwise.
fn multipliers(config: &Settings, hidden: u32, layers: u32) -> Result<Multipliers, CheckpointError> {
    let number = |key| config.positive_f64(key)?.ok_or_else(|| config.refused(key, "a number above 0"));
    Ok(Multipliers {
        embedding: number("scale_emb")? as f32,
        residual: (number("scale_depth")? / f64::from(layers).sqrt()) as f32,
        logits: (f64::from(hidden) / number("dim_model_base")?) as f32,
    })
}

/// How the linear layers are stored.
fn convention(config: &Settings, class: &str) -> Result<Convention, CheckpointError> {
    let Some(quantization) = config.object("quantization_config")? else {
        match class {
            "BitnetForCausalLM" => {}
            "BitNetForCausalLM" => {
                let understood =
                    "quant_method bitnet: nothing says how the weights of this model become ternary";
                return Err(config.refused("quantization_config", understood));
            }
            _ => return Ok(Convention::Ternary),
        }
        for (key, bits) in [("weight_bits", 1), ("input_bits", 8)] {
            if config.count(key)? != Some(bits) {
                return Err(config.refused(key, "weight_bits 1 and input_bits 8, for ternary weights"));
            }
        }
        return Ok(Convention::Online);
    };
    let refused = |key, understood| Err(quantization.refused(key, understood));
    if quantization.text("quant_method")? != Some("bitnet") {
        return refused("quant_method", "bitnet");
    }
    if quantization.flag("use_rms_norm", false)? {
        return refused("use_rms_norm", "false: norms inside the linear layers are not in these graphs");
    }
    if let Some(value) = quantization.value("modules_to_not_convert") {
        let names: Option<Vec<&str>> =
            value.as_array().map(|list| list.iter().filter_map(serde_json::Value::as_str).collect());
        let is_head = |name: &&str| matches!(*name, "lm_head" | "lm_head.weight");
        let is_embedding = |name: &&str| matches!(*name, "model.embed_tokens" | "embed_tokens");
        let is_known = |names: &Vec<&str>| {
            names.iter().any(is_head) && names.iter().all(|name| is_head(name) || is_embedding(name))
        };
        if !names.as_ref().is_some_and(is_known) {
            return refused("modules_to_not_convert", "none, or lm_head: all layers ternary, the head not");
        }
    }
    let linear_class = quantization.text("linear_class")?.unwrap_or("bitlinear");
    let mode = quantization.text("quantization_mode")?.unwrap_or("offline");
    match (linear_class, mode) {
        ("autobitlinear", "offline") => Ok(Convention::Packed),
        ("autobitlinear", "online") => Ok(Convention::Online),
        ("bitlinear", "offline" | "online") => Ok(Convention::PackedInverse),
        ("autobitlinear" | "bitlinear", _) => refused("quantization_mode", "offline or online"),
        _ => refused("linear_class", "autobitlinear or bitlinear"),
    }
}

impl Shape {
    /// What messages call the file that this was read from.
    pub(super) const FILE: &str = FILE;
}
