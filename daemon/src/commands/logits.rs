//! `tern logits`: the raw output of a model for given tokens, to be compared with another implementation's.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use tern_runtime::activations::Activations;
use tern_runtime::engine::{Engine, Event, Goal, Piece, Request};
use tern_runtime::gguf::I2sBlocks;
use tern_runtime::kv_cache::KvType;
use tern_runtime::tokenizer::{Special, Tokenizer};

use crate::error::{CommandError, Exit};
use crate::evaluation::divergence::Divergence;
use crate::model::{EngineChoice, ModelChoice, with_engine};
use crate::npy;
use crate::output;
use crate::progress::Progress;
use crate::replace::{Replacement, cannot_write};

/// Writes the logits of a model at every position of a token sequence
///
/// Reads n token ids from a .npy file (int32 or int64, of shape (n,) or (1, n)) and writes float32 logits, one row of the
/// vocabulary for each.
/// No begin-of-text token is added. Keys and values are kept in f32 unless --kv says otherwise, as reference
/// implementations do. With --against nothing is written: it says how far two types of keys and values are apart.
#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Model file (GGUF)
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Token ids (.npy)
    #[arg(long, value_name = "FILE", required_unless_present = "text")]
    ids: Option<PathBuf>,
    /// A text to take the tokens of instead, in pieces as long as the context, each behind a begin-of-text token
    #[arg(long, value_name = "FILE", conflicts_with = "ids", requires = "against")]
    text: Option<PathBuf>,
    /// Where to write the logits (.npy)
    #[arg(long, value_name = "FILE", required_unless_present = "against")]
    out: Option<PathBuf>,
    /// Print instead how far they are from those with keys and values of this type: f16, f32 or i8
    #[arg(long, value_name = "TYPE", conflicts_with = "out", value_parser = crate::model::parse_kv)]
    against: Option<KvType>,
    /// Tokens of one step at most, 2 or more; the logits do not depend on it
    #[arg(long, value_name = "TOKENS")]
    chunk: Option<usize>,
    /// How keys and values are stored: f16, f32 or i8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = crate::model::parse_kv)]
    kv: KvType,
    /// Weights in a block of I2_S, which its file does not tell: 128 or 64
    #[arg(long, value_name = "N", value_parser = crate::model::reading::parse_i2s_blocks)]
    i2s_blocks: Option<I2sBlocks>,
    /// Input of ternary products: int8 or float; without it what suits the model
    #[arg(long, value_name = "KIND", value_parser = crate::model::parse_activations)]
    activations: Option<Activations>,
    /// Worker threads; without it what suits the board
    #[arg(long, value_name = "N", value_parser = crate::model::parse_threads)]
    threads: Option<usize>,
    /// Kernel set by name; without it the fastest
    #[arg(long, value_name = "NAME")]
    kernels: Option<String>,
}

/// Writes the logits.
///
/// # Errors
/// If the ids or the model are unusable, or the output cannot be written.
pub fn run(args: &LogitsArgs) -> Result<(), CommandError> {
    let ids = args.ids.as_deref().map(read_ids).transpose()?;
    let choice = ModelChoice {
        path: Some(args.model.clone()),
        engine: EngineChoice {
            threads: args.threads,
            kernels: args.kernels.clone(),
            context_tokens: ids.as_ref().map(|ids| ids.len().max(2)),
            cache_tokens: None,
            slots: Some(1),
            batch_rows: args.chunk,
            draft_tokens: Some(0),
            no_pack: false,
            head: None,
            kv: Some(args.kv),
            i2s_blocks: args.i2s_blocks,
            activations: args.activations,
        },
    };
    if let Some(against) = args.against {
        return print_divergence(args, choice, against, ids);
    }
    match (ids, &args.out) {
        (Some(ids), Some(out)) => with_engine(&choice, |engine, _| write_logits(engine, &ids, out))?,
        _ => Err(CommandError::new(Exit::BadInput, "nothing to write; give --ids and --out")),
    }
}

/// Prints how far the logits are from those with another cache.
fn print_divergence(
    args: &LogitsArgs,
    choice: ModelChoice,
    against: KvType,
    ids: Option<Vec<u32>>,
) -> Result<(), CommandError> {
    let mut reference = choice.clone();
    reference.engine.kv = Some(against);
    let figures = with_engine(&reference, |reference, _| {
        with_engine(&choice, |engine, _| {
            let texts = match (&ids, &args.text) {
                (Some(ids), _) => vec![ids.clone()],
                (None, Some(path)) => pieces(engine, &String::from_utf8_lossy(&read(path)?)),
                (None, None) => Vec::new(),
            };
            let progress = Progress::items("tokens", texts.iter().map(|text| text.len() as u64).sum());
            let mut sum = Divergence::default();
            for text in &texts {
                compare(reference, engine, text, &mut sum)?;
                progress.add(text.len() as u64);
            }
            Ok::<_, CommandError>(sum.figures())
        })
    })???;
    output::print(&format!(
        "keys and values in {} against {}, {} positions\n  same best token  {:.4}\n  KL divergence    mean {:.3e}, \
         most {:.3e} nats\n  perplexity       {:.4} against {:.4}\n",
        args.kv.name(),
        against.name(),
        figures.positions,
        figures.top_1,
        figures.mean_kl,
        figures.most_kl,
        figures.perplexity,
        figures.reference_perplexity,
    ))
}

/// The tokens of a text, in pieces that fit the context.
fn pieces(engine: &Engine<'_>, text: &str) -> Vec<Vec<u32>> {
    let tokenizer = engine.tokenizer();
    let (mut scratch, mut ids) = (vec![0; Tokenizer::scratch_words(text.len())], vec![0; text.len() + 1]);
    // There is a place for every byte, and no token without one.
    let count = tokenizer.encode(text, Special::Plain, &mut scratch, &mut ids).unwrap_or(0);
    let most = engine.options().context_tokens - 1;
    ids[..count]
        .chunks(most)
        .map(|ids| tokenizer.bos().into_iter().chain(ids.iter().copied()).collect())
        .collect()
}

/// Runs the same tokens through two engines side by side.
fn compare(
    reference: &mut Engine<'_>,
    other: &mut Engine<'_>,
    ids: &[u32],
    sum: &mut Divergence,
) -> Result<(), CommandError> {
    let prompt: Vec<Piece<'_>> = ids.iter().map(|id| Piece::Token(*id)).collect();
    let request = Request { key: 0, prompt: &prompt, goal: Goal::Logits };
    let refused = |refusal| CommandError::from_error(Exit::BadInput, &refusal);
    reference.submit(&request).map_err(refused)?;
    other.submit(&request).map_err(refused)?;
    let mut rows = VecDeque::new();
    while reference.live() > 0 || other.live() > 0 {
        reference.step(|_, event| {
            if let Event::Logits { logits, .. } = event {
                rows.push_back(logits.to_vec());
            }
        });
        // Both are made for the same, so they step alike.
        other.step(|_, event| {
            if let (Event::Logits { position, logits }, Some(row)) = (event, rows.pop_front()) {
                sum.add(&row, logits, ids.get(position + 1).copied());
            }
        });
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    fs::read(path).map_err(|error| {
        CommandError::new(Exit::NoInput, format!("cannot read '{}': {error}", path.display()))
    })
}

fn read_ids(path: &Path) -> Result<Vec<u32>, CommandError> {
    let bytes = read(path)?;
    let ids = npy::read_ids(&bytes).map_err(|error| {
        CommandError::new(Exit::BadInput, format!("'{}' is unusable: {error}", path.display()))
    })?;
    match ids.is_empty() {
        true => {
            let message = format!("'{}' holds no token ids; give at least one", path.display());
            Err(CommandError::new(Exit::BadInput, message))
        }
        false => Ok(ids),
    }
}

fn write_logits(engine: &mut Engine<'_>, ids: &[u32], path: &Path) -> Result<(), CommandError> {
    let prompt: Vec<Piece<'_>> = ids.iter().map(|id| Piece::Token(*id)).collect();
    let request = Request { key: 0, prompt: &prompt, goal: Goal::Logits };
    engine.submit(&request).map_err(|refusal| CommandError::from_error(Exit::BadInput, &refusal))?;
    let mut out = Replacement::create(path)?;
    let mut written = npy::write_f32_header(&mut out, ids.len(), engine.model().config.vocab);
    let progress = Progress::items("tokens", ids.len() as u64);
    while written.is_ok() && engine.live() > 0 {
        let mut rows = Ok(());
        let step = engine.step(|_, event| {
            if let (Event::Logits { logits, .. }, Ok(())) = (event, &rows) {
                rows = npy::write_f32s(&mut out, logits);
            }
        });
        progress.add(step.rows() as u64);
        written =
            rows.and(if step.rows() > 0 { Ok(()) } else { Err(io::Error::other("the engine stands still")) });
    }
    written.map_err(|error| cannot_write(path, &error))?;
    out.keep()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::divergence::Figures;

    /// How far the bundled model's logits are with these keys and values from those with f32, over some log lines.
    fn loss(kv: KvType) -> Figures {
        let of = |kv| {
            let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/");
            let engine = EngineChoice { slots: Some(1), kv: Some(kv), ..EngineChoice::default() };
            (ModelChoice { path: Some(format!("{models}tern-log-i2_s.gguf").into()), engine }, models)
        };
        let (reference, models) = of(KvType::F32);
        let text = fs::read_to_string(format!("{models}eval/summary.jsonl")).expect("a set");
        let text: String = text.chars().take(14_000).collect();
        let figures = with_engine(&reference, |reference, _| {
            with_engine(&of(kv).0, |engine, _| {
                let mut sum = Divergence::default();
                for ids in pieces(engine, &text) {
                    compare(reference, engine, &ids, &mut sum).expect("they fit");
                }
                sum.figures()
            })
        });
        figures.expect("the bundled model").expect("the bundled model")
    }

    #[test]
    fn narrow_keys_and_values_lose_as_little_as_docs_say() {
        let (half, int8) = (loss(KvType::F16), loss(KvType::I8));
        println!("{half:?}\n{int8:?}");
        assert!(half.positions > 4000 && half.positions == int8.positions, "{half:?}");
        // Half the bits move some activation over a step of its own quantisation: that is most of both.
        assert!(half.mean_kl < 5e-4 && half.top_1 > 0.975, "{half:?}");
        assert!(int8.mean_kl < 8e-4 && int8.top_1 > 0.97, "{int8:?}");
        assert!(half.mean_kl < int8.mean_kl, "{half:?} {int8:?}");
        assert!((int8.perplexity / int8.reference_perplexity - 1.0).abs() < 0.01, "{int8:?}");
    }
}
