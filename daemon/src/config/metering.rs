//! The meters of `[energy]`: which one is used, and those outside the machine.

use std::time::Duration;

use serde::Deserialize;
use tern_boards::energy::file::{FileSource, Unit as FileUnit};
use tern_boards::energy::{Choice, Method};

use super::energy::EnergySection;
use super::mqtt::value;
use super::{ConfigError, in_range};
use crate::transport::mqtt::topic;

/// A plug's reading may be off by this much, unless told otherwise: its own calibration is rarely better.
pub(super) const UNCERTAINTY: f64 = 0.05;

/// What a plug is for can draw no more than this, unless told otherwise, watts.
pub(super) const MOST_WATTS: f64 = 2_000.0;

/// `energy.meter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterName {
    /// The best that works.
    #[default]
    Auto,
    /// None; joules stay unknown.
    None,
    /// RAPL, or a chip that counts.
    EnergyCounter,
    /// A power sensor.
    HwmonPower,
    /// The Raspberry Pi 5's own rails.
    PmicRailsCorrected,
    /// The file or the plug.
    ExternalMeter,
    /// The model that `tern energy calibrate` made.
    CalibratedModel,
    /// The board's table.
    UtilisationTable,
}

/// Watts or joules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Power now.
    #[default]
    Watts,
    /// Energy since some time.
    Joules,
    /// The same in watt-hours.
    WattHours,
    /// The same in kilowatt-hours.
    KilowattHours,
}

/// `[energy.mqtt]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlugSection {
    /// Its topic.
    pub topic: String,
    /// Who speaks there.
    pub kind: PlugKind,
    /// JSON pointer (RFC 6901) of the number, for `json`.
    pub pointer: Option<String>,
    /// What the number is, for `json` and `homeassistant`.
    #[serde(default)]
    pub unit: Unit,
    /// Seconds of silence after which joules are unknown.
    #[serde(default = "six_minutes")]
    pub stale_s: u32,
}

/// Tasmota says something every five minutes unless it is told to do so more often.
const fn six_minutes() -> u32 {
    360
}

/// `energy.mqtt.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlugKind {
    /// `tele/<name>/SENSOR` of Tasmota.
    Tasmota,
    /// `<prefix>/status/switch:0` of a Shelly of the second generation or later.
    Shelly,
    /// A topic whose messages are a plain number, as a state topic of Home Assistant.
    Homeassistant,
    /// A number somewhere in JSON.
    Json,
}

impl EnergySection {
    /// Checks what is said of meters; `has_broker` is whether there is an `[mqtt]`.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check_meters(&self, has_broker: bool) -> Result<(), ConfigError> {
        let stale_s = self.mqtt.as_ref().map_or(1, |plug| plug.stale_s);
        in_range(&[
            ("energy.file_stale_s", u64::from(self.file_stale_s), 1, 86_400),
            ("energy.mqtt.stale_s", u64::from(stale_s), 1, 86_400),
        ])?;
        let number = |key, found: f64, sound, expected| match sound {
            true => Ok(()),
            false => Err(value(key, found.to_string(), expected)),
        };
        let fraction = self.relative_uncertainty;
        let sound = fraction > 0.0 && fraction <= 1.0;
        number("energy.relative_uncertainty", fraction, sound, "a fraction above 0 and at most 1, as 0.05")?;
        let sound = self.most_watts > 0.0 && self.most_watts <= 1e5;
        number("energy.most_watts", self.most_watts, sound, "watts above 0 and at most 100000")?;
        if let Some(file) = &self.file
            && !file.is_absolute()
        {
            return Err(value(
                "energy.file",
                file.display().to_string(),
                "a path from the root, as /run/power_w",
            ));
        }
        if !matches!(self.file_unit, Unit::Watts | Unit::Joules) {
            return Err(value("energy.file_unit", "a unit of hours", "watts or joules"));
        }
        if self.meter == MeterName::ExternalMeter && self.file.is_none() && self.mqtt.is_none() {
            return Err(value("energy.meter", "external_meter", "given with energy.file or [energy.mqtt]"));
        }
        let Some(plug) = &self.mqtt else { return Ok(()) };
        if !has_broker {
            let expected = "together with [mqtt], which says where the broker is";
            return Err(value("energy.mqtt", &plug.topic, expected));
        }
        if !topic::is_topic(&plug.topic) {
            return Err(value("energy.mqtt.topic", &plug.topic, "one topic, without + and #"));
        }
        match (plug.kind, &plug.pointer) {
            (PlugKind::Json, Some(pointer)) if pointer.starts_with('/') => Ok(()),
            (PlugKind::Json, found) => Err(value(
                "energy.mqtt.pointer",
                found.clone().unwrap_or_else(|| "nothing".into()),
                "a JSON pointer for kind = \"json\", as in /power/now",
            )),
            (_, Some(pointer)) => {
                Err(value("energy.mqtt.pointer", pointer, "left out unless kind is \"json\""))
            }
            (_, None) => Ok(()),
        }
    }

    /// Which meter is wanted.
    pub fn choice(&self) -> Choice {
        match self.meter {
            MeterName::Auto => Choice::Auto,
            MeterName::None => Choice::None,
            MeterName::EnergyCounter => Choice::Only(Method::EnergyCounter),
            MeterName::HwmonPower => Choice::Only(Method::HwmonPower),
            MeterName::PmicRailsCorrected => Choice::Only(Method::PmicRailsCorrected),
            MeterName::ExternalMeter => Choice::Only(Method::ExternalMeter),
            MeterName::CalibratedModel => Choice::Only(Method::CalibratedModel),
            MeterName::UtilisationTable => Choice::Only(Method::UtilisationTable),
        }
    }

    /// The file as a meter, if one is named.
    pub fn file_source(&self) -> Option<FileSource> {
        Some(FileSource {
            path: self.file.as_ref()?.display().to_string(),
            unit: if self.file_unit == Unit::Joules { FileUnit::Joules } else { FileUnit::Watts },
            stale: Duration::from_secs(u64::from(self.file_stale_s)),
            relative_uncertainty: self.relative_uncertainty,
            most_watts: self.most_watts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(section: &str, has_broker: bool) -> Result<(), String> {
        let section: EnergySection = toml::from_str(section).map_err(|error| error.to_string())?;
        section.check_meters(has_broker).map_err(|error| error.to_string())
    }

    #[test]
    fn meters_outside_are_read_and_mistakes_told_with_their_key() {
        let plug = "[mqtt]\ntopic = 'tele/desk/SENSOR'\nkind = 'tasmota'\n";
        for sound in [
            "",
            plug,
            "meter = 'external_meter'\nfile = '/run/power_w'\n",
            "[mqtt]\ntopic = 'lab/power'\nkind = 'json'\npointer = '/now/w'\nunit = 'watts'\n",
            "[mqtt]\ntopic = 'ha/plug/state'\nkind = 'homeassistant'\nunit = 'kilowatt_hours'\nstale_s = 60\n",
        ] {
            assert_eq!(check(sound, true), Ok(()), "{sound}");
        }
        for (section, words) in [
            ("meter = 'rapl'", "rapl"),
            ("meter = 'external_meter'", "energy.file or [energy.mqtt]"),
            ("file = 'power_w'", "energy.file is \"power_w\""),
            ("file_unit = 'watt_hours'", "watts or joules"),
            ("file_stale_s = 0", "energy.file_stale_s is 0"),
            ("relative_uncertainty = 5.0", "energy.relative_uncertainty is \"5\""),
            ("most_watts = nan", "energy.most_watts"),
            ("[mqtt]\ntopic = 'tele/+/SENSOR'\nkind = 'tasmota'", "energy.mqtt.topic"),
            ("[mqtt]\ntopic = 'a'\nkind = 'json'", "energy.mqtt.pointer is \"nothing\""),
            ("[mqtt]\ntopic = 'a'\nkind = 'shelly'\npointer = '/a'", "energy.mqtt.pointer"),
            ("[mqtt]\ntopic = 'a'\nkind = 'fritz'", "fritz"),
        ] {
            let message = check(section, true).expect_err(section);
            assert!(message.contains(words), "{words:?} in {message}");
        }
        let message = check(plug, false).expect_err("there is no broker");
        assert!(
            message.contains("energy.mqtt is \"tele/desk/SENSOR\"") && message.contains("[mqtt]"),
            "{message}"
        );
    }
}
