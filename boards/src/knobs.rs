//! Every environment variable that tunes Tern on a machine, declared once.
//!
//! A knob may force a slower kernel or fewer threads; it can never bring in a kernel this CPU lacks, because
//! [`select`](crate::select::select) only chooses among the sets that are usable here.

use core::fmt;
use core::num::NonZeroUsize;
use std::ffi::OsString;

/// Declaration of one knob, for `--help` pages and manuals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// Environment variable.
    pub name: &'static str,
    /// What it takes, in one or two words.
    pub takes: &'static str,
    /// What happens when it is not set.
    pub default: &'static str,
    /// What it is for, one sentence.
    pub purpose: &'static str,
}

/// Forces a kernel set.
pub const KERNELS: Knob = Knob {
    name: "TERN_KERNELS",
    takes: "a kernel set's name",
    default: "the board's preference, else the fastest set this CPU can run",
    purpose: "Forces the named kernel set, to compare sets or to work around a fault in one; `tern doctor` lists the names.",
};

/// Forces the number of worker threads.
pub const THREADS: Knob = Knob {
    name: "TERN_THREADS",
    takes: "a number from 1 to 256",
    default: "the board's recommendation, else the physical cores of the fastest cluster",
    purpose: "Sets the number of worker threads, to leave cores to other services or to save power.",
};

/// Keeps from trying what is fastest.
pub const TUNE: Knob = Knob {
    name: "TERN_TUNE",
    takes: "`on` or `off`",
    default: "on: at its first start with a model of some shape, the program tries kernels and threads for about a second",
    purpose: "With `off` the board's recommendation is used and nothing is tried, for starts that must be alike.",
};

/// All knobs, in the order a manual lists them.
pub const ALL: &[Knob] = &[KERNELS, THREADS, TUNE];

/// More threads than this help no machine Tern is made for.
const MAX_THREADS: usize = 256;

/// The knobs' values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Knobs {
    /// Value of [`KERNELS`].
    pub kernels: Option<String>,
    /// Value of [`THREADS`].
    pub threads: Option<NonZeroUsize>,
    /// Whether [`TUNE`] is off.
    pub no_tuning: bool,
}

impl Knobs {
    /// Reads the knobs from this process's environment.
    ///
    /// # Errors
    /// [`KnobError`] for a value that is not what the knob takes.
    pub fn from_env() -> Result<Knobs, KnobError> {
        Knobs::from_lookup(|name| std::env::var_os(name))
    }

    /// Reads the knobs through `lookup`, which gives a variable's value or `None`. An empty value counts as
    /// not set, as unit files write it.
    ///
    /// # Errors
    /// As [`Knobs::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Knobs, KnobError> {
        let text = |knob: Knob| match lookup(knob.name) {
            None => Ok(None),
            Some(value) => match value.into_string() {
                Ok(value) if value.trim().is_empty() => Ok(None),
                Ok(value) => Ok(Some(value.trim().to_owned())),
                Err(raw) => Err(KnobError { knob, found: raw.to_string_lossy().into_owned() }),
            },
        };
        let threads = match text(THREADS)? {
            None => None,
            Some(found) => {
                let threads =
                    found.parse().ok().filter(|threads: &NonZeroUsize| threads.get() <= MAX_THREADS);
                Some(threads.ok_or(KnobError { knob: THREADS, found })?)
            }
        };
        let no_tuning = match text(TUNE)?.as_deref() {
            None | Some("on") => false,
            Some("off") => true,
            Some(found) => return Err(KnobError { knob: TUNE, found: found.to_owned() }),
        };
        Ok(Knobs { kernels: text(KERNELS)?, threads, no_tuning })
    }
}

/// A knob holds something it cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnobError {
    /// Which knob.
    pub knob: Knob,
    /// Its value.
    pub found: String,
}

impl fmt::Display for KnobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Knob { name, takes, default, .. } = self.knob;
        write!(f, "{name} is {:?} but takes {takes}; unset it for the default ({default})", self.found)
    }
}

impl core::error::Error for KnobError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(pairs: &[(&str, &str)]) -> Result<Knobs, KnobError> {
        Knobs::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn values_are_read_and_empty_ones_ignored() {
        assert_eq!(knobs(&[]), Ok(Knobs::default()));
        assert_eq!(knobs(&[("TERN_KERNELS", " "), ("TERN_THREADS", "")]), Ok(Knobs::default()));
        let set = knobs(&[("TERN_KERNELS", "scalar"), ("TERN_THREADS", "3")]).unwrap();
        assert_eq!(set.kernels.as_deref(), Some("scalar"));
        assert_eq!(set.threads.map(NonZeroUsize::get), Some(3));
        assert!(!set.no_tuning && knobs(&[("TERN_TUNE", "off")]).unwrap().no_tuning);
        assert!(knobs(&[("TERN_TUNE", "maybe")]).unwrap_err().to_string().contains("`on` or `off`"));
    }

    #[test]
    fn a_bad_number_of_threads_says_what_is_taken() {
        for bad in ["0", "-1", "four", "257", "1.5"] {
            let message = knobs(&[("TERN_THREADS", bad)]).unwrap_err().to_string();
            assert!(message.contains(bad) && message.contains("1 to 256"), "{message}");
        }
    }
}
