//! Text that follows rules of its caller's, such as a grammar, asked for token by token.
//!
//! The engine asks about as few tokens as it can: a greedy choice asks whether the model's favourite may follow and is done
//! if so; only otherwise, or to draw at a temperature, does it want to know of the whole vocabulary. Either way the choice
//! is the one that all allowed tokens with their logits give.

use crate::sampler::Candidate;

/// How far a constrained text has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More may follow.
    Open,
    /// Nothing may follow: the text ends here.
    Complete,
}

/// What the caller of [`Engine::step_under`](crate::engine::Engine::step_under) says about requests, by their keys. Stop
/// tokens are no concern of [`allows`](Constraint::allows) and [`allowed`](Constraint::allowed).
pub trait Constraint {
    /// Whether this request has rules. If not, nothing else is asked about it.
    fn constrains(&self, key: u64) -> bool;

    /// Whether `token` may come next.
    fn allows(&mut self, key: u64, token: u32) -> bool;

    /// The tokens that may come next: token `t` is bit `t % 32` of word `t / 32`; tokens beyond the words may not.
    /// It may be asked several times before [`take`](Constraint::take).
    fn allowed(&mut self, key: u64) -> &[u32];

    /// Whether the text may end here.
    fn may_end(&mut self, key: u64) -> bool;

    /// `token` comes next.
    fn take(&mut self, key: u64, token: u32) -> Progress;
}

/// No request has rules.
#[derive(Clone, Copy, Debug)]
pub struct Free;

impl Constraint for Free {
    fn constrains(&self, _: u64) -> bool {
        false
    }

    fn allows(&mut self, _: u64, _: u32) -> bool {
        true
    }

    fn allowed(&mut self, _: u64) -> &[u32] {
        &[]
    }

    fn may_end(&mut self, _: u64) -> bool {
        true
    }

    fn take(&mut self, _: u64, _: u32) -> Progress {
        Progress::Open
    }
}

/// The rules of one request, and the tokens that end its text.
pub(crate) struct Rules<'c> {
    pub constraint: &'c mut dyn Constraint,
    pub key: u64,
    pub stops: &'c [u32],
}

impl Rules<'_> {
    /// Whether `token` may come next, or end the text.
    pub fn permits(&mut self, token: u32) -> bool {
        if self.stops.contains(&token) {
            self.constraint.may_end(self.key)
        } else {
            self.constraint.allows(self.key, token)
        }
    }

    /// Makes the score of every token that may not come next minus infinity, in `scores: [vocab]` and in `candidates`; says
    /// whether any may.
    pub fn mask(&mut self, scores: &mut [f32], candidates: &mut [Candidate]) -> bool {
        let may_end = self.constraint.may_end(self.key);
        let words = self.constraint.allowed(self.key);
        let word_at = |at: usize| {
            let mut word = words.get(at).copied().unwrap_or(0);
            for stop in self.stops.iter().filter(|stop| **stop as usize / 32 == at) {
                let bit = 1 << (stop % 32);
                word = if may_end { word | bit } else { word & !bit };
            }
            word
        };
        let mut any = false;
        for (at, scores) in scores.chunks_mut(32).enumerate() {
            let word = word_at(at);
            any |= word != 0;
            if word != u32::MAX {
                for (bit, score) in scores.iter_mut().enumerate() {
                    *score = if word >> bit & 1 == 1 { *score } else { f32::NEG_INFINITY };
                }
            }
        }
        for candidate in candidates {
            if word_at(candidate.id as usize / 32) >> (candidate.id % 32) & 1 == 0 {
                candidate.score = f32::NEG_INFINITY;
            }
        }
        any
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// Even tokens below 64.
    struct Even(bool);

    impl Constraint for Even {
        fn constrains(&self, _: u64) -> bool {
            true
        }

        fn allows(&mut self, _: u64, token: u32) -> bool {
            token.is_multiple_of(2) && token < 64
        }

        fn allowed(&mut self, _: u64) -> &[u32] {
            &[0x5555_5555, 0x5555_5555]
        }

        fn may_end(&mut self, _: u64) -> bool {
            self.0
        }

        fn take(&mut self, _: u64, _: u32) -> Progress {
            Progress::Open
        }
    }

    #[test]
    fn a_mask_leaves_what_single_questions_permit() {
        for may_end in [false, true] {
            let mut even = Even(may_end);
            let mut rules = Rules { constraint: &mut even, key: 1, stops: &[4, 7, 99] };
            let mut scores = [1.0; 100];
            let mut candidates: Vec<_> = (0..100).map(|id| Candidate { id, score: 2.0 }).collect();
            assert!(rules.mask(&mut scores, &mut candidates));
            for id in 0..100u32 {
                let permitted = rules.permits(id);
                assert_eq!(permitted, scores[id as usize] == 1.0, "{id}");
                assert_eq!(permitted, candidates[id as usize].score == 2.0, "{id}");
            }
            assert_eq!((rules.permits(4), rules.permits(7), rules.permits(99)), (may_end, may_end, may_end));
        }
    }
}
