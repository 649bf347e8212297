//! One connected client: which of its requests are live, and the answers it has not taken yet.
//!
//! Answers wait here, in the form of the connection, for the client's writer thread. The engine never waits for a client: one that lets more than a
//! limit of bytes wait is abandoned.

use std::collections::{HashSet, VecDeque};
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::form::Form;
use super::requester::{ClientId, DuplicateId, Requester};
use crate::wire::Answer;

/// What happens to the connection when its client is abandoned.
pub type Hangup = Box<dyn Fn() + Send + Sync>;

/// A connected client.
pub struct Session {
    id: ClientId,
    unread_bytes: usize,
    hang_up: Hangup,
    /// Lines until the client has shown which.
    form: OnceLock<Form>,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Ids of requests without a last answer.
    live: HashSet<String>,
    /// Messages to be written.
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    /// No further request comes.
    read_to_end: bool,
    /// Nobody reads answers any more.
    abandoned: bool,
}

impl Session {
    /// A client whose waiting answers have at most `unread_bytes`; `hang_up` must end its connection.
    pub fn new(id: ClientId, unread_bytes: usize, hang_up: Hangup) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Session { id, unread_bytes, hang_up, form: OnceLock::new(), state, changed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers go out in this form from now on; the first call counts.
    pub fn speak(&self, form: Form) {
        let _first_counts = self.form.set(form);
    }

    /// Writes answers as they come, until there will be none or nobody reads them any more.
    pub fn write_answers(&self, mut to: impl Write) {
        while let Some(message) = self.next_message() {
            if let Err(error) = to.write_all(&message) {
                log::debug!("client {}: {error}", self.id);
                return self.abandon();
            }
        }
    }

    /// Waits for the next message to write; `None` when there will be none.
    pub fn next_message(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        loop {
            if let Some(message) = state.messages.pop_front() {
                state.bytes -= message.len();
                return Some(message);
            }
            if state.abandoned || state.read_to_end && state.live.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No further request comes: the connection ends with the last answer.
    pub fn end_requests(&self) {
        self.state().read_to_end = true;
        self.changed.notify_all();
    }

    /// Nobody reads answers any more.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.messages.clear();
        state.bytes = 0;
        drop(state);
        (self.hang_up)();
        self.changed.notify_all();
    }

    /// Whether nobody reads answers any more.
    pub fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }
}

impl Requester for Session {
    fn id(&self) -> ClientId {
        self.id
    }

    fn begin(&self, id: &str) -> Result<(), DuplicateId> {
        if self.state().live.insert(id.to_owned()) { Ok(()) } else { Err(DuplicateId) }
    }

    fn is_live(&self, id: &str) -> bool {
        self.state().live.contains(id)
    }

    /// Puts an answer in line. Abandons the client if too much waits.
    fn send(&self, answer: &Answer) {
        let message = self.form.get().unwrap_or(&Form::Lines).answer(answer);
        let mut state = self.state();
        if let Some(id) = answer.id().filter(|_| answer.is_last()) {
            state.live.remove(id);
        }
        if state.abandoned {
            return;
        }
        let waiting_bytes = state.bytes + message.len();
        // One answer may be larger than the limit; it is the second that must not wait behind it.
        if waiting_bytes > self.unread_bytes && !state.messages.is_empty() {
            drop(state);
            log::warn!(
                "client {} does not read its answers ({waiting_bytes} bytes wait); disconnecting it",
                self.id
            );
            return self.abandon();
        }
        state.bytes = waiting_bytes;
        state.messages.push_back(message);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tern_protocol::answer::{Answer, Reason, Token};

    use super::*;
    use crate::serve::refusal;

    fn session(unread_bytes: usize) -> (Session, Arc<AtomicBool>) {
        let hung_up = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&hung_up);
        (Session::new(1, unread_bytes, Box::new(move || flag.store(true, Ordering::Relaxed))), hung_up)
    }

    #[test]
    fn an_id_is_free_again_after_its_last_answer() {
        let (session, _) = session(1000);
        session.begin("a").expect("it is new");
        assert_eq!(session.begin("a"), Err(DuplicateId));
        session.send(&Answer::Token(Token {
            id: "a".into(),
            text: "x".into(),
            logprobs: None,
            joules: None,
        }));
        assert!(session.is_live("a"));
        session.send(&refusal(Some("a".into()), Reason::Cancelled, "cancelled"));
        assert!(!session.is_live("a"));
        session.begin("a").expect("it is free again");
        session.end_requests();
        let mut written = Vec::new();
        session.send(&refusal(Some("a".into()), Reason::Deadline, "late"));
        session.write_answers(&mut written);
        let written = String::from_utf8(written).expect("it is JSON");
        let lines: Vec<_> = written.lines().collect();
        assert!(lines[0].starts_with("{\"type\":\"token\""), "{written}");
        assert!(lines[1].contains("\"code\":499") && lines[2].contains("\"code\":408"), "{written}");
        assert_eq!((lines.len(), session.next_message()), (3, None));
    }

    #[test]
    fn a_client_that_does_not_read_is_abandoned() {
        let (session, hung_up) = session(100);
        session.begin("a").expect("it is new");
        let long = "x".repeat(200);
        session.send(&Answer::Token(Token {
            id: "a".into(),
            text: long.clone(),
            logprobs: None,
            joules: None,
        }));
        assert!(!session.is_abandoned());
        session.send(&Answer::Token(Token { id: "a".into(), text: long, logprobs: None, joules: None }));
        assert!(session.is_abandoned() && hung_up.load(Ordering::Relaxed));
        assert_eq!(session.next_message(), None);
    }
}
