//! The client's end of the socket: every command and every test speaks to the daemon through this.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tern_protocol::answer::Reason;

use crate::error::{CommandError, Exit};
use crate::wire::{Answer, Failure, Request};

/// Bytes of the longest answer: a whole context of text, escaped, many times over.
const ANSWER_BYTES: usize = 16 << 20;

/// How often a wait that can be broken off looks whether it should be.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    next_id: u64,
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody listens there or it may not be opened.
    pub fn connect(socket: &Path) -> Result<Client, ClientError> {
        let fail = |error| ClientError::Connect { socket: socket.to_owned(), error };
        let stream = UnixStream::connect(socket).map_err(fail)?;
        let sender = Sender { stream: stream.try_clone().map_err(fail)?, line: Vec::new() };
        let receiver = Receiver { stream: BufReader::new(stream), line: Vec::new() };
        Ok(Client { sender, receiver, next_id: 0 })
    }

    /// An id that this connection has not used.
    pub fn new_id(&mut self) -> String {
        self.next_id += 1;
        self.next_id.to_string()
    }

    /// Sends a request; its answers come from [`Client::receive`].
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.sender.send(request)
    }

    /// Waits for the next answer to any request.
    ///
    /// # Errors
    /// If the daemon is gone or sends no answer but something else.
    pub fn receive(&mut self) -> Result<Answer, ClientError> {
        self.receiver.receive()
    }

    /// Sends `request` and waits for its last answer; streamed text goes to `on_text` meanwhile. Answers to other
    /// requests of this connection are lost.
    ///
    /// # Errors
    /// As [`Client::receive`], and [`ClientError::Refused`] if the answer is an error.
    pub fn ask(
        &mut self,
        request: &Request,
        mut on_text: impl FnMut(&str) -> Result<(), ClientError>,
    ) -> Result<Answer, ClientError> {
        self.send(request)?;
        loop {
            let answer = self.receive()?;
            if let Some(last) = take(answer, &request.id, &mut on_text)? {
                return Ok(last);
            }
        }
    }

    /// As [`Client::ask`], and cancels the request once `stop` is set.
    ///
    /// # Errors
    /// As [`Client::ask`]; a cancelled request ends with [`ClientError::Refused`] and reason `cancelled`.
    pub fn ask_until(
        &mut self,
        request: &Request,
        stop: &AtomicBool,
        mut on_text: impl FnMut(&str) -> Result<(), ClientError>,
    ) -> Result<Answer, ClientError> {
        self.send(request)?;
        let mut cancelled = false;
        self.receiver.wait_at_most(Some(LOOK_EVERY))?;
        let last = loop {
            if stop.load(Ordering::Relaxed) && !cancelled {
                cancelled = true;
                let id = self.new_id();
                self.send(&Request { cancel: Some(request.id.clone()), ..Request::new(id) })?;
            }
            match self.receiver.receive() {
                Err(ClientError::Lost(error)) if is_timeout(&error) => {}
                Err(error) => break Err(error),
                Ok(answer) => match take(answer, &request.id, &mut on_text) {
                    Ok(None) => {}
                    Ok(Some(last)) => break Ok(last),
                    Err(error) => break Err(error),
                },
            }
        };
        self.receiver.wait_at_most(None)?;
        last
    }

    /// The two directions, for two threads.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

/// Hands the text of `answer` on, if it is an answer to `id`, and returns it if it is the last one.
fn take(
    answer: Answer,
    id: &str,
    on_text: &mut impl FnMut(&str) -> Result<(), ClientError>,
) -> Result<Option<Answer>, ClientError> {
    // An error without an id is about a line that we sent, and no other answer to that line will come.
    if answer.id().is_some_and(|of| of != id) {
        return Ok(None);
    }
    match answer {
        Answer::Token(token) => on_text(&token.text).map(|()| None),
        Answer::Error(failure) => Err(ClientError::Refused(failure)),
        last => Ok(Some(last)),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The direction to the daemon.
#[derive(Debug)]
pub struct Sender {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Sender {
    /// Sends a request.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, request).map_err(ClientError::Garbled)?;
        self.line.push(b'\n');
        self.stream.write_all(&self.line).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Lost(error),
        })
    }
}

/// The direction from the daemon.
#[derive(Debug)]
pub struct Receiver {
    stream: BufReader<UnixStream>,
    /// What has come of the next line.
    line: Vec<u8>,
}

impl Receiver {
    /// Waits for the next answer to any request.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub fn receive(&mut self) -> Result<Answer, ClientError> {
        loop {
            let arrived = match self.stream.fill_buf() {
                Ok([]) => return Err(ClientError::Closed),
                Ok(arrived) => arrived,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed);
                }
                // A timeout loses nothing: what has come stays in `line`.
                Err(error) => return Err(ClientError::Lost(error)),
            };
            let end = arrived.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(arrived.len(), |end| end + 1);
            if self.line.len() + taken > ANSWER_BYTES {
                return Err(ClientError::TooLong);
            }
            self.line.extend_from_slice(&arrived[..taken]);
            self.stream.consume(taken);
            if end.is_some() {
                let answer = serde_json::from_slice(&self.line).map_err(ClientError::Garbled);
                self.line.clear();
                return answer;
            }
        }
    }

    fn wait_at_most(&mut self, time: Option<Duration>) -> Result<(), ClientError> {
        self.stream.get_ref().set_read_timeout(time).map_err(ClientError::Lost)
    }
}

/// Why there is no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens on the socket, or it may not be opened.
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection failed.
    Lost(io::Error),
    /// The daemon closed the connection.
    Closed,
    /// An answer is longer than any answer may be.
    TooLong,
    /// A message could not be written or read.
    Garbled(serde_json::Error),
    /// The daemon refused the request, or failed.
    Refused(Failure),
    /// The text of an answer could not be passed on.
    Output(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect { socket, .. } => write!(
                f,
                "no daemon answers on {}; start one with `tern serve --socket {0}`, or leave --socket out",
                socket.display()
            ),
            ClientError::Lost(_) => write!(f, "the connection to the daemon failed"),
            ClientError::Closed => write!(f, "the daemon closed the connection; its log says why"),
            ClientError::TooLong => {
                write!(f, "an answer is longer than {ANSWER_BYTES} bytes; is this a Tern daemon?")
            }
            ClientError::Garbled(_) => {
                write!(f, "the daemon's answer cannot be read; is it of this version?")
            }
            ClientError::Refused(failure) => write!(f, "{}", failure.message),
            ClientError::Output(_) => write!(f, "cannot write the output"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Connect { error, .. } | ClientError::Lost(error) | ClientError::Output(error) => {
                Some(error)
            }
            ClientError::Garbled(error) => Some(error),
            ClientError::Closed | ClientError::TooLong | ClientError::Refused(_) => None,
        }
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Connect { .. } | ClientError::Lost(_) | ClientError::Closed => Exit::Unavailable,
            ClientError::TooLong | ClientError::Garbled(_) => Exit::Internal,
            ClientError::Refused(failure) => exit_of(failure.reason),
            ClientError::Output(error) => return CommandError::output(error),
        };
        CommandError::from_error(exit, &error)
    }
}

/// The exit code that stands for a refusal.
pub fn exit_of(reason: Reason) -> Exit {
    match reason {
        Reason::BadRequest | Reason::UnknownTask | Reason::UnknownRequest | Reason::TooLarge => {
            Exit::BadInput
        }
        Reason::Deadline | Reason::QueueFull | Reason::TooManyClients => Exit::TryAgain,
        Reason::Cancelled | Reason::Energy => Exit::Failed,
        Reason::Internal => Exit::Internal,
        Reason::Stopping | Reason::Forbidden => Exit::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A peer that sends `answers` to the first client, in pieces of `piece` bytes.
    fn peer(answers: &'static str, piece: usize) -> (tempfile::TempDir, Client) {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let client = Client::connect(&socket).expect("a connection");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client");
            for part in answers.as_bytes().chunks(piece) {
                stream.write_all(part).expect("the client reads");
            }
            // Closed only when the client is, so that a missing answer is seen as such.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        (folder, client)
    }

    #[test]
    fn answers_arrive_however_they_are_cut() {
        const ANSWERS: &str = "{\"type\":\"token\",\"id\":\"1\",\"text\":\"a \"}\n\
             {\"type\":\"token\",\"id\":\"other\",\"text\":\"not mine\"}\n\
             {\"type\":\"token\",\"id\":\"1\",\"text\":\"b\"}\n\
             {\"type\":\"error\",\"id\":\"1\",\"code\":429,\"reason\":\"queue_full\",\"message\":\"full\",\
              \"retry_after_ms\":20}\n";
        for piece in [1, 7, ANSWERS.len()] {
            let (_folder, mut client) = peer(ANSWERS, piece);
            let request = Request::task(client.new_id(), "t", "x");
            let mut text = String::new();
            let error = client
                .ask(&request, |part| {
                    text.push_str(part);
                    Ok(())
                })
                .expect_err("the peer refuses");
            assert_eq!(text, "a b");
            let ClientError::Refused(failure) = &error else { panic!("refused, not {error:?}") };
            assert_eq!(failure.retry_after_ms, Some(20));
            assert_eq!(CommandError::from(error).exit(), Exit::TryAgain);
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let (_folder, mut client) = peer("HTTP/1.1 400 Bad Request\n", 64);
        assert!(matches!(client.receive(), Err(ClientError::Garbled(_))));
    }

    #[test]
    fn a_timeout_in_the_middle_of_a_line_loses_nothing() {
        let (_folder, mut client) = peer("{\"type\":\"token\",", 64);
        let request = Request::task(client.new_id(), "t", "x");
        client.receiver.wait_at_most(Some(Duration::from_millis(1))).expect("a timeout");
        client.send(&request).expect("sent");
        while client.receiver.line.is_empty() {
            let error = client.receive().expect_err("half a line at most");
            assert!(matches!(&error, ClientError::Lost(error) if is_timeout(error)), "{error:?}");
        }
        assert_eq!(client.receiver.line, b"{\"type\":\"token\",", "what has come is kept");
    }

    #[test]
    fn a_set_flag_cancels_the_request_and_the_connection_serves_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client");
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let mut next = || -> Request {
                serde_json::from_str(&lines.next().expect("a line").expect("of text")).expect("a request")
            };
            let asked = next().id;
            writeln!(stream, "{{\"type\":\"token\",\"id\":\"{asked}\",\"text\":\"a\"}}").expect("sent");
            let cancel = next();
            let refusal = "\"code\":499,\"reason\":\"cancelled\",\"message\":\"as asked\"}";
            writeln!(stream, "{{\"type\":\"error\",\"id\":\"{asked}\",{refusal}").expect("sent");
            writeln!(stream, "{{\"type\":\"error\",\"id\":\"{}\",{refusal}", next().id).expect("sent");
            (asked, cancel.cancel)
        });
        let mut client = Client::connect(&socket).expect("a connection");
        let stop = AtomicBool::new(false);
        let request = Request::task(client.new_id(), "t", "x");
        let outcome = client.ask_until(&request, &stop, |_| {
            stop.store(true, Ordering::Relaxed);
            Ok(())
        });
        let cancelled = |error: &ClientError| matches!(error, ClientError::Refused(failure) if failure.reason == Reason::Cancelled);
        assert!(outcome.as_ref().is_err_and(cancelled), "{outcome:?}");
        let request = Request::task(client.new_id(), "t", "y");
        assert!(client.ask(&request, |_| Ok(())).as_ref().is_err_and(cancelled));
        let (asked, cancel) = daemon.join().expect("the peer saw what it expected");
        assert_eq!(cancel, Some(asked));
    }

    #[test]
    fn a_missing_daemon_is_said_with_what_to_do() {
        let error = Client::connect(Path::new("/nonexistent/tern.sock")).expect_err("nobody there");
        let error = CommandError::from(error);
        assert_eq!(error.exit(), Exit::Unavailable);
        assert!(error.to_string().contains("tern serve"), "{error}");
    }
}
