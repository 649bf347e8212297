//! A serial line: one client, frames only (`docs/wire.md`), on a wire that loses bytes, invents some, and comes and goes.
//!
//! ```text
//! open the line -> a session: one thread reads requests, one writes answers -> the line is lost -> wait, open it again
//!                  ^                                                        |
//!                  +--- the client was reset: what it asked is cancelled ---+
//! ```
//! A line that babbles costs one warning in ten seconds, and few answers: what cannot be read is answered so that its
//! sender can repeat it, but an echo of that answer must not be answered for ever.

mod line;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tern_protocol::answer::Reason;

use super::Transport;
use super::messages::{MessageReader, Piece, too_long, unfinished};
use crate::config::socket::SerialSection;
use crate::serve::form::Form;
use crate::serve::queue::Notice;
use crate::serve::requester::Requester;
use crate::serve::service::Service;
use crate::serve::session::Session;
use crate::wire::Request;
use line::{Bells, Line, LineWriter};

pub use line::SerialError;

/// How long the client gets to take its last answers when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often a line that is gone is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Refusals in a row of what cannot be read; beyond them there is one in each [`REFUSE_EVERY`].
const REFUSALS: u32 = 10;

const REFUSE_EVERY: Duration = Duration::from_secs(1);

/// A serial line that is answered.
#[derive(Debug)]
pub struct SerialTransport {
    bells: Arc<Bells>,
    thread: Option<JoinHandle<()>>,
    /// Ends when the thread does.
    ended: std::sync::Mutex<Receiver<()>>,
}

impl SerialTransport {
    /// Answers on the line that `section` names, now or when it is there.
    ///
    /// # Errors
    /// If there is something that is no serial line, or it may not be used.
    pub fn start(section: &SerialSection, service: Arc<Service>) -> Result<Self, SerialError> {
        let open = match Line::open(section) {
            Err(error) if error.is_missing() => {
                log::warn!("{error}; waiting for it");
                None
            }
            opened => Some(opened?),
        };
        let failed = |error| SerialError::Thread { path: section.path.clone(), error };
        let bells = Arc::new(Bells::new().map_err(failed)?);
        let (end, ended) = channel();
        let mut keeper = Keeper {
            section: section.clone(),
            service,
            bells: Arc::clone(&bells),
            refusals: Refusals::default(),
        };
        let thread = std::thread::Builder::new().name("tern-serial".into()).spawn(move || {
            keeper.keep(open);
            drop(end);
        });
        Ok(SerialTransport { bells, thread: Some(thread.map_err(failed)?), ended: ended.into() })
    }
}

impl Transport for SerialTransport {
    /// The line stays open: what is asked from now on is refused by the queue, which is an answer.
    fn stop_accepting(&mut self) {}

    fn finish(self: Box<Self>) {
        drop(self);
    }
}

impl Drop for SerialTransport {
    fn drop(&mut self) {
        self.bells.stop();
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            self.bells.abort();
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread of the serial line panicked; this is a fault of Tern");
        }
    }
}

/// How a session on the line ended.
enum Outcome {
    /// The daemon stops.
    Stopped,
    /// The line is gone, or does not take answers.
    Lost(io::Error),
    /// The client started afresh, with this.
    Reset(Box<Asked>),
}

/// A request, and a number that differs between requests that differ.
struct Asked {
    request: Request,
    content: u64,
}

/// Refusals of what cannot be read.
struct Refusals {
    left: u32,
    last: Instant,
}

impl Default for Refusals {
    fn default() -> Self {
        Refusals { left: REFUSALS, last: Instant::now() }
    }
}

impl Refusals {
    /// Whether one more is due.
    fn one_more(&mut self) -> bool {
        let due = self.left > 0 || self.last.elapsed() >= REFUSE_EVERY;
        if due {
            self.left = self.left.saturating_sub(1);
            self.last = Instant::now();
        }
        due
    }
}

/// The line's thread.
struct Keeper {
    section: SerialSection,
    service: Arc<Service>,
    bells: Arc<Bells>,
    refusals: Refusals,
}

impl Keeper {
    /// Keeps the line answered until the daemon stops.
    fn keep(&mut self, open: Option<Line>) {
        let mut open = open;
        // What is wrong is said once, not once a second.
        let mut said = String::new();
        loop {
            match open.take().map_or_else(|| Line::open(&self.section), Ok) {
                Ok(line) => {
                    log::info!("answering on {}", self.place());
                    said.clear();
                    match self.answer(&Arc::new(line)) {
                        Outcome::Lost(error) => {
                            log::warn!("{} is lost ({error}); waiting for it", self.place())
                        }
                        _ => return,
                    }
                }
                Err(error) if error.to_string() == said => {}
                Err(error) => {
                    log::warn!("{error}; trying again every second");
                    said = error.to_string();
                }
            }
            if self.bells.wait_for_stop(LOOK_EVERY) {
                return;
            }
        }
    }

    fn place(&self) -> String {
        let SerialSection { path, baud } = &self.section;
        format!("the serial line '{}' at {baud} baud", path.display())
    }

    /// Answers on an open line, one session after the other.
    fn answer(&mut self, line: &Arc<Line>) -> Outcome {
        let limits = &self.service.limits;
        let half = line::LineReader::new(Arc::clone(line), Arc::clone(&self.bells));
        let most_time = Duration::from_millis(limits.line_ms);
        let mut messages = MessageReader::new(half, Some(Form::Frames), limits.line_bytes, most_time);
        let mut first = None;
        loop {
            match self.session(line, &mut messages, first.take()) {
                Outcome::Reset(asked) => first = Some(*asked),
                outcome => return outcome,
            }
        }
    }

    /// One session: from the first request of a client to its reset, or to the end of the line.
    fn session(
        &mut self,
        line: &Arc<Line>,
        messages: &mut MessageReader<line::LineReader>,
        first: Option<Asked>,
    ) -> Outcome {
        let (id, limits) = (self.service.new_client_id(), &self.service.limits);
        let bells = Arc::clone(&self.bells);
        let session = Arc::new(Session::new(id, limits.unread_bytes, Box::new(move || bells.abort())));
        session.speak(Form::Frames);
        let to = LineWriter::new(
            Arc::clone(line),
            Arc::clone(&self.bells),
            Duration::from_millis(limits.write_ms),
        );
        let writing = Arc::clone(&session);
        let writer = std::thread::Builder::new()
            .name(format!("tern-answer-{id}"))
            .spawn(move || writing.write_answers(to));
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => return Outcome::Lost(error),
        };
        let outcome = self.read_requests(&session, messages, first).unwrap_or_else(Outcome::Lost);
        match outcome {
            // The last answers go out; the writer ends with them or when it is told to.
            Outcome::Stopped => session.end_requests(),
            _ => session.abandon(),
        }
        if writer.join().is_err() {
            log::error!("a client's thread panicked; this is a fault of Tern");
        }
        self.service.queue.notify(Notice::Gone(id));
        self.bells.silence();
        outcome
    }

    /// Reads requests until the client is reset, the line is lost or the daemon stops.
    fn read_requests(
        &mut self,
        session: &Arc<Session>,
        messages: &mut MessageReader<line::LineReader>,
        first: Option<Asked>,
    ) -> io::Result<Outcome> {
        let service = Arc::clone(&self.service);
        let requester: Arc<dyn Requester> = Arc::<Session>::clone(session);
        // What the live requests ask, to tell one that is sent again from another of the same id.
        let mut live = HashMap::new();
        if let Some(Asked { request, content }) = first {
            live.insert(request.id.clone(), content);
            service.take_request(&requester, request, None);
        }
        loop {
            let (bytes, ms) = (service.limits.line_bytes, service.limits.line_ms);
            let message = match messages.next_message() {
                Ok(Piece::Whole(message)) => message,
                Ok(Piece::TooLong) => {
                    self.refuse(session, Reason::TooLarge, too_long(Form::Frames, bytes));
                    continue;
                }
                Ok(Piece::Unfinished) => {
                    self.refuse(session, Reason::BadRequest, unfinished(Form::Frames, ms));
                    continue;
                }
                Ok(Piece::End) => return Ok(Outcome::Lost(ErrorKind::UnexpectedEof.into())),
                Err(_) if self.bells.is_stopping() => return Ok(Outcome::Stopped),
                Err(error) => return Err(error),
            };
            let content = content(message);
            let request = match Form::Frames.request(message) {
                Ok(Some(request)) => request,
                Ok(None) => continue,
                Err(unreadable) => {
                    self.refuse(session, Reason::BadRequest, unreadable.message);
                    continue;
                }
            };
            self.refusals = Refusals::default();
            live.retain(|id: &String, _| session.is_live(id));
            match live.insert(request.id.clone(), content) {
                None => service.take_request(&requester, request, None),
                Some(before) if before == content => {
                    log::debug!("client {}: a request was sent again while it is live", session.id());
                }
                Some(_) => {
                    log::info!("the client on {} was reset", self.place());
                    return Ok(Outcome::Reset(Box::new(Asked { request, content })));
                }
            }
        }
    }

    /// Answers what cannot be read, unless it goes on for too long.
    fn refuse(&mut self, session: &Session, reason: Reason, message: String) {
        let place = self.place();
        log::warn!("on {place} came what is no request: {message}");
        if self.refusals.one_more() {
            self.service.refuse_message(session, reason, message);
        }
    }
}

fn content(message: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_what_cannot_be_read_run_dry() {
        let mut refusals = Refusals::default();
        let given = (0..1000).filter(|_| refusals.one_more()).count();
        // More than ten only if this took seconds.
        assert!((10..15).contains(&given), "{given}");
        refusals.last = Instant::now().checked_sub(REFUSE_EVERY).expect("the machine is up for a second");
        assert!(refusals.one_more() && !refusals.one_more());
    }
}
