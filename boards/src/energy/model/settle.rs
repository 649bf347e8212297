//! Clocks worth a coefficient.
//!
//! A governor passes through clocks on its way up and down, and a hot chip dips below its highest. A clock at which no
//! load spent most of its time cannot be told from its neighbours; its time is moved to the nearest that can, in
//! proportion to the clocks, which is how the model reads clocks outside those it knows.

use std::collections::BTreeMap;

use super::fit::Load;
use super::{Activity, Busy};

/// Share of a load's busy time in a cluster that makes a clock the load's own.
const OWN: f64 = 0.5;

/// Different loads that a clock must be the own of.
const LOADS: usize = 2;

/// Core-seconds a second below which a load says nothing about a cluster.
const LEAST: f64 = 0.2;

/// `loads`, with busy time only at clocks that loads tell apart.
pub fn settled(loads: &[Load]) -> Vec<Load> {
    let kept = kept(loads);
    let settle = |load: &Load| Load { activity: moved(&load.activity, &kept), ..load.clone() };
    loads.iter().map(settle).collect()
}

/// Clocks that stay, by cluster.
fn kept(loads: &[Load]) -> BTreeMap<usize, Vec<u32>> {
    let mut own: BTreeMap<(usize, u32), Vec<&str>> = BTreeMap::new();
    let mut all: BTreeMap<(usize, u32), f64> = BTreeMap::new();
    for load in loads {
        for busy in &load.activity.busy {
            *all.entry((busy.cluster, busy.mhz)).or_default() += busy.core_seconds;
            let siblings = load.activity.busy.iter().filter(|other| other.cluster == busy.cluster);
            let sum: f64 = siblings.map(|busy| busy.core_seconds).sum();
            if busy.core_seconds >= OWN * sum && busy.core_seconds >= LEAST * load.activity.seconds {
                let names = own.entry((busy.cluster, busy.mhz)).or_default();
                if !names.contains(&load.name.as_str()) {
                    names.push(&load.name);
                }
            }
        }
    }
    let mut kept: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for ((cluster, mhz), _) in own.iter().filter(|(_, names)| names.len() >= LOADS) {
        kept.entry(*cluster).or_default().push(*mhz);
    }
    // A cluster that no load was for keeps the clock of most of its time.
    for (cluster, mhz) in all.keys() {
        if !kept.contains_key(cluster) {
            let of = all.iter().filter(|((other, _), _)| other == cluster);
            let most = of.max_by(|a, b| a.1.total_cmp(b.1)).map_or(*mhz, |((_, mhz), _)| *mhz);
            kept.insert(*cluster, vec![most]);
        }
    }
    kept
}

fn moved(activity: &Activity, kept: &BTreeMap<usize, Vec<u32>>) -> Activity {
    let mut settled = Activity { busy: Vec::new(), ..activity.clone() };
    for busy in &activity.busy {
        let near = kept.get(&busy.cluster).into_iter().flatten().min_by_key(|mhz| mhz.abs_diff(busy.mhz));
        let mhz = near.copied().unwrap_or(busy.mhz);
        let core_seconds = busy.core_seconds * f64::from(busy.mhz) / f64::from(mhz.max(1));
        let one = Activity { busy: vec![Busy { mhz, core_seconds, ..*busy }], ..Activity::default() };
        settled.busy = {
            let mut sum = Activity { busy: settled.busy, ..Activity::default() };
            sum.extend(&one);
            sum.busy
        };
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, busy: &[(usize, u32, f64)]) -> Load {
        let busy = busy.iter().map(|&(cluster, mhz, core_seconds)| Busy { cluster, mhz, core_seconds });
        let activity = Activity { seconds: 8.0, busy: busy.collect(), ..Activity::default() };
        Load { name: name.into(), activity, joules: 20.0 }
    }

    #[test]
    fn time_at_passing_clocks_goes_to_the_nearest_that_loads_stay_at() {
        let loads = [
            load("idle", &[(0, 600, 0.1), (1, 500, 0.02), (1, 700, 0.05)]),
            load("a", &[(0, 600, 8.0)]),
            load("b", &[(0, 600, 16.0)]),
            load("c", &[(0, 700, 0.06), (0, 1750, 0.18), (0, 1800, 7.8)]),
            load("d", &[(0, 1800, 31.0)]),
        ];
        let settled = settled(&loads);
        let clocks = |load: &Load| -> Vec<(usize, u32)> {
            load.activity.busy.iter().map(|busy| (busy.cluster, busy.mhz)).collect()
        };
        assert_eq!(clocks(&settled[0]), [(0, 600), (1, 700)]);
        assert_eq!(clocks(&settled[3]), [(0, 600), (0, 1800)]);
        assert!((settled[3].activity.busy[1].core_seconds - (7.8 + 0.175)).abs() < 1e-12);
        assert_eq!(settled[4], loads[4]);
    }
}
