//! A fitted model: what a board's profile holds of it, and what it says of an interval.

use serde::{Deserialize, Serialize};

use super::Activity;
use crate::energy::Scope;

/// The coefficients of one board, and how good they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// What its joules cover: what the meter covered that it was made against.
    pub scope: Scope,
    /// The board at rest, watts.
    pub idle_w: f64,
    /// Busy cores, by cluster and frequency, in that order.
    #[serde(rename = "core")]
    pub cores: Vec<CorePower>,
    /// A byte from memory, nanojoules.
    pub byte_nj: f64,
    /// An instruction, nanojoules; absent where CPU time stands for them.
    #[serde(default)]
    pub instruction_nj: Option<f64>,
    /// Median error of loads that were held out, a fraction.
    pub median_error: f64,
    /// Half-width of the 95 % interval, the reference meter's uncertainty included, a fraction.
    pub relative_uncertainty: f64,
    /// Different loads behind it.
    pub loads: usize,
    /// The day it was made (`2026-01-20`).
    #[serde(default)]
    pub date: Option<String>,
    /// The meter it was made against.
    #[serde(default)]
    pub against: Option<String>,
}

/// What a busy core draws on top of idle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorePower {
    /// The cluster, in the order in which the machine's are listed.
    pub cluster: usize,
    /// The clock, megahertz.
    pub mhz: u32,
    /// Watts.
    pub watts: f64,
}

impl Calibration {
    /// The first thing in it that cannot be, if any.
    pub fn problem(&self) -> Option<String> {
        let numbers = [
            ("idle_w", self.idle_w, 1000.0),
            ("byte_nj", self.byte_nj, 1000.0),
            ("instruction_nj", self.instruction_nj.unwrap_or(0.0), 1000.0),
            ("relative_uncertainty", self.relative_uncertainty, 1.0),
            ("median_error", self.median_error, 1.0),
        ];
        let cores = self.cores.iter().map(|core| ("core.watts", core.watts, 1000.0));
        let mut all = numbers.into_iter().chain(cores);
        if let Some((name, found, most)) = all.find(|(_, found, most)| !(0.0..=*most).contains(found)) {
            return Some(format!("calibration {name} is {found}; it must be 0 to {most}"));
        }
        if self.idle_w == 0.0 || self.cores.is_empty() {
            return Some(
                "a calibration needs idle_w above zero and at least one [[calibration.core]]".into(),
            );
        }
        let order = |core: &CorePower| (core.cluster, core.mhz);
        if !self.cores.is_sorted_by(|a, b| order(a) < order(b)) {
            return Some("[[calibration.core]] must be in rising order of cluster and mhz, each once".into());
        }
        None
    }

    /// Energy of an interval, joules.
    pub fn joules(&self, activity: &Activity) -> f64 {
        let cores: f64 =
            activity.busy.iter().map(|busy| self.core_w(busy.cluster, busy.mhz) * busy.core_seconds).sum();
        let instructions = self.instruction_nj.unwrap_or(0.0) * activity.instructions.unwrap_or(0.0);
        self.idle_w * activity.seconds + cores + (self.byte_nj * activity.bytes + instructions) * 1e-9
    }

    /// Watts of a busy core of `cluster` at `mhz`: between two calibrated clocks on the line through them, outside
    /// them in proportion to the clock; of a cluster that was not calibrated, those of the nearest.
    fn core_w(&self, cluster: usize, mhz: u32) -> f64 {
        let known = |wanted: usize| self.cores.iter().filter(move |core| core.cluster == wanted);
        let nearest = self.cores.iter().map(|core| core.cluster).min_by_key(|known| known.abs_diff(cluster));
        let Some(cluster) = nearest else { return 0.0 };
        let below = known(cluster).rfind(|core| core.mhz <= mhz);
        let above = known(cluster).find(|core| core.mhz >= mhz);
        let ratio = |core: &CorePower| core.watts * f64::from(mhz) / f64::from(core.mhz.max(1));
        match (below, above) {
            (Some(below), Some(above)) if below.mhz < above.mhz => {
                let way = f64::from(mhz - below.mhz) / f64::from(above.mhz - below.mhz);
                below.watts + way * (above.watts - below.watts)
            }
            (Some(core), _) | (None, Some(core)) => ratio(core),
            (None, None) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Busy;
    use super::*;

    fn calibration() -> Calibration {
        let core = |cluster, mhz, watts| CorePower { cluster, mhz, watts };
        Calibration {
            scope: Scope::Wall,
            idle_w: 2.0,
            cores: vec![core(0, 1000, 0.5), core(0, 2000, 1.5), core(1, 600, 0.1)],
            byte_nj: 0.25,
            instruction_nj: None,
            median_error: 0.02,
            relative_uncertainty: 0.08,
            loads: 20,
            date: Some("2026-01-20".into()),
            against: Some("ina226".into()),
        }
    }

    #[test]
    fn an_interval_is_the_sum_of_its_terms() {
        let busy = |cluster, mhz, core_seconds| Busy { cluster, mhz, core_seconds };
        let activity = Activity {
            seconds: 10.0,
            busy: vec![busy(0, 1500, 4.0), busy(0, 2400, 1.0), busy(1, 300, 2.0)],
            bytes: 8e9,
            instructions: Some(1e12),
        };
        // 10 s x 2 W + 4 s x 1.0 W + 1 s x 1.8 W + 2 s x 0.05 W + 8e9 x 0.25 nJ
        assert!((calibration().joules(&activity) - (20.0 + 4.0 + 1.8 + 0.1 + 2.0)).abs() < 1e-9);
    }

    #[test]
    fn it_survives_a_file_and_says_what_cannot_be() {
        let text = toml::to_string(&calibration()).expect("it can be written");
        assert_eq!(toml::from_str::<Calibration>(&text).expect("it can be read"), calibration());
        assert_eq!(calibration().problem(), None);
        let wrong = |change: fn(&mut Calibration)| {
            let mut calibration = calibration();
            change(&mut calibration);
            calibration.problem().expect("a problem")
        };
        assert!(wrong(|c| c.idle_w = f64::NAN).contains("idle_w is NaN"));
        assert!(wrong(|c| c.cores[0].watts = -1.0).contains("core.watts is -1"));
        assert!(wrong(|c| c.cores.reverse()).contains("rising order"));
        assert!(wrong(|c| c.cores.clear()).contains("at least one"));
    }
}
