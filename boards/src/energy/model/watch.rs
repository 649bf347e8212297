//! What the machine did since the last look: busy time by core type and clock, and bytes from memory.
//!
//! Busy time is that of `/proc/stat`, CPU by CPU, in hundredths of a second. It is split over clocks as the time of the
//! CPU's frequency domain was in the interval (`cpufreq/policy*/stats/time_in_state`); where the kernel keeps no such
//! statistics, the clock at the end of the interval stands for all of it (`scaling_cur_freq`, in steps of 100 MHz), and
//! where it shows none, the highest one. Both sources are running totals: a look that fails loses nothing, the next one
//! covers its time too. Looks should be short, a tenth of a second, since within one it is not known at which clock a
//! CPU was busy.
//!
//! A CPU that is switched off vanishes from `/proc/stat`, and what it did since the last look is known when it is back.

use core::time::Duration;
use std::collections::BTreeMap;

use super::super::meter::{Faults, MeterError};
use super::super::table::GRANT;
use super::traffic::Traffic;
use super::{Activity, Busy};
use crate::cpu::Cpu;
use crate::root::{ReadCause, ReadError, Root, parse_cpu_list};

const STAT: &str = "/proc/stat";
const POLICIES: &str = "/sys/devices/system/cpu/cpufreq";

/// Clocks that drivers choose freely are told apart in steps of this, megahertz.
const STEP_MHZ: u32 = 100;

/// A machine that shows no clock is taken to have this one, in its calibration as in its use.
const NOMINAL_MHZ: u32 = 1000;

/// Ticks that a CPU may have more than the time between two looks: each look falls somewhere within a tick.
const SLACK_TICKS: f64 = 2.0;

/// Looks at a machine.
#[derive(Debug)]
pub struct ActivityWatch {
    root: Root,
    traffic: Traffic,
    /// CPUs of each cluster and the highest clock of it.
    clusters: Vec<(Vec<usize>, u32)>,
    policies: Vec<Policy>,
    ticks_per_second: f64,
    last: Option<Look>,
    faults: Faults,
}

/// A frequency domain.
#[derive(Debug)]
struct Policy {
    folder: String,
    cpus: Vec<usize>,
}

/// Running totals at one moment.
#[derive(Debug, Clone)]
struct Look {
    at: Duration,
    /// Busy ticks by CPU; those of CPUs that are off are as they were.
    busy: BTreeMap<usize, u64>,
    /// CPUs that were there.
    online: Vec<usize>,
    /// Ticks by clock, kilohertz, of each policy.
    states: Vec<BTreeMap<u64, u64>>,
    bytes: u64,
}

impl ActivityWatch {
    /// A watch on the machine under `root`; bytes are those that are added to `traffic`.
    ///
    /// # Errors
    /// [`MeterError`] when busy time cannot be read.
    pub fn open(root: &Root, traffic: Traffic) -> Result<ActivityWatch, MeterError> {
        let cpu = Cpu::detect(root);
        let clusters = cpu.clusters.iter();
        let clusters = clusters.map(|one| (one.cpus.clone(), one.max_mhz.unwrap_or(NOMINAL_MHZ))).collect();
        let names = root.list(POLICIES);
        let policies = names.iter().filter(|name| name.starts_with("policy")).map(|name| {
            let folder = format!("{POLICIES}/{name}");
            let related = root.read(&format!("{folder}/related_cpus")).unwrap_or_default();
            let cpus = parse_cpu_list(&related.split_ascii_whitespace().collect::<Vec<_>>().join(","));
            Policy { folder, cpus: cpus.unwrap_or_default() }
        });
        let watch = ActivityWatch {
            root: root.clone(),
            traffic,
            clusters,
            policies: policies.collect(),
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            last: None,
            faults: Faults::default(),
        };
        watch.busy_ticks()?;
        Ok(watch)
    }

    /// How many kinds of cores the machine has.
    pub fn clusters(&self) -> usize {
        self.clusters.len()
    }

    /// Where streamed bytes are counted.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What went wrong so far.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// What happened since the last look; the first one answers with nothing.
    ///
    /// A clock that runs backwards answers with nothing too, and the next look covers that time.
    ///
    /// # Errors
    /// [`MeterError`] when busy time cannot be read now.
    pub fn look(&mut self, now: Duration) -> Result<Activity, MeterError> {
        let ticks = self.busy_ticks().inspect_err(|_| self.faults.failed += 1)?;
        let states: Vec<_> = self.policies.iter().map(|policy| self.states_of(policy)).collect();
        let mut next = Look {
            at: now,
            online: ticks.keys().copied().collect(),
            busy: ticks,
            states,
            bytes: self.traffic.total(),
        };
        let Some(last) = self.last.take() else {
            self.last = Some(next);
            return Ok(Activity::default());
        };
        let Some(elapsed) = now.checked_sub(last.at) else {
            self.faults.backwards += 1;
            self.last = Some(last);
            return Ok(Activity::default());
        };
        let activity = self.between(&last, &next, elapsed.as_secs_f64());
        self.faults.gaps += last.online.iter().filter(|cpu| !next.online.contains(cpu)).count() as u64;
        for (cpu, ticks) in last.busy {
            next.busy.entry(cpu).or_insert(ticks);
        }
        self.last = Some(next);
        Ok(activity)
    }

    fn between(&mut self, last: &Look, next: &Look, seconds: f64) -> Activity {
        let mut busy: Vec<Busy> = Vec::new();
        let most = seconds + SLACK_TICKS / self.ticks_per_second;
        for (&cpu, &ticks) in &next.busy {
            let Some(&before) = last.busy.get(&cpu) else { continue };
            let Some(ticks) = ticks.checked_sub(before) else {
                self.faults.backwards += 1;
                continue;
            };
            let core_seconds = (ticks as f64 / self.ticks_per_second).min(most);
            if core_seconds > 0.0 {
                let cluster = self.cluster_of(cpu);
                for (mhz, share) in self.clocks_of(cpu, cluster, last, next) {
                    add(&mut busy, Busy { cluster, mhz, core_seconds: core_seconds * share });
                }
            }
        }
        Activity { seconds, busy, bytes: next.bytes.wrapping_sub(last.bytes) as f64, instructions: None }
    }

    /// The cluster of `cpu`; one that was off at the start belongs to that of its frequency domain, else to the first.
    fn cluster_of(&self, cpu: usize) -> usize {
        let of = |cpu: usize| self.clusters.iter().position(|(cpus, _)| cpus.contains(&cpu));
        let siblings = || self.policies.iter().find(|policy| policy.cpus.contains(&cpu));
        of(cpu).or_else(|| siblings()?.cpus.iter().find_map(|&cpu| of(cpu))).unwrap_or(0)
    }

    /// Shares of the interval by clock.
    fn clocks_of(&self, cpu: usize, cluster: usize, last: &Look, next: &Look) -> Vec<(u32, f64)> {
        let nominal = || self.clusters.get(cluster).map_or(NOMINAL_MHZ, |(_, mhz)| *mhz);
        let Some(index) = self.policies.iter().position(|policy| policy.cpus.contains(&cpu)) else {
            return vec![(nominal(), 1.0)];
        };
        let before = &last.states[index];
        let ran = next.states[index].iter().map(|(khz, ticks)| {
            // Statistics that were reset say nothing of this interval.
            (mhz_of(*khz), ticks.saturating_sub(before.get(khz).copied().unwrap_or(0)) as f64)
        });
        let ran: Vec<(u32, f64)> = ran.filter(|(_, ticks)| *ticks > 0.0).collect();
        let all: f64 = ran.iter().map(|(_, ticks)| ticks).sum();
        if all > 0.0 {
            return ran.into_iter().map(|(mhz, ticks)| (mhz, ticks / all)).collect();
        }
        let now = self.root.read_u64(&format!("{}/scaling_cur_freq", self.policies[index].folder));
        match now {
            Ok(khz) if !next.states[index].is_empty() => vec![(mhz_of(khz), 1.0)],
            Ok(khz) => vec![(mhz_of(khz).next_multiple_of(STEP_MHZ).max(STEP_MHZ), 1.0)],
            Err(_) => vec![(nominal(), 1.0)],
        }
    }

    /// Ticks by clock; empty where the kernel keeps none.
    fn states_of(&self, policy: &Policy) -> BTreeMap<u64, u64> {
        let text = self.root.read(&format!("{}/stats/time_in_state", policy.folder)).unwrap_or_default();
        let states = text.lines().filter_map(|line| {
            let (khz, ticks) = line.split_once(' ')?;
            Some((khz.parse().ok()?, ticks.trim().parse().ok()?))
        });
        states.collect()
    }

    /// Busy ticks of each CPU that is on.
    fn busy_ticks(&self) -> Result<BTreeMap<usize, u64>, MeterError> {
        let text = self.root.read(STAT).map_err(|error| MeterError::from_read(error, GRANT))?;
        let found: BTreeMap<usize, u64> = text.lines().filter_map(busy_of).collect();
        if found.is_empty() {
            let found = text.lines().next().unwrap_or_default().chars().take(40).collect();
            let cause = ReadCause::NotNumber { found };
            return Err(MeterError::Unreadable(ReadError { path: STAT.into(), cause }));
        }
        Ok(found)
    }
}

/// `cpuN user nice system idle iowait irq softirq ...`: what is neither idle nor waiting. Time that a hypervisor gave to
/// others (steal) is not this machine's.
fn busy_of(line: &str) -> Option<(usize, u64)> {
    let mut words = line.split_ascii_whitespace();
    let cpu = words.next()?.strip_prefix("cpu")?.parse().ok()?;
    let columns: Vec<u64> = words.take(7).map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [user, nice, system, _idle, rest @ ..] = columns.as_slice() else { return None };
    let interrupts = rest.iter().skip(1).try_fold(0u64, |sum, ticks| sum.checked_add(*ticks))?;
    Some((cpu, user.checked_add(*nice)?.checked_add(*system)?.checked_add(interrupts)?))
}

fn mhz_of(khz: u64) -> u32 {
    u32::try_from(khz / 1000).unwrap_or(u32::MAX)
}

fn add(all: &mut Vec<Busy>, one: Busy) {
    match all.iter_mut().find(|busy| (busy.cluster, busy.mhz) == (one.cluster, one.mhz)) {
        Some(busy) => busy.core_seconds += one.core_seconds,
        None => all.push(one),
    }
}

impl Activity {
    /// Adds what happened in an interval that follows.
    pub fn extend(&mut self, next: &Activity) {
        self.seconds += next.seconds;
        self.bytes += next.bytes;
        next.busy.iter().for_each(|busy| add(&mut self.busy, *busy));
        self.instructions = match (self.instructions, next.instructions) {
            (Some(sum), Some(more)) => Some(sum + more),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests;
