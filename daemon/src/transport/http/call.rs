//! One call as the engine sees it: a requester whose answers go to the task that serves the call.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tern_protocol::answer::Answer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::error::ApiError;
use crate::serve::counters::Way;
use crate::serve::queue::Notice;
use crate::serve::requester::{ClientId, DuplicateId, Requester};
use crate::serve::service::Service;
use crate::wire;

/// What an answer takes beside its text, roughly.
const ANSWER_BYTES: usize = 256;

/// The requester of a call.
#[derive(Debug)]
struct Caller {
    id: ClientId,
    unread_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Ids of requests without a last answer.
    live: Vec<String>,
    /// `None` once too much waits.
    answers: Option<UnboundedSender<wire::Answer>>,
    waiting_bytes: usize,
}

fn bytes(answer: &wire::Answer) -> usize {
    let text = match answer {
        Answer::Token(token) => token.text.len(),
        Answer::Text(text) => text.text.len(),
        _ => 0,
    };
    ANSWER_BYTES + text
}

impl Caller {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requester for Caller {
    fn id(&self) -> ClientId {
        self.id
    }

    fn way(&self) -> Way {
        Way::Http
    }

    fn begin(&self, id: &str) -> Result<(), DuplicateId> {
        let mut state = self.state();
        if state.live.iter().any(|live| live == id) {
            return Err(DuplicateId);
        }
        state.live.push(id.to_owned());
        Ok(())
    }

    fn is_live(&self, id: &str) -> bool {
        self.state().live.iter().any(|live| live == id)
    }

    fn send(&self, answer: &wire::Answer) {
        let mut state = self.state();
        if let Some(id) = answer.id().filter(|_| answer.is_last()) {
            state.live.retain(|live| live != id);
        }
        let Some(answers) = &state.answers else { return };
        let waiting_bytes = state.waiting_bytes + bytes(answer);
        // One answer may be larger than the limit; it is the second that must not wait behind it.
        if waiting_bytes > self.unread_bytes && state.waiting_bytes > 0 {
            log::warn!(
                "HTTP call {} does not read its answer ({waiting_bytes} bytes wait); cut off",
                self.id
            );
            state.answers = None;
            return;
        }
        // The task may have ended; then nobody wants it.
        let _ = answers.send(answer.clone());
        state.waiting_bytes = waiting_bytes;
    }
}

/// A call that was made. Dropping it cancels what is not answered yet.
#[derive(Debug)]
pub struct Call {
    caller: Arc<Caller>,
    answers: UnboundedReceiver<wire::Answer>,
    service: Arc<Service>,
}

impl Call {
    /// A call without requests.
    pub fn new(service: Arc<Service>) -> Self {
        let (send, answers) = unbounded_channel();
        let state = State { live: Vec::new(), answers: Some(send), waiting_bytes: 0 };
        let unread_bytes = service.limits.unread_bytes;
        let caller = Caller { id: service.new_client_id(), unread_bytes, state: Mutex::new(state) };
        Call { caller: Arc::new(caller), answers, service }
    }

    /// Its number, which no other call of this daemon has.
    pub fn id(&self) -> ClientId {
        self.caller.id
    }

    /// Makes a request, whose answer is worth nothing after `within`.
    pub fn ask(&self, request: wire::Request, within: Duration) {
        let requester: Arc<dyn Requester> = Arc::<Caller>::clone(&self.caller);
        self.service.take_request(&requester, request, Some(within));
    }

    /// The next answer; `None` if the client let too much wait.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<wire::Answer>> {
        self.answers.poll_recv(context).map(|answer| {
            let answer = answer?;
            self.caller.state().waiting_bytes -= bytes(&answer);
            Some(answer)
        })
    }

    /// The next answer that is no failure.
    ///
    /// # Errors
    /// The failure.
    pub async fn next(&mut self) -> Result<wire::Answer, ApiError> {
        match self.any().await? {
            Answer::Error(failure) => Err(ApiError::of(failure)),
            answer => Ok(answer),
        }
    }

    /// The next answer, which may be a failure.
    ///
    /// # Errors
    /// If too much waited.
    pub async fn any(&mut self) -> Result<wire::Answer, ApiError> {
        let answer = poll_fn(|context| self.poll_next(context)).await;
        answer.ok_or_else(|| ApiError::internal("the answer could not be taken in time"))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.caller.state().live.is_empty() {
            self.service.queue.notify(Notice::Gone(self.caller.id));
        }
    }
}
