//! Who used the energy that the meter counted.
//!
//! The engine works in steps, and one step may serve several requests, some in prefill and some decoding. The daemon
//! reads the meter through this ledger before and after each step; the step's microjoules are split among its
//! requests by their share of the work. Energy between steps is idle and belongs to nobody.
//!
//! ```text
//! tick      begin_step        end_step   tick
//!   |  idle     |   shares of work   |  idle |
//! ```
//!
//! Nothing is lost and nothing is counted twice: `requests + idle + unattributed = counter`, to the microjoule.
//! Unattributed is what the meter counted across a failed reading or a step backwards; the requests in such a step
//! have unknown energy.

use core::time::Duration;

use serde::Serialize;

use super::meter::{Faults, Meter, MeterError, Sample};
use super::report::EnergyReport;

/// The daemon's number for a request.
pub type RequestId = u64;

/// Kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading the prompt, or scoring labels: tokens that are given.
    Prefill,
    /// Generating tokens.
    Decode,
}

/// One request's part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Whose.
    pub request: RequestId,
    /// Which account of the request.
    pub phase: Phase,
    /// How much of the step's work, in any unit that all shares of one step have in common (time will do).
    /// If all weights are zero the step is split evenly.
    pub weight: u64,
}

/// What is known of a request when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Completed {
    /// Prompt tokens that were computed (not those taken from a cached prefix).
    pub prefill_tokens: u64,
    /// Decoding steps: generated tokens, but the first, which comes with the end of the prompt.
    pub decode_tokens: u64,
    /// Whether the machine was throttled meanwhile, where that can be seen.
    pub throttled: Option<bool>,
}

/// Where all energy went since the ledger was opened, microjoules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// What the meter counted: the sum of the other three.
    pub counter_uj: u64,
    /// Given to requests, finished ones included.
    pub requests_uj: u64,
    /// Between steps.
    pub idle_uj: u64,
    /// Counted across a failed reading, so that nobody can be charged.
    pub unattributed_uj: u64,
}

/// After a step, the time until power counts as idle power: fans, clocks and caches come to rest.
const SETTLE: Duration = Duration::from_secs(1);

/// Idle power is not worth telling from less than this.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// A delta of fewer steps of the meter than this is mostly rounding.
const MIN_QUANTA: u64 = 10;

/// The accounts of all requests in flight, and the meter behind them.
///
/// An account opens with a request's first share and lives until [`Ledger::finish`], so each request must be finished,
/// cancelled ones too.
pub struct Ledger {
    meter: Option<Box<dyn Meter>>,
    last: Option<Sample>,
    last_faults: Faults,
    /// A reading failed since `last`; what is counted next belongs to nobody.
    torn: bool,
    step_began: Option<Duration>,
    last_step_end: Option<Duration>,
    settled_idle: (Duration, u64),
    accounts: Vec<Account>,
    totals: Totals,
}

#[derive(Debug, Clone, Default)]
struct Account {
    request: RequestId,
    prefill_uj: Option<u64>,
    decode_uj: Option<u64>,
    /// What the meter counted in this request's steps, the parts of other requests included.
    counter_uj: u64,
    window: Duration,
    decode_steps: u64,
    /// The same two, of its decoding steps alone.
    decode_counter_uj: u64,
    decode_window: Duration,
    samples: u64,
    unknown: bool,
    gap: bool,
}

impl Ledger {
    /// Opens a ledger on `meter` at time `now`; without a meter every report is unknown.
    pub fn new(meter: Option<Box<dyn Meter>>, now: Duration) -> Ledger {
        let mut ledger = Ledger {
            meter,
            last: None,
            last_faults: Faults::default(),
            torn: false,
            step_began: None,
            last_step_end: None,
            settled_idle: (Duration::ZERO, 0),
            accounts: Vec::new(),
            totals: Totals::default(),
        };
        ledger.tick(now);
        ledger
    }

    /// Reads the meter outside a step, so that idle energy is known in time. Call it about once a second while
    /// nothing is to be done. Inside a step it does nothing: the step's own readings bound it.
    pub fn tick(&mut self, now: Duration) {
        if self.step_began.is_some() {
            return;
        }
        let before = self.last;
        let Some(Interval { delta_uj, torn, .. }) = self.advance(now) else { return };
        if torn {
            self.totals.unattributed_uj += delta_uj;
            return;
        }
        self.totals.idle_uj += delta_uj;
        let settled =
            self.last_step_end.is_none_or(|end| before.is_some_and(|before| before.at >= end + SETTLE));
        if let Some(before) = before.filter(|_| settled) {
            self.settled_idle.0 += now.saturating_sub(before.at);
            self.settled_idle.1 += delta_uj;
        }
    }

    /// Marks the start of an engine step at `now`. A step that was begun and never ended served nobody: it is idle.
    pub fn begin_step(&mut self, now: Duration) {
        if self.step_began.is_some() {
            let _ = self.end_step(now, &[]);
        }
        self.tick(now);
        self.step_began = Some(now);
    }

    /// Marks the end of the step at `now` and splits its energy among `shares`. A step that served nobody is idle.
    ///
    /// Answers the microjoules that each share was charged, in their order; `None` where they are not known.
    pub fn end_step(&mut self, now: Duration, shares: &[Share]) -> Option<Vec<u64>> {
        let began = self.step_began.take()?;
        self.last_step_end = Some(now);
        self.meter.as_ref()?;
        let interval = self.advance(now);
        let elapsed = now.saturating_sub(began);
        for (index, share) in shares.iter().enumerate() {
            // A request may hold several shares of one step (its last prompt chunk and its first token).
            if !shares[..index].iter().any(|earlier| earlier.request == share.request) {
                let account = self.account(share.request);
                account.window += elapsed;
                match interval {
                    Some(Interval { delta_uj, readings, gap, torn: false }) => {
                        account.counter_uj += delta_uj;
                        account.samples += readings;
                        account.gap |= gap;
                    }
                    _ => account.unknown = true,
                }
            }
        }
        let Interval { delta_uj, torn, .. } = interval?;
        if torn {
            self.totals.unattributed_uj += delta_uj;
            return None;
        }
        if shares.is_empty() {
            self.totals.idle_uj += delta_uj;
            return None;
        }
        self.totals.requests_uj += delta_uj;
        let parts = split(delta_uj, shares);
        for (share, part_uj) in shares.iter().zip(&parts) {
            let account = self.account(share.request);
            let phase_uj = match share.phase {
                Phase::Prefill => &mut account.prefill_uj,
                Phase::Decode => {
                    account.decode_steps += 1;
                    account.decode_counter_uj += delta_uj;
                    account.decode_window += elapsed;
                    &mut account.decode_uj
                }
            };
            *phase_uj = Some(phase_uj.unwrap_or(0) + part_uj);
        }
        Some(parts)
    }

    /// Whether the meter can tell single decoding steps of `request` apart: whether its mean step lasts as long as the
    /// time between two values of the sensor, and its energy is many of the meter's smallest steps. `None` where nothing
    /// was decoded or nothing is known. Ask before [`Ledger::finish`].
    pub fn resolves_tokens(&self, request: RequestId) -> Option<bool> {
        let resolution = self.meter.as_deref()?.resolution();
        let account = self.accounts.iter().find(|account| account.request == request)?;
        let steps = account.decode_steps;
        (steps > 0).then(|| {
            account.decode_window
                >= resolution.period.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
                && account.decode_counter_uj / steps >= resolution.quantum_uj.saturating_mul(MIN_QUANTA)
        })
    }

    /// Closes the account of `request`, done or cancelled, and reports it. Its energy stays in the totals.
    pub fn finish(&mut self, request: RequestId, completed: Completed) -> EnergyReport {
        let account = match self.accounts.iter().position(|account| account.request == request) {
            Some(index) => self.accounts.swap_remove(index),
            // No step was worked for it: nothing was measured, so nothing is claimed.
            None => Account { unknown: true, ..Account::default() },
        };
        let Some(meter) = self.meter.as_deref() else {
            return EnergyReport { throttled: completed.throttled, ..EnergyReport::unknown() };
        };
        let mut report = EnergyReport::of(meter);
        report.throttled = completed.throttled;
        report.idle_watts = self.idle_watts();
        report.samples = account.samples;
        report.window_ms = account.window.as_secs_f64() * 1e3;
        report.sample_hz =
            (!account.window.is_zero()).then(|| account.samples as f64 / account.window.as_secs_f64());
        if account.unknown {
            return report;
        }
        let joules = |uj: u64| uj as f64 / 1e6;
        report.prefill_joules = account.prefill_uj.map(joules);
        report.decode_joules = account.decode_uj.map(joules);
        let total = joules(account.prefill_uj.unwrap_or(0) + account.decode_uj.unwrap_or(0));
        report.joules = Some(total);
        report.joules_per_token = match (completed.decode_tokens, report.decode_joules) {
            (0, _) => (completed.prefill_tokens > 0).then(|| total / completed.prefill_tokens as f64),
            (tokens, decode_joules) => decode_joules.map(|joules| joules / tokens as f64),
        };
        let resolution = meter.resolution();
        report.below_resolution = account.gap
            || account.window < resolution.period
            || account.counter_uj < resolution.quantum_uj.saturating_mul(MIN_QUANTA);
        report
    }

    /// Microjoules on the account of `request` so far, 0 before its first step; `None` where they are not known: there is
    /// no meter, or it could not be read during one of its steps.
    pub fn spent_uj(&self, request: RequestId) -> Option<u64> {
        self.meter.as_ref()?;
        let Some(account) = self.accounts.iter().find(|account| account.request == request) else {
            return Some(0);
        };
        let spent_uj = account.prefill_uj.unwrap_or(0) + account.decode_uj.unwrap_or(0);
        (!account.unknown).then_some(spent_uj)
    }

    /// Where all energy went so far; `None` without a meter.
    pub fn totals(&self) -> Option<Totals> {
        self.meter.is_some().then_some(self.totals)
    }

    /// Power of the idle system in watts: measured between steps once there was a second of rest, else the meter's
    /// own figure.
    pub fn idle_watts(&self) -> Option<f64> {
        let (time, energy_uj) = self.settled_idle;
        if time >= MIN_IDLE {
            return Some(energy_uj as f64 / 1e6 / time.as_secs_f64());
        }
        self.meter.as_deref()?.idle_watts()
    }

    /// The meter, for its name and faults.
    pub fn meter(&self) -> Option<&dyn Meter> {
        self.meter.as_deref()
    }

    /// Reads the meter and answers what it counted since the last good reading; `None` when it cannot be read.
    fn advance(&mut self, now: Duration) -> Option<Interval> {
        let meter = self.meter.as_deref_mut()?;
        let sample = match meter.sample(now) {
            Ok(sample) => sample,
            Err(error) => {
                self.note_failure(&error);
                return None;
            }
        };
        let faults = meter.faults();
        let before = self.last.replace(sample);
        let backwards = faults.backwards > self.last_faults.backwards;
        let torn = core::mem::take(&mut self.torn) || backwards;
        let gap = faults.gaps > self.last_faults.gaps;
        self.last_faults = faults;
        let delta_uj = sample.energy_uj - before.map_or(0, |before| before.energy_uj).min(sample.energy_uj);
        let readings = sample.readings - before.map_or(0, |before| before.readings).min(sample.readings);
        self.totals.counter_uj += delta_uj;
        Some(Interval { delta_uj, readings, gap, torn })
    }

    fn note_failure(&mut self, error: &MeterError) {
        // Once a failure, not once a reading: a sensor that stays away would fill the log.
        if !self.torn {
            let cause =
                core::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            log::warn!("{error}{cause}; the energy of requests in flight is unknown");
        }
        self.torn = true;
    }

    fn account(&mut self, request: RequestId) -> &mut Account {
        let index =
            self.accounts.iter().position(|account| account.request == request).unwrap_or_else(|| {
                self.accounts.push(Account { request, ..Account::default() });
                self.accounts.len() - 1
            });
        &mut self.accounts[index]
    }
}

/// What happened between two good readings.
#[derive(Debug, Clone, Copy)]
struct Interval {
    delta_uj: u64,
    readings: u64,
    gap: bool,
    torn: bool,
}

/// Splits `delta_uj` by weight into integers that add up to it exactly.
///
/// Each part is its exact share rounded down; the microjoules left over go one each to the largest remainders, the
/// earlier share first among equals. Shares of weight zero get nothing unless all weights are zero.
pub fn split(delta_uj: u64, shares: &[Share]) -> Vec<u64> {
    let even = shares.iter().all(|share| share.weight == 0);
    let weight = |share: &Share| if even { 1 } else { u128::from(share.weight) };
    let sum: u128 = shares.iter().map(weight).sum();
    if sum == 0 {
        return Vec::new();
    }
    let exact = |share: &Share| u128::from(delta_uj) * weight(share);
    let mut parts: Vec<u64> = shares.iter().map(|share| (exact(share) / sum) as u64).collect();
    let left = delta_uj - parts.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|&index| core::cmp::Reverse(exact(&shares[index]) % sum));
    for &index in order.iter().take(left as usize) {
        parts[index] += 1;
    }
    parts
}

#[cfg(test)]
mod conservation;

#[cfg(test)]
mod tests;
