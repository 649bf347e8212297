//! What the bridge's thread is told: by the connection, by the engine, and by whoever stops the daemon.
//!
//! The connection's thread waits while many of its events are unread, which stops it from reading on and so holds the
//! broker back. The engine's thread never waits: its answers are at most as many as there are live requests, and those
//! are bounded where they are let in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::link::LinkEvent;
use crate::wire::Answer;

/// Events of the connection that may be unread.
const UNREAD: usize = 64;

/// Something to do.
#[derive(Debug)]
pub enum Input {
    /// Something happened on the connection.
    Link(LinkEvent),
    /// The engine's last answer to a request.
    Answer {
        /// Our id of the request.
        id: String,
        /// The answer.
        answer: Box<Answer>,
    },
    /// No request is to be begun any more.
    Quiet,
    /// The engine has stopped: deliver what there is and end.
    Finish,
}

#[derive(Debug, Default)]
struct State {
    inputs: VecDeque<Input>,
    /// How many of them are the connection's.
    unread: usize,
    /// Which connection is listened to.
    connection: u64,
}

/// The bridge's inbox.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in without waiting.
    pub fn push(&self, input: Input) {
        self.state().inputs.push_back(input);
        self.changed.notify_all();
    }

    /// Puts an event of a connection in when there is room; says false if nobody listens to that connection any more.
    pub fn push_event(&self, connection: u64, event: LinkEvent) -> bool {
        let crowded = |state: &mut State| state.connection == connection && state.unread >= UNREAD;
        let waited = self.changed.wait_while(self.state(), crowded);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.connection != connection {
            return false;
        }
        state.unread += 1;
        state.inputs.push_back(Input::Link(event));
        self.changed.notify_all();
        true
    }

    /// Listens to another connection from now on, and forgets what is unread of the last one. Returns its number.
    pub fn next_connection(&self) -> u64 {
        let mut state = self.state();
        state.inputs.retain(|input| !matches!(input, Input::Link(_)));
        state.unread = 0;
        state.connection += 1;
        self.changed.notify_all();
        state.connection
    }

    /// Takes all there is, waiting for the first of it until `latest`.
    pub fn take(&self, latest: Instant) -> VecDeque<Input> {
        let longest = latest.saturating_duration_since(Instant::now());
        let idle = |state: &mut State| state.inputs.is_empty();
        let waited = self.changed.wait_timeout_while(self.state(), longest, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.unread = 0;
        self.changed.notify_all();
        std::mem::take(&mut state.inputs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::transport::mqtt::link::Outcome;

    fn event(token: u64) -> LinkEvent {
        LinkEvent::Published { token, outcome: Outcome::Taken }
    }

    #[test]
    fn a_connection_waits_for_room_and_an_old_one_is_not_heard() {
        let inbox = Arc::new(Inbox::default());
        let first = inbox.next_connection();
        for token in 0..UNREAD as u64 {
            assert!(inbox.push_event(first, event(token)));
        }
        let theirs = Arc::clone(&inbox);
        let waiting = std::thread::spawn(move || theirs.push_event(first, event(99)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        assert_eq!(inbox.take(Instant::now()).len(), UNREAD);
        assert!(waiting.join().expect("it does not panic"));
        inbox.push(Input::Quiet);
        inbox.next_connection();
        assert!(!inbox.push_event(first, event(1)));
        assert!(matches!(inbox.take(Instant::now()).make_contiguous(), [Input::Quiet]));
    }
}
