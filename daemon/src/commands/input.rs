//! Text from standard input, however it is encoded.

use std::io::{self, BufRead, IsTerminal, Read};

use crate::error::{CommandError, Exit};

/// Bytes of standard input that are read as one text: more than any request may carry.
const WHOLE_BYTES: u64 = 4 << 20;

fn unreadable(error: &io::Error) -> CommandError {
    CommandError::new(Exit::NoInput, format!("cannot read standard input: {error}"))
}

/// Says on a terminal that its user is waited for.
fn invite() {
    if io::stdin().is_terminal() {
        eprintln!("(reading from the terminal; end with Ctrl-D)");
    }
}

/// All of standard input. Bytes that are no UTF-8 become replacement characters: logs have such.
///
/// # Errors
/// If it cannot be read or is far too long for one text.
pub fn whole() -> Result<String, CommandError> {
    invite();
    let mut bytes = Vec::new();
    io::stdin().lock().take(WHOLE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > WHOLE_BYTES {
        return Err(CommandError::new(
            Exit::BadInput,
            format!("standard input is longer than {WHOLE_BYTES} bytes; give less text at a time"),
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of standard input that are not blank, as they come.
pub fn lines() -> impl Iterator<Item = Result<String, CommandError>> + Send {
    invite();
    let mut bytes = Vec::new();
    std::iter::from_fn(move || {
        loop {
            bytes.clear();
            match io::stdin().lock().read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(unreadable(&error))),
            }
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches(['\n', '\r']);
            if !line.trim().is_empty() {
                return Some(Ok(line.to_owned()));
            }
        }
    })
}
