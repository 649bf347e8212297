//! A blocking client over any byte stream: a serial port, a socket, a pipe.

use core::fmt;

use embedded_io::{Read, Write};
use heapless::Vec;
use serde::Deserialize;

use crate::answer::Answer;
use crate::frame::{self, END, FrameError};
use crate::request::Request;
use crate::storage::Storage;

/// Sends requests and receives answers as frames of at most `FRAME_BYTES`.
///
/// ```
/// # use embedded_io::{ErrorType, Read, Write};
/// # use tern_protocol::{Answer, Request, storage::{Borrowed, Fixed}, client::{Client, ClientError}};
/// fn ask<Port: Read + Write>(port: Port, line: &str) -> Result<Option<bool>, ClientError<Port::Error>> {
///     let mut client = Client::<Port, 512>::new(port);
///     client.send(&Request::<Borrowed>::task("1", "log-severity", line))?;
///     Ok(match client.receive::<Fixed<64, 8>>()? {
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
    /// The frame at hand outgrew the buffer: it is skipped up to its end.
    skipping: bool,
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
}

impl<E: fmt::Debug> fmt::Display for ClientError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(error) => write!(f, "the line failed: {error:?}"),
            Self::Closed => f.write_str("the other side closed the line; connect again"),
            Self::Frame(error) => write!(f, "{error}"),
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
        Client { port, outgoing: [0; FRAME_BYTES], incoming: Vec::new(), skipping: false }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If it does not fit a frame, or the stream fails.
    pub fn send<F: Storage>(&mut self, request: &Request<F>) -> Result<(), ClientError<Port::Error>> {
        let frame = frame::encode(request, &mut self.outgoing)?;
        self.port.write_all(frame).map_err(ClientError::Port)?;
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
            match byte[0] {
                END if self.skipping => {
                    self.skipping = false;
                    self.incoming.clear();
                    return Err(FrameError::TooLong { buffer_bytes: FRAME_BYTES }.into());
                }
                // Ends in a row: a sender may put one in front as well, to get over noise.
                END if self.incoming.is_empty() => {}
                END => {
                    let answer = frame::decode(&mut self.incoming);
                    self.incoming.clear();
                    return Ok(answer?);
                }
                byte => self.skipping = self.skipping || self.incoming.push(byte).is_err(),
            }
        }
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> Port {
        self.port
    }
}
