//! Texts longer than the context: answered part by part, then the answers together, until one is left.
//!
//! ```text
//! engine refuses a job that does not fit --> LongTexts::begin --> a thread of its own:
//!   cut into parts (split, cut) --> parts wait in the queue as jobs (part) --> answers joined --> cut again ... (run)
//! ```
//! Parts take their client's turns in the queue and have the deadline of the whole; the requester of a part is nobody's
//! connection but the thread of its text. A client that cancels or goes away is told to that thread, which takes its
//! parts back. What all parts took is added up (sums) and told with the one answer. Answers to parts are kept for a text that
//! has the same parts again (kept).

mod budget;
mod cut;
mod kept;
mod part;
mod run;
mod split;
mod sums;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tern_protocol::answer::{Answer, Reason};

use super::counters::Ending;
use super::queue::{Job, Notice, Queue};
use super::refusal;
use super::requester::ClientId;
use super::state::State;
use crate::tasks::prompt::PromptForm;
use crate::wire::{self, Failure};
use kept::KeptAnswers;
use run::{End, Run};

/// What working on a long text needs of the daemon.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where parts go.
    pub queue: Arc<Queue>,
    /// Counters.
    pub state: Arc<State>,
    /// How prompts are laid out.
    pub form: Arc<PromptForm>,
    /// Tokens of one prompt and its answer.
    pub context_tokens: usize,
    /// Bytes of the longest text in a prompt.
    pub prompt_bytes: usize,
}

/// What the thread of a long text hears.
#[derive(Debug)]
enum Heard {
    /// The last answer to the part of this place.
    Part(usize, Box<wire::Answer>),
    /// The client cancelled the request.
    Cancel,
    /// The client is gone.
    Gone,
}

/// A long text that is worked on.
#[derive(Debug)]
struct Entry {
    client: ClientId,
    id: String,
    own: ClientId,
    tell: Sender<Heard>,
}

/// The long texts that are worked on. It belongs to the engine's thread, which begins and cancels them.
#[derive(Debug)]
pub struct LongTexts {
    around: Surroundings,
    most: usize,
    begun: u64,
    live: Arc<Mutex<Vec<Entry>>>,
    kept: Arc<KeptAnswers>,
}

fn lock(live: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    // Nothing that could panic happens under the lock.
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LongTexts {
    /// None yet, and at most `most` at once.
    pub fn new(around: Surroundings, most: usize) -> Self {
        LongTexts { around, most, begun: 0, live: Arc::default(), kept: Arc::default() }
    }

    /// Works on a job whose text does not fit, and answers it.
    pub fn begin(&mut self, job: Box<Job>) {
        let (tell, heard) = mpsc::channel();
        // Counted from the other end than clients' numbers.
        let own = ClientId::MAX - self.begun;
        self.begun += 1;
        let entry = Entry { client: job.session.id(), id: job.id.clone(), own, tell: tell.clone() };
        let working = {
            let mut live = lock(&self.live);
            let working = live.len();
            if working < self.most {
                live.push(entry);
            }
            working
        };
        if working >= self.most {
            let waiting = working + self.around.queue.len();
            let failure = Failure {
                id: Some(job.id.clone()),
                code: Reason::QueueFull.code(),
                reason: Reason::QueueFull,
                message: format!(
                    "{working} long texts are worked on already (limits.long_texts); try again later"
                ),
                retry_after_ms: Some(self.around.state.retry_after_ms(waiting)),
            };
            self.around.state.count(job.session.way(), Ending::Refused);
            return job.session.send(&Answer::Error(failure));
        }
        let (around, live, kept) = (self.around.clone(), Arc::clone(&self.live), Arc::clone(&self.kept));
        let text = Document { around, own, tell, heard, live, kept };
        let (session, id) = (Arc::clone(&job.session), job.id.clone());
        let thread = std::thread::Builder::new().name("tern-long".into());
        if let Err(error) = thread.spawn(move || text.work(&job)) {
            log::error!("a long text has no thread: {error}; raise the limit of tasks");
            lock(&self.live).retain(|entry| entry.own != own);
            self.around.state.count(session.way(), Ending::Refused);
            let message = "the system refuses a thread for a long text; send it again later";
            session.send(&refusal(Some(id), Reason::Internal, message));
        }
    }

    /// Cancels the request `id` of a client if it is a long text; says whether it is.
    pub fn cancel(&self, client: ClientId, id: &str) -> bool {
        let live = lock(&self.live);
        let found = live.iter().find(|entry| entry.client == client && entry.id == id);
        found.is_some_and(|entry| entry.tell.send(Heard::Cancel).is_ok())
    }

    /// Drops the long texts of a client that is gone.
    pub fn gone(&self, client: ClientId) {
        for entry in lock(&self.live).iter().filter(|entry| entry.client == client) {
            // A thread that has ended has no need to know.
            let _ = entry.tell.send(Heard::Gone);
        }
    }
}

/// A long text on its own thread.
struct Document {
    around: Surroundings,
    own: ClientId,
    tell: Sender<Heard>,
    heard: Receiver<Heard>,
    live: Arc<Mutex<Vec<Entry>>>,
    kept: Arc<KeptAnswers>,
}

impl Document {
    fn work(self, job: &Job) {
        let mut end = Run::new(&self.around, &self.kept, job, self.own, (&self.tell, &self.heard)).answer();
        if end.is_err() {
            self.around.queue.notify(Notice::Gone(self.own));
        }
        // From here on it can no longer be cancelled; until here it could.
        lock(&self.live).retain(|entry| entry.own != self.own);
        for heard in self.heard.try_iter() {
            match heard {
                Heard::Cancel => end = Err(End::Cancelled),
                Heard::Gone => end = Err(End::Gone),
                Heard::Part(..) => {}
            }
        }
        let (ending, answer) = match end {
            Ok(text) => (Ending::Answered, Some(Answer::Text(text))),
            Err(End::Failed(failure)) => {
                log::debug!("client {}: long text failed: {}", job.session.id(), failure.message);
                let ending = match failure.reason {
                    Reason::Deadline => Ending::Expired,
                    Reason::Cancelled | Reason::Stopping => Ending::Cancelled,
                    _ => Ending::Refused,
                };
                (ending, Some(Answer::Error(Failure { id: Some(job.id.clone()), ..failure })))
            }
            Err(End::Cancelled) => {
                let message = "the client cancelled the request";
                (Ending::Cancelled, Some(refusal(Some(job.id.clone()), Reason::Cancelled, message)))
            }
            Err(End::Gone) => (Ending::Cancelled, None),
        };
        let way = job.session.way();
        self.around.state.count(way, ending);
        {
            let mut book = self.around.state.daybook.open();
            let label = book.label(job.task_name());
            book.end(&label, ending == Ending::Answered);
        }
        if ending == Ending::Answered {
            self.around.state.counters.count_duration(way, job.queued_at.elapsed());
        }
        if let Some(answer) = answer {
            job.session.send(&answer);
        }
    }
}

#[cfg(test)]
mod tests;
