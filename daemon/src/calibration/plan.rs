//! Which loads are run, in which order.

use tern_boards::Cpu;
use tern_boards::cpu::Cluster;

use crate::clocks::Clocks;
use crate::figures;

/// Clocks of a cluster that are calibrated, at most; the model interpolates between them.
const MOST_CLOCKS: usize = 4;

/// What the threads of a load do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Idle,
    /// Multiplications and additions that wait for each other, in registers.
    Scalars,
    /// Products of small integers, many at a time, in the first cache.
    Vectors,
    /// Reading a buffer much larger than the caches.
    Memory,
    /// Vectors and memory by turns.
    Mixed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Idle => "idle",
            Kind::Scalars => "scalars",
            Kind::Vectors => "vectors",
            Kind::Memory => "memory",
            Kind::Mixed => "mixed",
        }
    }
}

/// One load of a calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its name, the same for repetitions.
    pub name: String,
    /// What runs.
    pub kind: Kind,
    /// The CPUs it runs on, one thread each.
    pub cpus: Vec<usize>,
    /// The clock they are held at; `None` leaves it to the governor.
    pub mhz: Option<u32>,
}

/// How many loads are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All kinds, numbers of threads and clocks.
    Full,
    /// As few as make a model: a person reads the meter.
    Few,
}

/// The loads of a calibration of `cpu`; with `held`, at several of its clocks.
pub fn plan(cpu: &Cpu, held: Option<&Clocks>, extent: Extent) -> Vec<Trial> {
    let idle = || Trial { name: Kind::Idle.name().into(), kind: Kind::Idle, cpus: Vec::new(), mhz: None };
    let mut works = Vec::new();
    for cluster in &cpu.clusters {
        let named = cpu.is_heterogeneous().then_some(cluster.core.as_str());
        let all = held.map(|clocks| clocks.of(&cluster.cpus)).unwrap_or_default();
        let most = if extent == Extent::Full { MOST_CLOCKS } else { 2 };
        let mut clocks: Vec<Option<u32>> = spread(&all, most).into_iter().map(Some).collect();
        if clocks.is_empty() {
            clocks.push(None);
        }
        // The fastest clock first: a governor's own choice is near it, and what follows finds the board warm.
        for mhz in clocks.into_iter().rev() {
            works.extend(works_of(cluster, named, mhz, extent));
        }
    }
    // At rest before, in the middle and after, so that drift is seen.
    let middle = works.len() / 2;
    let after = works.split_off(middle);
    let mut trials = vec![idle()];
    trials.extend(works);
    if extent == Extent::Full {
        trials.push(idle());
    }
    trials.extend(after);
    trials.push(idle());
    trials
}

fn works_of(cluster: &Cluster, named: Option<&str>, mhz: Option<u32>, extent: Extent) -> Vec<Trial> {
    let kinds: &[Kind] = match extent {
        Extent::Full => &[Kind::Vectors, Kind::Scalars, Kind::Memory, Kind::Mixed],
        Extent::Few => &[Kind::Vectors, Kind::Memory, Kind::Mixed],
    };
    let mut trials = Vec::new();
    for threads in numbers_of_threads(cluster.cpus.len(), extent) {
        for &kind in kinds {
            // With one thread beside all of them, a mixture of few adds nothing.
            if extent == Extent::Few && kind == Kind::Mixed && threads < cluster.cpus.len() {
                continue;
            }
            let mut name = format!("{}, {}", kind.name(), figures::counted(threads, "thread"));
            if let Some(core) = named {
                name += &format!(" of {core}");
            }
            if let Some(mhz) = mhz {
                name += &format!(", {mhz} MHz");
            }
            trials.push(Trial { name, kind, cpus: cluster.cpus[..threads].to_vec(), mhz });
        }
    }
    trials
}

/// One, doublings and all; of few, one and all.
fn numbers_of_threads(cores: usize, extent: Extent) -> Vec<usize> {
    let doublings = (0..usize::BITS).map(|n| 1usize << n).take_while(|threads| *threads < cores);
    let mut numbers: Vec<usize> = doublings.take(if extent == Extent::Full { 16 } else { 1 }).collect();
    numbers.push(cores);
    numbers
}

/// At most `most` of `clocks`: the ends, and what lies evenly between them.
pub fn spread(clocks: &[u32], most: usize) -> Vec<u32> {
    if clocks.len() <= most || most < 2 {
        return clocks.to_vec();
    }
    (0..most).map(|n| clocks[(n * (clocks.len() - 1) + (most - 1) / 2) / (most - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_boards::Root;

    #[test]
    fn clocks_are_spread_between_the_ends() {
        assert_eq!(spread(&[1, 2, 3], 4), [1, 2, 3]);
        assert_eq!(spread(&[600, 700, 800, 900, 1000, 1100, 1200], 4), [600, 800, 1000, 1200]);
        assert_eq!(spread(&[600, 700, 800], 2), [600, 800]);
        assert_eq!(numbers_of_threads(4, Extent::Full), [1, 2, 4]);
        assert_eq!(numbers_of_threads(6, Extent::Few), [1, 6]);
        assert_eq!(numbers_of_threads(1, Extent::Full), [1]);
    }

    #[test]
    fn each_kind_of_core_has_loads_of_its_own() {
        let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../boards/tests/trees/rock-5b");
        let cpu = Cpu::detect(&Root::new(tree));
        let trials = plan(&cpu, None, Extent::Few);
        for cluster in &cpu.clusters {
            let own = |trial: &&Trial| trial.name.contains(&cluster.core);
            let own: Vec<&Trial> = trials.iter().filter(own).collect();
            assert_eq!(own.len(), 5, "{trials:?}");
            assert!(own.iter().all(|trial| trial.cpus.iter().all(|cpu| cluster.cpus.contains(cpu))));
        }
        assert_eq!(cpu.clusters.len(), 2);
    }

    #[test]
    fn a_plan_rests_before_and_after_and_names_every_load_once() {
        let cpu = Cpu::detect(&Root::new("/"));
        for extent in [Extent::Full, Extent::Few] {
            let trials = plan(&cpu, None, extent);
            assert_eq!((trials[0].kind, trials[trials.len() - 1].kind), (Kind::Idle, Kind::Idle));
            let mut names: Vec<&str> =
                trials.iter().filter(|t| t.kind != Kind::Idle).map(|t| t.name.as_str()).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{trials:?}");
            assert!(trials.iter().all(|t| t.cpus.len() <= cpu.logical_cores && t.mhz.is_none()));
        }
    }
}
