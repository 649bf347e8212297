//! When the engine's thread holds still: to keep a budget of watts, and to stay under a temperature.
//!
//! Everything here is arithmetic on times, microjoules and degrees that the caller reads; nothing looks at a clock or a
//! sensor. The worker asks before every step:
//!
//! ```text
//! reading(now, microjoules)      temperature(now, degrees)
//!             \                  /
//!              pause(now, idle watts) -> nothing, or how long to hold still, and why
//!                                |
//!                 step, then step(began, microjoules then, now, microjoules now)
//! ```

pub mod heat;
pub mod power;

use std::time::Duration;

use heat::HeatPace;
use power::PowerPace;

/// Why the engine holds still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// For the budget of watts.
    Power,
    /// For the temperature.
    Heat,
}

/// Both rules.
#[derive(Debug)]
pub struct Governor {
    power: Option<PowerPace>,
    heat: Option<HeatPace>,
    /// The last step: its end, and how long it took.
    step: Option<(Duration, Duration)>,
}

impl Governor {
    /// A governor of what is to be kept.
    pub fn new(power: Option<PowerPace>, heat: Option<HeatPace>) -> Self {
        Governor { power, heat, step: None }
    }

    /// The budget of watts, if there is one.
    pub fn power(&self) -> Option<&PowerPace> {
        self.power.as_ref()
    }

    /// The limit of degrees, if there is one.
    pub fn heat(&self) -> Option<&HeatPace> {
        self.heat.as_ref()
    }

    /// What the meter shows, in microjoules; `None` if it cannot be read.
    pub fn reading(&mut self, now: Duration, uj: Option<u64>) {
        if let Some(power) = &mut self.power {
            power.reading(now, uj);
        }
    }

    /// The warmest part of the processor.
    pub fn temperature(&mut self, now: Duration, celsius: f64) {
        if let Some(heat) = &mut self.heat {
            heat.temperature(now, celsius);
        }
    }

    /// A step of the engine went from `began`, where the meter showed `began_uj`, to `now`, where it shows `uj`.
    pub fn step(&mut self, began: Duration, began_uj: Option<u64>, now: Duration, uj: Option<u64>) {
        self.step = Some((now, now.saturating_sub(began)));
        if let Some(power) = &mut self.power {
            power.reading(now, uj);
            power.step(began, began_uj, now);
        }
    }

    /// How long to hold still before the next step, and why; `None` if it may begin. What is told is a guess: ask again
    /// after another reading.
    pub fn pause(&self, now: Duration, idle_w: Option<f64>) -> Option<(Duration, Why)> {
        let for_power = self.power.as_ref().and_then(|power| power.pause(now, idle_w));
        let for_heat = self.heat.as_ref().zip(self.step).and_then(|(heat, (ended, took))| {
            let left = heat.pause_after(took).checked_sub(now.saturating_sub(ended))?;
            (!left.is_zero()).then_some(left)
        });
        match (for_power, for_heat) {
            (Some(power), Some(heat)) if heat > power => Some((heat, Why::Heat)),
            (Some(power), _) => Some((power, Why::Power)),
            (None, heat) => heat.map(|heat| (heat, Why::Heat)),
        }
    }
}

#[cfg(test)]
mod tests;
