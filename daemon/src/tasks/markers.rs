//! The special tokens that templates write, by what they spell.

/// Special tokens to be found in text.
#[derive(Clone, Debug, Default)]
pub struct Markers {
    /// Spelling and number.
    list: Vec<(String, u32)>,
    /// What they begin with.
    starts: Vec<char>,
}

impl Markers {
    /// Of tokens as their vocabulary has them. Space may stand between a message and the template's own text, so nothing
    /// that begins or ends with it is a marker; runs of space are text anyway.
    pub fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
        let is_marker = |spelling: &str| !spelling.is_empty() && spelling.trim() == spelling;
        let list: Vec<_> = tokens.into_iter().filter(|(spelling, _)| is_marker(spelling)).collect();
        let mut starts: Vec<char> = list.iter().filter_map(|(spelling, _)| spelling.chars().next()).collect();
        starts.sort_unstable();
        starts.dedup();
        Self { list, starts }
    }

    /// The longest marker that `text` begins with: its bytes and its number.
    pub fn at(&self, text: &str) -> Option<(usize, u32)> {
        let first = text.chars().next()?;
        self.starts.binary_search(&first).ok()?;
        let here = self.list.iter().filter(|(spelling, _)| text.starts_with(spelling.as_str()));
        here.map(|(spelling, id)| (spelling.len(), *id)).max_by_key(|(bytes, _)| *bytes)
    }

    /// The first marker in `text`, the longest of those that begin there: where it begins, its bytes and its number.
    pub fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        text.char_indices().find_map(|(at, _)| self.at(&text[at..]).map(|(bytes, id)| (at, bytes, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_there_the_longest() {
        let tokens = [("<|e", 1), ("<|e|>", 2), ("e|>x", 3), (" s", 4), ("", 5), ("s ", 6)];
        let markers = Markers::new(tokens.map(|(spelling, id)| (spelling.to_owned(), id)));
        assert_eq!(markers.find("a <|e|>x"), Some((2, 5, 2)));
        assert_eq!(markers.find("\u{e9}<|e|x"), Some((2, 3, 1)));
        assert_eq!(markers.at("e|>x"), Some((4, 3)));
        for none in ["", " s ", "<|", "x"] {
            assert_eq!(markers.find(none), None, "{none:?}");
        }
    }
}
