//! A blocking client over any byte stream: a serial port, a socket, a pipe.
//!
//! A serial line loses bytes, invents some, and goes on when either side is reset. So [`Client::ask`] sends a request
//! again when the other side could not read it or says nothing for as long as the port waits, and passes over what
//! is damaged or answers something else: late answers, duplicates, what the side before the reset had asked. For that
//! the ids of requests must differ, also from those before a reset: see [`Ids`].

use core::fmt;

use embedded_io::{Error as _, ErrorKind, Read, Write};
use heapless::Vec;
use serde::Deserialize;

use crate::answer::Answer;
use crate::frame::{self, END, FrameError};
use crate::request::Request;
use crate::storage::Storage;

/// Frames that may come without a last answer among them, before that counts as silence: somebody babbles.
const PASSED_OVER: u32 = 1000;

/// Sends requests and receives answers as frames of at most `FRAME_BYTES`.
///
/// ```
/// # use embedded_io::{ErrorType, Read, Write};
/// # use tern_protocol::{Answer, Request, storage::{Borrowed, Fixed}, client::{Client, ClientError, Ids}};
/// fn ask<Port: Read + Write>(port: Port, line: &str) -> Result<Option<bool>, ClientError<Port::Error>> {
///     let (mut client, mut ids) = (Client::<Port, 512>::new(port), Ids::after_reset(0x5eed));
///     let id = ids.next_id();
///     let request = Request::<Borrowed>::task(id.as_str(), "log-severity", line);
///     Ok(match client.ask::<_, Fixed<64, 8>>(&request, 3)? {
///         Answer::Decision(decision) => Some(decision.label.as_deref() == Some("critical")),
///         _ => None,
///     })
/// }
/// ```
#[derive(Debug)]
pub struct Client<Port, const FRAME_BYTES: usize> {
    port: Port,
    outgoing: [u8; FRAME_BYTES],
    incoming: Vec<u8, FRAME_BYTES>,
    /// Bytes of the frame at hand that were passed over since it outgrew the buffer.
    skipped: Option<usize>,
}

/// Why a client cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError<E> {
    /// The stream failed.
    Port(E),
    /// The stream ended.
    Closed,
    /// A message could not be written or read; the client may go on with the next.
    Frame(FrameError),
    /// A request was sent as often as it might be, and no answer came.
    NoAnswer {
        /// How often.
        tries: u32,
    },
}

impl<E: fmt::Debug> fmt::Display for ClientError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(error) => write!(f, "the line failed: {error:?}"),
            Self::Closed => f.write_str("the other side closed the line; connect again"),
            Self::Frame(error) => write!(f, "{error}"),
            Self::NoAnswer { tries } => {
                write!(f, "no answer to a request that was sent {tries} times; check the line and its speed")
            }
        }
    }
}

impl<E: fmt::Debug> core::error::Error for ClientError<E> {}

impl<E> From<FrameError> for ClientError<E> {
    fn from(error: FrameError) -> Self {
        ClientError::Frame(error)
    }
}

impl<Port: Read + Write, const FRAME_BYTES: usize> Client<Port, FRAME_BYTES> {
    /// A client on `port`.
    pub fn new(port: Port) -> Self {
        Client { port, outgoing: [END; FRAME_BYTES], incoming: Vec::new(), skipped: None }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If it does not fit a frame, or the stream fails.
    pub fn send<F: Storage>(&mut self, request: &Request<F>) -> Result<(), ClientError<Port::Error>> {
        // An end in front: what noise or an interrupted frame left on the line is no part of this one. It is also how
        // a listener that takes lines of JSON as well knows what it has before it.
        let Some((front, rest)) = self.outgoing.split_first_mut() else {
            return Err(FrameError::TooLong { buffer_bytes: 0 }.into());
        };
        *front = END;
        let length = 1 + frame::encode(request, rest)?.len();
        self.port.write_all(&self.outgoing[..length]).map_err(ClientError::Port)?;
        self.port.flush().map_err(ClientError::Port)
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// [`ClientError::Frame`] if what came is no answer or outgrew the buffer; the next call reads the next frame.
    /// After [`ClientError::Port`] (a timeout, say) the next call goes on where this one stopped.
    pub fn receive<F: Storage>(&mut self) -> Result<Answer<F>, ClientError<Port::Error>>
    where
        Answer<F>: for<'de> Deserialize<'de>,
    {
        loop {
            let mut byte = [0];
            if self.port.read(&mut byte).map_err(ClientError::Port)? == 0 {
                return Err(ClientError::Closed);
            }
            match (byte[0], &mut self.skipped) {
                (END, Some(_)) => self.skipped = None,
                // Ends in a row: a sender may put one in front as well, to get over noise.
                (END, None) if self.incoming.is_empty() => {}
                (END, None) => {
                    let answer = frame::decode(&mut self.incoming);
                    self.incoming.clear();
                    return Ok(answer?);
                }
                // A line that babbles without an end must not keep its reader for ever.
                (_, Some(skipped)) if *skipped == FRAME_BYTES => {
                    *skipped = 0;
                    return Err(FrameError::TooLong { buffer_bytes: FRAME_BYTES }.into());
                }
                (_, Some(skipped)) => *skipped += 1,
                (byte, None) => {
                    if self.incoming.push(byte).is_err() {
                        self.incoming.clear();
                        self.skipped = Some(1);
                        return Err(FrameError::TooLong { buffer_bytes: FRAME_BYTES }.into());
                    }
                }
            }
        }
    }

    /// Sends `request` and waits for its last answer, passing over everything else that comes. The request is sent
    /// again, up to `tries` times in all, when the other side says that it could not read it, and when the port's read
    /// fails with [`ErrorKind::TimedOut`]. The other side takes a repetition as one unless it has answered already;
    /// then it answers again.
    ///
    /// # Errors
    /// As [`Client::send`]; [`ClientError::NoAnswer`]; [`ClientError::Frame`] instead if among what came was something of
    /// another version, or that does not fit `F` or the buffer.
    pub fn ask<G: Storage, F: Storage>(
        &mut self,
        request: &Request<G>,
        tries: u32,
    ) -> Result<Answer<F>, ClientError<Port::Error>>
    where
        Answer<F>: for<'de> Deserialize<'de>,
    {
        let mut failure = ClientError::NoAnswer { tries };
        for _ in 0..tries {
            self.send(request)?;
            if let Some(answer) = self.last_answer(request.id.as_ref(), &mut failure)? {
                return Ok(answer);
            }
        }
        Err(failure)
    }

    /// Waits for the last answer to the request `id`; `None` if it is time to send it again. `failure` becomes what
    /// may be the reason.
    fn last_answer<F: Storage>(
        &mut self,
        id: &str,
        failure: &mut ClientError<Port::Error>,
    ) -> Result<Option<Answer<F>>, ClientError<Port::Error>>
    where
        Answer<F>: for<'de> Deserialize<'de>,
    {
        for _ in 0..PASSED_OVER {
            match self.receive::<F>() {
                Ok(answer) => match answer.id() {
                    Some(of) if of.as_ref() == id && answer.is_last() => return Ok(Some(answer)),
                    Some(_) => {}
                    // About something that could not be read: ours, most likely.
                    None => return Ok(None),
                },
                // The answer may still come: an answer that was damaged is not told from noise.
                Err(ClientError::Frame(FrameError::Damaged { .. })) => {}
                // Nor is one that was too large told from an echo of the request.
                Err(error @ ClientError::Frame(_)) => *failure = error,
                Err(ClientError::Port(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(ClientError::Port(error)) if error.kind() == ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> Port {
        self.port
    }
}

/// Ids for requests, each used once: a number for each reset, and one for each request since.
#[derive(Debug, Clone)]
pub struct Ids {
    reset: u32,
    last: u32,
}

impl Ids {
    /// Ids that `reset` tells from those before: a count of resets kept in flash, a random number, a clock.
    pub fn after_reset(reset: u32) -> Self {
        Ids { reset, last: 0 }
    }

    /// An id that was not used yet.
    pub fn next_id(&mut self) -> heapless::String<17> {
        self.last = self.last.wrapping_add(1);
        let mut id = heapless::String::new();
        // Two numbers of at most eight digits and a dash are 17 bytes.
        let _fits = fmt::Write::write_fmt(&mut id, format_args!("{:x}-{:x}", self.reset, self.last));
        id
    }
}
