//! Finding the highest of many scores without sorting them.

use super::{Candidate, better};

/// The id with the highest logit, the lowest on a tie; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let (mut highest, mut at) = (f32::NEG_INFINITY, 0);
    for (chunk, values) in logits.chunks(CHUNK).enumerate() {
        if any_above(values, highest) {
            for (i, logit) in values.iter().enumerate() {
                if *logit > highest {
                    (highest, at) = (*logit, chunk * CHUNK + i);
                }
            }
        }
    }
    at as u32
}

/// The best of `candidates`.
pub(crate) fn best(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().min_by(better)
}

/// Values that are looked at together: few are worth a second look.
const CHUNK: usize = 64;

/// Whether one of `values` is above `floor`. Free of branches, so that compilers make vectors of it.
fn any_above(values: &[f32], floor: f32) -> bool {
    values.iter().fold(false, |any, v| any | (*v > floor))
}

/// Writes the `k` best of `scores` to the start of `candidates`, in no order, and returns how many there are; minus
/// infinity and NaN are never among them.
pub(crate) fn top(scores: &[f32], k: usize, candidates: &mut [Candidate]) -> usize {
    if k == 0 {
        return 0;
    }
    // Room for twice as many: a selection every `k` of them costs little, and each raises the bar for the rest.
    let room = candidates.len().min(k.saturating_mul(2).max(k.saturating_add(256)));
    let (mut len, mut bar) = (0, f32::NEG_INFINITY);
    for (chunk, values) in scores.chunks(CHUNK).enumerate() {
        if !any_above(values, bar) {
            continue;
        }
        for (i, score) in values.iter().enumerate() {
            // An equal score with a higher id is worse than those that are kept.
            if *score > bar {
                if len == room && k < len {
                    candidates[..len].select_nth_unstable_by(k - 1, better);
                    (len, bar) = (k, candidates[k - 1].score);
                    if *score <= bar {
                        continue;
                    }
                }
                candidates[len] = Candidate { id: (chunk * CHUNK + i) as u32, score: *score };
                len += 1;
            }
        }
    }
    if k < len {
        candidates[..len].select_nth_unstable_by(k - 1, better);
    }
    len.min(k)
}

/// Writes the tokens at most `below` under the highest logit to the start of `candidates`; returns how many there are.
pub(crate) fn within(logits: &[f32], below: f32, candidates: &mut [Candidate]) -> usize {
    let highest = logits[argmax(logits) as usize];
    above(logits, highest - below, candidates)
}

/// Writes the tokens that score at least `floor` to the start of `candidates`; returns how many there are.
fn above(scores: &[f32], floor: f32, candidates: &mut [Candidate]) -> usize {
    let mut len = 0;
    for (chunk, values) in scores.chunks(CHUNK).enumerate() {
        if values.iter().fold(false, |any, v| any | (*v >= floor)) {
            for (i, score) in values.iter().enumerate() {
                if *score >= floor {
                    candidates[len] = Candidate { id: (chunk * CHUNK + i) as u32, score: *score };
                    len += 1;
                }
            }
        }
    }
    len
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sampler::Rng;

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        let mut rng = Rng::new(12);
        for round in 0..300 {
            let n = 1 + (rng.next_u64() % 2000) as usize;
            // Few different values, so that ties are common; some that no choice may fall on.
            let scores: Vec<f32> = (0..n)
                .map(|_| match rng.next_u64() % 50 {
                    0 => f32::NAN,
                    1 => f32::NEG_INFINITY,
                    v => (v % (1 + round % 40)) as f32,
                })
                .collect();
            let k = (rng.next_u64() % 600) as usize;
            let mut sorted: Vec<_> = (0..n as u32)
                .map(|id| Candidate { id, score: scores[id as usize] })
                .filter(|c| c.score > f32::NEG_INFINITY)
                .collect();
            sorted.sort_by(better);
            sorted.truncate(k);
            let mut found = vec![Candidate { id: 0, score: 0.0 }; n];
            let kept = top(&scores, k, &mut found);
            found[..kept].sort_by(better);
            assert_eq!(found[..kept], sorted, "{k} of {n}");
            if let Some(first) = sorted.first() {
                assert_eq!(argmax(&scores), first.id);
            }
        }
    }
}
