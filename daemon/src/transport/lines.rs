//! Lines from a stream, never more of one in memory than a limit.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

/// Bytes asked of the stream at once.
const CHUNK_BYTES: usize = 8 << 10;

/// A stream whose reads can be limited in time.
pub trait TimedRead: Read {
    /// The next reads fail with [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`] after `limit`; `None` for never.
    ///
    /// # Errors
    /// If the system refuses.
    fn limit_wait(&self, limit: Option<Duration>) -> io::Result<()>;
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'l> {
    /// A line, without its end. The last line of a stream needs no end.
    Whole(&'l [u8]),
    /// A line longer than the limit; its bytes are gone.
    TooLong,
    /// A line that did not end in time. Nothing sensible can follow.
    Unfinished,
    /// The stream has ended.
    End,
}

/// Reads lines.
#[derive(Debug)]
pub struct LineReader<R> {
    stream: R,
    most_bytes: usize,
    most_time: Duration,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that were handed out.
    taken: usize,
    /// Bytes behind those that hold no line end.
    searched: usize,
    /// When the line at hand began, while it is not complete.
    began: Option<Instant>,
    /// The line at hand is too long already.
    skipping: bool,
    ended: bool,
}

impl<R: TimedRead> LineReader<R> {
    /// Reads lines of at most `most_bytes`, each of which may take `most_time` from its first byte to its end.
    pub fn new(stream: R, most_bytes: usize, most_time: Duration) -> Self {
        LineReader {
            stream,
            most_bytes,
            most_time,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            began: None,
            skipping: false,
            ended: false,
        }
    }

    /// Waits for the next line.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn next_line(&mut self) -> io::Result<Line<'_>> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let length = self.searched + at;
                return Ok(self.take(length, length + 1));
            }
            self.searched = self.buffer.len();
            if self.ended {
                let length = self.buffer.len();
                let nothing = length == 0 && !self.skipping;
                return Ok(if nothing { Line::End } else { self.take(length, length) });
            }
            if self.searched > self.most_bytes {
                self.skipping = true;
            }
            if self.skipping {
                self.buffer.clear();
                self.searched = 0;
            }
            if !self.fill()? {
                return Ok(Line::Unfinished);
            }
        }
    }

    /// Ends the line at hand: `length` bytes of text, `with_end` bytes in all.
    fn take(&mut self, length: usize, with_end: usize) -> Line<'_> {
        self.taken = with_end;
        self.searched = 0;
        self.began = None;
        if std::mem::take(&mut self.skipping) || length > self.most_bytes {
            return Line::TooLong;
        }
        let line = &self.buffer[..length];
        Line::Whole(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Reads more; says false if the line at hand took too long.
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
            // One long line must not hold its memory as long as the client is connected.
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
        fn limit_wait(&self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    fn all(chunks: &[&str], most_bytes: usize, stalls: bool) -> Vec<String> {
        let script = Script(chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect(), stalls);
        let mut reader = LineReader::new(script, most_bytes, Duration::from_secs(60));
        let mut found = Vec::new();
        loop {
            match reader.next_line().expect("the script has no errors") {
                Line::Whole(line) => found.push(String::from_utf8_lossy(line).into_owned()),
                Line::TooLong => found.push("(too long)".into()),
                Line::Unfinished => return [found, vec!["(unfinished)".into()]].concat(),
                Line::End => return found,
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
        let mut reader = LineReader::new(Script(chunks, false), 1 << 16, Duration::from_secs(60));
        assert_eq!(reader.next_line().expect("no errors"), Line::TooLong);
        assert!(reader.buffer.capacity() <= 4 * (1 << 16), "{} bytes held", reader.buffer.capacity());
        assert_eq!(reader.next_line().expect("no errors"), Line::End);
    }

    #[test]
    fn a_line_that_stalls_is_given_up_and_an_idle_stream_is_not() {
        assert_eq!(all(&["ab\ncd"], 10, true), ["ab", "(unfinished)"]);
        let mut reader = LineReader::new(Script(vec![b"abc".to_vec()], true), 10, Duration::ZERO);
        assert_eq!(reader.next_line().expect("no errors"), Line::Unfinished);
    }
}
