//! Messages collected until their window ends: the newest, as many as fit.

use std::collections::VecDeque;

use crate::transport::mqtt::clock::Millis;

/// A window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which digest it belongs to.
    pub digest: String,
    /// Topic of its messages, if they have to have the same.
    pub topic: Option<String>,
    /// When its first message came.
    pub opened: Millis,
    /// Messages that are not in `lines` any more.
    pub dropped: u64,
    /// Messages that had come when the last answer before the end was asked for.
    pub told: u64,
    lines: VecDeque<String>,
    bytes: usize,
}

impl Window {
    /// A window of `digest` without messages.
    pub fn new(digest: String, topic: Option<String>, opened: Millis) -> Self {
        Window { digest, topic, opened, dropped: 0, told: 0, lines: VecDeque::new(), bytes: 0 }
    }

    /// Adds a message, and drops the oldest if all together have more than `most_bytes`, until they have `kept_bytes` or are
    /// one that fits. One that could not be read is only counted.
    pub fn add(&mut self, text: Option<String>, most_bytes: usize, kept_bytes: usize) {
        let Some(text) = text else {
            self.dropped += 1;
            return;
        };
        self.bytes += bytes(&text);
        self.lines.push_back(text);
        let overflows = self.bytes > most_bytes;
        while overflows
            && (self.bytes > most_bytes || self.bytes > kept_bytes && self.lines.len() > 1)
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= bytes(&oldest);
            self.dropped += 1;
        }
    }

    /// Its messages.
    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// Messages that it has.
    pub fn messages(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Messages that came.
    pub fn came(&self) -> u64 {
        self.messages() + self.dropped
    }

    /// Bytes of its text.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its messages, one a line.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Bytes of a message in the text, its line end included.
fn bytes(line: &str) -> usize {
    line.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn the_newest_stay_and_the_rest_is_counted() {
        let mut window = Window::new("d".into(), None, 5);
        for text in ["one", "two", "three"] {
            window.add(line(text), 14, 14);
        }
        assert_eq!((window.text().as_str(), window.bytes()), ("one\ntwo\nthree\n", 14));
        window.add(line("four"), 14, 14);
        assert_eq!((window.text().as_str(), window.dropped), ("three\nfour\n", 2));
        assert_eq!((window.messages(), window.came()), (2, 4));
    }

    #[test]
    fn a_block_is_dropped_at_once_so_that_the_beginning_stays_for_a_while() {
        let mut window = Window::new("d".into(), None, 5);
        let mut beginnings = std::collections::BTreeSet::new();
        for at in 0..100 {
            window.add(line(&format!("line {at:04}")), 200, 150);
            assert!(window.bytes() <= 200, "{}", window.bytes());
            beginnings.insert(window.lines().next().cloned());
        }
        // Ten bytes each: twenty fit, and of one more than that fifteen stay.
        assert_eq!((window.came(), beginnings.len()), (100, 15));
        window.add(line(&"x".repeat(180)), 200, 150);
        assert_eq!((window.messages(), window.bytes()), (1, 181));
    }

    #[test]
    fn what_is_too_large_alone_or_unreadable_is_only_counted() {
        let mut window = Window::new("d".into(), None, 5);
        window.add(line("ok"), 5, 5);
        window.add(None, 5, 5);
        assert_eq!((window.text().as_str(), window.dropped), ("ok\n", 1));
        window.add(line("too long"), 5, 5);
        assert_eq!((window.text().as_str(), window.dropped, window.bytes()), ("", 3, 0));
    }
}
