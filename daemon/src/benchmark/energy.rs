//! Joules by token, measured as MLPerf's power rule asks: speed and energy of the same run, at rest before and after.
//!
//! ```text
//! rest | warm-up | window 1 | window 2 | ... | rest      each window at least so many seconds of the same work
//! ```
//!
//! A window repeats the prompt, or the generation, until its time is over, and the meter is read at both ends. Of the
//! windows the median is told, and a 95 % interval: the meter's own uncertainty, which no repeating makes smaller, and the
//! spread of the windows (Student's t), as the root of the sum of their squares. Power at rest is told apart, and what is
//! left of a token's joules without it.

use std::time::{Duration, Instant};

use serde::Serialize;
use tern_boards::energy::{Completed, Ledger, Method, Phase, Scope, Share};
use tern_runtime::engine::{Engine, Piece, Refusal};

use crate::model::streaming::Streaming;

use super::{Amount, Samples, prompt, run};

/// How often the meter is read.
const TICK: Duration = Duration::from_millis(250);

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windows {
    /// The least time of a window.
    pub window: Duration,
    /// Windows of each part.
    pub repeats: usize,
    /// Time at rest, before and after.
    pub rest: Duration,
}

/// A median and what surrounds it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The middle value.
    pub median: f64,
    /// Ends of the 95 % interval.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// One a window.
    pub values: Vec<f64>,
}

/// Joules of one part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartJoules {
    /// Tokens of all windows.
    pub tokens: u64,
    /// Seconds of all windows.
    pub seconds: f64,
    /// Tokens a second of the same windows.
    pub tokens_per_second: Samples,
    /// Joules by token, power at rest included; `None` where a window was below the meter's resolution or a reading
    /// failed.
    pub joules_per_token: Option<Interval>,
    /// The median without power at rest.
    pub net_joules_per_token: Option<f64>,
    /// Mean power of the windows.
    pub watts: Option<f64>,
    /// Readings of the sensor.
    pub readings: u64,
}

/// What a benchmark of energy found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Joules {
    /// How they were obtained.
    pub method: Method,
    /// By what.
    pub source: String,
    /// What they cover.
    pub scope: Scope,
    /// Half-width of the meter's own 95 % interval, as a fraction.
    pub relative_uncertainty: f64,
    /// The least seconds of a window.
    pub window_s: f64,
    /// Watts at rest before the windows.
    pub idle_before_w: Option<f64>,
    /// And after them.
    pub idle_after_w: Option<f64>,
    /// Reading a prompt.
    pub prefill: Option<PartJoules>,
    /// Generating.
    pub decode: Option<PartJoules>,
}

/// One window.
struct Window {
    seconds: f64,
    tokens: u64,
    joules: Option<f64>,
    readings: u64,
}

/// Student's t for a two-sided 95 % interval, by degrees of freedom from 1.
const T_95: [f64; 15] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
];

/// The median of `values` and its interval, with a meter of this uncertainty; `None` for no values. A single value has the
/// meter's interval alone.
pub fn interval(values: Vec<f64>, relative_uncertainty: f64) -> Option<Interval> {
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let median = if sorted.len() % 2 == 1 { upper } else { (upper + sorted[sorted.len() / 2 - 1]) / 2.0 };
    let samples: Samples = values.iter().copied().collect();
    let t = T_95.get(values.len().wrapping_sub(2)).copied().unwrap_or(1.96);
    let spread = samples.sd.map_or(0.0, |sd| t * sd / (values.len() as f64).sqrt());
    let half = spread.hypot(relative_uncertainty * median);
    Some(Interval { median, low: median - half, high: median + half, values })
}

/// The benchmark at work.
struct Bench<'b, 'e> {
    engine: &'b mut Engine<'e>,
    ledger: &'b mut Ledger,
    origin: Instant,
    windows: Windows,
    streaming: Streaming,
    /// Number of the last window in the ledger.
    key: u64,
}

impl Bench<'_, '_> {
    /// Watts at rest over a while; `None` if a reading fails.
    fn rest(&mut self) -> Option<f64> {
        let began = self.origin.elapsed();
        self.ledger.tick(began);
        let failed = self.ledger.meter()?.faults().failed;
        let before_uj = self.ledger.totals()?.counter_uj;
        let mut rested = Duration::ZERO;
        while let Some(left) = self.windows.rest.checked_sub(rested).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(TICK));
            let now = self.origin.elapsed();
            self.ledger.tick(now);
            rested = now - began;
        }
        let drawn_uj = self.ledger.totals()?.counter_uj - before_uj;
        let is_sound = self.ledger.meter()?.faults().failed == failed && drawn_uj > 0;
        is_sound.then(|| drawn_uj as f64 * 1e-6 / rested.as_secs_f64())
    }

    /// One window of `tokens` tokens a run.
    fn window(&mut self, prompt: &[Piece<'_>], work: Work) -> Result<Window, Refusal> {
        self.key += 1;
        let began = Instant::now();
        let (mut tokens, mut seconds) = (0, 0.0);
        while tokens == 0 || seconds < self.windows.window.as_secs_f64() {
            // Short steps, so that a meter whose counter wraps is read often enough.
            self.ledger.begin_step(self.origin.elapsed());
            let step = Instant::now();
            while tokens == 0 || step.elapsed() < TICK && began.elapsed() < self.windows.window {
                run(self.engine, &self.streaming, prompt, work.generate, work.texts)?;
                tokens += work.tokens;
            }
            let share = Share { request: self.key, phase: work.phase, weight: 1 };
            self.ledger.end_step(self.origin.elapsed(), &[share]);
            seconds = began.elapsed().as_secs_f64();
        }
        let (prefill_tokens, decode_tokens) = match work.phase {
            Phase::Prefill => (tokens, 0),
            Phase::Decode => (0, tokens),
        };
        let completed = Completed { prefill_tokens, decode_tokens, throttled: None };
        let report = self.ledger.finish(self.key, completed);
        let joules = report.joules.filter(|_| !report.below_resolution);
        Ok(Window { seconds: report.window_ms / 1e3, tokens, joules, readings: report.samples })
    }

    fn part(
        &mut self,
        prompt: &[Piece<'_>],
        work: Work,
        ran: &mut impl FnMut(),
    ) -> Result<Vec<Window>, Refusal> {
        let warm = prompt.len().min(self.engine.options().batch_rows);
        run(self.engine, &self.streaming, &prompt[..warm], work.generate.min(4), work.texts)?;
        let mut windows = Vec::with_capacity(self.windows.repeats);
        for _ in 0..self.windows.repeats {
            windows.push(self.window(prompt, work)?);
            ran();
        }
        Ok(windows)
    }
}

/// What a window repeats.
#[derive(Clone, Copy)]
struct Work {
    phase: Phase,
    generate: usize,
    texts: u64,
    /// Tokens of one run.
    tokens: u64,
}

fn summary(windows: &[Window], relative_uncertainty: f64, idle_w: Option<f64>) -> PartJoules {
    let seconds: f64 = windows.iter().map(|window| window.seconds).sum();
    let tokens: u64 = windows.iter().map(|window| window.tokens).sum();
    // One unknown window would leave a median of the others, chosen by what failed.
    let joules: Option<Vec<f64>> = windows.iter().map(|window| window.joules).collect();
    let per_token = |joules: &Vec<f64>, idle_w: f64| -> Vec<f64> {
        let each = joules.iter().zip(windows);
        each.map(|(joules, window)| (joules - idle_w * window.seconds) / window.tokens as f64).collect()
    };
    let joules_per_token =
        joules.as_ref().and_then(|joules| interval(per_token(joules, 0.0), relative_uncertainty));
    let net =
        joules.as_ref().zip(idle_w).and_then(|(joules, idle_w)| interval(per_token(joules, idle_w), 0.0));
    PartJoules {
        tokens,
        seconds,
        tokens_per_second: windows.iter().map(|window| window.tokens as f64 / window.seconds).collect(),
        net_joules_per_token: net.map(|net| net.median),
        watts: joules.map(|joules| joules.iter().sum::<f64>() / seconds),
        readings: windows.iter().map(|window| window.readings).sum(),
        joules_per_token,
    }
}

/// Measures the joules of `amount` on `engine`, by the meter of `ledger`, whose clock began at `origin`; calls `ran` after
/// each window. `None` if there is no meter.
///
/// # Errors
/// If the engine refuses a request: the context is too small for the amount.
pub fn measure(
    engine: &mut Engine<'_>,
    amount: Amount,
    windows: Windows,
    (ledger, origin): (&mut Ledger, Instant),
    mut ran: impl FnMut(),
) -> Result<Option<Joules>, Refusal> {
    let Some(meter) = ledger.meter() else { return Ok(None) };
    let (method, scope, source) = (meter.method(), meter.scope(), meter.source().to_owned());
    let relative_uncertainty = meter.relative_uncertainty();
    let streaming = Streaming::of(engine, meter.traffic());
    let prompt = prompt(engine, amount.prompt_tokens);
    let mut bench = Bench { engine, ledger, origin, windows, streaming, key: 0 };
    let idle_before_w = bench.rest();
    let (texts, generate) = (amount.sequences as u64, amount.generate_tokens);
    let reading = Work { phase: Phase::Prefill, generate: 1, texts: 1, tokens: amount.prompt_tokens as u64 };
    let writing = Work { phase: Phase::Decode, generate, texts, tokens: texts * generate as u64 };
    let prefill = match amount.prompt_tokens {
        0 => None,
        _ => Some(bench.part(&prompt, reading, &mut ran)?),
    };
    let decode = match generate {
        0 => None,
        _ => Some(bench.part(&prompt[..1], writing, &mut ran)?),
    };
    let idle_after_w = bench.rest();
    let idle_w = idle_before_w.zip(idle_after_w).map(|(before, after)| (before + after) / 2.0);
    let told = |windows: Vec<Window>| summary(&windows, relative_uncertainty, idle_w);
    Ok(Some(Joules {
        method,
        source,
        scope,
        relative_uncertainty,
        window_s: windows.window.as_secs_f64(),
        idle_before_w,
        idle_after_w,
        prefill: prefill.map(told),
        decode: decode.map(told),
    }))
}

#[cfg(test)]
mod tests {
    use tern_boards::energy::fake::{FakeMeter, Reading};

    use super::*;
    use crate::model::{EngineChoice, ModelChoice, with_engine};

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

    fn measured(meter: Option<FakeMeter>) -> Option<Joules> {
        let engine = EngineChoice { threads: Some(1), ..EngineChoice::default() };
        let model = ModelChoice { path: Some(TINY.into()), engine };
        let amount = Amount { prompt_tokens: 32, generate_tokens: 16, sequences: 1, repeats: 3 };
        let windows =
            Windows { window: Duration::from_millis(40), repeats: 3, rest: Duration::from_millis(50) };
        let origin = Instant::now();
        let meter = meter.map(|meter| Box::new(meter) as _);
        let mut ledger = Ledger::new(meter, origin.elapsed());
        let mut ran = 0;
        let found = with_engine(&model, |engine, _| {
            measure(engine, amount, windows, (&mut ledger, origin), || ran += 1).expect("it fits")
        });
        let found = found.expect("the fixture opens");
        assert_eq!(ran, if found.is_some() { 6 } else { 0 });
        found
    }

    #[test]
    fn joules_are_those_of_the_run_whose_speed_is_told() {
        let joules = measured(Some(FakeMeter::steady(5_000_000))).expect("there is a meter");
        assert!(joules.idle_before_w.is_some_and(|idle_w| (idle_w - 5.0).abs() < 0.1), "{joules:?}");
        for part in [joules.prefill.expect("it read"), joules.decode.expect("it wrote")] {
            let per_token = part.joules_per_token.expect("it was measured");
            // Five watts, so joules a token times tokens a second are five, window by window.
            for (joules, rate) in per_token.values.iter().zip(&part.tokens_per_second.values) {
                assert!((joules * rate - 5.0).abs() < 0.05, "{joules} J at {rate} a second");
            }
            assert!(per_token.low < per_token.median && per_token.median < per_token.high);
            assert!(part.seconds >= 0.12 && part.readings > 0);
            // A machine that draws as much at rest spends nothing on tokens.
            assert!(part.net_joules_per_token.is_some_and(|net| net.abs() < 0.05 * per_token.median));
        }
    }

    #[test]
    fn without_a_sound_meter_nothing_is_claimed() {
        assert_eq!(measured(None), None);
        let failing = measured(Some(FakeMeter::scripted(None, std::iter::repeat_n(Reading::Fail, 100_000))));
        let failing = failing.expect("there is a meter");
        assert_eq!((failing.idle_before_w, failing.idle_after_w), (None, None));
        let decode = failing.decode.expect("it wrote");
        assert_eq!((decode.joules_per_token, decode.watts), (None, None));
        assert!(decode.tokens_per_second.mean > 0.0, "speed is known all the same");
        // A counter that stands still says nothing.
        let frozen = measured(Some(FakeMeter::scripted(None, [Reading::Raw(7)]))).expect("there is a meter");
        assert_eq!(frozen.idle_before_w, None);
        assert_eq!(frozen.prefill.expect("it read").joules_per_token, None);
    }

    #[test]
    fn an_interval_holds_the_meters_error_and_the_spread() {
        assert_eq!(interval(vec![], 0.1), None);
        let one = interval(vec![2.0], 0.1).expect("one value");
        assert!((one.high - 2.2).abs() < 1e-12 && one.median == 2.0);
        let two = interval(vec![1.0, 3.0], 0.0).expect("two values");
        // sd is the root of 2, by the root of 2, times 12.706.
        assert!((two.median - 2.0).abs() < 1e-12 && (two.high - 14.706).abs() < 1e-9, "{two:?}");
        let many = interval(vec![3.0; 40], 0.05).expect("many values");
        assert!((many.low - 2.85).abs() < 1e-12);
    }

    /// Of intervals around medians of five noisy windows, 95 % hold the true value.
    #[test]
    fn the_interval_holds_what_it_says() {
        let mut random = crate::random::Random::new(5);
        let mut normal =
            || (0..12).map(|_| f64::from(random.below(1 << 20)) / f64::from(1 << 20)).sum::<f64>() - 6.0;
        let runs = 4000;
        let held = (0..runs).filter(|_| {
            let meter = 1.0 + 0.025 * normal();
            let values = (0..5).map(|_| meter * (1.0 + 0.02 * normal())).collect();
            let found = interval(values, 0.05).expect("five values");
            (found.low..=found.high).contains(&1.0)
        });
        let share = held.count() as f64 / f64::from(runs);
        assert!((0.93..=0.99).contains(&share), "{share}");
    }
}
