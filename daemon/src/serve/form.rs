//! The two forms in which messages travel over a connection (`docs/wire.md`): lines of JSON and binary frames.

use serde::Deserialize;
use tern_protocol::frame::{self, FrameError};
use tern_protocol::limits::ID_BYTES;

use crate::wire::{Answer, Request};

/// Bytes to try a frame with; most answers are shorter.
const FRAME_BYTES: usize = 1 << 10;

/// How the messages of a connection are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line.
    Lines,
    /// Postcard between zeros.
    Frames,
}

/// A message that is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its id, if at least that can be read.
    pub id: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// A request of which only the id is of interest.
#[derive(Deserialize)]
struct OnlyId {
    id: Option<String>,
}

impl Form {
    /// The form of a connection that begins with this byte.
    pub fn of_first_byte(byte: u8) -> Self {
        if byte == frame::END { Form::Frames } else { Form::Lines }
    }

    /// The byte that ends a message.
    pub fn end(self) -> u8 {
        match self {
            Form::Lines => b'\n',
            Form::Frames => frame::END,
        }
    }

    /// What a message is called.
    pub fn word(self) -> &'static str {
        match self {
            Form::Lines => "line",
            Form::Frames => "frame",
        }
    }

    /// The bytes of an answer, its end included.
    pub fn answer(self, answer: &Answer) -> Vec<u8> {
        match self {
            Form::Lines => {
                // Strings, numbers and lists: nothing that JSON lacks, and no stream that could fail.
                let mut line = serde_json::to_vec(answer).expect("answers can be written as JSON");
                line.push(self.end());
                line
            }
            Form::Frames => framed(answer),
        }
    }

    /// Reads a request, given without its end; `None` if there is nothing in the message.
    ///
    /// # Errors
    /// If it is no request, or one without a usable id.
    pub fn request(self, message: &mut [u8]) -> Result<Option<Request>, Unreadable> {
        let request = match self {
            Form::Lines if message.iter().all(u8::is_ascii_whitespace) => return Ok(None),
            Form::Lines => of_line(message)?,
            Form::Frames => match frame::decode_all::<Request>(message) {
                Ok(request) => request,
                Err(FrameError::Empty) => return Ok(None),
                Err(error) => return Err(without_id(error.to_string())),
            },
        };
        match request.id.len() {
            1..=ID_BYTES => Ok(Some(request)),
            found => Err(without_id(format!("the id has {found} bytes; give it 1 to {ID_BYTES}"))),
        }
    }
}

fn without_id(message: String) -> Unreadable {
    Unreadable { id: None, message }
}

/// A frame with an end in front as well, to get over noise.
fn framed(answer: &Answer) -> Vec<u8> {
    let mut buffer = vec![frame::END; FRAME_BYTES];
    loop {
        if let Ok(length) = frame::encode(answer, &mut buffer[1..]).map(<[u8]>::len) {
            buffer.truncate(1 + length);
            // It may wait for its client for a while.
            buffer.shrink_to_fit();
            return buffer;
        }
        buffer.resize(2 * buffer.len(), frame::END);
    }
}

fn of_line(line: &[u8]) -> Result<Request, Unreadable> {
    let text = std::str::from_utf8(line).map_err(|error| {
        without_id(format!("the line is not UTF-8 from byte {} on; send UTF-8", error.valid_up_to()))
    })?;
    // The parser would also take a list of the fields' values in their order, which nobody is to rely on.
    if !text.trim_start().starts_with('{') {
        return Err(without_id("not a request: a line is one JSON object, from { to }".into()));
    }
    serde_json::from_str(text).map_err(|error| {
        // Valid JSON may still tell whom to answer.
        let id = serde_json::from_str::<OnlyId>(text).ok().and_then(|found| found.id);
        let id = id.filter(|id| (1..=ID_BYTES).contains(&id.len()));
        Unreadable { id, message: format!("not a request: {error}") }
    })
}

#[cfg(test)]
mod tests {
    use tern_protocol::answer::Reason;

    use super::*;
    use crate::serve::refusal;

    #[test]
    fn an_answer_of_any_length_is_framed_and_read_back() {
        for length in [0, 1, FRAME_BYTES - 30, FRAME_BYTES, 5 * FRAME_BYTES] {
            let answer = refusal(Some("a".into()), Reason::Internal, "x".repeat(length));
            let mut frame = Form::Frames.answer(&answer);
            assert_eq!((frame.first(), frame.last()), (Some(&0), Some(&0)));
            let read: Answer = frame::decode(&mut frame[1..]).expect("it is a frame");
            assert_eq!(read, answer);
        }
    }

    #[test]
    fn requests_are_read_in_both_forms_and_what_is_none_is_told() {
        let mut request = Request::new("7".to_owned());
        request.status = true;
        let mut buffer = [0; 64];
        let mut frame = frame::encode(&request, &mut buffer).expect("it fits").to_vec();
        assert_eq!(Form::Frames.request(&mut frame.clone()), Ok(Some(request.clone())));
        assert_eq!(Form::Lines.request(&mut br#"{"id":"7","status":true}"#.to_vec()), Ok(Some(request)));
        frame[1] ^= 1;
        let damaged = Form::Frames.request(&mut frame).expect_err("a bit was changed");
        assert!(damaged.id.is_none() && damaged.message.contains("damaged"), "{damaged:?}");
        assert_eq!(Form::Frames.request(&mut []), Ok(None));
        assert_eq!(Form::Lines.request(&mut b" \r".to_vec()), Ok(None));
        let unknown =
            Form::Lines.request(&mut br#"{"id":"7","colour":1}"#.to_vec()).expect_err("no such field");
        assert!(unknown.id.as_deref() == Some("7") && unknown.message.contains("colour"), "{unknown:?}");
    }
}
