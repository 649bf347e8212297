//! One long text from its first part to its answer.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tern_protocol::answer::{Answer, Finish, Reason, Token};

use super::budget::Steps;
use super::cut::{Cutter, EngineEnded, Measured, measure};
use super::kept::{KeptAnswers, Said};
use super::part::Part;
use super::sums::Sums;
use super::{Heard, Surroundings};
use crate::serve::STOPPING;
use crate::serve::queue::{Job, JobGoal, PushError};
use crate::serve::requester::{ClientId, Requester};
use crate::tasks::{Answering, Task};
use crate::wire::{Failure, Text};

/// The longest pause before a full queue is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a long text has no answer.
#[derive(Debug)]
pub enum End {
    /// It was refused, or a part was.
    Failed(Failure),
    /// Its client cancelled it.
    Cancelled,
    /// Its client is gone.
    Gone,
}

fn failed(reason: Reason, message: String) -> End {
    End::Failed(Failure { id: None, code: reason.code(), reason, message, retry_after_ms: None })
}

impl From<EngineEnded> for End {
    fn from(EngineEnded: EngineEnded) -> Self {
        failed(Reason::Stopping, STOPPING.to_owned())
    }
}

/// The task for one step: the text's parts, or the answers to them.
struct Step {
    task: Arc<Task>,
    /// Tokens of its prompt without a text.
    form: usize,
}

/// What came of the parts of one step.
struct Answers {
    texts: Vec<String>,
    /// Of the last part.
    last: Option<Text>,
    /// What ended before the parts did: the tokens or the joules.
    cut_short: Option<Finish>,
}

/// The work on one long text.
pub struct Run<'r> {
    around: &'r Surroundings,
    kept: &'r KeptAnswers,
    job: &'r Job,
    own: ClientId,
    tell: &'r Sender<Heard>,
    heard: &'r Receiver<Heard>,
    sums: Sums,
    /// Tokens of the longest answer.
    answer_tokens: usize,
    most_tokens: u64,
    begun: bool,
}

impl<'r> Run<'r> {
    /// The work on the text of `job`, whose parts are asked in the name of `own`.
    pub fn new(
        around: &'r Surroundings,
        kept: &'r KeptAnswers,
        job: &'r Job,
        own: ClientId,
        (tell, heard): (&'r Sender<Heard>, &'r Receiver<Heard>),
    ) -> Self {
        let sums = Sums::new(job.queued_at);
        Run { around, kept, job, own, tell, heard, sums, answer_tokens: 0, most_tokens: 0, begun: false }
    }

    /// Does it all.
    pub fn answer(mut self) -> Result<Text, End> {
        let JobGoal::Task(task) = &self.job.goal else { return Err(self.refused_task()) };
        let (Answering::Text { max_tokens, .. }, Some(long)) = (&task.answering, &task.long) else {
            return Err(self.refused_task());
        };
        self.answer_tokens = max_tokens.unwrap_or(self.around.context_tokens / 4).max(1);
        self.most_tokens = long.most_tokens;
        let (map, reduce) = self.steps(task)?;
        let mut text = self.job.text.clone().unwrap_or_default();
        let mut step = &map;
        loop {
            let parts = self.cutter(step).cut(&text)?;
            if !self.begun && parts.len() > 1 {
                self.check_budget(&parts, &reduce)?;
            }
            let is_last = parts.len() <= 1;
            log::debug!("client {}: a long text in {} parts", self.job.session.id(), parts.len());
            let answers = self.ask(&step.task, &parts, is_last)?;
            let best = match &answers.last {
                // As it was streamed.
                Some(last) if is_last && answers.cut_short.is_none() => last.text.clone(),
                // Of a round that could not be ended, what went into it says more.
                _ if answers.cut_short.is_some() && std::ptr::eq(step, &reduce) => text,
                _ => join(&answers.texts),
            };
            if is_last || answers.cut_short.is_some() || best.is_empty() {
                let finish = match (answers.cut_short, answers.last.as_ref().filter(|_| is_last)) {
                    (Some(finish), _) => finish,
                    (None, Some(last)) => last.finish,
                    (None, None) => Finish::StopToken,
                };
                if self.job.stream && answers.cut_short.is_some() {
                    let (id, text) = (self.job.id.clone(), best.clone());
                    self.job.session.send(&Answer::Token(Token { id, text, logprobs: None, joules: None }));
                }
                return Ok(self.whole(answers.last, best, finish));
            }
            text = best;
            step = &reduce;
        }
    }

    /// Only tasks that say so come here; this is for whoever changes that.
    fn refused_task(&self) -> End {
        failed(
            Reason::Internal,
            "a text without a task for long ones was cut; this is a fault of Tern".into(),
        )
    }

    /// The task for parts, and the one for their answers.
    fn steps(&self, task: &Task) -> Result<(Step, Step), End> {
        let mut part = task.clone();
        if let Answering::Text { max_tokens, .. } = &mut part.answering {
            *max_tokens = Some(self.answer_tokens);
        }
        let mut whole = part.clone();
        let own = task.long.as_ref().and_then(|long| long.reduce_instructions.clone());
        if let Some(instructions) = own {
            whole.instructions = instructions;
        }
        let empty = vec![self.around.form.task(&part, ""), self.around.form.task(&whole, "")];
        let forms = measure(&self.around.queue, empty)?;
        let step = |task, form| Step { task: Arc::new(task), form };
        let (part, whole) = (step(part, forms[0]), step(whole, forms[1]));
        for step in [&part, &whole] {
            // Less would not make the text shorter from step to step.
            if self.cutter(step).room() < 2 * (self.answer_tokens + 1) {
                let message = format!(
                    "the text does not fit the context, and its parts do not either: the task takes {} tokens and an \
                     answer {} of the context of {}, and two answers must fit beside them; shorten the \
                     instructions, lower limits.max_tokens of the task, or raise context_tokens",
                    step.form, self.answer_tokens, self.around.context_tokens
                );
                return Err(failed(Reason::TooLarge, message));
            }
        }
        Ok((part, whole))
    }

    fn cutter<'c>(&'c self, step: &'c Step) -> Cutter<'c> {
        let most_tokens = self.around.context_tokens.saturating_sub(self.answer_tokens);
        Cutter { around: self.around, task: &step.task, most_tokens, form: step.form }
    }

    /// Refuses a text that may cost more than it may.
    fn check_budget(&self, parts: &[Measured], reduce: &Step) -> Result<(), End> {
        let room = self.cutter(reduce).room();
        let steps = Steps { answer: self.answer_tokens, form: reduce.form, room };
        let estimate = steps.estimate(parts.iter().map(|part| part.tokens));
        if estimate <= self.most_tokens {
            return Ok(());
        }
        let message = format!(
            "the text has {} parts, which take up to {estimate} tokens; limits.long_tokens of the task allows {}; \
             shorten the text or raise it",
            parts.len(),
            self.most_tokens
        );
        Err(failed(Reason::TooLarge, message))
    }

    /// Asks for the answers to all parts, some of them at once, and waits for them.
    fn ask(&mut self, task: &Arc<Task>, parts: &[Measured], is_last: bool) -> Result<Answers, End> {
        let mut texts: Vec<Option<String>> = vec![None; parts.len()];
        let mut last = None;
        let mut asked_at = Vec::with_capacity(parts.len());
        let mut waiting = 0;
        let mut in_work_tokens = 0;
        let mut cut_short = None;
        // Joules are spent by one part at a time: the next may have what is left.
        let most_waiting = if self.job.max_joules.is_some() { 1 } else { self.around.state.facts.slots };
        let cost = |part: &Measured| (part.tokens + self.answer_tokens) as u64;
        let costs: Vec<u64> = parts.iter().map(cost).collect();
        loop {
            let mut is_full = false;
            while let Some(part) = parts.get(asked_at.len())
                && waiting < most_waiting
                && cut_short.is_none()
                && !is_full
            {
                let place = asked_at.len();
                let kept = || self.kept.find(&part.prompt, &task.answering).filter(|_| !is_last);
                if self.begun && self.sums.tokens() + in_work_tokens + costs[place] > self.most_tokens {
                    cut_short = Some(Finish::Budget);
                } else if self.begun && self.joules_left().is_some_and(|left| left <= 0.0) {
                    cut_short = Some(Finish::Energy);
                } else if let Some(said) = kept() {
                    self.begun = true;
                    self.sums.add_kept(&said);
                    texts[place] = Some(said.text);
                    asked_at.push(Instant::now());
                } else if self.push(task, part, place, is_last)? {
                    self.begun = true;
                    asked_at.push(Instant::now());
                    in_work_tokens += costs[place];
                    waiting += 1;
                } else {
                    is_full = true;
                }
            }
            if waiting == 0 && !is_full {
                let texts = texts.into_iter().flatten().collect();
                let last = last.map(|(_, text)| text);
                return Ok(Answers { texts, last, cut_short });
            }
            let heard = match self.wait(parts.len(), is_full) {
                // A part that had nothing yet when the joules ended: what came before it counts.
                Err(End::Failed(failure)) if failure.reason == Reason::Energy && self.sums.tokens() > 0 => {
                    cut_short = Some(Finish::Energy);
                    waiting -= 1;
                    None
                }
                heard => heard?,
            };
            if let Some((place, text)) = heard {
                self.sums.add(&text, asked_at[place]);
                match text.finish {
                    Finish::Energy => cut_short = Some(Finish::Energy),
                    _ if is_last || text.logprobs.is_some() => {}
                    _ => self.kept.keep(&parts[place].prompt, &task.answering, Said::of(&text)),
                }
                texts[place] = Some(text.text.clone());
                if last.as_ref().is_none_or(|(before, _)| *before < place) {
                    last = Some((place, text));
                }
                in_work_tokens -= costs[place];
                waiting -= 1;
            }
        }
    }

    /// Puts a part in line; says whether there was room.
    fn push(&self, task: &Arc<Task>, part: &Measured, place: usize, is_last: bool) -> Result<bool, End> {
        let session: Arc<dyn Requester> = Arc::new(Part {
            own: self.own,
            client: Arc::clone(&self.job.session),
            place,
            is_last,
            tell: self.tell.clone(),
        });
        let job = Job {
            session,
            id: self.job.id.clone(),
            prompt: part.prompt.clone(),
            goal: JobGoal::Task(Arc::clone(task)),
            text: None,
            grammar: None,
            stream: self.job.stream && is_last,
            queued_at: Instant::now(),
            deadline: self.job.deadline,
            max_joules: self.joules_left(),
            priority: self.job.priority,
        };
        match self.around.queue.push(Box::new(job)) {
            Ok(()) => Ok(true),
            Err((_, PushError::Stopping)) => Err(EngineEnded.into()),
            // The text itself waited its turn: its parts wait for room.
            Err((_, PushError::Full { .. } | PushError::ClientFull { .. })) => Ok(false),
        }
    }

    /// Joules that the next part may cost, if they are limited.
    fn joules_left(&self) -> Option<f64> {
        // Parts of unknown joules ended with their own.
        self.job.max_joules.map(|most| most - self.sums.joules().unwrap_or(0.0))
    }

    /// Waits for the answer to a part. `None` means that it is time to look whether there is room again.
    fn wait(&self, parts: usize, is_full: bool) -> Result<Option<(usize, Text)>, End> {
        let heard = if is_full {
            match self.heard.recv_timeout(PAUSE) {
                Ok(heard) => heard,
                Err(RecvTimeoutError::Timeout) => return self.in_time().map(|()| None),
                Err(RecvTimeoutError::Disconnected) => return Err(EngineEnded.into()),
            }
        } else {
            self.heard.recv().map_err(|_| EngineEnded)?
        };
        match heard {
            Heard::Cancel => Err(End::Cancelled),
            Heard::Gone => Err(End::Gone),
            Heard::Part(place, answer) => match *answer {
                Answer::Text(text) => Ok(Some((place, text))),
                Answer::Error(failure) => Err(End::Failed(match failure.reason {
                    // These are about the whole.
                    Reason::Deadline | Reason::Stopping | Reason::Cancelled => failure,
                    _ => Failure {
                        message: format!("part {} of {parts}: {}", place + 1, failure.message),
                        ..failure
                    },
                })),
                other => Err(failed(
                    Reason::Internal,
                    format!(
                        "part {} of {parts} has an answer that is no text: {other:?}; this is a fault of Tern",
                        place + 1
                    ),
                )),
            },
        }
    }

    /// Parts that wait for the engine expire there; this is for those that wait for room in the queue.
    fn in_time(&self) -> Result<(), End> {
        match self.job.deadline {
            Some((at, given)) if at <= Instant::now() => {
                let message = format!(
                    "the deadline of {} ms ran out while a part of the text waited for room in the queue; give it \
                     more time or send less at once",
                    given.as_millis()
                );
                Err(failed(Reason::Deadline, message))
            }
            _ => Ok(()),
        }
    }

    fn whole(self, last: Option<Text>, text: String, finish: Finish) -> Text {
        let (usage, energy) = self.sums.finish();
        let model =
            last.as_ref().map_or_else(|| self.around.state.facts.model.clone(), |last| last.model.clone());
        let task = self.job.task_name().map(str::to_owned);
        let id = self.job.id.clone();
        let tokens_below_resolution = last.is_some_and(|last| last.tokens_below_resolution);
        Text { id, text, finish, usage, energy, model, task, logprobs: None, tokens_below_resolution }
    }
}

/// Answers one below the other; a model may have nothing to say of a part.
fn join(answers: &[String]) -> String {
    let lines = answers.iter().map(|answer| answer.trim()).filter(|text| !text.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}
