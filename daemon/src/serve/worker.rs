//! The one thread that runs the engine: takes jobs from the queue, runs steps, reads the meter around them, answers.

mod admission;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tern_boards::energy::{Completed, Ledger, Meter};
use tern_protocol::answer::{Answer, Cancelled, Probability, Reason};
use tern_runtime::engine::{self, Engine};

use super::charges;
use super::counters::{Ending, Way};
use super::live::Live;
use super::long::LongTexts;
use super::pacing::Pacing;
use super::prefixes::{self, Prefixes};
use super::queue::{Job, Notice, Queue};
use super::refusal;
use super::report;
use super::spending::{PromptCost, told_late};
use super::state::State;
use super::submit::finish;
use crate::grammar::Rules;
use crate::model::streaming::Streaming;
use crate::systemd::Watchdog;
use crate::tasks::Answering;
use crate::tasks::answer::decide;
use crate::wire::{Decision, Text};

/// How often idle energy is read, and the longest the thread sleeps.
pub const TICK: Duration = Duration::from_secs(1);

/// What the worker counts joules and holds still by.
pub struct Metering {
    /// Whose joules they are.
    pub ledger: Ledger,
    /// When it holds still.
    pub pacing: Pacing,
    /// Zero of their clock.
    pub origin: Instant,
}

/// The engine's thread.
pub struct Worker<'w, 'e> {
    engine: &'w mut Engine<'e>,
    queue: &'w Queue,
    state: &'w State,
    /// Texts that are worked on in parts.
    long: LongTexts,
    ledger: Ledger,
    /// Zero of the ledger's clock.
    origin: Instant,
    /// Counts up while this thread advances; the engine counts it up within a step.
    pulse: Arc<AtomicU64>,
    /// The longest it sleeps.
    tick: Duration,
    live: Vec<Live>,
    /// What the texts of some of them keep to.
    rules: Rules,
    next_key: u64,
    /// What steps read from memory, for a meter that goes by it.
    streaming: Streaming,
    /// When it holds still.
    pacing: Pacing,
    /// What prompts cost lately, in joules.
    prompt_cost: PromptCost,
    /// And in seconds, pauses included.
    prompt_time: PromptCost,
    /// What tasks begin with, on disk.
    prefixes: Option<Prefixes>,
}

/// Time for the parts of a step.
pub fn nanoseconds() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

impl<'w, 'e> Worker<'w, 'e> {
    /// A worker on `engine` that counts up `pulse`.
    pub fn new(
        engine: &'w mut Engine<'e>,
        queue: &'w Queue,
        state: &'w State,
        long: LongTexts,
        Metering { ledger, pacing, origin }: Metering,
        pulse: Arc<AtomicU64>,
    ) -> Self {
        engine.set_clock(nanoseconds);
        let streaming = Streaming::of(engine, ledger.meter().and_then(Meter::traffic));
        state.daybook.open().begin(&ledger, origin.elapsed());
        Worker {
            streaming,
            engine,
            queue,
            state,
            long,
            ledger,
            origin,
            pulse,
            tick: Watchdog::of_service().every().map_or(TICK, |every| every.min(TICK)),
            live: Vec::new(),
            rules: Rules::default(),
            next_key: 0,
            pacing,
            prompt_cost: PromptCost::default(),
            prompt_time: PromptCost::default(),
            prefixes: None,
        }
    }

    /// Takes what tasks begin with from `prefixes`, and keeps it there.
    pub fn keeping(mut self, prefixes: Option<Prefixes>) -> Self {
        self.prefixes = prefixes;
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.load(self.engine);
        }
        self
    }

    /// Works until the queue is stopped and the last request has ended.
    pub fn run(mut self) {
        loop {
            self.pulse.fetch_add(1, Ordering::Relaxed);
            for notice in self.queue.take_notices() {
                match notice {
                    Notice::Gone(client) => self.drop_client(client),
                    Notice::Tokenize(tokenizing) => tokenizing.run(self.engine.tokenizer()),
                    Notice::Cancel { session, by, target } => {
                        let cancelled = self.long.cancel(session.id(), &target)
                            || self.cancel(|job| job.session.id() == session.id() && job.id == target);
                        session.send(&match cancelled {
                            true => Answer::Cancelled(Cancelled { id: by, cancel: target }),
                            false => unknown_request(by, &target),
                        });
                    }
                }
            }
            self.expire();
            if let Some(stop_by) = self.queue.stop_by() {
                self.turn_away();
                if Instant::now() >= stop_by {
                    self.break_off();
                }
            } else {
                self.admit();
            }
            self.state.set_live(self.live.len());
            self.pacing.look(self.origin.elapsed(), &self.ledger, self.state);
            if !self.live.is_empty() {
                if !self.hold() {
                    self.step();
                }
            } else if self.queue.stop_by().is_some() {
                break;
            } else {
                self.tick();
                let mut wait = self.tick;
                if let Some(prefixes) = &mut self.prefixes {
                    prefixes.load(self.engine);
                    if prefixes.save(self.engine) {
                        wait = wait.min(prefixes::PAUSE);
                    }
                }
                // Sums of what is said too often, which nobody else may say anything after.
                log::logger().flush();
                self.queue.wait(wait);
            }
        }
        self.queue.close();
        self.tick();
    }

    /// Reads the meter between steps.
    fn tick(&mut self) {
        let now = self.origin.elapsed();
        self.pacing.tick(now, &mut self.ledger);
        self.state.set_energy(&self.ledger);
        self.state.daybook.open().settle(&self.ledger, now);
    }

    /// Holds still for a while if the pace says so; says whether it did.
    fn hold(&mut self) -> bool {
        let now = self.origin.elapsed();
        let Some(pause) = self.pacing.pause(now, &mut self.ledger) else { return false };
        self.queue.pause(pause);
        let held = self.origin.elapsed().saturating_sub(now);
        self.pacing.held(held);
        self.state.count_pause(held);
        for live in &mut self.live {
            live.paced += held;
        }
        true
    }

    /// Ends requests whose joules are spent: texts with what they have, others without an answer.
    fn end_spent(&mut self) {
        let spent = |ledger: &Ledger, live: &Live| {
            let max_joules = live.job.max_joules.filter(|_| live.finish.is_none())?;
            let spent_uj = ledger.spent_uj(live.key);
            spent_uj.is_none_or(|uj| uj as f64 >= max_joules * 1e6).then_some((spent_uj, max_joules))
        };
        let mut index = 0;
        while let Some(live) = self.live.get_mut(index) {
            let Some((spent_uj, max_joules)) = spent(&self.ledger, live) else {
                index += 1;
                continue;
            };
            if self.engine.end(live.key, |_, event| live.take(event)) {
                index += 1;
                continue;
            }
            let live = self.live.remove(index);
            self.give_up(&live);
            self.state.count(live.job.session.way(), Ending::Expired);
            let message = told_late(spent_uj, max_joules);
            live.job.session.send(&refusal(Some(live.job.id.clone()), Reason::Energy, message));
        }
    }

    /// Runs one step and sends what came of it.
    fn step(&mut self) {
        let began = self.origin.elapsed();
        self.ledger.begin_step(began);
        let before_uj = self.ledger.totals().map(|totals| totals.counter_uj);
        let live = &mut self.live;
        let step = self.engine.step_under(&mut self.rules, |key, event| {
            if let Some(live) = live.iter_mut().find(|live| live.key == key) {
                live.take(event);
            }
        });
        let now = Instant::now();
        self.streaming.count(&step);
        let at = now.saturating_duration_since(self.origin);
        let shares = charges::shares(&step);
        let parts = self.ledger.end_step(at, &shares);
        self.pacing.stepped(began, before_uj, at, &self.ledger);
        let mut book = self.state.daybook.open();
        let is_lump =
            self.ledger.meter().is_some_and(|meter| at.saturating_sub(began) < meter.resolution().period);
        charges::charge(&step, parts.as_deref(), is_lump, &mut self.live, &mut book);
        book.settle(&self.ledger, at);
        drop(book);
        log::trace!("step of {} rows for {} requests", step.rows(), step.shares.len());
        self.end_spent();
        for live in &mut self.live {
            if live.began_answer && live.prefill_end.is_none() {
                live.prefill_end = Some(now);
            }
            if let Some(answer) = live.unsent(self.engine.tokenizer()) {
                live.job.session.send(&answer);
            }
        }
        while let Some(index) = self.live.iter().position(|live| live.finish.is_some()) {
            let live = self.live.remove(index);
            self.answer(live, now);
        }
    }

    /// Sends the last answer of a request that the engine has finished.
    fn answer(&mut self, mut live: Live, now: Instant) {
        let Some((reason, counted)) = live.finish else { return };
        let grammar = self.rules.remove(live.key);
        let times = live.times(now);
        // A text of one token was written by the step that ended its prompt: no step tells what a token costs.
        let one_token = counted.generated_tokens > 0 && live.decode_tokens == 0;
        let computed = counted.prompt_tokens - counted.cached_tokens;
        let completed = Completed {
            prefill_tokens: if one_token { 0 } else { computed as u64 },
            decode_tokens: live.decode_tokens as u64,
            throttled: self.pacing.throttled(),
        };
        let tokens_below_resolution = live.job.stream && self.ledger.resolves_tokens(live.key) == Some(false);
        let energy = self.ledger.finish(live.key, completed);
        if let Some(joules) = energy.prefill_joules.filter(|_| !energy.below_resolution) {
            self.prompt_cost.note(joules, live.prefill_rows);
        }
        self.prompt_time.note(times.prefill.as_secs_f64(), live.prefill_rows);
        self.state.set_energy(&self.ledger);
        // First, so that a client that has its answer finds it counted.
        self.state.set_live(self.live.len());
        self.book_end(live.job.session.way(), &live.label, reason != engine::Finish::Stuck);
        if reason == engine::Finish::Stuck {
            let why = grammar.map(|grammar| grammar.failure()).unwrap_or_default();
            return self.tell_stuck(&live.job, &why);
        }
        let (usage, energy) = (report::usage(&counted, &times), report::energy(energy));
        let logprobs = live.logprobs(self.engine.tokenizer()).filter(|_| !live.job.stream);
        let Live { job, probabilities, text, admitted, .. } = live;
        let id = job.id.clone();
        let model = self.state.facts.model.clone();
        let task = job.task_name().map(str::to_owned);
        let answer = match job.answering() {
            Answering::Decision { labels, reading, threshold } => {
                let verdict = decide(&probabilities, *reading, *threshold);
                let each = labels.iter().zip(&probabilities);
                Answer::Decision(Decision {
                    id,
                    label: (!verdict.abstained).then(|| labels[verdict.best].clone()),
                    probability: verdict.probability,
                    abstained: verdict.abstained,
                    probabilities: each
                        .map(|(label, p)| Probability { label: label.clone(), p: *p })
                        .collect(),
                    value: verdict.value,
                    usage,
                    energy,
                    model,
                    task,
                })
            }
            Answering::Text { .. } => {
                let finish = finish(reason);
                Answer::Text(Text {
                    id,
                    text,
                    finish,
                    usage,
                    energy,
                    model,
                    task,
                    logprobs,
                    tokens_below_resolution,
                })
            }
        };
        self.state.count(job.session.way(), Ending::Answered);
        self.state.counters.count_duration(job.session.way(), now.saturating_duration_since(job.queued_at));
        self.state.count_work(&counted, now - admitted);
        job.session.send(&answer);
        let (client, task) = (job.session.id(), job.task_name().unwrap_or_default());
        log::debug!(
            tern_client = client, tern_request = &*job.id, tern_task = task;
            "client {client}: answered, {:.1} ms in the engine",
            (now - admitted).as_secs_f64() * 1e3
        );
    }

    /// The text of a request cannot go on by its schema, and cannot end.
    fn tell_stuck(&self, job: &Job, why: &str) {
        self.state.count(job.session.way(), Ending::Refused);
        let message = format!("schema: the text cannot go on: {why}; make the schema simpler");
        job.session.send(&refusal(Some(job.id.clone()), Reason::BadRequest, message));
    }

    /// Gives up requests whose time has run out.
    fn expire(&mut self) {
        let now = Instant::now();
        let over = |job: &Job| job.deadline.is_some_and(|(at, _)| at <= now);
        for job in self.queue.remove(over) {
            self.tell_expired(&job, "before the engine had room for it");
        }
        for live in self.take_live(over) {
            self.tell_expired(&live.job, "while the engine worked on it");
        }
    }

    fn tell_expired(&self, job: &Job, when: &str) {
        let given_ms = job.deadline.map_or(0, |(_, given)| given.as_millis());
        let paced = self.pacing.told().map(|why| format!("; {why}")).unwrap_or_default();
        let message = format!(
            "the deadline of {given_ms} ms ran out {when}; give it more time or send less at once{paced}"
        );
        self.state.count(job.session.way(), Ending::Expired);
        job.session.send(&refusal(Some(job.id.clone()), Reason::Deadline, message));
    }

    /// Cancels a request, waiting or running, and tells its client; says whether there was one.
    fn cancel(&mut self, wanted: impl Fn(&Job) -> bool) -> bool {
        let mut jobs = self.queue.remove(&wanted);
        jobs.extend(self.take_live(&wanted).into_iter().map(|live| live.job));
        for job in &jobs {
            self.state.count(job.session.way(), Ending::Cancelled);
            let message = "the client cancelled the request";
            job.session.send(&refusal(Some(job.id.clone()), Reason::Cancelled, message));
        }
        !jobs.is_empty()
    }

    /// Forgets the requests of a client that is gone.
    fn drop_client(&mut self, client: u64) {
        let theirs = |job: &Job| job.session.id() == client;
        self.long.gone(client);
        let mut gone = self.queue.remove(theirs);
        gone.extend(self.take_live(theirs).into_iter().map(|live| live.job));
        for job in &gone {
            self.state.count(job.session.way(), Ending::Cancelled);
        }
        if !gone.is_empty() {
            log::debug!("client {client} is gone; {} of its requests were dropped", gone.len());
        }
    }

    /// Answers what still waits when the daemon stops.
    fn turn_away(&mut self) {
        for job in self.queue.remove(|_| true) {
            self.tell_stopping(&job);
        }
    }

    /// Ends what still runs when the daemon has waited long enough.
    fn break_off(&mut self) {
        for live in self.take_live(|_| true) {
            self.tell_stopping(&live.job);
        }
    }

    fn tell_stopping(&self, job: &Job) {
        self.state.count(job.session.way(), Ending::Cancelled);
        job.session.send(&refusal(Some(job.id.clone()), Reason::Stopping, super::STOPPING));
    }

    /// Takes running requests out of the engine and closes their energy accounts.
    fn take_live(&mut self, wanted: impl Fn(&Job) -> bool) -> Vec<Live> {
        if !self.live.iter().any(|live| wanted(&live.job)) {
            return Vec::new();
        }
        let (taken, kept) =
            std::mem::take(&mut self.live).into_iter().partition::<Vec<_>, _>(|live| wanted(&live.job));
        self.live = kept;
        for live in &taken {
            self.give_up(live);
        }
        taken
    }

    /// Takes a request out of the engine and closes its account.
    fn give_up(&mut self, live: &Live) {
        self.engine.cancel(live.key);
        self.rules.remove(live.key);
        self.ledger.finish(live.key, Completed::default());
        self.book_end(live.job.session.way(), &live.label, false);
    }

    /// Books the end of a request; a part of a larger one is none.
    fn book_end(&self, way: Way, label: &str, answered: bool) {
        if way != Way::Own {
            self.state.daybook.open().end(label, answered);
        }
    }
}

/// The answer to cancelling what is not there.
pub(super) fn unknown_request(by: String, target: &str) -> crate::wire::Answer {
    let message =
        format!("no live request of this connection has the id {target:?}; it may have ended already");
    refusal(Some(by), Reason::UnknownRequest, message)
}
