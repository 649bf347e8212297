//! This machine with a model, as a sweep runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tern_boards::Root;
use tern_boards::energy::model::Traffic;
use tern_runtime::engine::{Engine, Generate, Goal, Piece, Request, Step};
use tern_runtime::sampler::Sampling;

use super::run::{Runner, SweepError};
use crate::calibration::bench::LOOK;
use crate::error::{CommandError, Exit};
use crate::model::streaming::Streaming;
use crate::model::{EngineChoice, ModelChoice, with_engine};
use crate::random::Random;

/// A request that is answered again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Tokens of its prompt, the first one included.
    pub prompt_tokens: usize,
    /// Tokens of its answer.
    pub answer_tokens: usize,
}

/// This machine.
#[derive(Debug)]
pub struct Live {
    root: Root,
    origin: Instant,
    choice: ModelChoice,
    amount: Amount,
    stop: Arc<AtomicBool>,
}

impl Live {
    /// The model of `choice`, answering requests of `amount`; ends when `stop` is raised.
    pub fn new(origin: Instant, choice: ModelChoice, amount: Amount, stop: Arc<AtomicBool>) -> Live {
        let needed = amount.prompt_tokens + amount.answer_tokens + 1;
        let mut engine = EngineChoice { slots: Some(1), ..choice.engine };
        engine.context_tokens = engine.context_tokens.or(Some(needed));
        let choice = ModelChoice { path: choice.path, engine };
        Live { root: Root::new("/"), origin, choice, amount, stop }
    }
}

impl Runner for Live {
    fn root(&self) -> &Root {
        &self.root
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn rest(&mut self, time: Duration, look: &mut dyn FnMut(Duration)) -> Result<(), SweepError> {
        let ends = self.now() + time;
        loop {
            let now = self.now();
            look(now);
            if self.stop.load(Ordering::Acquire) {
                return Err(SweepError::Interrupted);
            }
            if now >= ends {
                return Ok(());
            }
            std::thread::sleep(LOOK.min(ends - now));
        }
    }

    fn work(
        &mut self,
        threads: usize,
        time: Duration,
        traffic: &Traffic,
        look: &mut dyn FnMut(Duration),
    ) -> Result<u64, SweepError> {
        let engine = EngineChoice { threads: Some(threads), ..self.choice.engine.clone() };
        let choice = ModelChoice { path: self.choice.path.clone(), engine };
        let Live { origin, amount, stop, .. } = self;
        let worked = with_engine(&choice, |engine, _| {
            let streaming = Streaming::of(engine, Some(traffic.clone()));
            let mut answer = |look: &mut dyn FnMut(Duration)| {
                answer(engine, *amount, stop, &mut |step| {
                    streaming.count(step);
                    look(origin.elapsed());
                })
            };
            answer(&mut |_| ())?;
            let began = origin.elapsed();
            look(began);
            let mut tokens = 0;
            while origin.elapsed() < began + time {
                tokens += answer(look)?;
            }
            look(origin.elapsed());
            Ok(tokens)
        });
        worked.map_err(|error| SweepError::Model(error.into()))?
    }
}

/// Answers one request, calling `stepped` after each step; returns its tokens.
fn answer(
    engine: &mut Engine<'_>,
    amount: Amount,
    stop: &AtomicBool,
    stepped: &mut dyn FnMut(&Step),
) -> Result<u64, SweepError> {
    let vocab = engine.model().config.vocab as u32;
    let first = engine.tokenizer().bos().unwrap_or(0);
    let mut random = Random::new(1);
    let mut prompt: Vec<Piece<'_>> = vec![Piece::Token(first)];
    prompt.resize_with(amount.prompt_tokens, || Piece::Token(random.below(vocab)));
    let goal = Goal::Generate(Generate {
        sampling: Sampling::default(),
        max_tokens: Some(amount.answer_tokens),
        ignore_stop_tokens: true,
        // What it measures is a token a row.
        speculate: false,
        ..Generate::default()
    });
    // The same prompt every time, and it is to be computed.
    engine.keep_prefixes(false);
    engine
        .submit(&Request { key: 0, prompt: &prompt, goal })
        .map_err(|refusal| SweepError::Model(CommandError::from_error(Exit::BadInput, &refusal)))?;
    while engine.live() > 0 {
        let step = engine.step(|_, _| ());
        stepped(&step);
        if stop.load(Ordering::Acquire) {
            return Err(SweepError::Interrupted);
        }
    }
    Ok((amount.prompt_tokens + amount.answer_tokens) as u64)
}

#[cfg(test)]
mod tests {
    use super::super::Setting;
    use super::super::run::sweep;
    use super::*;
    use crate::clocks::Clocks;
    use tern_boards::energy::fake::FakeMeter;

    #[test]
    fn a_model_is_swept_on_this_machine_and_ends_when_it_is_told() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
        let engine = EngineChoice { kernels: Some("scalar-t2i8".into()), ..EngineChoice::default() };
        let choice = ModelChoice { path: Some(path.into()), engine };
        let amount = Amount { prompt_tokens: 5, answer_tokens: 3 };
        let stop = Arc::new(AtomicBool::new(false));
        let mut live = Live::new(Instant::now(), choice, amount, Arc::clone(&stop));
        let nowhere = tempfile::tempdir().expect("a temporary folder");
        let run = |live: &mut Live| {
            let settings = [1, 2].map(|threads| Setting { threads, mhz: None });
            let clocks = Clocks::detect(&Root::new(nowhere.path()));
            let mut meter = FakeMeter::steady(2_000_000);
            sweep(live, clocks, &mut meter, &settings, 2, Duration::from_millis(20), &mut || ())
        };
        let swept = run(&mut live).expect("a sweep");
        assert!((swept.idle_w - 2.0).abs() < 0.01, "{}", swept.idle_w);
        for measured in &swept.all {
            assert_eq!(measured.rounds.len(), 2);
            assert!((measured.watts() - 2.0).abs() < 0.01, "{measured:?}");
            let whole = |tokens: u64| tokens > 0 && tokens.is_multiple_of(8);
            assert!(measured.rounds.iter().all(|round| whole(round.tokens) && round.seconds >= 0.02));
        }
        stop.store(true, Ordering::Release);
        assert!(matches!(run(&mut live), Err(SweepError::Interrupted)));
    }
}
