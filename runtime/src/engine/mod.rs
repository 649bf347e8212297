//! Requests in slots, one batched step at a time.
//!
//! A step takes one row of every request that is generating, then fills up with rows of prompts and label tries, and
//! reads every weight once for all of them. Between steps requests may come and go. Nothing is allocated after
//! [`Engine::new`]: a request that does not fit is refused, and one that was taken has all it needs.

mod batch;
mod choice;
mod request;
mod slot;
mod speculate;
mod step;

use tern_kernels::KernelSet;

use crate::arena::Arena;
use crate::error::LoadError;
use crate::forward::{Machine, Row, Workspace};
use crate::gguf::Gguf;
use crate::head;
use crate::kv_cache::{KvCache, MAX_SLOTS};
use crate::model::Model;
use crate::parallel::Exec;
use crate::plan::{MemoryPlan, Options};
use crate::sampler::Candidate;
use crate::tokenizer::{EncodeError, Special, Tokenizer};
use crate::trie::{LabelError, MAX_DEPTH, Node, Trie};

pub(crate) use batch::Want;
pub use choice::MOST_LOGPROBS;
pub use request::{Event, Finish, Generate, Goal, Phase, Piece, Refusal, Request, Share, Spans, Usage};
use slot::{Live, Slot, Work};
use speculate::Costs;
pub use speculate::MOST_DRAFTS;

/// Rows of logits that a step gives to requests for logits, beside those of generating ones.
pub(crate) const LOGIT_CHUNK: usize = 8;

/// What a step did.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// One entry a request that took part.
    pub shares: heapless::Vec<Share, MAX_SLOTS>,
    /// How long its parts took.
    pub spans: Spans,
}

impl Step {
    /// Rows of the whole step; 0 if there was nothing to do.
    pub fn rows(&self) -> usize {
        self.shares.iter().map(|share| share.rows).sum()
    }
}

/// A model ready to serve.
pub struct Engine<'a> {
    model: Model<'a>,
    tokenizer: Tokenizer<'a>,
    machine: Machine<'a>,
    options: Options,
    cache: KvCache<'a>,
    work: Workspace<'a>,
    slots: heapless::Vec<Slot<'a>, MAX_SLOTS>,
    /// Where the next step starts to look, so that no slot is always last.
    turn: usize,
    /// Steps begun.
    steps: usize,
    encode_scratch: &'a mut [u32],
    rows: &'a mut [Row],
    branches: &'a mut [u32],
    wants: &'a mut [Want],
    /// `[logit rows, vocab]`.
    logits: &'a mut [f32],
    /// Final hidden states of the rows that want logits, `[rows, hidden]`.
    states: &'a mut [f32],
    head_work: head::Workspace<'a>,
    candidates: &'a mut [Candidate],
    probabilities: &'a mut [f32],
    clock: Option<fn() -> u64>,
    /// Whether what one request computed serves others.
    keeps_prefixes: bool,
    /// Of steps that write text.
    costs: Costs,
}

impl core::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine").field("config", &self.model.config).finish_non_exhaustive()
    }
}

impl<'a> Engine<'a> {
    /// Loads the model in `gguf` as planned, into `memory` of at least [`MemoryPlan::total_bytes`].
    ///
    /// # Errors
    /// If a tensor is unusable, `memory` is too small, or the plan is one for another file, set or number of workers.
    pub fn new(
        gguf: &Gguf<'a>,
        plan: &MemoryPlan,
        set: &'static KernelSet,
        exec: &'a dyn Exec,
        memory: &'a mut [u8],
    ) -> Result<Self, LoadError> {
        plan.expect(gguf, set, exec.workers())?;
        let MemoryPlan { config, options, .. } = *plan;
        let mut arena = Arena::new(memory);
        let model = Model::load_with_head(gguf, config, set, options.head, &mut arena)?;
        let tables = arena.take(plan.tokenizer.table_words())?;
        let tokenizer = Tokenizer::build(gguf, plan.tokenizer, tables)?;
        let pool = arena.take(plan.kv.pool_bytes().ok_or(LoadError::PlanOverflow)?)?;
        let tables = arena.take(plan.kv.table_words())?;
        let cache = KvCache::new(plan.kv, pool, tables, arena.take(plan.kv.pages)?);
        let work = Workspace::new(&model, &plan.work, &mut arena)?;
        let rows = options.batch_rows;
        let (logits, states) =
            (arena.take(plan.logit_rows() * config.vocab)?, arena.take(rows * config.hidden)?);
        let head_work = head::Workspace::new(&model.head, plan.logit_rows(), &mut arena)?;
        let candidates = arena.take(config.vocab)?;
        let mut slots = heapless::Vec::new();
        for _ in 0..options.slots {
            let slot = Slot {
                tokens: arena.take(options.context_tokens)?,
                trie: Trie::new(arena.take::<Node>(options.label_tokens)?),
                cells: arena.take(options.label_tokens)?,
                live: None,
            };
            // Cannot be full: `Options::check` bounds the number of slots.
            let _ = slots.push(slot);
        }
        Ok(Engine {
            model,
            tokenizer,
            machine: Machine { set, exec },
            options,
            cache,
            work,
            slots,
            turn: 0,
            steps: 0,
            clock: None,
            keeps_prefixes: true,
            costs: Costs::new(),
            probabilities: arena.take(options.labels)?,
            rows: arena.take(rows)?,
            branches: arena.take(rows * MAX_DEPTH)?,
            wants: arena.take(rows)?,
            encode_scratch: arena.take(Tokenizer::scratch_words(options.prompt_bytes))?,
            logits,
            states,
            head_work,
            candidates,
        })
    }

    /// The loaded model.
    pub fn model(&self) -> &Model<'a> {
        &self.model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer<'a> {
        &self.tokenizer
    }

    /// What the engine was made for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Live requests.
    pub fn live(&self) -> usize {
        self.slots.iter().filter(|slot| slot.live.is_some()).count()
    }

    /// Takes a request, or says why not; a refused request leaves no trace.
    ///
    /// # Errors
    /// [`Refusal::Busy`] may pass; every other refusal is final for this request.
    pub fn submit(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        let free = self.slots.iter().position(|slot| slot.live.is_none());
        let index = free.ok_or(Refusal::Busy { pages: None })?;
        let prompt = self.encode_prompt(index, request.prompt)?;
        let Self { slots, tokenizer, encode_scratch, .. } = self;
        let slot = &mut slots[index];
        let after_text = matches!(request.prompt.last(), Some(Piece::Text(_)));
        let (mut work, cells) = slot.prepare(&request.goal, prompt, self.options.labels, |trie, text| {
            let end = tokenizer.end_of_turn().ok_or(Refusal::NoEndToken)?;
            let mut tokens = [0u32; MAX_DEPTH];
            let count = tokenizer.encode_after(after_text, text, Special::Plain, encode_scratch, &mut tokens);
            let index = trie.labels();
            match count {
                Ok(count) => Ok(trie.insert(&tokens[..count], end)?),
                Err(EncodeError::TooLong { needed_tokens, .. }) => {
                    Err(LabelError::TooLong { index, tokens: needed_tokens + 1 }.into())
                }
                Err(_) => Err(LabelError::TooManyBytes {
                    index,
                    bytes: text.len(),
                    most: self.options.prompt_bytes,
                }
                .into()),
            }
        })?;
        // Logits are wanted of every token, so every one is run.
        let shares = self.keeps_prefixes && !matches!(work, Work::Logits);
        let text = if shares { &slot.tokens[..prompt] } else { &[] };
        let done = self.cache.reserve(index, text, cells);
        let done = done.map_err(|pages| Refusal::Busy { pages: Some(pages) })?;
        if let Work::Generate(generation) = &mut work
            && !after_text
        {
            generation.text.decoded_by(tokenizer.decoder());
        }
        let usage = Usage { prompt_tokens: prompt, cached_tokens: done, ..Usage::default() };
        slot.live =
            Some(Live { key: request.key, rank: 1, work, known: prompt, done, label_rows_done: 0, usage });
        Ok(())
    }

    /// Ends the request with this key without another event; says whether there was one.
    pub fn cancel(&mut self, key: u64) -> bool {
        let found = self.slots.iter().position(|slot| slot.live.as_ref().is_some_and(|live| live.key == key));
        if let Some(index) = found {
            self.free(index);
        }
        found.is_some()
    }

    /// Ends the text of this key here: what was held back of it comes as an event, and then [`Event::Finished`] with
    /// [`Finish::Ended`]. Does nothing, and says so, if there is no such request or it has no token yet.
    pub fn end(&mut self, key: u64, mut events: impl FnMut(u64, Event<'_>)) -> bool {
        let found = self.slots.iter().position(|slot| slot.live.as_ref().is_some_and(|live| live.key == key));
        let Some(index) = found else { return false };
        let Some(Live { work: Work::Generate(generation), usage, .. }) = &mut self.slots[index].live else {
            return false;
        };
        if usage.generated_tokens == 0 {
            return false;
        }
        generation.text.finish(|text| events(key, Event::Text(text)));
        let usage = *usage;
        self.free(index);
        events(key, Event::Finished { reason: Finish::Ended, usage });
        true
    }

    /// Lets the prompt of the request with this key have the rows of a step before prompts of a lower rank, all of which are
    /// 1 at first. One step in four goes by turns alone, so that no prompt stands still; texts that are being written have
    /// a row each in every step, whatever their rank. No answer depends on it. Says whether there is such a request.
    pub fn set_rank(&mut self, key: u64, rank: u8) -> bool {
        let mut live = self.slots.iter_mut().filter_map(|slot| slot.live.as_mut());
        live.find(|live| live.key == key).map(|live| live.rank = rank).is_some()
    }

    /// Tokens of the prompt of the request with this key that are still to be computed.
    pub fn prompt_left(&self, key: u64) -> Option<usize> {
        let live = self.slots.iter().filter_map(|slot| slot.live.as_ref()).find(|live| live.key == key);
        live.map(|live| live.usage.prompt_tokens.saturating_sub(live.done))
    }

    /// Whether requests use what others with the same beginning have computed, which is so from the start. No answer
    /// depends on it; a benchmark that reads the same prompt again and again does.
    pub fn keep_prefixes(&mut self, keeps: bool) {
        self.keeps_prefixes = keeps;
        if !keeps {
            self.cache.forget();
        }
    }

    /// Keys and values of past texts.
    pub fn cache(&self) -> &KvCache<'a> {
        &self.cache
    }

    /// Keeps page `index` of `text` as [`KvCache::restore`] does.
    pub fn restore(&mut self, text: &[u32], index: usize, bytes: &[u8]) -> bool {
        self.keeps_prefixes && self.cache.restore(text, index, bytes)
    }

    fn free(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let done = slot.live.take().map_or(0, |live| live.done.min(live.known));
        let text = if self.keeps_prefixes { &slot.tokens[..done] } else { &[] };
        self.cache.release(index, text);
    }

    /// Puts the prompt's tokens into a slot and returns how many there are.
    fn encode_prompt(&mut self, index: usize, pieces: &[Piece<'_>]) -> Result<usize, Refusal> {
        let Self { slots, tokenizer, encode_scratch, options, model, .. } = self;
        let (tokens, vocab) = (&mut slots[index].tokens, model.config.vocab);
        let (mut needed, mut after_text) = (0, false);
        for piece in pieces {
            let room = needed.min(tokens.len());
            match *piece {
                Piece::Token(id) if id as usize >= vocab => return Err(Refusal::UnknownToken { id, vocab }),
                Piece::Token(id) => {
                    if let Some(place) = tokens[room..].first_mut() {
                        *place = id;
                    }
                    needed += 1;
                    after_text = false;
                }
                Piece::Text(text) => {
                    let most_bytes = options.prompt_bytes;
                    if text.len() > most_bytes {
                        return Err(Refusal::PromptTooLong { bytes: text.len(), most_bytes });
                    }
                    let plain = Special::Plain;
                    let out = &mut tokens[room..];
                    needed += match tokenizer.encode_after(after_text, text, plain, encode_scratch, out) {
                        Ok(count) => count,
                        Err(EncodeError::TooLong { needed_tokens, .. }) => needed_tokens,
                        Err(_) => return Err(Refusal::PromptTooLong { bytes: text.len(), most_bytes }),
                    };
                    after_text = true;
                }
            }
        }
        let context_tokens = tokens.len();
        match needed {
            0 => Err(Refusal::EmptyPrompt),
            prompt_tokens if prompt_tokens > context_tokens => {
                Err(Refusal::ContextOverflow { prompt_tokens, max_tokens: 0, context_tokens })
            }
            prompt_tokens => Ok(prompt_tokens),
        }
    }
}
