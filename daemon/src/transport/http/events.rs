//! Answers as server-sent events, while the engine works.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;
use tern_protocol::answer::Answer;
use tokio::time::{Instant, Sleep, sleep};

use super::call::Call;
use super::dialect::Dialect;
use super::error::ApiError;
use super::reply::Unread;
use crate::wire;

/// Longest silence: those in between close what seems dead.
const PING: Duration = Duration::from_secs(15);

/// A streamed answer.
#[derive(Debug)]
pub struct Events {
    call: Call,
    dialect: Dialect,
    ready: VecDeque<Bytes>,
    ping: Pin<Box<Sleep>>,
    is_over: bool,
}

fn event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

impl Events {
    /// The answers to `call`, of which `first` has come.
    pub fn new(call: Call, dialect: Dialect, first: wire::Answer) -> Self {
        let ready = dialect.opening().iter().map(event).collect();
        let mut events = Events { call, dialect, ready, ping: Box::pin(sleep(PING)), is_over: false };
        events.take(first);
        events
    }

    fn take(&mut self, answer: wire::Answer) {
        match answer {
            Answer::Token(token) => self.ready.push_back(event(&self.dialect.piece(&token))),
            Answer::Text(text) => {
                self.ready.extend(self.dialect.ending(&text).iter().map(event));
                self.ready.extend(self.dialect.closing().map(|line| Bytes::from_static(line.as_bytes())));
                self.is_over = true;
            }
            Answer::Error(failure) => {
                self.ready.push_back(event(&ApiError::of(failure).body()));
                self.is_over = true;
            }
            Answer::Decision(_) | Answer::Cancelled(_) | Answer::Status(_) => {}
        }
    }

    /// The next event.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Unread>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.ping.as_mut().reset(Instant::now() + PING);
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match self.call.poll_next(context) {
                Poll::Ready(Some(answer)) => self.take(answer),
                Poll::Ready(None) => {
                    self.is_over = true;
                    return Poll::Ready(Some(Err(Unread)));
                }
                Poll::Pending if self.ping.as_mut().poll(context).is_ready() => {
                    self.ready.push_back(Bytes::from_static(b": still at work\n\n"));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
