//! Plain aligned tables for terminals.
//!
//! Columns are as wide as their widest cell; the text is measured in characters, not bytes. Colour is a matter of the
//! caller: a cell may carry escape sequences, which take no room.

use std::fmt::Write as _;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Clone, Debug)]
pub struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    /// An empty table with one column for each alignment.
    pub fn new(align: impl Into<Vec<Align>>) -> Self {
        Table { align: align.into(), rows: Vec::new(), indent: 0 }
    }

    /// Puts `spaces` before every line.
    #[must_use]
    pub fn indented(mut self, spaces: usize) -> Self {
        self.indent = spaces;
        self
    }

    /// Adds a row; missing cells are empty, and cells beyond the last column are left out.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().take(self.align.len()).map(Into::into).collect());
    }

    /// The table as lines, each ended by a line break; two spaces stand between columns and none at the end.
    pub fn render(&self) -> String {
        let mut widths = vec![0; self.align.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(visible_width(cell));
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (column, (width, align)) in widths.iter().zip(&self.align).enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let padding = width - visible_width(cell);
                let (before, after) = match align {
                    Align::Left => (0, padding),
                    Align::Right => (padding, 0),
                };
                let gap = if column == 0 { "" } else { "  " };
                let _ = write!(line, "{gap}{:before$}{cell}{:after$}", "", "");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Characters of `text` that a terminal shows: `ESC [ ... letter` sequences take no room.
pub fn visible_width(text: &str) -> usize {
    let mut width = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // The sequence ends with its first letter.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            width += 1;
        }
    }
    width
}

/// `text` on one line of at most `width` characters, with an ellipsis where it was cut; control characters, which
/// could move the cursor, become spaces.
pub fn cut(text: &str, width: usize) -> String {
    let clean: Vec<char> = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() <= width {
        return clean.into_iter().collect();
    }
    let mut short: String = clean[..width.saturating_sub(3)].iter().collect();
    short.truncate(short.trim_end().len());
    short.push_str("...");
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let mut table = Table::new([Align::Left, Align::Right]).indented(1);
        table.row(["name", "n"]);
        table.row(["\u{1b}[1mcaf\u{e9}\u{1b}[0m", "120"]);
        table.row(["only"]);
        let lines: Vec<_> = table.render().lines().map(str::to_owned).collect();
        assert_eq!(lines, [" name    n", " \u{1b}[1mcaf\u{e9}\u{1b}[0m  120", " only"]);
    }

    #[test]
    fn cutting_keeps_to_the_width_and_the_line() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("a tab\tand\nbreak", 40), "a tab and break");
        assert_eq!(cut("one two three", 10), "one two...");
        assert_eq!(cut("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", 4), "\u{e9}...");
    }
}
