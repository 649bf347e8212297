//! One message as bytes between zeros, for serial lines.
//!
//! ```text
//! COBS( version byte | postcard bytes of the message ) 00
//! ```
//! COBS (Cheshire and Baker, IEEE/ACM Transactions on Networking 7(2), 1999) leaves no zero inside, so that a reader
//! that starts in the middle finds the next message. Postcard writes no names: fields and variants are only ever added
//! at the end, and anything else is another version.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Version of the messages' binary form; the first byte of every frame.
pub const VERSION: u8 = 1;

/// The byte that ends a frame and occurs nowhere else.
pub const END: u8 = 0;

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
    /// The bytes are no COBS: some were lost or changed.
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
    // Postcard writes a tuple as its parts and a byte as itself.
    let frame = postcard::to_slice_cobs(&(VERSION, message), buffer);
    frame.map(|frame| &*frame).map_err(|_| FrameError::TooLong { buffer_bytes })
}

/// Reads the message of one frame, given with or without its end; the bytes are decoded where they are.
///
/// # Errors
/// [`FrameError`] says what is wrong; the next frame may be read all the same.
pub fn decode<'b, T: Deserialize<'b>>(frame: &'b mut [u8]) -> Result<T, FrameError> {
    let frame_bytes = frame.len();
    let end = frame.iter().position(|byte| *byte == END).unwrap_or(frame_bytes);
    let frame = &mut frame[..end];
    if frame.is_empty() {
        return Err(FrameError::Empty);
    }
    let length = cobs::decode_in_place(frame).map_err(|_| FrameError::Damaged { frame_bytes })?;
    match frame[..length].split_first() {
        None => Err(FrameError::Empty),
        Some((&VERSION, message)) => postcard::from_bytes(message).map_err(|_| FrameError::Message),
        Some((&found, _)) => Err(FrameError::Version { found }),
    }
}
