//! `[socket]` and `[serial]`: the ways in that need no network.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, in_range};

/// `[socket]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketSection {
    /// Where the socket is made.
    pub path: PathBuf,
    /// Who may connect, as file permissions: in TOML `0o660`.
    pub mode: u32,
    /// Group that the socket's file is given to.
    pub group: Option<Account>,
    /// Users that may connect; with this or `allow_groups` nobody else may, root neither.
    pub allow_users: Option<Vec<Account>>,
    /// Groups whose members may connect.
    pub allow_groups: Option<Vec<Account>>,
}

impl Default for SocketSection {
    fn default() -> Self {
        SocketSection {
            path: super::default_socket(),
            mode: 0o660,
            group: None,
            allow_users: None,
            allow_groups: None,
        }
    }
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a name or a number")]
pub enum Account {
    /// By number.
    Number(u32),
    /// By name.
    Name(String),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::Number(number) => write!(f, "{number}"),
            Account::Name(name) => f.write_str(name),
        }
    }
}

/// `[serial]`: a line to a microcontroller.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialSection {
    /// The line's device.
    pub path: PathBuf,
    /// Bits a second; eight data bits, no parity, one stop bit.
    #[serde(default = "SerialSection::usual_baud")]
    pub baud: u32,
}

impl SerialSection {
    /// A line at the usual speed.
    pub fn new(path: PathBuf) -> Self {
        SerialSection { path, baud: Self::usual_baud() }
    }

    fn usual_baud() -> u32 {
        115_200
    }

    /// Checks the speed.
    ///
    /// # Errors
    /// If it is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        in_range(&[("serial.baud", u64::from(self.baud), 300, 4_000_000)])
    }
}
