//! The repetition penalty: tokens seen of late become less likely.

use super::{Candidate, Sampling};

/// Writes the tokens that a repetition penalty is for, each once, to the start of `candidates`; returns how many there
/// are.
pub fn recent(sampling: &Sampling, history: &[u32], candidates: &mut [Candidate]) -> usize {
    if sampling.repetition_penalty == 1.0 {
        return 0;
    }
    let recent = &history[history.len().saturating_sub(sampling.repeat_window)..];
    let vocab = candidates.len();
    let mut len = 0;
    // Put in order in runs, so that a window longer than the vocabulary fits too.
    for run in recent.chunks((vocab / 2).max(1)) {
        for id in run.iter().filter(|id| (**id as usize) < vocab) {
            if len < vocab {
                candidates[len] = Candidate { id: *id, score: 0.0 };
                len += 1;
            }
        }
        len = unique(&mut candidates[..len]);
    }
    len
}

/// Moves one candidate of each id to the front; returns how many there are.
fn unique(candidates: &mut [Candidate]) -> usize {
    candidates.sort_unstable_by_key(|candidate| candidate.id);
    let mut len = 0;
    for at in 0..candidates.len() {
        if len == 0 || candidates[at].id != candidates[len - 1].id {
            candidates[len] = candidates[at];
            len += 1;
        }
    }
    len
}

/// The logit of a token that was seen recently.
pub fn penalized(sampling: &Sampling, logit: f32) -> f32 {
    let penalty = sampling.repetition_penalty;
    if logit > 0.0 { logit / penalty } else { logit * penalty }
}

/// Applies the penalty to `logits: [vocab]`; `candidates: [vocab]` is working memory.
pub fn penalize(sampling: &Sampling, logits: &mut [f32], history: &[u32], candidates: &mut [Candidate]) {
    let candidates = &mut candidates[..logits.len()];
    for at in 0..recent(sampling, history, candidates) {
        let logit = &mut logits[candidates[at].id as usize];
        *logit = penalized(sampling, *logit);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use tern_kernels::SCALAR;

    use super::*;
    use crate::sampler::{Rng, sample};

    #[test]
    fn repeated_tokens_are_penalised_once_each() {
        let sampling = Sampling { repetition_penalty: 2.0, repeat_window: 3, ..Sampling::default() };
        let mut logits = [4.0, -1.0, 4.0, 3.0];
        let mut candidates = [Candidate { id: 0, score: 0.0 }; 4];
        let recent = recent(&sampling, &[2, 0, 1, 0, 9], &mut candidates);
        assert_eq!(candidates[..recent].iter().map(|c| c.id).collect::<Vec<_>>(), [0, 1]);
        sample(&SCALAR, &sampling, &mut Rng::new(0), &mut logits, &[2, 0, 1, 0], &mut candidates);
        assert_eq!(logits, [2.0, -2.0, 4.0, 3.0]);
    }
}
