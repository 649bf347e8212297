//! The next token of a request: by its row of logits, or by what they can be at most where a head is screened, under the
//! rules that its caller has for it.

use bytemuck::cast_slice_mut;
use tern_kernels::KernelSet;

use super::Engine;
use super::batch::{WANT_CHOICE, Want};
use super::slot::{Live, Work};
use crate::constraint::{Constraint, Rules};
use crate::head::{self, Head, Planes, Query, screen};
use crate::sampler::{
    Candidate, Need, Rng, Sampling, argmax, better, choose, penalize, penalized, recent, sample_penalized,
    top,
};

/// The most alternatives whose log probabilities a request may ask for.
pub const MOST_LOGPROBS: usize = 20;

/// Alternatives to a token, their scores natural logarithms of probabilities.
type Alternatives = heapless::Vec<Candidate, MOST_LOGPROBS>;

/// A chosen token.
pub(super) struct Choice {
    pub id: u32,
    /// If the request asks for them.
    pub logprobs: Option<Logprobs>,
}

/// How probable a token was among all tokens, and which were the most probable.
pub(super) struct Logprobs {
    pub chosen: f32,
    pub top: Alternatives,
}

/// The most probable of `logits: [vocab]`, best first, and the logarithm of the sum of `e^logit`. `candidates: [vocab]` is
/// working memory.
fn weigh(set: &KernelSet, logits: &[f32], most: usize, candidates: &mut [Candidate]) -> (Alternatives, f32) {
    let found = top(logits, most, candidates);
    candidates[..found].sort_unstable_by(better);
    // No more than asked for, and no more may be asked for.
    let alternatives = Alternatives::from_slice(&candidates[..found]).unwrap_or_default();
    let highest = logits[argmax(logits) as usize];
    let terms = &mut cast_slice_mut::<Candidate, f32>(candidates)[..logits.len()];
    terms.copy_from_slice(logits);
    (alternatives, highest + libm::logf(set.exp_sum(terms)))
}

/// A logarithm that can be written down: logits that are no numbers make every token as improbable as can be said.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.min(0.0) } else { f32::MIN }
}

/// How a choice is made, and the memory for it.
struct Chooser<'c> {
    set: &'c KernelSet,
    sampling: &'c Sampling,
    rng: &'c mut Rng,
    /// `[vocab]`.
    candidates: &'c mut [Candidate],
    rules: Option<Rules<'c>>,
}

/// More rows than a screening is worth would have to be looked up.
struct TooMany;

impl Chooser<'_> {
    /// Chooses from penalised `logits: [vocab]`; `None` if none may follow.
    fn among_all(&mut self, logits: &mut [f32]) -> Option<u32> {
        if let Some(rules) = &mut self.rules {
            if self.sampling.need(logits.len()) == Need::Best {
                let favourite = argmax(logits);
                if rules.permits(favourite) {
                    return Some(favourite);
                }
            }
            if !rules.mask(logits, &mut []) {
                return None;
            }
        }
        let id = sample_penalized(self.set, self.sampling, self.rng, logits, self.candidates);
        self.permitted(id)
    }

    /// Chooses from what logits can be at most, `bounds: [vocab]`, which is used up, and from the first `known` candidates,
    /// whose logits are exact.
    fn among_bounds(
        &mut self,
        planes: &Planes<'_>,
        state: (&[i8], &Query),
        bounds: &mut [f32],
        mut known: usize,
    ) -> Result<Option<u32>, TooMany> {
        let (need, most) = (self.sampling.need(bounds.len()), screen::most_rows(planes));
        // The favourite is mostly permitted, and then nothing need be known of the others.
        let mut masked = need != Need::Best;
        loop {
            if let Some(rules) = self.rules.as_mut().filter(|_| masked)
                && !rules.mask(bounds, &mut self.candidates[..known])
            {
                return Ok(None);
            }
            let found =
                screen::candidates(self.set, planes, state, need, bounds, self.candidates, known, most)
                    .ok_or(TooMany)?;
            let kept = &mut self.candidates[..found.candidates];
            let chosen = choose(self.set, self.sampling, self.rng, kept, bounds);
            let permitted = self.permitted(chosen);
            if masked || permitted.is_some() {
                return Ok(permitted);
            }
            // What was looked up is known now.
            (masked, known) = (true, found.candidates);
        }
    }

    /// Where no logit is a number a choice falls on any token, also among some that were all masked.
    fn permitted(&mut self, id: u32) -> Option<u32> {
        self.rules.as_mut().is_none_or(|rules| rules.permits(id)).then_some(id)
    }
}

impl Engine<'_> {
    /// Chooses the next token of a request; `None` if none may follow.
    pub(super) fn choose(&mut self, want: Want, constraint: &mut dyn Constraint) -> Option<Choice> {
        let Self { slots, machine, model, logits, candidates, .. } = self;
        let Some(Live { key, work: Work::Generate(generation), .. }) = &slots[want.slot as usize].live else {
            return None;
        };
        let (vocab, row) = (model.config.vocab, want.logit_row as usize);
        let logits = &logits[row * vocab..(row + 1) * vocab];
        let weighed = generation.logprobs.map(|most| weigh(machine.set, logits, most, candidates));
        let rules = constraint.constrains(*key).then_some((*key, constraint));
        let id = self.choose_token(want, rules)?;
        let logprobs = weighed.map(|(mut top, total)| {
            let Self { machine, model, states, head_work, .. } = self;
            let state = &states[row * model.config.hidden..][..model.config.hidden];
            let logit = head::logit(machine.set, &model.head, head_work, (state, row), id as usize);
            for alternative in &mut top {
                alternative.score = finite(alternative.score - total);
            }
            Logprobs { chosen: finite(logit - total), top }
        });
        Some(Choice { id, logprobs })
    }

    fn choose_token(&mut self, want: Want, rules: Option<(u64, &mut dyn Constraint)>) -> Option<u32> {
        let Self { slots, machine, model, work, logits, head_work, candidates, tokenizer, .. } = self;
        let (vocab, row, set) = (model.config.vocab, want.logit_row as usize, machine.set);
        let logits = &mut logits[row * vocab..(row + 1) * vocab];
        let slot = &mut slots[want.slot as usize];
        let Some(Live { work: Work::Generate(generation), known, .. }) = &mut slot.live else { return None };
        let history = &slot.tokens[..*known];
        let (sampling, rng) = (&generation.sampling, &mut generation.rng);
        let stops = if generation.ignore_stop_tokens { &[] } else { tokenizer.stop_tokens() };
        let rules = rules.map(|(key, constraint)| Rules { constraint, key, stops });
        let mut chooser = Chooser { set, sampling, rng, candidates, rules };
        if let (Head::Planes(planes), WANT_CHOICE) = (&model.head, want.node) {
            let state = head_work.state(planes, row);
            let known = recent(sampling, history, chooser.candidates);
            for token in &mut chooser.candidates[..known] {
                let logit = planes.logit(set, state.0, state.1, token.id as usize);
                token.score = penalized(sampling, logit);
            }
            match chooser.among_bounds(planes, state, logits, known) {
                Ok(chosen) => return chosen,
                Err(TooMany) => {
                    let rows = (&[][..], row..row + 1);
                    head::logits(*machine, work.scratch, &model.head, head_work, rows, logits);
                }
            }
        }
        penalize(sampling, logits, history, chooser.candidates);
        chooser.among_all(logits)
    }
}
