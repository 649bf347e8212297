//! What steps of an engine read from memory, told to a meter that goes by it.

use tern_boards::energy::model::Traffic;
use tern_boards::{Cpu, Root};
use tern_runtime::engine::{Engine, Step};

use crate::bandwidth::last_level_cache_bytes;

/// Counts the bytes that steps stream: every weight of the layers once, however many rows a step has, and the head where a
/// token was chosen by it.
///
/// Nothing where all of them stay in this machine's caches. What attention reads of earlier tokens is not counted.
#[derive(Clone, Debug)]
pub struct Streaming {
    traffic: Option<Traffic>,
    layers_bytes: u64,
    head_bytes: u64,
}

impl Streaming {
    /// For steps of `engine`, counted in `traffic` if there is one.
    pub fn of(engine: &Engine<'_>, traffic: Option<Traffic>) -> Streaming {
        let model = engine.model();
        let (all_bytes, head_bytes) = (model.bytes_per_token() as u64, model.head.streamed_bytes() as u64);
        let cache_bytes = last_level_cache_bytes(&Cpu::detect(&Root::new("/")));
        Streaming::from_memory(traffic, all_bytes, head_bytes, cache_bytes)
    }

    fn from_memory(
        traffic: Option<Traffic>,
        all_bytes: u64,
        head_bytes: u64,
        cache_bytes: Option<u64>,
    ) -> Streaming {
        let traffic = traffic.filter(|_| cache_bytes.is_none_or(|cache| all_bytes > cache));
        Streaming { traffic, layers_bytes: all_bytes.saturating_sub(head_bytes), head_bytes }
    }

    /// Counts what `step` has streamed.
    pub fn count(&self, step: &Step) {
        let Some(traffic) = &self.traffic else { return };
        if step.rows() > 0 {
            traffic.add(self.layers_bytes);
        }
        if step.shares.iter().any(|share| share.head_rows > 0) {
            traffic.add(self.head_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EngineChoice, ModelChoice, with_engine};
    use tern_runtime::engine::{Generate, Goal, Piece, Request};

    #[test]
    fn layers_are_streamed_by_every_step_and_the_head_by_those_that_choose() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
        let engine = EngineChoice {
            kernels: Some("scalar-t2i8".into()),
            batch_rows: Some(4),
            slots: Some(1),
            ..EngineChoice::default()
        };
        let choice = ModelChoice { path: Some(path.into()), engine };
        with_engine(&choice, |engine, _| {
            engine.keep_prefixes(false);
            let streamed = |cache_bytes: Option<u64>, engine: &mut Engine<'_>| {
                let traffic = Traffic::default();
                let counts = Streaming::from_memory(Some(traffic.clone()), 1_000_300, 300, cache_bytes);
                let goal = Goal::Generate(Generate {
                    max_tokens: Some(2),
                    ignore_stop_tokens: true,
                    ..Generate::default()
                });
                let prompt: Vec<Piece<'_>> = (0..10).map(Piece::Token).collect();
                engine.submit(&Request { key: 0, prompt: &prompt, goal }).expect("there is room");
                while engine.live() > 0 {
                    let step = engine.step(|_, _| ());
                    counts.count(&step);
                }
                traffic.total()
            };
            // Ten tokens in rows of four, the third step chooses the first token, one more the second.
            assert_eq!(streamed(None, engine), 4 * 1_000_000 + 2 * 300);
            assert_eq!(streamed(Some(1_000_299), engine), 4 * 1_000_000 + 2 * 300);
            assert_eq!(streamed(Some(1_000_300), engine), 0, "all of it stays in a cache");
        })
        .expect("the fixture opens");
    }
}
