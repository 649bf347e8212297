//! One step: the rows through the model, then what came of each for its request.

use super::batch::{Batch, WANT_CHOICE, WANT_LOGITS, Want};
use super::choice::{Choice, Logprobs};
use super::slot::{Live, Work};
use super::{Engine, Event, Finish, Phase, Spans, Step};
use crate::constraint::{Constraint, Free, Progress};
use crate::forward::Row;
use crate::head::{self, Head};

impl Engine<'_> {
    /// Runs one step and reports what came of it; does nothing if no request is live.
    pub fn step(&mut self, events: impl FnMut(u64, Event<'_>)) -> Step {
        self.step_under(&mut Free, events)
    }

    /// As [`Engine::step`], with the rules that `constraint` has for some of the requests.
    pub fn step_under(
        &mut self,
        constraint: &mut dyn Constraint,
        mut events: impl FnMut(u64, Event<'_>),
    ) -> Step {
        let mut batch = self.collect();
        if batch.rows == 0 {
            return batch.step;
        }
        let began_ns = self.clock_ns();
        let (rows, branches) = (&self.rows[..batch.rows], &self.branches[..batch.branches]);
        self.work.run(self.machine, &self.model, &mut self.cache, rows, branches);
        let layers_ns = self.clock_ns();
        self.compute_logits(&batch);
        // Choices and logits first: weighing labels takes over the head's working memory.
        for want in 0..batch.wants {
            let want = self.wants[want];
            if want.node >= WANT_CHOICE {
                self.deliver_logits(want, &mut batch.step, constraint, &mut events);
            }
        }
        let heads_ns = self.clock_ns();
        let is_writing = batch.step.shares.iter().all(|share| share.phase == Phase::Decode);
        if is_writing && self.clock.is_some() {
            self.costs.note(batch.rows, heads_ns.saturating_sub(began_ns));
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
        batch.step.spans = Spans {
            layers_ns: layers_ns.saturating_sub(began_ns),
            heads_ns: heads_ns.saturating_sub(layers_ns),
            labels_ns: self.clock_ns().saturating_sub(heads_ns),
        };
        batch.step
    }

    /// Measures the parts of steps from now on by `clock`, nanoseconds since any moment, which must not run backwards.
    pub fn set_clock(&mut self, clock: fn() -> u64) {
        self.clock = Some(clock);
    }

    fn clock_ns(&self) -> u64 {
        self.clock.map_or(0, |nanoseconds| nanoseconds())
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

    /// Uses one row of logits: reports it, or chooses the next token.
    fn deliver_logits(
        &mut self,
        want: Want,
        step: &mut Step,
        constraint: &mut dyn Constraint,
        events: &mut impl FnMut(u64, Event<'_>),
    ) {
        let Want { row, slot: index, logit_row, .. } = want;
        let (index, vocab) = (index as usize, self.model.config.vocab);
        if let Some(Live { key, work: Work::Logits, .. }) = self.slots[index].live {
            let position = self.rows[row as usize].position as usize;
            let logits = &self.logits[logit_row as usize * vocab..][..vocab];
            events(key, Event::Logits { position, logits });
            return;
        }
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        let Row { token, position, .. } = self.rows[row as usize];
        if position as usize + 1 != live.known || slot.tokens[position as usize] != token {
            // A draft that came to nothing.
            live.done = live.known - 1;
            return;
        }
        let choice = self.choose(want, constraint);
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        let (key, is_drafted) = (live.key, live.drafted() > 0);
        if let Some(share) = step.shares.iter_mut().find(|share| share.key == key) {
            share.choices += 1;
        }
        let Work::Generate(generation) = &mut live.work else { return };
        let text = &mut generation.text;
        let is_stop = |id| !generation.ignore_stop_tokens && self.tokenizer.stop_tokens().contains(&id);
        let mut finish = None;
        if choice.is_none() {
            finish = Some(Finish::Stuck);
        }
        if let Some(Choice { id, .. }) = choice
            && is_stop(id)
        {
            finish = Some(Finish::StopToken);
        } else if let Some(Choice { id, logprobs }) = choice {
            live.usage.generated_tokens += 1;
            live.usage.accepted_tokens += usize::from(is_drafted && slot.tokens[live.known] == id);
            if let Some(Logprobs { chosen, top }) = &logprobs {
                events(key, Event::Logprobs { chosen: *chosen, top });
            }
            events(key, Event::Token { id });
            let is_complete = constraint.constrains(key) && constraint.take(key, id) == Progress::Complete;
            if text.push(self.tokenizer.token_bytes(id), |text| events(key, Event::Text(text))) {
                finish = Some(Finish::StopString);
            } else if is_complete {
                finish = Some(Finish::Complete);
            } else if live.usage.generated_tokens == generation.limit {
                finish = Some(generation.at_limit);
            } else {
                slot.tokens[live.known] = id;
                live.known += 1;
                if let Some(expectation) = &mut generation.expectation {
                    expectation.follow(&slot.tokens[..live.known]);
                }
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
        trie.share(node, |token| {
            head::logit(machine.set, &model.head, head_work, (&*state, 0), token as usize)
        });
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
