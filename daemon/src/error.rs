//! Why a command failed, in one line, and the exit code that says it to scripts.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// Exit codes; those from 64 on mean what `sysexits.h` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Whoever read the output has closed it: nothing is wrong and nobody is left to tell.
    OutputClosed = 0,
    /// The work was done and its outcome is a failure, such as a check that did not hold.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A configuration, a task file, a data file or a request makes no sense.
    BadInput = 64,
    /// A file to read is missing, or is not a model that can be used.
    NoInput = 66,
    /// No daemon answers on the socket, or it is shutting down.
    Unavailable = 69,
    /// A fault of Tern's own.
    Internal = 70,
    /// An output cannot be created or written.
    CannotCreate = 73,
    /// The daemon is too busy now; the same request may succeed later.
    TryAgain = 75,
}

/// A command's failure: a message with its causes, and an exit code.
#[derive(Debug)]
pub struct CommandError {
    message: String,
    exit: Exit,
}

impl CommandError {
    /// A failure in words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        CommandError { message: message.into(), exit }
    }

    /// A failure caused by `error`; its whole chain of sources becomes part of the message.
    pub fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        CommandError { message, exit }
    }

    /// The same failure with what was being done in front.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// A failed write to standard output or standard error. A closed pipe is an ordinary end.
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CommandError::new(Exit::OutputClosed, ""),
            _ => CommandError::new(Exit::CannotCreate, format!("cannot write the output: {error}")),
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Says the failure on standard error, on one line, and returns the code to leave with.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            // Messages may quote input; a line break in one must not look like two failures.
            eprintln!("tern: {}", self.message.replace(['\n', '\r'], " "));
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CommandError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot read tasks")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_chain_of_causes_becomes_one_line() {
        let error = Outer(io::Error::other("disk on fire"));
        let failure = CommandError::from_error(Exit::BadInput, &error).while_doing("starting");
        assert_eq!(failure.to_string(), "starting: cannot read tasks: disk on fire");
        assert_eq!(failure.exit() as u8, 64);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = CommandError::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit(), Exit::OutputClosed);
        assert!(failure.to_string().is_empty());
        let failure = CommandError::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit(), Exit::CannotCreate);
    }
}
