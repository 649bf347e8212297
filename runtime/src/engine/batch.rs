//! The rows of one step: whose they are, and what is wanted of them.

use bytemuck::{Pod, Zeroable};

use super::slot::{Generation, Live, Work};
use super::speculate::{self, Drafter};
use super::{Engine, LOGIT_CHUNK, Phase, Share, Step};
use crate::head::Head;
use crate::sampler::Need;

/// A row whose hidden state is wanted, and by whom.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Want {
    pub(super) row: u32,
    pub(super) slot: u32,
    /// [`WANT_LOGITS`], [`WANT_CHOICE`], or the trie node that the row stands for.
    pub(super) node: u32,
    /// Of a want for logits or a choice, its row of logits.
    pub(super) logit_row: u32,
}

/// A want for logits over the whole vocabulary.
pub(super) const WANT_LOGITS: u32 = u32::MAX;
/// A want for a token that can be chosen without all logits.
pub(super) const WANT_CHOICE: u32 = u32::MAX - 1;

/// What a generating request wants of its last row.
fn want_of(head: &Head<'_>, generation: &Generation) -> u32 {
    match head {
        // Log probabilities are those of the whole distribution.
        _ if generation.logprobs.is_some() => WANT_LOGITS,
        Head::Planes(planes) if generation.sampling.need(planes.rows) != Need::All => WANT_CHOICE,
        _ => WANT_LOGITS,
    }
}

/// One step of so many goes by turns, whatever the ranks.
const FAIR_EVERY: usize = 4;

/// Rows collected for a step.
#[derive(Default)]
pub(super) struct Batch {
    pub rows: usize,
    pub branches: usize,
    pub wants: usize,
    pub logit_rows: usize,
    logit_chunk: usize,
    pub step: Step,
}

impl Engine<'_> {
    /// Chooses the rows of the next step: decoding requests first, then prompts and label tries in turn, those of a higher
    /// rank first.
    pub(super) fn collect(&mut self) -> Batch {
        self.draft();
        let mut batch = Batch::default();
        let slots = self.slots.len();
        let is_fair = self.steps.is_multiple_of(FAIR_EVERY);
        // A round of their own, in which each slot comes first once.
        let turn = if is_fair { self.steps / FAIR_EVERY % slots } else { self.turn };
        self.steps = self.steps.wrapping_add(1);
        self.collect_where(&mut batch, turn, Live::decoding);
        if is_fair {
            self.collect_where(&mut batch, turn, |live| !live.decoding());
            return batch;
        }
        let mut below = None;
        loop {
            let ranks = self.slots.iter().filter_map(|slot| slot.live.as_ref()).map(|live| live.rank);
            let Some(rank) = ranks.filter(|rank| below.is_none_or(|below| *rank < below)).max() else {
                return batch;
            };
            below = Some(rank);
            self.collect_where(&mut batch, turn, |live| !live.decoding() && live.rank == rank);
        }
    }

    /// Adds what fits of the requests that are `wanted`, from the slot `turn` on.
    fn collect_where(&mut self, batch: &mut Batch, turn: usize, wanted: impl Fn(&Live) -> bool) {
        let slots = self.slots.len();
        for index in (0..slots).map(|i| (turn + i) % slots) {
            if self.slots[index].live.as_ref().is_some_and(&wanted) {
                self.collect_rows(index, batch);
            }
        }
    }

    /// Drafts tokens for the texts of the next step, if it has no other rows.
    fn draft(&mut self) {
        let Self { slots, tokenizer, options, costs, rows, .. } = self;
        let mut drafters = heapless::Vec::new();
        let (mut writing, mut reading) = (0, 0);
        for slot in slots.iter_mut() {
            let Some(live) = &mut slot.live else { continue };
            let is_writing = live.decoding();
            *(if is_writing { &mut writing } else { &mut reading }) += 1;
            let (known, written) = (live.known, live.usage.generated_tokens);
            if let Work::Generate(generation) = &mut live.work
                && let Some(expectation) = &mut generation.expectation
            {
                expectation.drop_draft();
                if is_writing {
                    // A row chooses what follows the last token of a draft, and that must be within the limit.
                    let room = generation.limit - written - 1;
                    let stops = if generation.ignore_stop_tokens { &[] } else { tokenizer.stop_tokens() };
                    // One entry a slot at most, so it cannot be full.
                    let _ = drafters.push(Drafter { expectation, tokens: slot.tokens, known, room, stops });
                }
            }
        }
        if reading == 0 {
            let most = options.draft_tokens.min(rows.len() - writing);
            speculate::draft(costs, writing, most, &mut drafters);
        }
    }

    /// Adds what fits of one request.
    fn collect_rows(&mut self, index: usize, batch: &mut Batch) {
        let slot = &mut self.slots[index];
        let Some(mut live) = slot.live.take() else { return };
        let first = batch.rows;
        let phase = if live.decoding() { Phase::Decode } else { Phase::Prefill };
        let (logit_rows_before, wants_before, mut seen) = (batch.logit_rows, batch.wants, 0);
        let mut budget = self.rows.len() - batch.rows;
        if matches!(live.work, Work::Logits) {
            budget = budget.min(LOGIT_CHUNK - batch.logit_chunk);
        }
        let end = live.known + live.drafted();
        live.usage.drafted_tokens += end - live.known;
        while live.done < end && batch.rows - first < budget {
            let last = live.done + 1 >= live.known;
            if !last && !matches!(live.work, Work::Logits) && self.cache.is_computed(index, live.done) {
                // By another request of this step at the latest: a layer stores all keys before any row looks at them.
                (live.done, live.usage.cached_tokens) = (live.done + 1, live.usage.cached_tokens + 1);
                continue;
            }
            let node = match live.work {
                Work::Logits => Some(WANT_LOGITS),
                Work::Generate(ref generation) if last => Some(want_of(&self.model.head, generation)),
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
            self.cache.note_computed(index, live.done);
            seen += live.done as u64 + 1;
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
                seen += live.known as u64 + u64::from(row.branch_len);
                self.rows[batch.rows] = row;
                batch.rows += 1;
                live.label_rows_done += 1;
            }
        }
        let rows = batch.rows - first;
        if rows > 0 {
            let head_rows = batch.logit_rows - logit_rows_before;
            let label_rows = batch.wants - wants_before - head_rows;
            let config = &self.model.config;
            let work = rows as u64 * config.ternary_weights() + seen * config.attention_products();
            let share = Share { key: live.key, phase, rows, choices: 0, work, head_rows, label_rows };
            // One entry a slot at most, so it cannot be full.
            let _ = batch.step.shares.push(share);
        }
        slot.live = Some(live);
    }
}
