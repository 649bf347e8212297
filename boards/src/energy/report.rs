//! What an answer says about its energy.

use serde::{Deserialize, Serialize};

use super::meter::{Meter, Method, Scope};

/// Whether the power of the idle system is part of the joules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idle {
    /// The joules are gross: what the meter counted while the request was worked on.
    Included,
    /// The idle power times the window was taken off.
    Subtracted,
}

/// Energy of one request, with everything needed to judge the figure.
///
/// Joules that are not known are `None` (`null` on the wire), never zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnergyReport {
    /// Prefill and decode together.
    pub joules: Option<f64>,
    /// Reading the prompt and scoring labels; `None` also when no such work was done.
    pub prefill_joules: Option<f64>,
    /// Generating tokens; `None` also when none were generated.
    pub decode_joules: Option<f64>,
    /// `decode_joules` by decoding step; for a request without any, `joules` by prompt token.
    pub joules_per_token: Option<f64>,
    /// How the joules were obtained.
    pub method: Method,
    /// Chip, zone or table row.
    pub source: Option<String>,
    /// What they cover.
    pub scope: Option<Scope>,
    /// Whether idle power is in them.
    pub idle: Idle,
    /// Power of the idle system: measured between requests where possible, else from the board table.
    pub idle_watts: Option<f64>,
    /// Half-width of the 95 % interval as a fraction, for a window that the meter resolves.
    pub relative_uncertainty: Option<f64>,
    /// Sensor readings in the window.
    pub samples: u64,
    /// Readings a second over the window.
    pub sample_hz: Option<f64>,
    /// Time the engine worked on steps this request took part in.
    pub window_ms: f64,
    /// Date of the calibration or table row behind the figures.
    pub calibrated_at: Option<String>,
    /// Whether the machine was slowed by heat or low voltage meanwhile; `None` where it cannot be seen.
    pub throttled: Option<bool>,
    /// The window is too short for this meter: the joules are a share of a coarse step, to be trusted only in a sum
    /// over many requests.
    pub below_resolution: bool,
}

impl EnergyReport {
    /// The report of a machine without a meter.
    pub fn unknown() -> EnergyReport {
        EnergyReport {
            joules: None,
            prefill_joules: None,
            decode_joules: None,
            joules_per_token: None,
            method: Method::Unknown,
            source: None,
            scope: None,
            idle: Idle::Included,
            idle_watts: None,
            relative_uncertainty: None,
            samples: 0,
            sample_hz: None,
            window_ms: 0.0,
            calibrated_at: None,
            throttled: None,
            below_resolution: false,
        }
    }

    /// A report without joules that says all about `meter`.
    pub(super) fn of(meter: &dyn Meter) -> EnergyReport {
        EnergyReport {
            method: meter.method(),
            source: Some(meter.source().to_owned()),
            scope: Some(meter.scope()),
            idle_watts: meter.idle_watts(),
            relative_uncertainty: Some(meter.relative_uncertainty()),
            calibrated_at: meter.calibrated_at().map(str::to_owned),
            ..EnergyReport::unknown()
        }
    }
}
