//! `[energy]`: how much power and heat there may be.

use serde::Deserialize;

/// `[energy]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnergySection {
    /// What becomes of requests with `max_joules` where there is no meter.
    pub unmetered: Unmetered,
}

/// `unmetered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmetered {
    /// They are refused.
    #[default]
    Refuse,
    /// They are answered, whatever they cost.
    Ignore,
}
