//! The clocks of the processor: which there are, and holding one for as long as something is measured.
//!
//! A clock is held by setting a cpufreq policy's least and greatest frequency to it, which works under every governor and
//! needs root. What was set before is put back when [`Clocks`] is dropped, so also after an error or a signal that the
//! command handles; a process that is killed leaves them until the next boot.

use std::fs;
use std::io;

use tern_boards::Root;

const FOLDER: &str = "/sys/devices/system/cpu/cpufreq";

/// A frequency domain: CPUs that share one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    folder: String,
    cpus: Vec<usize>,
    /// Rising.
    khz: Vec<u64>,
}

/// The limits of a policy, as their files hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limits {
    folder: String,
    least_khz: u64,
    most_khz: u64,
}

/// The clocks of a machine.
#[derive(Debug)]
pub struct Clocks {
    root: Root,
    policies: Vec<Policy>,
    /// What is put back at the end.
    before: Vec<Limits>,
}

impl Clocks {
    /// The clocks that the kernel shows under `root`. Drivers that choose freely in a range list none.
    pub fn detect(root: &Root) -> Clocks {
        let mut policies = Vec::new();
        for name in root.list(FOLDER).iter().filter(|name| name.starts_with("policy")) {
            let folder = format!("{FOLDER}/{name}");
            let numbers = |file: &str| -> Vec<u64> {
                let text = root.read(&format!("{folder}/{file}")).unwrap_or_default();
                text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
            };
            let cpus =
                numbers("related_cpus").into_iter().filter_map(|cpu| usize::try_from(cpu).ok()).collect();
            let mut khz = numbers("scaling_available_frequencies");
            khz.sort_unstable();
            khz.dedup();
            policies.push(Policy { folder, cpus, khz });
        }
        Clocks { root: root.clone(), policies, before: Vec::new() }
    }

    /// Clocks that `cpus` can be held at, megahertz, rising; empty where none are listed.
    pub fn of(&self, cpus: &[usize]) -> Vec<u32> {
        let mut all: Vec<u32> =
            self.policies_of(cpus).flat_map(|policy| &policy.khz).map(|khz| mhz(*khz)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether this process may hold clocks.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn may_hold(&self) -> Result<(), String> {
        let Some(policy) = self.policies.iter().find(|policy| !policy.khz.is_empty()) else {
            return Err("this system lists no clocks to choose from".into());
        };
        let path = format!("{}/scaling_max_freq", policy.folder);
        let opened = fs::OpenOptions::new().write(true).open(self.root.resolve(&path));
        opened.map(|_| ()).map_err(|error| format!("{path}: {error}; run as root to set clocks"))
    }

    /// Holds the policies of `cpus` at `wanted_mhz`, or the nearest clock they have.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn hold(&mut self, cpus: &[usize], wanted_mhz: u32) -> io::Result<()> {
        let policies: Vec<Policy> = self.policies_of(cpus).cloned().collect();
        for policy in policies {
            let nearest = policy.khz.iter().copied().min_by_key(|khz| mhz(*khz).abs_diff(wanted_mhz));
            let Some(khz) = nearest else { continue };
            if !self.before.iter().any(|limits| limits.folder == policy.folder) {
                let read = |file: &str| self.root.read_u64(&format!("{}/{file}", policy.folder));
                let limits = read("scaling_min_freq").and_then(|least_khz| {
                    Ok(Limits {
                        folder: policy.folder.clone(),
                        least_khz,
                        most_khz: read("scaling_max_freq")?,
                    })
                });
                self.before.push(limits.map_err(io::Error::other)?);
            }
            self.set(&Limits { folder: policy.folder.clone(), least_khz: khz, most_khz: khz })?;
        }
        Ok(())
    }

    /// Puts back what was set before the first [`hold`](Clocks::hold).
    ///
    /// # Errors
    /// The first refusal, after all were tried.
    pub fn restore(&mut self) -> io::Result<()> {
        let mut first = Ok(());
        for limits in std::mem::take(&mut self.before) {
            let ended = self.set(&limits);
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }

    /// The kernel refuses a least above the greatest, at every moment.
    fn set(&self, limits: &Limits) -> io::Result<()> {
        let write = |file: &str, khz: u64| {
            let path = format!("{}/{file}", limits.folder);
            fs::write(self.root.resolve(&path), khz.to_string())
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        let most_now = self.root.read_u64(&format!("{}/scaling_max_freq", limits.folder)).unwrap_or(0);
        if limits.least_khz > most_now {
            write("scaling_max_freq", limits.most_khz)?;
            write("scaling_min_freq", limits.least_khz)
        } else {
            write("scaling_min_freq", limits.least_khz)?;
            write("scaling_max_freq", limits.most_khz)
        }
    }

    fn policies_of(&self, cpus: &[usize]) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(move |policy| policy.cpus.iter().any(|cpu| cpus.contains(cpu)))
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            log::warn!("the processor's clocks could not be put back, which a reboot does: {error}");
        }
    }
}

fn mhz(khz: u64) -> u32 {
    u32::try_from(khz / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let policy = dir.path().join(&FOLDER[1..]).join("policy0");
        fs::create_dir_all(&policy).expect("a folder in it");
        for (file, text) in [
            ("related_cpus", "0 1 2 3\n"),
            ("scaling_available_frequencies", "1800000 600000 1000000 1500000 \n"),
            ("scaling_min_freq", "600000\n"),
            ("scaling_max_freq", "1800000\n"),
        ] {
            fs::write(policy.join(file), text).expect("a small file");
        }
        dir
    }

    #[test]
    fn a_clock_is_held_and_put_back() {
        let dir = tree();
        let root = Root::new(dir.path());
        let limits = || {
            ["scaling_min_freq", "scaling_max_freq"]
                .map(|file| root.read_u64(&format!("{FOLDER}/policy0/{file}")).expect("a number"))
        };
        let mut clocks = Clocks::detect(&root);
        assert_eq!(clocks.of(&[2]), [600, 1000, 1500, 1800]);
        assert_eq!(clocks.of(&[7]), [0u32; 0]);
        assert_eq!(clocks.may_hold(), Ok(()));
        clocks.hold(&[0], 1490).expect("files that can be written");
        assert_eq!(limits(), [1_500_000, 1_500_000]);
        clocks.hold(&[0], 600).expect("files that can be written");
        assert_eq!(limits(), [600_000, 600_000]);
        drop(clocks);
        assert_eq!(limits(), [600_000, 1_800_000]);
    }

    #[test]
    fn a_machine_that_lists_no_clocks_says_so() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let clocks = Clocks::detect(&Root::new(dir.path()));
        assert!(clocks.of(&[0]).is_empty());
        assert!(clocks.may_hold().expect_err("nothing to hold").contains("lists no clocks"));
    }
}
