//! How config.json scales rotary angles, and the keys and tensors that say the same in a GGUF.
//!
//! It says so in `rope_parameters`, or in `rope_scaling` beside `rope_theta` as older files do. `n` stands for
//! `original_max_position_embeddings`, else `max_position_embeddings`.
//!
//! | `rope_type` | in the packed file |
//! |---|---|
//! | none, `default` | nothing |
//! | `linear` | `rope.scaling.type` and `factor` |
//! | `yarn` | the same, n, `yarn_beta_fast` and `_slow`; `attn_factor` where sines grow by something else than usual |
//! | `llama3` | `rope_freqs.weight`: 1 for wavelengths below n / `high_freq_factor`, `factor` above n / `low_freq_factor`, between them what lies between |
//! | `longrope` | `rope_factors_short.weight` and `_long`, n, `attn_factor` where sines grow |
//!
//! Source: `modeling_rope_utils` of transformers 5.23. It computes in f32 and divides as it goes; factors here are computed
//! in f64 and rounded once, so a frequency may be another by a few units in the last place.

use tern_runtime::gguf::Header;

use super::CheckpointError;
use super::settings::Settings;

/// How the angles of a model are scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// What divides them.
    pub scaling: Scaling,
}

/// What divides frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Nothing.
    None,
    /// One factor.
    Linear {
        /// Divides every frequency.
        factor: f32,
    },
    /// YaRN.
    Yarn {
        /// Divides the slowest frequencies.
        factor: f32,
        /// Positions of the training before.
        original: u32,
        /// Turns from which a frequency stays, and up to which it is divided by the whole factor.
        betas: [f32; 2],
        /// What sines and cosines are multiplied with beside what the factor alone says.
        growth: f32,
    },
    /// A factor for each pair.
    Each(Vec<f32>),
    /// A factor for each pair, others for texts beyond the original context.
    Long {
        /// Up to that.
        short: Vec<f32>,
        /// Beyond.
        long: Vec<f32>,
        /// The original context.
        original: u32,
        /// What sines and cosines are multiplied with.
        growth: f32,
    },
}

const UNDERSTOOD: &str = "default, linear, yarn, llama3 or longrope";

/// What sines and cosines grow by under YaRN: arXiv 2309.00071, equation 22.
fn growth(factor: f64, multiplier: f64) -> f64 {
    if factor > 1.0 { 0.1 * multiplier * factor.ln() + 1.0 } else { 1.0 }
}

impl Rope {
    /// Reads how `config` scales angles of heads of `head_dim` values in a model for `context` positions; `theta` is the base
    /// where it says none.
    pub(super) fn read(
        config: &Settings,
        theta: f32,
        head_dim: u32,
        context: u32,
    ) -> Result<Self, CheckpointError> {
        let (old, new) = (config.object("rope_scaling")?, config.object("rope_parameters")?);
        if old.is_some() && new.is_some() && config.value("rope_scaling") != config.value("rope_parameters") {
            return Err(
                config.refused("rope_scaling", "the same as in rope_parameters, or one of the two only")
            );
        }
        let Some(object) = new.or(old) else {
            let theta = config.positive("rope_theta")?.unwrap_or(theta);
            return Ok(Rope { theta, scaling: Scaling::None });
        };
        if object.has_objects() {
            let key =
                if config.value("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
            return Err(config.refused(key, "angles that are the same in all layers"));
        }
        if object.positive("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(object.refused("partial_rotary_factor", "1: all values of a head turn"));
        }
        let theta = object.positive("rope_theta")?.or(config.positive("rope_theta")?).unwrap_or(theta);
        let kind = match object.text("rope_type")? {
            Some(kind) => Some(("rope_type", kind)),
            None => object.text("type")?.map(|kind| ("type", kind)),
        };
        let original = || {
            let beside = config.count("original_max_position_embeddings")?;
            Ok(beside.or(object.count("original_max_position_embeddings")?).unwrap_or(context))
        };
        let factor = |key| object.positive_f64(key)?.ok_or_else(|| object.refused(key, "a number above 0"));
        let scaling = match kind {
            None | Some((_, "default")) => Scaling::None,
            Some((_, "linear")) => Scaling::Linear { factor: factor("factor")? as f32 },
            Some((_, "yarn")) => yarn(&object, original()?, context)?,
            Some((_, "llama3")) => {
                let bounds = [factor("low_freq_factor")?, factor("high_freq_factor")?];
                if bounds[0] >= bounds[1] {
                    return Err(object.refused("high_freq_factor", "a number above low_freq_factor"));
                }
                Scaling::Each(llama3(theta, head_dim, factor("factor")?, bounds, original()?))
            }
            Some((_, "longrope")) => longrope(&object, original()?, context, head_dim as usize / 2)?,
            Some((key, _)) => return Err(object.refused(key, UNDERSTOOD)),
        };
        Ok(Rope { theta, scaling })
    }

    /// Adds the keys of a model of the architecture `arch`.
    pub(super) fn write(&self, header: &mut Header, arch: &str) {
        header.f32(&format!("{arch}.rope.freq_base"), self.theta);
        let key = |name: &str| format!("{arch}.rope.scaling.{name}");
        let grows = |header: &mut Header, growth: f32| {
            if growth != 1.0 {
                header.f32(&key("attn_factor"), growth);
            }
        };
        match &self.scaling {
            Scaling::None | Scaling::Each(_) => {}
            Scaling::Linear { factor } => {
                header.str(&key("type"), "linear").f32(&key("factor"), *factor);
            }
            Scaling::Yarn { factor, original, betas: [fast, slow], growth } => {
                header
                    .str(&key("type"), "yarn")
                    .f32(&key("factor"), *factor)
                    .u32(&key("original_context_length"), *original)
                    .f32(&key("yarn_beta_fast"), *fast)
                    .f32(&key("yarn_beta_slow"), *slow);
                grows(header, *growth);
            }
            Scaling::Long { original, growth, .. } => {
                header.str(&key("type"), "longrope").u32(&key("original_context_length"), *original);
                grows(header, *growth);
            }
        }
    }

    /// Names and values of the tensors that go with it.
    pub(super) fn tensors(&self) -> Vec<(&'static str, &[f32])> {
        match &self.scaling {
            Scaling::Each(factors) => vec![("rope_freqs.weight", factors)],
            Scaling::Long { short, long, .. } => {
                vec![("rope_factors_long.weight", long), ("rope_factors_short.weight", short)]
            }
            Scaling::None | Scaling::Linear { .. } | Scaling::Yarn { .. } => Vec::new(),
        }
    }
}

fn yarn(object: &Settings, original: u32, context: u32) -> Result<Scaling, CheckpointError> {
    if !object.flag("truncate", true)? {
        return Err(object.refused("truncate", "true: bounds between pairs are rounded"));
    }
    let factor = object.positive_f64("factor")?.unwrap_or(f64::from(context) / f64::from(original));
    let usual = growth(factor, 1.0);
    let multipliers = (object.positive_f64("mscale")?, object.positive_f64("mscale_all_dim")?);
    let wanted = match (object.positive_f64("attention_factor")?, multipliers) {
        (Some(wanted), _) => wanted,
        (None, (Some(above), Some(below))) => growth(factor, above) / growth(factor, below),
        (None, _) => usual,
    };
    let betas = [object.positive("beta_fast")?.unwrap_or(32.0), object.positive("beta_slow")?.unwrap_or(1.0)];
    // Readers of GGUF multiply with what the factor says by themselves.
    Ok(Scaling::Yarn { factor: factor as f32, original, betas, growth: (wanted / usual) as f32 })
}

/// What divides the frequency of each pair of a head.
fn llama3(theta: f32, head_dim: u32, factor: f64, [low, high]: [f64; 2], original: u32) -> Vec<f32> {
    let original = f64::from(original);
    let of_pair = |pair: u32| {
        let frequency = f64::from(theta).powf(-f64::from(2 * pair) / f64::from(head_dim));
        let turns = original * frequency / std::f64::consts::TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - kept) / factor + kept)) as f32
    };
    (0..head_dim / 2).map(of_pair).collect()
}

fn longrope(
    object: &Settings,
    original: u32,
    context: u32,
    pairs: usize,
) -> Result<Scaling, CheckpointError> {
    const LIST: &str = "a list of numbers above 0, one for each pair of values of a head";
    let short = object.positives("short_factor", pairs, LIST)?;
    let long = object.positives("long_factor", pairs, LIST)?;
    let factor = object.positive_f64("factor")?.unwrap_or(f64::from(context) / f64::from(original));
    let growth = match object.positive_f64("attention_factor")? {
        Some(growth) => growth,
        None if factor > 1.0 && original > 1 => (1.0 + factor.ln() / f64::from(original).ln()).sqrt(),
        None => 1.0,
    };
    Ok(Scaling::Long { short, long, original, growth: growth as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tern_runtime::gguf::Gguf;
    use tern_runtime::model::config;

    fn read(said: Value) -> Result<Rope, CheckpointError> {
        Rope::read(&Settings::of("config.json", said), 10_000.0, 16, 1024)
    }

    #[test]
    fn a_base_is_read_from_wherever_it_stands() {
        let plain = |theta| Rope { theta, scaling: Scaling::None };
        for (said, theta) in [
            (json!({}), 10_000.0),
            (json!({"rope_theta": 5e5}), 5e5),
            (json!({"rope_theta": 5e5, "rope_scaling": null}), 5e5),
            (json!({"rope_parameters": {"rope_theta": 2e5, "rope_type": "default"}}), 2e5),
            (json!({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}), 5e5),
        ] {
            assert_eq!(read(said.clone()).expect("plain"), plain(theta), "{said}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_name_with_what_was_found() {
        let scaled = |kind| json!({"rope_scaling": {"rope_type": kind, "factor": 4.0}});
        for (said, expected) in [
            (scaled("dynamic"), "rope_type = \"dynamic\""),
            (scaled("proportional"), "rope_type = \"proportional\""),
            (json!({"rope_scaling": {"type": "su"}}), "type = \"su\""),
            (json!({"rope_scaling": {"type": "linear"}}), "factor = nothing"),
            (json!({"rope_scaling": {"type": "linear", "factor": -1}}), "factor = -1"),
            (json!({"rope_scaling": "yarn"}), "rope_scaling = \"yarn\""),
            (json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}), "all layers"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor = 0.5"),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1e4}}),
                "one of the two",
            ),
            (json!({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": false}}), "truncate = false"),
            (
                json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
                "short_factor = [1.0]",
            ),
            (
                json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}}),
                "high_freq_factor = 1",
            ),
        ] {
            let message = read(said.clone()).expect_err("refused").to_string();
            assert!(message.contains(expected), "{said}: {message}");
        }
    }

    const LINEAR: [f32; 8] =
        [0.25, 0.079_056_94, 0.025, 0.007_905_695, 0.0025, 7.905_694_7e-4, 2.5e-4, 7.905_695e-5];
    const LLAMA3: [f32; 8] =
        [1.0, 0.316_227_76, 0.1, 0.006_613_107, 0.00125, 3.952_847_3e-4, 1.25e-4, 3.952_847_3e-5];
    const YARN: [f32; 8] =
        [1.0, 0.256_935_06, 0.0625, 0.013_834_965, 0.0025, 7.905_694_7e-4, 2.5e-4, 7.905_695e-5];
    const LONGROPE: [f32; 8] =
        [1.0, 0.281_091_36, 0.08, 0.022_998_383, 0.006_666_667, 0.001_946_017, 5.714_285_6e-4, 1.686_548e-4];

    /// `inv_freq` and `attention_factor` of transformers 5.23 for heads of 16 values and 1024 positions, as printed by
    /// `ROPE_INIT_FUNCTIONS[kind](LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=1024, ...))`.
    #[test]
    fn angles_are_those_of_transformers() {
        let pairs: Vec<f64> = (0..8).map(|pair| 1.0 + f64::from(pair) / 8.0).collect();
        let of = |said: Value| json!({"rope_theta": 1e4, "rope_scaling": said});
        for (said, frequencies, magnitude) in [
            (of(json!({"rope_type": "linear", "factor": 4.0})), LINEAR, 1.0),
            (
                of(
                    json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 256}),
                ),
                LLAMA3,
                1.0,
            ),
            (
                of(json!({"rope_type": "yarn", "original_max_position_embeddings": 256, "beta_fast": 16})),
                YARN,
                1.138_629_4,
            ),
            (
                of(json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
                    "beta_fast": 16, "mscale": 0.707, "mscale_all_dim": 1.0})),
                YARN,
                0.964_326_9,
            ),
            (
                of(json!({"rope_type": "longrope", "short_factor": pairs, "long_factor": pairs,
                    "original_max_position_embeddings": 256})),
                LONGROPE,
                1.118_034,
            ),
        ] {
            let rope = read(said.clone()).expect("a kind that is done");
            let (found, grows) = as_loaded(&rope);
            let differs = |(a, b): (&f32, &f32)| (a / b - 1.0).abs() > 5e-7;
            assert!(!found.iter().zip(&frequencies).any(differs), "{said}: {found:?}");
            assert!((grows - magnitude).abs() < 3e-7, "{said}: {grows}");
        }
    }

    /// The frequencies and the growth that the runtime makes of a file with the keys and tensors of `rope`.
    fn as_loaded(rope: &Rope) -> ([f32; 8], f32) {
        let mut header = Header::aligned(64);
        header.str("general.architecture", "llama");
        for (suffix, value) in [
            ("context_length", 1024),
            ("embedding_length", 128),
            ("feed_forward_length", 128),
            ("block_count", 1),
            ("attention.head_count", 8),
        ] {
            header.u32(&format!("llama.{suffix}"), value);
        }
        header.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        header.strings("tokenizer.ggml.tokens", &["a"]);
        rope.write(&mut header, "llama");
        let bytes = super::super::keys::with_tensors(header, rope).expect("memory");
        let gguf = Gguf::parse(&bytes).expect("what was written");
        let config = config::Config::read(&gguf).expect("a good shape");
        let factors: Option<Vec<f32>> = ["rope_factors_short.weight", "rope_freqs.weight"]
            .into_iter()
            .find_map(|name| gguf.tensor(name))
            .map(|info| {
                let data = info.data().expect("it is there");
                data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            });
        let mut found = [0.0; 8];
        config.rope.frequencies(factors.as_deref(), &mut found);
        (found, config.rope.magnitude)
    }
}
