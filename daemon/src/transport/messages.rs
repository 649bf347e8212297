//! Messages from a stream, lines or frames, never more of one in memory than a limit.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use crate::serve::form::Form;

/// Bytes asked of the stream at once.
const CHUNK_BYTES: usize = 8 << 10;

/// A stream whose reads can be limited in time.
pub trait TimedRead: Read {
    /// The next reads fail with [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`] after `limit`; `None` for never.
    ///
    /// # Errors
    /// If the system refuses.
    fn limit_wait(&mut self, limit: Option<Duration>) -> io::Result<()>;
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'m> {
    /// A message, without its end. The last one of a stream needs no end.
    Whole(&'m mut [u8]),
    /// A message longer than the limit; its bytes are gone.
    TooLong,
    /// A message that did not end in time; what there is of it is gone.
    Unfinished,
    /// The stream has ended.
    End,
}

/// Reads messages.
#[derive(Debug)]
pub struct MessageReader<R> {
    stream: R,
    most_bytes: usize,
    most_time: Duration,
    form: Option<Form>,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that were handed out.
    taken: usize,
    /// Bytes behind those that hold no end.
    searched: usize,
    /// When the message at hand began, while it is not complete.
    began: Option<Instant>,
    /// The message at hand is not to be handed out: it is too long already, or it was not finished in time.
    skipping: bool,
    ended: bool,
}

impl<R: TimedRead> MessageReader<R> {
    /// Reads messages of at most `most_bytes`, each of which may take `most_time` from its first byte to its end. The
    /// first byte of all tells their form, unless it is given.
    pub fn new(stream: R, form: Option<Form>, most_bytes: usize, most_time: Duration) -> Self {
        MessageReader {
            stream,
            most_bytes,
            most_time,
            form,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            began: None,
            skipping: false,
            ended: false,
        }
    }

    /// Waits for the first byte and says what form it tells; `None` if the stream has ended.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn form(&mut self) -> io::Result<Option<Form>> {
        while self.form.is_none() {
            match self.buffer.first() {
                Some(first) => self.form = Some(Form::of_first_byte(*first)),
                None if self.ended => return Ok(None),
                // An empty message cannot be unfinished.
                None => drop(self.fill()?),
            }
        }
        Ok(self.form)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn next_message(&mut self) -> io::Result<Piece<'_>> {
        let Some(form) = self.form()? else { return Ok(Piece::End) };
        self.buffer.drain(..self.taken);
        self.taken = 0;
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == form.end());
            if let Some(at) = end {
                let length = self.searched + at;
                return Ok(self.take(form, length, length + 1));
            }
            self.searched = self.buffer.len();
            if self.ended {
                let length = self.buffer.len();
                let nothing = length == 0 && !self.skipping;
                return Ok(if nothing { Piece::End } else { self.take(form, length, length) });
            }
            if self.searched > self.most_bytes {
                self.skipping = true;
            }
            if self.skipping {
                self.buffer.clear();
                self.searched = 0;
            }
            if !self.fill()? {
                return Ok(self.give_up());
            }
        }
    }

    /// The message at hand did not end in time. What may still come of it will be found damaged.
    fn give_up(&mut self) -> Piece<'_> {
        self.buffer.clear();
        self.searched = 0;
        self.began = None;
        self.skipping = false;
        Piece::Unfinished
    }

    /// Ends the message at hand: `length` bytes, `with_end` bytes in all.
    fn take(&mut self, form: Form, length: usize, with_end: usize) -> Piece<'_> {
        self.taken = with_end;
        self.searched = 0;
        self.began = None;
        if std::mem::take(&mut self.skipping) || length > self.most_bytes {
            return Piece::TooLong;
        }
        let carriage = form == Form::Lines && self.buffer[..length].ends_with(b"\r");
        Piece::Whole(&mut self.buffer[..length - usize::from(carriage)])
    }

    /// Reads more; says false if the message at hand took too long.
    fn fill(&mut self) -> io::Result<bool> {
        if self.began.is_none() && (!self.buffer.is_empty() || self.skipping) {
            self.began = Some(Instant::now());
        }
        let left = self.began.map(|began| self.most_time.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        self.stream.limit_wait(left)?;
        let length = self.buffer.len();
        if self.buffer.capacity() > 4 * CHUNK_BYTES && length < CHUNK_BYTES {
            // One long message must not hold its memory as long as the client is connected.
            self.buffer.shrink_to(2 * CHUNK_BYTES);
        }
        self.buffer.resize(length + CHUNK_BYTES, 0);
        let read = self.stream.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(left.is_none()),
                _ => return Err(error),
            },
        }
        Ok(true)
    }
}

/// What is said about a message over the limit.
pub fn too_long(form: Form, bytes: usize) -> String {
    format!("a {} of more than {bytes} bytes (limits.line_bytes); send less at once", form.word())
}

/// What is said about a message that does not end.
pub fn unfinished(form: Form, ms: u64) -> String {
    let (word, end) = match form {
        Form::Lines => ("line", "\\n"),
        Form::Frames => ("frame", "00"),
    };
    format!("a {word} was not finished within {ms} ms (limits.line_ms); end it with {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it holds in the chunks it holds, then ends or stalls.
    struct Script(Vec<Vec<u8>>, bool);

    impl Read for Script {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return if self.1 { Err(ErrorKind::WouldBlock.into()) } else { Ok(0) };
            }
            let mut chunk = self.0.remove(0);
            let rest = chunk.split_off(chunk.len().min(to.len()));
            to[..chunk.len()].copy_from_slice(&chunk);
            if !rest.is_empty() {
                self.0.insert(0, rest);
            }
            Ok(chunk.len())
        }
    }

    impl TimedRead for Script {
        fn limit_wait(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    fn all(chunks: &[&str], most_bytes: usize, stalls: bool) -> Vec<String> {
        read(chunks, None, most_bytes, stalls)
    }

    fn read(chunks: &[&str], form: Option<Form>, most_bytes: usize, stalls: bool) -> Vec<String> {
        let script = Script(chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect(), stalls);
        let mut reader = MessageReader::new(script, form, most_bytes, Duration::from_secs(60));
        let mut found = Vec::new();
        loop {
            match reader.next_message().expect("the script has no errors") {
                Piece::Whole(line) => found.push(String::from_utf8_lossy(line).into_owned()),
                Piece::TooLong => found.push("(too long)".into()),
                Piece::Unfinished => return [found, vec!["(unfinished)".into()]].concat(),
                Piece::End => return found,
            }
        }
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        assert_eq!(all(&["ab\ncd\r\n\ne"], 10, false), ["ab", "cd", "", "e"]);
        assert_eq!(all(&["a", "b\nc", "d\n"], 10, false), ["ab", "cd"]);
        assert_eq!(all(&[], 10, false), Vec::<String>::new());
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_and_the_next_is_read() {
        assert_eq!(all(&["12345\n", "123456\n", "x\n"], 5, false), ["12345", "(too long)", "x"]);
        assert_eq!(all(&["12", "34", "567890", "12\nx"], 5, false), ["(too long)", "x"]);
        assert_eq!(all(&["1234567890"], 5, false), ["(too long)"]);
    }

    #[test]
    fn a_long_line_is_never_held() {
        let chunks = vec![vec![b'x'; 1 << 20]; 100];
        let mut reader = MessageReader::new(Script(chunks, false), None, 1 << 16, Duration::from_secs(60));
        assert_eq!(reader.next_message().expect("no errors"), Piece::TooLong);
        assert!(reader.buffer.capacity() <= 4 * (1 << 16), "{} bytes held", reader.buffer.capacity());
        assert_eq!(reader.next_message().expect("no errors"), Piece::End);
    }

    #[test]
    fn a_line_that_stalls_is_given_up_and_an_idle_stream_is_not() {
        assert_eq!(all(&["ab\ncd"], 10, true), ["ab", "(unfinished)"]);
        let mut reader = MessageReader::new(Script(vec![b"abc".to_vec()], true), None, 10, Duration::ZERO);
        assert_eq!(reader.next_message().expect("no errors"), Piece::Unfinished);
    }

    #[test]
    fn the_first_byte_tells_frames_and_they_are_cut_at_zeros() {
        assert_eq!(all(&["\0ab\ncd\0e\r\0f"], 10, false), ["", "ab\ncd", "e\r", "f"]);
        assert_eq!(all(&["\0", "123", "4567\0", "x\0"], 5, false), ["", "(too long)", "x"]);
        assert_eq!(all(&["\0"], 10, false), [""]);
        assert_eq!(read(&["ab\0"], Some(Form::Frames), 10, false), ["ab"]);
        assert_eq!(all(&["ab\0c\n"], 10, false), ["ab\0c"]);
    }

    #[test]
    fn frames_are_read_on_after_one_that_stalls() {
        let script = Script(vec![b"\0half".to_vec()], true);
        let mut reader = MessageReader::new(script, None, 10, Duration::ZERO);
        assert_eq!(reader.next_message().expect("no errors"), Piece::Whole(&mut []));
        assert_eq!(reader.next_message().expect("no errors"), Piece::Unfinished);
        reader.stream.0.push(b"frame\0next\0".to_vec());
        assert_eq!(reader.next_message().expect("no errors"), Piece::Whole(&mut b"frame".to_vec()));
        assert_eq!(reader.next_message().expect("no errors"), Piece::Whole(&mut b"next".to_vec()));
    }
}
