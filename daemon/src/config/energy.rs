//! `[energy]`: which power meter is used, and how much power and heat there may be.

use std::path::PathBuf;

use serde::Deserialize;

use super::metering::{MOST_WATTS, MeterName, PlugSection, UNCERTAINTY, Unit};
use super::record::RecordSection;

/// `[energy]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnergySection {
    /// The meter to use.
    pub meter: MeterName,
    /// A file that another program writes.
    pub file: Option<PathBuf>,
    /// What that file holds.
    pub file_unit: Unit,
    /// Seconds after which the file counts as forgotten.
    pub file_stale_s: u32,
    /// A plug at the broker of `[mqtt]`.
    pub mqtt: Option<PlugSection>,
    /// Half-width of the 95 % interval of the file or the plug, as a fraction.
    pub relative_uncertainty: f64,
    /// No reading of the file or the plug above this is believed, watts.
    pub most_watts: f64,
    /// What a kilowatt-hour costs, for `tern energy report`.
    pub price_per_kwh: Option<f64>,
    /// In which money.
    pub currency: Option<String>,
    /// Where the joules went, by hour.
    pub record: RecordSection,
    /// What becomes of requests with `max_joules` where there is no meter.
    pub unmetered: Unmetered,
}

impl Default for EnergySection {
    fn default() -> Self {
        EnergySection {
            meter: MeterName::Auto,
            file: None,
            file_unit: Unit::Watts,
            file_stale_s: 10,
            mqtt: None,
            relative_uncertainty: UNCERTAINTY,
            most_watts: MOST_WATTS,
            price_per_kwh: None,
            currency: None,
            record: RecordSection::default(),
            unmetered: Unmetered::default(),
        }
    }
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
