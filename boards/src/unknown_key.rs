//! What is wrong with a file of ours in TOML, said for a person: an unknown key with the nearest one that is known.

use toml::de::Error;

/// A key this near to a known one is taken for a slip: one letter of four, rounded up.
const LETTERS: usize = 4;

/// What `error`, which parsing `text` ended with, comes to.
pub fn explain(text: &str, error: &Error) -> String {
    let message = error.message().replace(['\n', '\r'], " ");
    // serde words it like this: unknown field `quue`, expected one of `queue`, `clients`
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((found, known)) = quoted.split_first().filter(|_| message.starts_with("unknown field `")) else {
        return message;
    };
    let section = error.span().map_or("", |span| section(text, span.start));
    let key = if section.is_empty() { (*found).to_owned() } else { format!("{section}.{found}") };
    let distance = |known: &str| strsim::osa_distance(found, known);
    let nearest = known.iter().min_by_key(|known| distance(known));
    match nearest {
        Some(near) if distance(near) <= near.len().div_ceil(LETTERS) => {
            format!("{key}: unknown key; did you mean {near}?")
        }
        Some(_) => format!("{key}: unknown key; there are {}", known.join(", ")),
        None => format!("{key}: unknown key"),
    }
}

/// The name of the table that byte `at` is in: its last heading before that.
fn section(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or("");
    let heading = before.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let heading = heading.unwrap_or("").split('#').next().unwrap_or("");
    heading.trim().trim_matches(['[', ']'])
}
