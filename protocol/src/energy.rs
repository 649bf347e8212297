//! Joules, and what they are worth.

use serde::{Deserialize, Serialize};

use crate::storage::Storage;

/// Energy of one request, with everything needed to judge the figure. What is not known is `None`, never 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct Energy<F: Storage> {
    /// Prefill and decode together.
    pub joules: Option<f64>,
    /// Reading the prompt and scoring labels.
    pub prefill_joules: Option<f64>,
    /// Generating tokens.
    pub decode_joules: Option<f64>,
    /// `decode_joules` by decoding step; for a decision, `joules` by prompt token.
    pub joules_per_token: Option<f64>,
    /// How the joules were obtained.
    pub method: Method,
    /// Chip, counter zone or table row behind them.
    pub source: Option<F::Text>,
    /// What they cover.
    pub scope: Option<Scope>,
    /// Whether the power of the idle system is in them.
    pub idle: Idle,
    /// Power of the idle system.
    pub idle_watts: Option<f64>,
    /// Half-width of the 95 % interval as a fraction.
    pub relative_uncertainty: Option<f64>,
    /// Sensor readings in the window.
    pub samples: u64,
    /// Readings a second over the window.
    pub sample_hz: Option<f64>,
    /// Time the engine worked on steps that this request took part in.
    pub window_ms: f64,
    /// Date of the calibration or table row behind the figures.
    pub calibrated_at: Option<F::Text>,
    /// Whether heat or low voltage slowed the machine meanwhile; `None` where it cannot be seen.
    pub throttled: Option<bool>,
    /// The window is too short for this meter: trust the joules only in a sum over many requests.
    pub below_resolution: bool,
}

/// How joules were obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A hardware counter of energy.
    EnergyCounter,
    /// A power sensor, integrated over time.
    HwmonPower,
    /// Published power of this board, weighted by processor use.
    UtilisationTable,
    /// There is no meter.
    Unknown,
    /// Supply rails measured by a power-management chip, corrected to the board's input.
    PmicRailsCorrected,
    /// A model of this very board, calibrated against a meter.
    CalibratedModel,
    /// A meter outside the machine: a plug at a broker, or a file that another program writes.
    ExternalMeter,
}

/// What joules cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything, power supply losses included.
    Wall,
    /// The board at its direct-current input.
    BoardDc,
    /// A compute module without its carrier board.
    Module,
    /// Some supply rails of the system on chip.
    SocRails,
    /// The processor package.
    CpuPackage,
    /// A model of the processor alone.
    CpuModel,
}

/// Whether idle power is part of the joules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idle {
    /// It is.
    Included,
    /// It was taken off.
    Subtracted,
}

/// Where all energy went since the daemon started: the first is the sum of the next three.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "F::Text: Deserialize<'de>"))]
pub struct EnergyTotals<F: Storage> {
    /// What the meter counted.
    pub counter_joules: f64,
    /// Given to requests.
    pub requests_joules: f64,
    /// Between steps of the engine.
    pub idle_joules: f64,
    /// Counted across a failed reading, so that nobody can be charged.
    pub unattributed_joules: f64,
    /// Power of the idle system.
    pub idle_watts: Option<f64>,
    /// How the joules were obtained.
    pub method: Method,
    /// Chip, counter zone or table row behind them.
    pub source: F::Text,
}

/// What holds the engine back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pacing {
    /// Watts that the mean of a window may be.
    pub power_budget_w: Option<f64>,
    /// The window in seconds.
    pub window_s: Option<f64>,
    /// Mean power of the last window; what came before the daemon counts as the budget.
    pub mean_w: Option<f64>,
    /// The highest temperature in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// What it is kept below.
    pub temperature_limit_c: Option<f64>,
    /// Whether firmware or kernel slow the machine now; `None` where it cannot be seen.
    pub throttled: Option<bool>,
    /// How often they began to since the daemon started.
    pub throttled_times: u64,
    /// Share of the time in which the engine had work and worked, of late.
    pub working: f64,
    /// Seconds in which it held still so far.
    pub paced_s: f64,
    /// Why it holds still now; `None` if it does not.
    pub slowed_by: Option<SlowedBy>,
}

/// Why the engine holds still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowedBy {
    /// To keep the power budget.
    Power,
    /// To stay cool.
    Heat,
}
