//! Templates whose expressions would take the stack: the engine bounds brackets and blocks, not chains of operators.

/// Words and signs in one tag; published templates have up to some hundred.
const MOST_IN_TAG: usize = 500;
/// `elif`s in all; each lies inside the one before.
const MOST_ELIFS: usize = 100;

/// The line (from 1) where `source` goes beyond the bounds, and how.
pub fn exceeded(source: &str) -> Option<(usize, String)> {
    let line_of = |at: usize| 1 + source[..at].matches('\n').count();
    if let Some((at, _)) = source.match_indices("elif").nth(MOST_ELIFS) {
        return Some((line_of(at), format!("more than {MOST_ELIFS} elifs")));
    }
    let mut from = 0;
    while let Some(at) = find(source, from) {
        let end = match tag_end(source, at + 2) {
            Ok(end) => end,
            Err(()) => {
                return Some((line_of(at), format!("more than {MOST_IN_TAG} words and signs in one tag")));
            }
        };
        from = end;
    }
    None
}

/// Where the next tag begins, from `from` on.
fn find(source: &str, from: usize) -> Option<usize> {
    let mut braces = source[from..].match_indices('{').map(|(at, _)| from + at);
    braces.find(|at| matches!(source.as_bytes().get(at + 1), Some(b'{' | b'%')))
}

/// Where the tag ends whose inside begins at `from`; an error if there is too much in it.
fn tag_end(source: &str, from: usize) -> Result<usize, ()> {
    let mut chars = source[from..].char_indices().peekable();
    let (mut count, mut in_word) = (0, false);
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, next)| *next);
        if matches!((c, next), ('}' | '%', Some('}'))) {
            return Ok(from + at + 2);
        }
        if matches!(c, '\'' | '"') {
            while let Some((_, inside)) = chars.next() {
                if inside == c {
                    break;
                }
                if inside == '\\' {
                    chars.next();
                }
            }
        }
        let is_word = c.is_alphanumeric() || c == '_';
        if !(c.is_whitespace() || is_word && in_word) {
            count += 1;
        }
        if count > MOST_IN_TAG {
            return Err(());
        }
        in_word = is_word;
    }
    Ok(source.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_count_and_strings_are_one() {
        let text = "( not ".repeat(1000);
        assert_eq!(exceeded(&format!("{text}{{{{ '{text}' ~ \"}}}}{text}\\\"{text}\" }}}}{text}")), None);
        assert_eq!(exceeded(&"{{ a.b[0] + 1 }}{% set c = d %}".repeat(1000)), None);
        for chain in ["not ", "-", "1+", "a~", "1 if 1 else ", "x|", "("] {
            let source = format!("one\ntwo {{% if {}1 %}}", chain.repeat(501));
            assert_eq!(exceeded(&source).map(|(line, _)| line), Some(2), "{chain}");
        }
        assert_eq!(exceeded(&"\n{% elif a %}".repeat(101)).map(|(line, _)| line), Some(102));
    }
}
