//! What standard output is able to show: colour, block characters, how many columns.

use std::io::IsTerminal;

/// How to print for whoever reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Whether escape sequences for colour are understood and wanted.
    pub colour: bool,
    /// Whether characters beyond ASCII are shown.
    pub unicode: bool,
    /// Columns of a line.
    pub columns: usize,
}

/// Columns where nothing says how many there are: a pipe or a file.
const DEFAULT_COLUMNS: usize = 110;

impl Terminal {
    /// Plain ASCII, for pipes and files.
    pub const PLAIN: Terminal = Terminal { colour: false, unicode: false, columns: DEFAULT_COLUMNS };

    /// What standard output is.
    ///
    /// Colour follows <https://no-color.org>: none if `NO_COLOR` is set to anything but nothing.
    pub fn of_stdout() -> Terminal {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return Terminal::PLAIN;
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        // The first that is set decides, as POSIX 8.2 has it.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        let columns = rustix::termios::tcgetwinsize(stdout).map_or(0, |size| usize::from(size.ws_col));
        Terminal {
            colour: !dumb && set("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            columns: if columns == 0 { DEFAULT_COLUMNS } else { columns },
        }
    }

    /// `text` in bold.
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// `text` in a faint colour, for what matters less.
    pub fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// `text` in green.
    pub fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// `text` in red.
    pub fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// `share`, 0 to 1, as a bar of `width` characters.
    pub fn bar(&self, share: f64, width: usize) -> String {
        let (full, empty) = if self.unicode { ("\u{2588}", "\u{2591}") } else { ("#", ".") };
        let filled = ((share * width as f64).round().max(0.0) as usize).min(width);
        full.repeat(filled) + &empty.repeat(width - filled)
    }

    /// A mark for right or wrong.
    pub fn mark(&self, right: bool) -> String {
        match (right, self.unicode) {
            (true, true) => self.green("\u{2713}"),
            (true, false) => self.green("+"),
            (false, true) => self.red("\u{2717}"),
            (false, false) => self.red("-"),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_output_is_ascii_without_escapes() {
        let plain = Terminal::PLAIN;
        let all = [plain.bold("a"), plain.faint("b"), plain.mark(true), plain.mark(false), plain.bar(0.5, 4)];
        assert_eq!(all.concat(), "ab+-##..");
    }

    #[test]
    fn bars_stay_in_their_width() {
        let bar = |share| Terminal::PLAIN.bar(share, 10);
        assert_eq!(bar(0.0), "..........");
        assert_eq!(bar(0.96), "##########");
        assert_eq!(bar(7.0), "##########");
        assert_eq!(bar(-1.0), "..........");
        assert_eq!(bar(f64::NAN), "..........");
    }
}
