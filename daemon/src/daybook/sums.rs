//! What is added up: requests, tokens and microjoules, by task and by meter.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tern_boards::energy::{Meter, Method, Phase, Scope};

/// What requests of no configured task are counted as: plain prompts, conversations, tasks given inline.
pub const OTHER: &str = "other";

/// Tasks told apart in one sum, [`OTHER`] not counted; the work of any more is counted there.
pub const MOST_TASKS: usize = 64;

/// The meter behind some joules, with what it says of itself. Joules of two meters are never added up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterName {
    /// How the joules were obtained.
    pub method: Method,
    /// What they cover.
    pub scope: Scope,
    /// Chip, counter zone or table row.
    pub source: String,
    /// Half-width of the 95 % interval of a long measurement, as a fraction.
    pub relative_uncertainty: f64,
}

impl MeterName {
    /// The name of `meter`.
    pub fn of(meter: &dyn Meter) -> Self {
        MeterName {
            method: meter.method(),
            scope: meter.scope(),
            source: meter.source().to_owned(),
            relative_uncertainty: meter.relative_uncertainty(),
        }
    }
}

/// Work done for one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Work {
    /// Requests answered.
    pub answered: u64,
    /// Requests that ended without an answer after work on them had begun: cancelled, expired, or broken off.
    pub broken_off: u64,
    /// Rows that read prompts and scored labels.
    pub prefill_tokens: u64,
    /// Tokens generated.
    pub decode_tokens: u64,
    /// Microjoules of reading and scoring.
    pub prefill_uj: u64,
    /// Microjoules of generating.
    pub decode_uj: u64,
    /// Sum of the squares, in square millijoules, of what was charged for steps shorter than the meter's own period. Such
    /// a meter tells its energy in lumps, and chance decides whose step one falls into.
    pub lumps_mj2: u64,
}

/// What one step comes to for a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Rows that were read, or tokens generated.
    pub tokens: u64,
    /// Microjoules; `None` where they are not known.
    pub uj: Option<u64>,
    /// The step was shorter than the time between two values of the meter.
    pub is_lump: bool,
}

impl Work {
    /// Adds work in one phase.
    pub fn charge(&mut self, phase: Phase, tokens: u64, uj: u64) {
        let (all_tokens, all_uj) = match phase {
            Phase::Prefill => (&mut self.prefill_tokens, &mut self.prefill_uj),
            Phase::Decode => (&mut self.decode_tokens, &mut self.decode_uj),
        };
        *all_tokens = all_tokens.saturating_add(tokens);
        *all_uj = all_uj.saturating_add(uj);
    }

    /// Adds a step in one phase.
    pub fn step(&mut self, phase: Phase, charge: Charge) {
        let uj = charge.uj.unwrap_or(0);
        self.charge(phase, charge.tokens, uj);
        if charge.is_lump {
            let mj = uj / 1000;
            self.lumps_mj2 = self.lumps_mj2.saturating_add(mj.saturating_mul(mj));
        }
    }

    /// Half-width of the 95 % interval that chance gives these joules, as a fraction: how far a sum of lumps may be from
    /// what it would be over many more. `None` where there are no joules.
    pub fn chance(&self) -> Option<f64> {
        (self.uj() > 0).then(|| 1.96 * (self.lumps_mj2 as f64).sqrt() * 1e3 / self.uj() as f64)
    }

    /// Both phases together.
    pub fn uj(&self) -> u64 {
        self.prefill_uj.saturating_add(self.decode_uj)
    }

    fn add(&mut self, other: &Work) {
        self.answered = self.answered.saturating_add(other.answered);
        self.broken_off = self.broken_off.saturating_add(other.broken_off);
        self.charge(Phase::Prefill, other.prefill_tokens, other.prefill_uj);
        self.charge(Phase::Decode, other.decode_tokens, other.decode_uj);
        self.lumps_mj2 = self.lumps_mj2.saturating_add(other.lumps_mj2);
    }
}

/// Everything of some time, by one meter or none. What the meter counted is the sum of all tasks, idle and unattributed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sums {
    /// For how long the daemon ran.
    pub running_ms: u64,
    /// Microjoules between steps.
    pub idle_uj: u64,
    /// Microjoules counted across failed readings.
    pub unattributed_uj: u64,
    /// Work by task.
    pub tasks: BTreeMap<String, Work>,
}

impl Sums {
    /// The work of `task`; of [`OTHER`] if there are too many.
    pub fn task(&mut self, task: &str) -> &mut Work {
        let others = self.tasks.len() - usize::from(self.tasks.contains_key(OTHER));
        let is_room = self.tasks.contains_key(task) || others < MOST_TASKS;
        let name = if is_room { task } else { OTHER };
        self.tasks.entry(name.to_owned()).or_default()
    }

    /// Adds what belongs to nobody.
    pub fn rest(&mut self, running: Duration, idle_uj: u64, unattributed_uj: u64) {
        let running_ms = u64::try_from(running.as_millis()).unwrap_or(u64::MAX);
        self.running_ms = self.running_ms.saturating_add(running_ms);
        self.idle_uj = self.idle_uj.saturating_add(idle_uj);
        self.unattributed_uj = self.unattributed_uj.saturating_add(unattributed_uj);
    }

    /// Adds another sum of the same meter.
    pub fn add(&mut self, other: &Sums) {
        self.rest(Duration::from_millis(other.running_ms), other.idle_uj, other.unattributed_uj);
        for (name, work) in &other.tasks {
            self.task(name).add(work);
        }
    }

    /// All tasks together.
    pub fn work(&self) -> Work {
        let mut all = Work::default();
        self.tasks.values().for_each(|work| all.add(work));
        all
    }

    /// What the meter counted.
    pub fn counter_uj(&self) -> u64 {
        self.work().uj().saturating_add(self.idle_uj).saturating_add(self.unattributed_uj)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_few_lumps_says_how_much_chance_is_in_it() {
        let mut work = Work::default();
        assert_eq!(work.chance(), None);
        let lump = |uj| Charge { tokens: 1, uj: Some(uj), is_lump: true };
        // Nine of ten steps fall between two values of the meter.
        for _ in 0..16 {
            (0..9).for_each(|_| work.step(Phase::Decode, lump(0)));
            work.step(Phase::Decode, lump(500_000));
        }
        let chance = work.chance().expect("there are joules");
        assert!((chance - 1.96 / 4.0).abs() < 1e-9, "{chance}");
        let mut fine = Work::default();
        fine.step(Phase::Decode, Charge { is_lump: false, ..lump(500_000) });
        assert_eq!(fine.chance(), Some(0.0));
    }

    #[test]
    fn sums_are_of_their_parts_and_tasks_are_bounded() {
        let mut sums = Sums::default();
        sums.rest(Duration::from_millis(1500), 7, 2);
        sums.task("a").charge(Phase::Prefill, 3, 100);
        sums.task("a").charge(Phase::Decode, 1, 50);
        assert_eq!((sums.counter_uj(), sums.running_ms), (159, 1500));
        for number in 0..100 {
            sums.task(&format!("task-{number}")).answered += 1;
        }
        assert_eq!(sums.tasks.len(), MOST_TASKS + 1);
        assert_eq!((sums.work().answered, sums.tasks[OTHER].answered), (100, 37));
        let mut twice = sums.clone();
        twice.add(&sums);
        assert_eq!((twice.work().answered, twice.counter_uj()), (200, 318));
    }
}
