//! Requests that wait for the engine: bounded, with deadlines, in the order of `turns`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tern_protocol::request::Priority;

use super::requester::{ClientId, Requester};
use super::tokenizing::Tokenizing;
use super::turns::{InLine, Turns};
use crate::grammar::Grammar;
use crate::tasks::prompt::Prompt;
use crate::tasks::{Answering, Task};

/// A request that the engine is to work on.
#[derive(Debug)]
pub struct Job {
    /// Who asked.
    pub session: Arc<dyn Requester>,
    /// The client's id for it.
    pub id: String,
    /// What the model reads.
    pub prompt: Prompt,
    /// What is wanted of it.
    pub goal: JobGoal,
    /// The text in the prompt, if its task works in parts on one that does not fit.
    pub text: Option<String>,
    /// What its text is to keep to, until the engine has it.
    pub grammar: Option<Grammar>,
    /// Whether text is sent as it appears.
    pub stream: bool,
    /// When it came.
    pub queued_at: Instant,
    /// When it is to be given up, and the time that it was given in all.
    pub deadline: Option<(Instant, Duration)>,
    /// Joules that it may cost.
    pub max_joules: Option<f64>,
    /// How it goes beside others.
    pub priority: Priority,
}

impl InLine for Box<Job> {
    fn client(&self) -> ClientId {
        self.session.turn()
    }

    fn task(&self) -> Option<&str> {
        self.task_name()
    }

    fn priority(&self) -> Priority {
        self.priority
    }

    fn since(&self) -> Instant {
        self.queued_at
    }
}

/// What is wanted of a prompt.
#[derive(Debug)]
pub enum JobGoal {
    /// The answer of a task.
    Task(Arc<Task>),
    /// Text, without a task.
    Text(Answering),
}

impl JobGoal {
    /// What is to come out.
    pub fn answering(&self) -> &Answering {
        match self {
            JobGoal::Task(task) => &task.answering,
            JobGoal::Text(answering) => answering,
        }
    }
}

impl Job {
    /// What is to come out.
    pub fn answering(&self) -> &Answering {
        self.goal.answering()
    }

    /// Name of the task, if it is one with a name.
    pub fn task_name(&self) -> Option<&str> {
        match &self.goal {
            JobGoal::Task(task) => task.name.as_deref(),
            JobGoal::Text(_) => None,
        }
    }
}

/// Something the engine's thread is to know of.
#[derive(Debug)]
pub enum Notice {
    /// A client no longer wants one of its requests.
    Cancel {
        /// The client.
        session: Arc<dyn Requester>,
        /// The id of the request that says so.
        by: String,
        /// The id of the request to cancel.
        target: String,
    },
    /// A client is gone.
    Gone(ClientId),
    /// Somebody has something for the tokenizer.
    Tokenize(Tokenizing),
}

/// Why a request cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError {
    /// The queue is full.
    Full {
        /// Requests that wait.
        waiting: usize,
    },
    /// This client has as many waiting as it may.
    ClientFull {
        /// Requests of it that wait.
        waiting: usize,
    },
    /// No more requests are taken.
    Stopping,
}

/// The queue between clients and the engine.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    client_capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    turns: Turns<Box<Job>>,
    waiting: usize,
    /// Of these, those that are not to be taken for now.
    deferred: usize,
    notices: VecDeque<Notice>,
    stop_by: Option<Instant>,
    /// The engine's thread has ended.
    closed: bool,
}

impl Queue {
    /// A queue for `capacity` requests, at most `client_capacity` of one client.
    pub fn new(capacity: usize, client_capacity: usize) -> Self {
        Queue { capacity, client_capacity, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job in line.
    ///
    /// # Errors
    /// Gives the job back with why it cannot wait.
    pub fn push(&self, job: Box<Job>) -> Result<(), (Box<Job>, PushError)> {
        let mut state = self.state();
        if state.stop_by.is_some() {
            return Err((job, PushError::Stopping));
        }
        if state.waiting >= self.capacity {
            let waiting = state.waiting;
            return Err((job, PushError::Full { waiting }));
        }
        let waiting = state.turns.of_client(job.session.turn());
        if waiting >= self.client_capacity {
            return Err((job, PushError::ClientFull { waiting }));
        }
        state.turns.push(job);
        state.waiting += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the next job; one of low priority only if it has waited for `low_after`.
    pub fn pop(&self, low_after: Duration) -> Option<Box<Job>> {
        let mut state = self.state();
        let job = state.turns.pop(Instant::now(), low_after);
        state.waiting -= usize::from(job.is_some());
        state.deferred = if job.is_some() { 0 } else { state.waiting };
        job
    }

    /// Gives back a job that was taken too early: it is the next again.
    pub fn put_back(&self, job: Box<Job>) {
        let mut state = self.state();
        state.waiting += 1;
        state.turns.put_back(job);
    }

    /// Takes every waiting job that `unwanted` says is not wanted any more.
    pub fn remove(&self, unwanted: impl Fn(&Job) -> bool) -> Vec<Box<Job>> {
        let mut state = self.state();
        let removed = state.turns.remove(|job| unwanted(job));
        state.waiting -= removed.len();
        state.deferred = state.deferred.min(state.waiting);
        removed
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.state().waiting
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the engine's thread something; nothing once that has ended.
    pub fn notify(&self, notice: Notice) {
        let mut state = self.state();
        if !state.closed {
            state.notices.push_back(notice);
        }
        self.changed.notify_all();
    }

    /// The engine's thread ends: what it was not told yet is dropped, and so is what comes.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let untold = std::mem::take(&mut state.notices);
        drop(state);
        drop(untold);
    }

    /// What the engine's thread has not been told yet.
    pub fn take_notices(&self) -> VecDeque<Notice> {
        std::mem::take(&mut self.state().notices)
    }

    /// Takes no more jobs; those that run may do so until `by`.
    pub fn stop(&self, by: Instant) {
        self.state().stop_by.get_or_insert(by);
        self.changed.notify_all();
    }

    /// Until when running jobs may go on, once the queue is stopped.
    pub fn stop_by(&self) -> Option<Instant> {
        self.state().stop_by
    }

    /// Holds still for so long, or until the engine's thread is to know something; what waits for the engine goes on waiting.
    pub fn pause(&self, pause: Duration) {
        let quiet = |state: &mut State| state.notices.is_empty();
        let waited = self.changed.wait_timeout_while(self.state(), pause, quiet);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until there is something to do, for at most `longest`; what was not to be taken when it was last asked for is
    /// nothing to do.
    pub fn wait(&self, longest: Duration) {
        let idle = |state: &mut State| {
            state.waiting == state.deferred && state.notices.is_empty() && state.stop_by.is_none()
        };
        let waited = self.changed.wait_timeout_while(self.state(), longest, idle);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::session::Session;

    fn client(id: ClientId) -> Arc<dyn Requester> {
        Arc::new(Session::new(id, 1000, Box::new(|| ())))
    }

    fn job(session: &Arc<dyn Requester>, id: &str) -> Box<Job> {
        Box::new(Job {
            session: Arc::clone(session),
            id: id.into(),
            prompt: Prompt::default(),
            goal: JobGoal::Text(Answering::Text {
                sampling: tern_runtime::sampler::Sampling::default(),
                stops: vec![],
                max_tokens: None,
                schema: None,
                logprobs: None,
            }),
            text: None,
            grammar: None,
            stream: false,
            queued_at: Instant::now(),
            deadline: None,
            max_joules: None,
            priority: Priority::Normal,
        })
    }

    fn push(queue: &Queue, session: &Arc<dyn Requester>, id: &str) -> Result<(), PushError> {
        queue.push(job(session, id)).map_err(|(_, error)| error)
    }

    fn order(queue: &Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(Duration::ZERO).map(|job| job.id.clone())).collect()
    }

    #[test]
    fn clients_take_turns_whatever_they_pile_up() {
        let queue = Queue::new(10, 10);
        let (greedy, modest) = (client(1), client(2));
        for id in ["a", "b", "c"] {
            push(&queue, &greedy, id).expect("there is room");
        }
        push(&queue, &modest, "x").expect("there is room");
        push(&queue, &modest, "y").expect("there is room");
        let first = queue.pop(Duration::ZERO).expect("five wait");
        assert_eq!((first.id.as_str(), queue.len()), ("a", 4));
        queue.put_back(first);
        assert_eq!(order(&queue), ["a", "x", "b", "y", "c"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_says_so() {
        let queue = Queue::new(3, 2);
        let (one, two) = (client(1), client(2));
        push(&queue, &one, "a").expect("there is room");
        push(&queue, &one, "b").expect("there is room");
        assert_eq!(push(&queue, &one, "c"), Err(PushError::ClientFull { waiting: 2 }));
        push(&queue, &two, "x").expect("there is room");
        assert_eq!(push(&queue, &two, "y"), Err(PushError::Full { waiting: 3 }));
        queue.stop(Instant::now());
        assert_eq!(push(&queue, &two, "z"), Err(PushError::Stopping));
    }

    #[test]
    fn jobs_can_be_removed_from_the_middle() {
        let queue = Queue::new(10, 10);
        let (one, two) = (client(1), client(2));
        for id in ["a", "b", "c"] {
            push(&queue, &one, id).expect("there is room");
        }
        push(&queue, &two, "x").expect("there is room");
        assert_eq!(queue.remove(|job| job.id == "b").len(), 1);
        assert_eq!(queue.remove(|job| job.session.id() == 2).len(), 1);
        assert_eq!(queue.len(), 2);
        assert_eq!(order(&queue), ["a", "c"]);
    }

    #[test]
    fn waiting_ends_when_there_is_something_to_do() {
        let queue = Queue::new(10, 10);
        let one = client(1);
        queue.notify(Notice::Gone(3));
        queue.wait(Duration::from_secs(3600));
        assert!(matches!(queue.take_notices().pop_front(), Some(Notice::Gone(3))));
        push(&queue, &one, "a").expect("there is room");
        queue.wait(Duration::from_secs(3600));
    }
}
