//! Stop strings in streamed text.
//!
//! Text leaves the filter as soon as it cannot be the beginning of a stop string any more; the stop string itself and
//! what follows never leave it.

use core::fmt;

use crate::tokenizer::StreamDecoder;

/// The most stop strings of a request.
pub const MAX_STOPS: usize = 8;
/// The most bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 64;

/// A list of stop strings that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// More than [`MAX_STOPS`] strings.
    TooMany {
        /// How many there were.
        found: usize,
    },
    /// A string longer than [`MAX_STOP_BYTES`].
    TooLong {
        /// Its place in the list.
        index: usize,
        /// Its length in bytes.
        bytes: usize,
    },
    /// An empty string, which would stop before the first word.
    Empty {
        /// Its place in the list.
        index: usize,
    },
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopError::TooMany { found } => write!(f, "{found} stop strings; at most {MAX_STOPS} are taken"),
            StopError::TooLong { index, bytes } => {
                write!(f, "stop string {index} has {bytes} bytes; at most {MAX_STOP_BYTES} are taken")
            }
            StopError::Empty { index } => write!(f, "stop string {index} is empty; leave it out"),
        }
    }
}

impl core::error::Error for StopError {}

/// The stop strings of one request and the text that is still held back.
#[derive(Clone, Debug, Default)]
pub struct StopFilter {
    stops: heapless::Vec<heapless::String<MAX_STOP_BYTES>, MAX_STOPS>,
    /// Held back: a proper prefix of a stop string, so shorter than one.
    held: heapless::String<MAX_STOP_BYTES>,
}

impl StopFilter {
    /// A filter for `stops`.
    ///
    /// # Errors
    /// If there are too many, or one is empty or too long.
    pub fn new<'a>(stops: impl Iterator<Item = &'a str>) -> Result<Self, StopError> {
        let mut filter = StopFilter::default();
        let mut found = 0;
        for (index, stop) in stops.enumerate() {
            found += 1;
            if stop.is_empty() {
                return Err(StopError::Empty { index });
            }
            let too_long = StopError::TooLong { index, bytes: stop.len() };
            let stop = heapless::String::try_from(stop).map_err(|_| too_long)?;
            // Counted on, so that the message can say how many there are.
            let _ = filter.stops.push(stop);
        }
        if found > MAX_STOPS { Err(StopError::TooMany { found }) } else { Ok(filter) }
    }

    /// Takes a piece of text, hands on what may leave, and says whether a stop string was completed. After that the
    /// filter is to be thrown away.
    pub fn push(&mut self, text: &str, mut emit: impl FnMut(&str)) -> bool {
        for c in text.chars() {
            let mut bytes = [0u8; 4];
            let c = c.encode_utf8(&mut bytes);
            // What is held plus one character fits unless it is longer than every stop string.
            while self.held.push_str(c).is_err() {
                self.release_front(&mut emit);
            }
            if let Some(stop) = self.stops.iter().find(|stop| self.held.ends_with(stop.as_str())) {
                emit(&self.held[..self.held.len() - stop.len()]);
                self.held.clear();
                return true;
            }
            while !self.held.is_empty() && !self.stops.iter().any(|stop| stop.starts_with(self.held.as_str()))
            {
                self.release_front(&mut emit);
            }
        }
        false
    }

    /// Hands on everything held back: the text ended without a stop string.
    pub fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if !self.held.is_empty() {
            emit(&self.held);
            self.held.clear();
        }
    }

    /// Hands on the first character that is held.
    fn release_front(&mut self, emit: &mut impl FnMut(&str)) {
        let Some(first) = self.held.chars().next() else { return };
        let mut bytes = [0u8; 4];
        emit(first.encode_utf8(&mut bytes));
        let mut rest = heapless::String::new();
        // Cannot fail: it is shorter than what it is a part of.
        let _ = rest.push_str(&self.held[first.len_utf8()..]);
        self.held = rest;
    }
}

/// Bytes of tokens to text that a client may see: whole characters, and nothing from a stop string on.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    utf8: StreamDecoder,
    stops: StopFilter,
}

/// Passes characters from the decoder through the filter until a stop string is complete.
struct Filtered<'f, F> {
    stops: &'f mut StopFilter,
    emit: F,
    hit: bool,
}

impl<F: FnMut(&str)> fmt::Write for Filtered<'_, F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.hit = self.hit || self.stops.push(text, &mut self.emit);
        Ok(())
    }
}

impl TextStream {
    /// A stream that ends at one of `stops`.
    pub fn new(stops: StopFilter) -> Self {
        TextStream { utf8: StreamDecoder::new(), stops }
    }

    /// The same with this decoder, for a stream that has taken nothing yet.
    pub fn decoded_by(&mut self, decoder: StreamDecoder) {
        self.utf8 = decoder;
    }

    /// Takes the bytes of a token, hands on what may be seen, and says whether a stop string was completed.
    pub fn push(&mut self, bytes: impl IntoIterator<Item = u8>, emit: impl FnMut(&str)) -> bool {
        let mut out = Filtered { stops: &mut self.stops, emit, hit: false };
        // `Filtered` never fails.
        let _ = self.utf8.push(bytes, &mut out);
        out.hit
    }

    /// Ends the text: hands on what was held back, up to a stop string that this completes.
    pub fn finish(&mut self, emit: impl FnMut(&str)) {
        let mut out = Filtered { stops: &mut self.stops, emit, hit: false };
        // `Filtered` never fails.
        let _ = self.utf8.finish(&mut out);
        if !out.hit {
            let Filtered { stops, emit, .. } = out;
            stops.finish(emit);
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// Runs `text` through in pieces of `step` characters.
    fn run(stops: &[&str], text: &str, step: usize) -> (String, bool) {
        let mut filter = StopFilter::new(stops.iter().copied()).unwrap();
        let mut out = String::new();
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(step) {
            if filter.push(&piece.iter().collect::<String>(), |s| out.push_str(s)) {
                return (out, true);
            }
        }
        filter.finish(|s| out.push_str(s));
        (out, false)
    }

    #[test]
    fn text_ends_before_the_first_stop_string_however_it_is_cut() {
        for step in 1..12 {
            assert_eq!(run(&["END", "\n\n"], "one EN\ntwo END three", step), ("one EN\ntwo ".into(), true));
            assert_eq!(run(&["aab"], "aaab", step), ("a".into(), true));
            assert_eq!(run(&["\u{e9}\u{e9}!"], "\u{e9}\u{e9}\u{e9}!x", step), ("\u{e9}".into(), true));
            assert_eq!(run(&["zzz"], "plain text z", step), ("plain text z".into(), false));
            assert_eq!(run(&[], "plain", step), ("plain".into(), false));
        }
    }

    #[test]
    fn nothing_is_held_longer_than_it_must_be() {
        let mut filter = StopFilter::new(["abc"].into_iter()).unwrap();
        let mut out = String::new();
        filter.push("xab", |s| out.push_str(s));
        assert_eq!(out, "x");
        filter.push("d", |s| out.push_str(s));
        assert_eq!(out, "xabd");
    }

    #[test]
    fn unusable_lists_are_refused() {
        let long = "x".repeat(MAX_STOP_BYTES + 1);
        assert_eq!(StopFilter::new(["a", ""].into_iter()).unwrap_err(), StopError::Empty { index: 1 });
        assert_eq!(
            StopFilter::new([&*long].into_iter()).unwrap_err(),
            StopError::TooLong { index: 0, bytes: 65 }
        );
        assert_eq!(StopFilter::new(["a"; 11].into_iter()).unwrap_err(), StopError::TooMany { found: 11 });
        run(&["x".repeat(MAX_STOP_BYTES).as_str()], &"x".repeat(200), 3);
    }
}
