//! One message as bytes between zeros, for serial lines and for sockets.
//!
//! ```text
//! COBS( version byte | postcard bytes of the message | checksum, lowest byte first ) 00
//! ```
//! COBS (Cheshire and Baker, IEEE/ACM Transactions on Networking 7(2), 1999) leaves no zero inside, so that a reader
//! that starts in the middle finds the next message. The checksum is the CRC-32 of Ethernet and zip over all before it:
//! a letter that changes on the line must not become another question or another answer.
//!
//! Postcard writes no names. A message may get more fields at its end, each of which is absent as 00; a reader takes
//! those that an older sender does not write as absent. Anything else is another version; version byte and checksum stay
//! in all of them.

use core::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};
use postcard::de_flavors::Flavor;
use postcard::ser_flavors::crc::CrcModifier;
use postcard::ser_flavors::{Cobs, Slice};
use serde::{Deserialize, Serialize};

/// Version of the messages' binary form; the first byte of every frame.
pub const VERSION: u8 = 2;

/// The byte that ends a frame and occurs nowhere else.
pub const END: u8 = 0;

/// Most fields that an older sender may lack: a list of a false length must not be read as endless.
const LACKING: u8 = 16;

/// Bytes of the checksum.
const SUM_BYTES: usize = 4;

static SUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// A frame that cannot be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The message does not fit the buffer given for it.
    TooLong {
        /// Bytes of the buffer.
        buffer_bytes: usize,
    },
    /// There is nothing between two ends.
    Empty,
    /// The bytes are no COBS or have another checksum: some were lost or changed.
    Damaged {
        /// Bytes of the frame.
        frame_bytes: usize,
    },
    /// The other side speaks another version.
    Version {
        /// What it speaks.
        found: u8,
    },
    /// The bytes are no message of the kind expected, or one with more text or items than there is room for.
    Message,
    /// Behind the fields that this side knows there are more, and they are not empty.
    MoreFields {
        /// Bytes of them.
        bytes: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { buffer_bytes } => {
                write!(f, "the message does not fit {buffer_bytes} bytes; shorten it or give a larger buffer")
            }
            Self::Empty => f.write_str("an empty frame; send it again"),
            Self::Damaged { frame_bytes } => {
                write!(f, "a damaged frame of {frame_bytes} bytes; check the line and send it again")
            }
            Self::Version { found } => {
                write!(f, "a frame of version {found}; this side speaks {VERSION}; update the older side")
            }
            Self::Message => {
                f.write_str("the frame is no message of the expected kind, or one too large to hold")
            }
            Self::MoreFields { bytes } => {
                write!(f, "{bytes} bytes of fields that this side does not know; leave them out or update it")
            }
        }
    }
}

impl core::error::Error for FrameError {}

/// Writes `message` as one frame, its end included, to the front of `buffer`.
///
/// # Errors
/// [`FrameError::TooLong`] if it does not fit.
pub fn encode<'b, T: Serialize>(message: &T, buffer: &'b mut [u8]) -> Result<&'b [u8], FrameError> {
    let buffer_bytes = buffer.len();
    let written = Cobs::try_new(Slice::new(buffer)).and_then(|stuffed| {
        // Postcard writes a tuple as its parts and a byte as itself.
        postcard::serialize_with_flavor(&(VERSION, message), CrcModifier::new(stuffed, SUM.digest()))
    });
    written.map(|frame| &*frame).map_err(|_| FrameError::TooLong { buffer_bytes })
}

/// Reads the message of one frame, given with or without its end; the bytes are decoded where they are. What a newer
/// sender wrote behind the fields that this side knows is passed over: right for answers.
///
/// # Errors
/// [`FrameError`] says what is wrong; the next frame may be read all the same.
pub fn decode<'b, T: Deserialize<'b>>(frame: &'b mut [u8]) -> Result<T, FrameError> {
    parse(open(frame)?).map(|(message, _)| message)
}

/// As [`decode`], but fields that this side does not know must be empty: right for requests, whose every field counts.
///
/// # Errors
/// As [`decode`], and [`FrameError::MoreFields`].
pub fn decode_all<'b, T: Deserialize<'b>>(frame: &'b mut [u8]) -> Result<T, FrameError> {
    match parse(open(frame)?)? {
        (message, rest) if rest.iter().all(|byte| *byte == 0) => Ok(message),
        (_, rest) => Err(FrameError::MoreFields { bytes: rest.len() }),
    }
}

/// The bytes of the message in a frame.
fn open(frame: &mut [u8]) -> Result<&[u8], FrameError> {
    let frame_bytes = frame.len();
    let end = frame.iter().position(|byte| *byte == END).unwrap_or(frame_bytes);
    let frame = &mut frame[..end];
    if frame.is_empty() {
        return Err(FrameError::Empty);
    }
    let damaged = FrameError::Damaged { frame_bytes };
    let length = cobs::decode_in_place(frame).map_err(|_| damaged)?;
    let (content, sum) = frame[..length].split_last_chunk::<SUM_BYTES>().ok_or(damaged)?;
    if SUM.checksum(content) != u32::from_le_bytes(*sum) {
        return Err(damaged);
    }
    match content.split_first() {
        None => Err(FrameError::Empty),
        Some((&VERSION, message)) => Ok(message),
        Some((&found, _)) => Err(FrameError::Version { found }),
    }
}

/// A message, and the bytes behind it.
fn parse<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<(T, &'b [u8]), FrameError> {
    let mut reader = postcard::Deserializer::from_flavor(Fields { rest: bytes, lacking: 0 });
    let message = T::deserialize(&mut reader).map_err(|_| FrameError::Message)?;
    reader.finalize().map(|rest| (message, rest)).map_err(|_| FrameError::Message)
}

/// The bytes of a message, and then some empty fields.
struct Fields<'b> {
    rest: &'b [u8],
    /// Empty fields so far.
    lacking: u8,
}

impl<'b> Flavor<'b> for Fields<'b> {
    type Remainder = &'b [u8];
    type Source = &'b [u8];

    fn pop(&mut self) -> postcard::Result<u8> {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                Ok(*first)
            }
            None if self.lacking < LACKING => {
                self.lacking += 1;
                Ok(0)
            }
            None => Err(postcard::Error::DeserializeUnexpectedEnd),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'b [u8]> {
        let taken = self.rest.split_at_checked(count);
        let (taken, rest) = taken.ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    fn finalize(self) -> postcard::Result<&'b [u8]> {
        Ok(self.rest)
    }
}
