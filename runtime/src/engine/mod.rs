//! Requests in slots, one batched step at a time.
//!
//! A step takes one row of every request that is generating, then fills up with rows of prompts and label tries, and
//! reads every weight once for all of them. Between steps requests may come and go. Nothing is allocated after
//! [`Engine::new`]: a request that does not fit is refused, and one that was taken has all it needs.

mod request;
mod slot;

use bytemuck::{Pod, Zeroable};
use tern_kernels::KernelSet;

use crate::arena::Arena;
use crate::error::LoadError;
use crate::forward::{Machine, Row, Workspace};
use crate::gguf::Gguf;
use crate::head::{self, Head, screen};
use crate::kv_cache::{KvCache, MAX_SLOTS};
use crate::model::Model;
use crate::parallel::Exec;
use crate::plan::{MemoryPlan, Options};
use crate::sampler::{Candidate, Need, Sampling, choose, penalized, recent, sample};
use crate::tokenizer::{EncodeError, Special, Tokenizer};
use crate::trie::{LabelError, MAX_DEPTH, Node, Trie};

pub use request::{Event, Finish, Goal, Phase, Piece, Refusal, Request, Share, Usage};
use slot::{Live, Slot, Work};

/// Rows of logits that a step gives to requests for logits, beside those of generating ones.
pub(crate) const LOGIT_CHUNK: usize = 8;

/// A row whose hidden state is wanted, and by whom.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Want {
    row: u32,
    slot: u32,
    /// [`WANT_LOGITS`], [`WANT_CHOICE`], or the trie node that the row stands for.
    node: u32,
    /// Of a want for logits or a choice, its row of logits.
    logit_row: u32,
}

/// A want for logits over the whole vocabulary.
const WANT_LOGITS: u32 = u32::MAX;
/// A want for a token that can be chosen without all logits.
const WANT_CHOICE: u32 = u32::MAX - 1;

/// What a generating request wants of its last row.
fn want_of(head: &Head<'_>, sampling: &Sampling) -> u32 {
    match head {
        Head::Planes(planes) if sampling.need(planes.rows) != Need::All => WANT_CHOICE,
        _ => WANT_LOGITS,
    }
}

/// What a step did.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// One entry a request that took part.
    pub shares: heapless::Vec<Share, MAX_SLOTS>,
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
}

impl core::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine").field("config", &self.model.config).finish_non_exhaustive()
    }
}

/// Rows collected for a step.
#[derive(Default)]
struct Batch {
    rows: usize,
    branches: usize,
    wants: usize,
    logit_rows: usize,
    logit_chunk: usize,
    step: Step,
}

/// The token that ends a turn of the model: `<|eot_id|>` where there is one, else the first of its stop tokens.
fn end_token(tokenizer: &Tokenizer<'_>) -> Option<u32> {
    let stops = tokenizer.stop_tokens();
    stops.iter().find(|id| tokenizer.token_text(**id) == "<|eot_id|>").or(stops.first()).copied()
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
        let cache = KvCache::new(plan.kv, pool, arena.take(plan.kv.table_words())?);
        let work = Workspace::new(&config, &plan.work, &mut arena)?;
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
        let (work, cells) = slot.prepare(&request.goal, prompt, self.options.labels, |trie, text| {
            let end = end_token(tokenizer).ok_or(Refusal::NoEndToken)?;
            let mut tokens = [0u32; MAX_DEPTH];
            let count = tokenizer.encode(text, Special::Plain, encode_scratch, &mut tokens);
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
        self.cache.reserve(index, cells).map_err(|pages| Refusal::Busy { pages: Some(pages) })?;
        let usage = Usage { prompt_tokens: prompt, ..Usage::default() };
        slot.live = Some(Live { key: request.key, work, known: prompt, done: 0, label_rows_done: 0, usage });
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

    fn free(&mut self, index: usize) {
        self.slots[index].live = None;
        self.cache.release(index);
    }

    /// Puts the prompt's tokens into a slot and returns how many there are.
    fn encode_prompt(&mut self, index: usize, pieces: &[Piece<'_>]) -> Result<usize, Refusal> {
        let Self { slots, tokenizer, encode_scratch, options, model, .. } = self;
        let (tokens, vocab) = (&mut slots[index].tokens, model.config.vocab);
        let mut needed = 0;
        for piece in pieces {
            let room = needed.min(tokens.len());
            match *piece {
                Piece::Token(id) if id as usize >= vocab => return Err(Refusal::UnknownToken { id, vocab }),
                Piece::Token(id) => {
                    if let Some(place) = tokens[room..].first_mut() {
                        *place = id;
                    }
                    needed += 1;
                }
                Piece::Text(text) => {
                    let most_bytes = options.prompt_bytes;
                    if text.len() > most_bytes {
                        return Err(Refusal::PromptTooLong { bytes: text.len(), most_bytes });
                    }
                    needed +=
                        match tokenizer.encode(text, Special::Plain, encode_scratch, &mut tokens[room..]) {
                            Ok(count) => count,
                            Err(EncodeError::TooLong { needed_tokens, .. }) => needed_tokens,
                            Err(_) => return Err(Refusal::PromptTooLong { bytes: text.len(), most_bytes }),
                        };
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

    /// Runs one step and reports what came of it; does nothing if no request is live.
    pub fn step(&mut self, mut events: impl FnMut(u64, Event<'_>)) -> Step {
        let batch = self.collect();
        if batch.rows == 0 {
            return batch.step;
        }
        let (rows, branches) = (&self.rows[..batch.rows], &self.branches[..batch.branches]);
        self.work.run(self.machine, &self.model, &mut self.cache, rows, branches);
        self.compute_logits(&batch);
        // Choices and logits first: weighing labels takes over the head's working memory.
        for want in 0..batch.wants {
            let want = self.wants[want];
            if want.node >= WANT_CHOICE {
                self.deliver_logits(want, &mut events);
            }
        }
        for want in 0..batch.wants {
            let Want { row, slot, node, .. } = self.wants[want];
            if node < WANT_CHOICE {
                self.weigh_labels(slot as usize, row, node);
            }
        }
        for index in 0..self.slots.len() {
            self.finish_complete(index, &mut events);
        }
        self.turn = (self.turn + 1) % self.slots.len();
        batch.step
    }

    /// Chooses the rows of the next step: decoding requests first, then prompts and label tries in turn.
    fn collect(&mut self) -> Batch {
        let mut batch = Batch::default();
        let (slots, turn) = (self.slots.len(), self.turn);
        for decoding in [true, false] {
            for index in (0..slots).map(|i| (turn + i) % slots) {
                if self.slots[index].live.as_ref().is_some_and(|live| live.decoding() == decoding) {
                    self.collect_rows(index, &mut batch);
                }
            }
        }
        batch
    }

    /// Adds what fits of one request.
    fn collect_rows(&mut self, index: usize, batch: &mut Batch) {
        let slot = &mut self.slots[index];
        let Some(mut live) = slot.live.take() else { return };
        let first = batch.rows;
        let phase = if live.decoding() { Phase::Decode } else { Phase::Prefill };
        let logit_rows_before = batch.logit_rows;
        let mut budget = self.rows.len() - batch.rows;
        if matches!(live.work, Work::Logits) {
            budget = budget.min(LOGIT_CHUNK - batch.logit_chunk);
        }
        while live.done < live.known && batch.rows - first < budget {
            let last = live.done + 1 == live.known;
            let node = match live.work {
                Work::Logits => Some(WANT_LOGITS),
                Work::Generate(ref generation) if last => {
                    Some(want_of(&self.model.head, &generation.sampling))
                }
                Work::Choose if last => Some(0),
                _ => None,
            };
            if let Some(node) = node {
                let logit_row = batch.logit_rows as u32;
                self.wants[batch.wants] =
                    Want { row: batch.rows as u32, slot: index as u32, node, logit_row };
                batch.wants += 1;
                batch.logit_rows += usize::from(node >= WANT_CHOICE);
                batch.logit_chunk += usize::from(matches!(live.work, Work::Logits));
            }
            self.rows[batch.rows] = slot.text_row(index, live.done);
            batch.rows += 1;
            live.done += 1;
        }
        if matches!(live.work, Work::Choose) && live.done == live.known {
            for node in slot.trie.rows().skip(live.label_rows_done) {
                if batch.rows == self.rows.len() {
                    break;
                }
                let row = slot.label_row(index, live.known, node, self.branches, batch.branches);
                self.wants[batch.wants] =
                    Want { row: batch.rows as u32, slot: index as u32, node, logit_row: 0 };
                batch.wants += 1;
                batch.branches += row.branch_len as usize;
                self.rows[batch.rows] = row;
                batch.rows += 1;
                live.label_rows_done += 1;
            }
        }
        let rows = batch.rows - first;
        if rows > 0 {
            let heads = batch.logit_rows - logit_rows_before;
            let config = &self.model.config;
            let head_work = heads as u64 * config.vocab as u64 * config.hidden as u64;
            let work = rows as u64 * config.ternary_weights() + head_work;
            // One entry a slot at most, so it cannot be full.
            let _ = batch.step.shares.push(Share { key: live.key, phase, rows, work });
        }
        slot.live = Some(live);
    }

    /// Logits of every row that wants them, or what they can be at most where a token is to be chosen. Rows of choices
    /// come before those of logits, so that each kind is computed in one go.
    fn compute_logits(&mut self, batch: &Batch) {
        if batch.logit_rows == 0 {
            return;
        }
        let Self { wants, states, work, machine, model, head_work, logits, .. } = self;
        let (hidden, vocab) = (model.config.hidden, model.config.vocab);
        let mut filled = 0;
        let mut choices = 0;
        for kind in [WANT_CHOICE, WANT_LOGITS] {
            for want in wants[..batch.wants].iter_mut().filter(|want| want.node == kind) {
                want.logit_row = filled as u32;
                let state = &mut states[filled * hidden..(filled + 1) * hidden];
                work.output(machine.set, model, want.row as usize, state);
                filled += 1;
            }
            choices = if kind == WANT_CHOICE { filled } else { choices };
        }
        let (states, logits) = (&states[..filled * hidden], &mut logits[..filled * vocab]);
        let (bounds, logits) = logits.split_at_mut(choices * vocab);
        head_work.prepare(machine.set, &model.head, states);
        if let Head::Planes(planes) = &model.head
            && choices > 0
        {
            head::bounds(*machine, work.scratch, planes, head_work, 0..choices, bounds);
        }
        if filled > choices {
            let rows = (states, choices..filled);
            head::logits(*machine, work.scratch, &model.head, head_work, rows, logits);
        }
    }

    /// Chooses the next token of a request by its row of logits, or of what they can be at most.
    fn choose(&mut self, want: Want) -> u32 {
        let Self { slots, machine, model, work, logits, head_work, candidates, .. } = self;
        let (vocab, row, set) = (model.config.vocab, want.logit_row as usize, machine.set);
        let logits = &mut logits[row * vocab..(row + 1) * vocab];
        let slot = &mut slots[want.slot as usize];
        let Some(Live { work: Work::Generate(generation), known, .. }) = &mut slot.live else { return 0 };
        let history = &slot.tokens[..*known];
        let (sampling, rng) = (&generation.sampling, &mut generation.rng);
        let Head::Planes(planes) = &model.head else {
            return sample(set, sampling, rng, logits, history, candidates);
        };
        if want.node == WANT_CHOICE {
            let state = head_work.state(planes, row);
            let known = recent(sampling, history, candidates);
            for token in &mut candidates[..known] {
                let logit = planes.logit(set, state.0, state.1, token.id as usize);
                token.score = penalized(sampling, logit);
            }
            let (need, most) = (sampling.need(vocab), screen::most_rows(planes));
            match screen::candidates(set, planes, state, need, logits, candidates, known, most) {
                Some(found) => {
                    return choose(set, sampling, rng, &mut candidates[..found.candidates], logits);
                }
                // Too many could be it.
                None => {
                    let rows = (&[][..], row..row + 1);
                    head::logits(*machine, work.scratch, &model.head, head_work, rows, logits);
                }
            }
        }
        sample(set, sampling, rng, logits, history, candidates)
    }

    /// Uses one row of logits: reports it, or chooses the next token.
    fn deliver_logits(&mut self, want: Want, events: &mut impl FnMut(u64, Event<'_>)) {
        let Want { row, slot: index, logit_row, .. } = want;
        let (index, vocab) = (index as usize, self.model.config.vocab);
        if let Some(Live { key, work: Work::Logits, .. }) = self.slots[index].live {
            let position = self.rows[row as usize].position as usize;
            let logits = &self.logits[logit_row as usize * vocab..][..vocab];
            events(key, Event::Logits { position, logits });
            return;
        }
        let id = self.choose(want);
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        let key = live.key;
        let Work::Generate(generation) = &mut live.work else { return };
        let text = &mut generation.text;
        let mut finish = None;
        if !generation.ignore_stop_tokens && self.tokenizer.stop_tokens().contains(&id) {
            finish = Some(Finish::StopToken);
        } else {
            live.usage.generated_tokens += 1;
            events(key, Event::Token { id });
            if text.push(self.tokenizer.token_bytes(id), |text| events(key, Event::Text(text))) {
                finish = Some(Finish::StopString);
            } else if live.usage.generated_tokens == generation.limit {
                finish = Some(generation.at_limit);
            } else {
                slot.tokens[live.known] = id;
                live.known += 1;
            }
        }
        if let Some(reason) = finish {
            if reason != Finish::StopString {
                text.finish(|text| events(key, Event::Text(text)));
            }
            let usage = live.usage;
            self.free(index);
            events(key, Event::Finished { reason, usage });
        }
    }

    /// Weighs the children of a trie node by the hidden state of its row.
    fn weigh_labels(&mut self, index: usize, row: u32, node: u32) {
        let Self { slots, work, machine, model, states, head_work, .. } = self;
        let trie = &mut slots[index].trie;
        if !trie.branches(node) {
            trie.pass_on(node);
            return;
        }
        let state = &mut states[..model.config.hidden];
        work.output(machine.set, model, row as usize, state);
        head_work.prepare(machine.set, &model.head, state);
        trie.share(node, |token| head::logit(machine.set, &model.head, head_work, state, token as usize));
    }

    /// Ends a decision or a request for logits that has nothing left to run.
    fn finish_complete(&mut self, index: usize, events: &mut impl FnMut(u64, Event<'_>)) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        if live.done < live.known {
            return;
        }
        let (key, mut usage) = (live.key, live.usage);
        match live.work {
            Work::Generate(_) => return,
            Work::Logits => {}
            Work::Choose => {
                if slot.trie.rows().nth(live.label_rows_done).is_some() {
                    return;
                }
                usage.label_rows = live.label_rows_done;
                let probabilities = &mut self.probabilities[..slot.trie.labels()];
                slot.trie.probabilities(probabilities);
                events(key, Event::Decided { probabilities });
            }
        }
        self.free(index);
        events(key, Event::Finished { reason: Finish::Complete, usage });
    }
}
