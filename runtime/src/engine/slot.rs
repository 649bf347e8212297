//! One place for a live request: its tokens, its label trie, and how far it has come.

use crate::engine::choice::MOST_LOGPROBS;
use crate::engine::request::{Finish, Generate, Goal, Refusal, Usage};
use crate::engine::speculate::Expectation;
use crate::forward::Row;
use crate::sampler::{Rng, Sampling};
use crate::stop::{StopFilter, TextStream};
use crate::trie::{NONE, Trie};

/// A place for a request, with the memory it may use.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    /// Prompt, then what was generated; `[context]`.
    pub tokens: &'a mut [u32],
    /// Labels of a decision.
    pub trie: Trie<'a>,
    /// Cell of each trie node that the model is run on.
    pub cells: &'a mut [u32],
    /// The request, if there is one.
    pub live: Option<Live>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Live {
    pub key: u64,
    /// Whose prompt goes first: see [`Engine::set_rank`](super::Engine::set_rank).
    pub rank: u8,
    pub work: Work,
    /// Tokens known.
    pub known: usize,
    /// Tokens that went through the layers.
    pub done: usize,
    /// Trie rows that went through the layers.
    pub label_rows_done: usize,
    pub usage: Usage,
}

/// What is being done.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator to put the larger one elsewhere")]
pub(super) enum Work {
    Generate(Generation),
    Choose,
    Logits,
}

/// State of a generation.
#[derive(Debug)]
pub(super) struct Generation {
    pub sampling: Sampling,
    pub rng: Rng,
    /// Most tokens to generate.
    pub limit: usize,
    /// Why it ends when the limit is reached.
    pub at_limit: Finish,
    pub ignore_stop_tokens: bool,
    pub logprobs: Option<usize>,
    pub text: TextStream,
    /// What is expected to follow, if tokens may be tried ahead.
    pub expectation: Option<Expectation>,
}

impl Live {
    /// Tokens that are tried behind the known ones.
    pub fn drafted(&self) -> usize {
        match &self.work {
            Work::Generate(generation) => {
                generation.expectation.as_ref().map_or(0, |expectation| expectation.drafted(self.known))
            }
            _ => 0,
        }
    }

    /// Whether the next row of this request is a generated token.
    pub fn decoding(&self) -> bool {
        self.done >= self.usage.prompt_tokens && matches!(self.work, Work::Generate(_))
    }
}

impl Slot<'_> {
    /// Checks `goal` for a prompt of `prompt` tokens that are already in place, and prepares its work. Returns the
    /// cells that it will fill at most.
    pub fn prepare(
        &mut self,
        goal: &Goal<'_>,
        prompt: usize,
        most_labels: usize,
        mut label: impl FnMut(&mut Trie<'_>, &str) -> Result<(), Refusal>,
    ) -> Result<(Work, usize), Refusal> {
        let context_tokens = self.tokens.len();
        let overflow =
            |max_tokens| Refusal::ContextOverflow { prompt_tokens: prompt, max_tokens, context_tokens };
        match *goal {
            Goal::Logits => Ok((Work::Logits, prompt)),
            Goal::Generate(Generate {
                sampling,
                max_tokens,
                stops,
                ignore_stop_tokens,
                logprobs,
                speculate,
            }) => {
                sampling.check()?;
                if let Some(found) = logprobs.filter(|found| *found > MOST_LOGPROBS) {
                    return Err(Refusal::TooManyLogprobs { found, most: MOST_LOGPROBS });
                }
                let room = context_tokens - prompt;
                let (limit, at_limit) = match max_tokens {
                    Some(0) => return Err(Refusal::NothingToGenerate),
                    Some(limit) => (limit, Finish::MaxTokens),
                    None => (room.max(1), Finish::ContextFull),
                };
                if limit > room {
                    return Err(overflow(limit));
                }
                let text = TextStream::new(StopFilter::new(stops.iter().copied())?);
                let rng = Rng::new(sampling.seed);
                let expectation = speculate.then(Expectation::new);
                let generation = Generation {
                    sampling,
                    rng,
                    limit,
                    at_limit,
                    ignore_stop_tokens,
                    logprobs,
                    text,
                    expectation,
                };
                Ok((Work::Generate(generation), prompt + limit))
            }
            Goal::Choose { labels } => {
                let found = labels.len();
                if found > most_labels {
                    return Err(crate::trie::LabelError::TooMany { found, most: most_labels }.into());
                }
                self.trie.clear();
                for text in labels {
                    label(&mut self.trie, text)?;
                }
                self.trie.finish()?;
                let mut rows = 0;
                for node in self.trie.rows() {
                    self.cells[node as usize] = (prompt + rows) as u32;
                    rows += 1;
                }
                if prompt + rows > context_tokens {
                    return Err(overflow(rows));
                }
                Ok((Work::Choose, prompt + rows))
            }
        }
    }

    /// The row of token `at` of the text.
    pub fn text_row(&self, slot: usize, at: usize) -> Row {
        Row {
            token: self.tokens[at],
            slot: slot as u32,
            position: at as u32,
            cell: at as u32,
            visible: at as u32 + 1,
            branch_start: 0,
            branch_len: 0,
        }
    }

    /// The row of trie node `node` behind a prompt of `prompt` tokens; the cells it sees beyond the prompt, itself
    /// last, are written to `branches[start..]`.
    pub fn label_row(
        &self,
        slot: usize,
        prompt: usize,
        node: u32,
        branches: &mut [u32],
        start: usize,
    ) -> Row {
        let depth = self.trie.node(node).depth as usize;
        let mut at = node;
        for cell in branches[start..start + depth].iter_mut().rev() {
            *cell = self.cells[at as usize];
            at = self.trie.node(at).parent;
        }
        debug_assert!(at != NONE && self.trie.node(at).depth == 0, "the walk ends at the root");
        Row {
            token: self.trie.node(node).token,
            slot: slot as u32,
            position: (prompt - 1 + depth) as u32,
            cell: self.cells[node as usize],
            visible: prompt as u32,
            branch_start: start as u32,
            branch_len: depth as u32,
        }
    }
}
