//! What the parts of a long text took, as one usage and one energy.

use std::time::{Duration, Instant};

use tern_protocol::answer::{Idle, Method, Usage};

use super::kept::Said;
use crate::serve::report::{four_digits, thousandths};
use crate::wire::{Energy, Text};

/// The sum over the parts answered so far.
#[derive(Debug)]
pub struct Sums {
    came: Instant,
    usage: Usage,
    /// Rows by rate: the rate of a sum is not the sum of rates.
    prompt_rows: f64,
    decoded_rows: f64,
    queue: Option<Duration>,
    energy: Option<Energy>,
    /// Tokens of answers that were not written again.
    kept_tokens: u64,
}

impl Sums {
    /// Nothing, for a text that came at `came`.
    pub fn new(came: Instant) -> Self {
        let usage = Usage { cached_tokens: Some(0), ..Usage::default() };
        Sums { came, usage, prompt_rows: 0.0, decoded_rows: 0.0, queue: None, energy: None, kept_tokens: 0 }
    }

    /// Tokens so far, of prompts and answers, those included that were kept: a budget ends a text where it would without them.
    pub fn tokens(&self) -> u64 {
        u64::from(self.usage.prompt_tokens) + u64::from(self.usage.generated_tokens) + self.kept_tokens
    }

    /// Joules so far; `None` before the first part, and if those of one are not known.
    pub fn joules(&self) -> Option<f64> {
        self.energy.as_ref()?.joules
    }

    /// Adds the answer to a part that was put in line at `queued_at`.
    pub fn add(&mut self, part: &Text, queued_at: Instant) {
        let (sum, usage) = (&mut self.usage, &part.usage);
        sum.prompt_tokens += usage.prompt_tokens;
        sum.generated_tokens += usage.generated_tokens;
        sum.label_rows += usage.label_rows;
        sum.cached_tokens = sum.cached_tokens.zip(usage.cached_tokens).map(|(sum, part)| sum + part);
        sum.drafted_tokens = joined(sum.drafted_tokens, usage.drafted_tokens, |sum, part| sum + part);
        sum.accepted_tokens = joined(sum.accepted_tokens, usage.accepted_tokens, |sum, part| sum + part);
        sum.prefill_ms += usage.prefill_ms;
        sum.decode_ms += usage.decode_ms;
        sum.paced_ms = joined(sum.paced_ms, usage.paced_ms, |sum, part| sum + part);
        self.prompt_rows += usage.prompt_tokens_per_second.unwrap_or(0.0) * usage.prefill_ms;
        self.decoded_rows += usage.generated_tokens_per_second.unwrap_or(0.0) * usage.decode_ms;
        let waited = Duration::from_secs_f64((usage.queue_ms / 1e3).max(0.0));
        let begun = queued_at.saturating_duration_since(self.came) + waited;
        self.queue = Some(self.queue.map_or(begun, |first| first.min(begun)));
        match &mut self.energy {
            Some(energy) => add_energy(energy, &part.energy),
            None => self.energy = Some(part.energy.clone()),
        }
    }

    /// Adds a part whose answer was kept: its prompt was not computed, and its answer not generated.
    pub fn add_kept(&mut self, said: &Said) {
        self.usage.prompt_tokens += said.prompt_tokens;
        self.usage.cached_tokens = self.usage.cached_tokens.map(|cached| cached + said.prompt_tokens);
        self.kept_tokens += u64::from(said.generated_tokens);
    }

    /// The sum; without any part, of nothing.
    pub fn finish(self) -> (Usage, Energy) {
        let rate = |rows: f64, ms: f64| (rows > 0.0 && ms > 0.0).then(|| thousandths(rows / ms));
        let queue = self.queue.unwrap_or_else(|| self.came.elapsed());
        let usage = Usage {
            queue_ms: thousandths(queue.as_secs_f64() * 1e3),
            prefill_ms: thousandths(self.usage.prefill_ms),
            decode_ms: thousandths(self.usage.decode_ms),
            paced_ms: self.usage.paced_ms.map(thousandths),
            prompt_tokens_per_second: rate(self.prompt_rows, self.usage.prefill_ms),
            generated_tokens_per_second: rate(self.decoded_rows, self.usage.decode_ms),
            ..self.usage
        };
        let mut energy = self.energy.unwrap_or_else(nothing);
        // Rates are rounded; rows are whole.
        let steps = (self.decoded_rows / 1e3).round();
        energy.joules_per_token =
            energy.decode_joules.filter(|_| steps > 0.0).map(|joules| four_digits(joules / steps));
        energy.sample_hz = energy.sample_hz.map(thousandths);
        energy.window_ms = thousandths(energy.window_ms);
        (usage, energy)
    }
}

/// The sum of what there is; `None` if there is nothing of either.
fn joined<T>(sum: Option<T>, part: Option<T>, add: impl FnOnce(T, T) -> T) -> Option<T> {
    match (sum, part) {
        (Some(sum), Some(part)) => Some(add(sum, part)),
        (sum, part) => sum.or(part),
    }
}

/// Adds `part` to `sum`. What is not known of one is not known of both.
fn add_energy(sum: &mut Energy, part: &Energy) {
    fn both(a: Option<f64>, b: Option<f64>) -> Option<f64> {
        Some(a? + b?)
    }
    // A mean in which each figure weighs as much as what it speaks of.
    fn mean(a: Option<f64>, by_a: f64, b: Option<f64>, by_b: f64) -> Option<f64> {
        let (a, b) = (a?, b?);
        Some(if by_a + by_b > 0.0 { (a * by_a + b * by_b) / (by_a + by_b) } else { a.max(b) })
    }
    // Parts are measured by the same meter, whose error does not cancel out.
    sum.relative_uncertainty = mean(
        sum.relative_uncertainty,
        sum.joules.unwrap_or(0.0),
        part.relative_uncertainty,
        part.joules.unwrap_or(0.0),
    );
    sum.sample_hz = mean(sum.sample_hz, sum.window_ms, part.sample_hz, part.window_ms);
    // A phase that a part did not have took nothing: what it took is known if the whole is.
    let phase = |phase: Option<f64>, whole: Option<f64>| phase.or(whole.map(|_| 0.0));
    sum.prefill_joules = both(phase(sum.prefill_joules, sum.joules), phase(part.prefill_joules, part.joules));
    sum.decode_joules = both(phase(sum.decode_joules, sum.joules), phase(part.decode_joules, part.joules));
    sum.joules = both(sum.joules, part.joules);
    sum.samples += part.samples;
    sum.window_ms += part.window_ms;
    sum.throttled = match (sum.throttled, part.throttled) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    };
    sum.below_resolution &= part.below_resolution;
}

/// The energy of nothing.
fn nothing() -> Energy {
    Energy {
        joules: None,
        prefill_joules: None,
        decode_joules: None,
        joules_per_token: None,
        method: Method::Unknown,
        source: None,
        scope: None,
        idle: Idle::Included,
        idle_watts: None,
        relative_uncertainty: None,
        samples: 0,
        sample_hz: None,
        window_ms: 0.0,
        calibrated_at: None,
        throttled: None,
        below_resolution: false,
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::answer::Finish;

    use super::*;

    fn part(prompt: u32, generated: u32, joules: Option<f64>) -> Text {
        let usage = Usage {
            prompt_tokens: prompt,
            generated_tokens: generated,
            queue_ms: 5.0,
            prefill_ms: 100.0,
            decode_ms: if generated > 0 { 50.0 } else { 0.0 },
            prompt_tokens_per_second: Some(f64::from(prompt) * 10.0),
            generated_tokens_per_second: (generated > 0).then(|| f64::from(generated) * 20.0),
            ..Usage::default()
        };
        let energy = Energy {
            joules,
            prefill_joules: joules.map(|joules| joules * 0.75),
            decode_joules: joules.filter(|_| generated > 0).map(|joules| joules * 0.25),
            relative_uncertainty: joules.map(|joules| joules / 100.0),
            window_ms: 150.0,
            samples: 3,
            below_resolution: generated == 0,
            throttled: Some(generated == 0),
            ..nothing()
        };
        let (model, task) = ("m".to_owned(), None);
        Text {
            id: "1".into(),
            text: String::new(),
            finish: Finish::StopToken,
            usage,
            energy,
            model,
            task,
            logprobs: None,
            tokens_below_resolution: false,
        }
    }

    #[test]
    fn sums_are_those_of_the_parts() {
        let came = Instant::now();
        let mut sums = Sums::new(came);
        sums.add(&part(100, 10, Some(2.0)), came + Duration::from_millis(20));
        sums.add(&part(300, 0, Some(6.0)), came + Duration::from_millis(10));
        assert_eq!(sums.tokens(), 410);
        let (usage, energy) = sums.finish();
        assert_eq!((usage.prompt_tokens, usage.generated_tokens), (400, 10));
        // Since it came until the engine took the first part.
        assert_eq!((usage.queue_ms, usage.prefill_ms, usage.decode_ms), (15.0, 200.0, 50.0));
        assert_eq!(
            (usage.prompt_tokens_per_second, usage.generated_tokens_per_second),
            (Some(2000.0), Some(200.0))
        );
        assert_eq!((energy.joules, energy.decode_joules), (Some(8.0), Some(0.5)));
        assert_eq!((energy.joules_per_token, energy.samples, energy.window_ms), (Some(0.05), 6, 300.0));
        let uncertainty = energy.relative_uncertainty.expect("it is known of both");
        assert!((uncertainty - (2.0 * 0.02 + 6.0 * 0.06) / 8.0).abs() < 1e-12);
        assert_eq!((energy.throttled, energy.below_resolution), (Some(true), false));
    }

    #[test]
    fn joules_that_one_part_does_not_know_are_not_known() {
        let mut sums = Sums::new(Instant::now());
        sums.add(&part(100, 10, Some(2.0)), Instant::now());
        sums.add(&part(100, 10, None), Instant::now());
        let (usage, energy) = sums.finish();
        assert_eq!((usage.prompt_tokens, energy.joules, energy.decode_joules), (200, None, None));
        assert_eq!((energy.joules_per_token, energy.relative_uncertainty), (None, None));
        let (usage, energy) = Sums::new(Instant::now()).finish();
        assert_eq!((usage.prompt_tokens, energy.joules, usage.prompt_tokens_per_second), (0, None, None));
    }
}
