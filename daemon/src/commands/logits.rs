//! `tern logits`: the raw output of a model for given tokens, to be compared with another implementation's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use tern_runtime::engine::{Engine, Event, Goal, Piece, Request};
use tern_runtime::gguf::I2sBlocks;
use tern_runtime::kv_cache::KvType;

use crate::error::{CommandError, Exit};
use crate::model::{EngineChoice, ModelChoice, with_engine};
use crate::npy;
use crate::progress::Progress;
use crate::replace::{Replacement, cannot_write};

/// Writes the logits of a model at every position of a token sequence
///
/// Reads n token ids from a .npy file (int32 or int64, of shape (n,) or (1, n)) and writes float32 logits, one row of the
/// vocabulary for each.
/// No begin-of-text token is added. Keys and values are kept in f32 unless --kv says otherwise, as reference
/// implementations do.
#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Model file (GGUF)
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Token ids (.npy)
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// Where to write the logits (.npy)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens of one step at most, 2 or more; the logits do not depend on it
    #[arg(long, value_name = "TOKENS")]
    chunk: Option<usize>,
    /// How keys and values are stored: f16, f32 or i8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = crate::model::parse_kv)]
    kv: KvType,
    /// Weights in a block of I2_S, which its file does not tell: 128 or 64
    #[arg(long, value_name = "N", value_parser = crate::model::reading::parse_i2s_blocks)]
    i2s_blocks: Option<I2sBlocks>,
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
    let ids = read_ids(&args.ids)?;
    let choice = ModelChoice {
        path: Some(args.model.clone()),
        engine: EngineChoice {
            threads: args.threads,
            kernels: args.kernels.clone(),
            context_tokens: Some(ids.len().max(2)),
            cache_tokens: None,
            slots: Some(1),
            batch_rows: args.chunk,
            draft_tokens: Some(0),
            no_pack: false,
            head: None,
            kv: Some(args.kv),
            i2s_blocks: args.i2s_blocks,
        },
    };
    with_engine(&choice, |engine, _| write_logits(engine, &ids, &args.out))?
}

fn read_ids(path: &Path) -> Result<Vec<u32>, CommandError> {
    let bytes = fs::read(path).map_err(|error| {
        CommandError::new(Exit::NoInput, format!("cannot read '{}': {error}", path.display()))
    })?;
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
