//! `[energy]`: which power meter is used, and how much power and heat there may be.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::metering::{MOST_WATTS, MeterName, PlugSection, UNCERTAINTY, Unit};
use super::record::RecordSection;
use super::{ConfigError, in_range};

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
    /// Watts that the machine may draw on average; without it there is no limit.
    pub power_budget_w: Option<f64>,
    /// Seconds over which the average is taken.
    pub power_window_s: u32,
    /// Temperature below which to stay.
    pub temperature_limit_c: TemperatureLimit,
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
            power_budget_w: None,
            power_window_s: 60,
            temperature_limit_c: TemperatureLimit::default(),
        }
    }
}

impl EnergySection {
    /// Checks every number.
    ///
    /// # Errors
    /// The first that is outside its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let out_of_range =
            |key, found: f64, expected| Err(ConfigError::Value { key, found: found.to_string(), expected });
        match (self.power_budget_w, self.temperature_limit_c) {
            (Some(found), _) if !(found > 0.0 && found <= 10_000.0) => {
                out_of_range("energy.power_budget_w", found, "watts above 0, at most 10000")
            }
            (_, TemperatureLimit::At(found)) if !(30.0..=120.0).contains(&found) => {
                out_of_range("energy.temperature_limit_c", found, "30 to 120 degrees, \"auto\" or \"off\"")
            }
            _ => in_range(&[("energy.power_window_s", u64::from(self.power_window_s), 1, 3600)]),
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

/// `temperature_limit_c`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TemperatureLimit {
    /// A little below what the board's profile or the kernel says it slows down at; none where neither says.
    #[default]
    Auto,
    /// None.
    Off,
    /// So many degrees Celsius.
    At(f64),
}

impl<'de> Deserialize<'de> for TemperatureLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "\"auto\", \"off\" or degrees Celsius")]
        enum Given {
            Number(f64),
            Word(String),
        }
        match Given::deserialize(deserializer)? {
            Given::Number(limit_c) => Ok(TemperatureLimit::At(limit_c)),
            Given::Word(word) if word == "auto" => Ok(TemperatureLimit::Auto),
            Given::Word(word) if word == "off" => Ok(TemperatureLimit::Off),
            Given::Word(word) => Err(D::Error::custom(format!(
                "found {word:?}, expected \"auto\", \"off\" or degrees Celsius"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EnergySection, String> {
        let section: EnergySection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.check().map(|()| section).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_are_words_or_sound_numbers() {
        assert_eq!(read(""), Ok(EnergySection::default()));
        for (text, limit) in [
            ("'auto'", TemperatureLimit::Auto),
            ("'off'", TemperatureLimit::Off),
            ("70", TemperatureLimit::At(70.0)),
            ("70.5", TemperatureLimit::At(70.5)),
        ] {
            let section = read(&format!("temperature_limit_c = {text}")).expect("it is sound");
            assert_eq!(section.temperature_limit_c, limit);
        }
        for bad in [
            "temperature_limit_c = 'warm'",
            "temperature_limit_c = 12",
            "power_budget_w = 0",
            "power_budget_w = -1.5",
            "power_window_s = 0",
            "power_budget = 3",
        ] {
            let key = bad.split(' ').next().expect("it has a key");
            let message = read(bad).expect_err(bad);
            assert!(message.contains(key), "{bad}: {message}");
        }
    }
}
