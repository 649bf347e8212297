//! How the energy of a step is shared by those who took part, and what of it a streamed text has been told.

use tern_boards::energy::{Phase, Share};
use tern_runtime::engine::{self, Step};

use super::live::Live;
use crate::daybook::{Book, Charge};

/// How much of one part of a step a share needed.
type Needs = fn(&engine::Share) -> u64;

/// The shares of a step, each weighing as many nanoseconds of it as were spent on its request.
///
/// A step has three parts that were timed: all rows through the layers, logits of the whole vocabulary with the choice of
/// tokens, and the weighing of labels. Each part is shared by those who needed it: the layers by the products computed for
/// each (a weight is read once for all rows, and a row that looks back on a long text costs more), the other two by rows.
/// A prompt that only passes by therefore pays nothing of a head that another's token was chosen by, though that may be
/// half of what a step of one row reads.
pub fn shares(step: &Step) -> Vec<Share> {
    let sum = |of: Needs| step.shares.iter().map(|share| u128::from(of(share))).sum::<u128>();
    let parts: [(u64, Needs); 3] = [
        (step.spans.layers_ns, |share| share.work),
        (step.spans.heads_ns, |share| share.head_rows as u64),
        (step.spans.labels_ns, |share| share.label_rows as u64),
    ];
    let sums = parts.map(|(_, of)| sum(of));
    let is_timed = step.spans.layers_ns > 0;
    let weight = |share: &engine::Share| {
        if !is_timed {
            // Quicker than the clock can tell.
            return share.work;
        }
        let ns = |(&(ns, of), &sum): (&(u64, Needs), &u128)| {
            (u128::from(ns) * u128::from(of(share))).checked_div(sum).unwrap_or(0)
        };
        parts.iter().zip(&sums).map(ns).sum::<u128>().try_into().unwrap_or(u64::MAX)
    };
    let phase = |phase| match phase {
        engine::Phase::Prefill => Phase::Prefill,
        engine::Phase::Decode => Phase::Decode,
    };
    let share = |share: &engine::Share| Share {
        request: share.key,
        phase: phase(share.phase),
        weight: weight(share),
    };
    step.shares.iter().map(share).collect()
}

/// Charges those who took part in a step, and their tasks in the book, with its `parts`, microjoules in the order of its
/// shares; `None` where they are not known. Whether the step was shorter than the meter's period: `is_lump`.
pub fn charge(step: &Step, parts: Option<&[u64]>, is_lump: bool, live: &mut [Live], book: &mut Book) {
    for (index, share) in step.shares.iter().enumerate() {
        let uj = parts.and_then(|parts| parts.get(index).copied());
        let Some(live) = live.iter_mut().find(|live| live.key == share.key) else { continue };
        let tokens = std::mem::take(&mut live.step_tokens);
        match share.phase {
            engine::Phase::Prefill => {
                live.prefill_rows += share.rows;
                book.charge(&live.label, Phase::Prefill, Charge { tokens: share.rows as u64, uj, is_lump });
                // The first token, written by the end of the prompt and paid with it.
                book.charge(&live.label, Phase::Decode, Charge { tokens, ..Charge::default() });
            }
            engine::Phase::Decode => {
                live.decode_tokens += share.choices;
                live.untold.charge(uj);
                book.charge(&live.label, Phase::Decode, Charge { tokens, uj, is_lump });
            }
        }
    }
}

/// Joules of a request's decoding steps that its client was not told yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    uj: u64,
    steps: u64,
    unknown: bool,
}

impl Untold {
    /// Adds the microjoules of a step; `None` where they are not known.
    pub fn charge(&mut self, uj: Option<u64>) {
        self.uj = self.uj.saturating_add(uj.unwrap_or(0));
        self.steps += 1;
        self.unknown |= uj.is_none();
    }

    /// Whether something is known and was not told.
    pub fn is_some(&self) -> bool {
        !self.unknown && self.uj > 0
    }

    /// What to tell now, in joules; `None` where nothing happened or something of it is not known.
    ///
    /// Three digits, rounded down: no meter tells more of a token. What is left is told with the next one and, with the
    /// last, to the microjoule, so that all of them add up to what the request's report says.
    pub fn tell(&mut self, is_last: bool) -> Option<f64> {
        let Untold { uj, steps, unknown } = std::mem::take(self);
        if unknown {
            return None;
        }
        let told_uj = if is_last { uj } else { three_digits(uj) };
        self.uj = uj - told_uj;
        (steps > 0 || told_uj > 0 && is_last).then_some(told_uj as f64 / 1e6)
    }
}

/// `value` with all digits but the first three zero.
fn three_digits(value: u64) -> u64 {
    let unit = 10u64.pow(value.checked_ilog10().unwrap_or(0).saturating_sub(2));
    value / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_runtime::engine::Spans;

    fn step(spans: Spans, of: &[(engine::Phase, usize, usize, usize)]) -> Step {
        let mut step = Step { spans, ..Step::default() };
        for (key, &(phase, rows, head_rows, label_rows)) in of.iter().enumerate() {
            let share = engine::Share {
                key: key as u64,
                phase,
                rows,
                choices: head_rows,
                work: rows as u64 * 1000,
                head_rows,
                label_rows,
            };
            step.shares.push(share).expect("a few");
        }
        step
    }

    #[test]
    fn each_part_of_a_step_is_paid_by_those_who_needed_it() {
        use engine::Phase::{Decode, Prefill};
        let spans = Spans { layers_ns: 6_400, heads_ns: 3_000, labels_ns: 500 };
        // one decodes, one reads on, one chooses its first token, one weighs labels
        let step =
            step(spans, &[(Decode, 1, 1, 0), (Prefill, 40, 0, 0), (Prefill, 20, 1, 0), (Prefill, 3, 0, 2)]);
        let weights: Vec<u64> = shares(&step).iter().map(|share| share.weight).collect();
        assert_eq!(weights, [100 + 1_500, 4_000, 2_000 + 1_500, 300 + 500]);
        assert_eq!(shares(&step)[0].phase, Phase::Decode);
        // Without a clock, or faster than it ticks, by products.
        let untimed = Step { spans: Spans::default(), ..step };
        let weights: Vec<u64> = shares(&untimed).iter().map(|share| share.weight).collect();
        assert_eq!(weights, [1_000, 40_000, 20_000, 3_000]);
    }

    #[test]
    fn tokens_add_up_to_the_microjoule_and_none_has_digits_that_nobody_measured() {
        let mut untold = Untold::default();
        let steps = [253_417u64, 98_765, 0, 1_234_567, 12];
        let mut told = Vec::new();
        for (index, uj) in steps.iter().enumerate() {
            untold.charge(Some(*uj));
            told.push(untold.tell(index + 1 == steps.len()).expect("it is known"));
        }
        assert_eq!(told[..4], [0.253, 0.0991, 8.2e-5, 1.23]);
        let uj: f64 = told.iter().map(|joules| (joules * 1e6).round()).sum();
        assert_eq!(uj as u64, steps.iter().sum::<u64>());
        assert_eq!((untold.is_some(), untold.tell(true)), (false, None));
    }

    #[test]
    fn what_is_not_known_is_not_told_as_nothing() {
        let mut untold = Untold::default();
        assert_eq!(untold.tell(false), None, "the first token has no step of its own");
        untold.charge(Some(5));
        untold.charge(None);
        assert!(!untold.is_some());
        assert_eq!(untold.tell(false), None);
        untold.charge(Some(0));
        assert_eq!(untold.tell(false), Some(0.0), "a meter that stood still said so");
    }
}
