//! How much memory the machine has and how it is paged.

use serde::Serialize;

use crate::root::Root;

/// Main memory as `/proc/meminfo` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All memory the kernel manages.
    pub total_bytes: Option<u64>,
    /// What could be given to a new program without swapping, by the kernel's own estimate.
    pub available_bytes: Option<u64>,
    /// Most that this process's control group may take, where it is limited: a service's `MemoryMax=`, a container's
    /// limit.
    pub limit_bytes: Option<u64>,
    /// What is left of that limit, or of another group's above it if that is less, when files that only lie in memory are
    /// not counted.
    pub limit_left_bytes: Option<u64>,
    /// Page size; 16384 on a Raspberry Pi 5 with its default kernel. Known for the running machine only.
    pub page_bytes: Option<u64>,
}

impl Memory {
    /// Reads the memory figures under `root`; a figure that is not shown is `None`.
    pub fn detect(root: &Root) -> Memory {
        let meminfo = root.read("/proc/meminfo").unwrap_or_default();
        let (limit_bytes, limit_left_bytes) = limits(root);
        Memory {
            total_bytes: kilobytes(&meminfo, "MemTotal"),
            available_bytes: kilobytes(&meminfo, "MemAvailable"),
            limit_bytes,
            limit_left_bytes,
            page_bytes: root.is_live().then(|| rustix::param::page_size() as u64),
        }
    }

    /// What this process may use: what is free, or less where its control group leaves less.
    pub fn usable_bytes(&self) -> Option<u64> {
        [self.available_bytes, self.limit_left_bytes].into_iter().flatten().min()
    }
}

/// A `Name:   123 kB` line in bytes.
fn kilobytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    let value: u64 = words.next()?.parse().ok()?;
    if words.next() != Some("kB") {
        return None;
    }
    value.checked_mul(1024)
}

/// How a version of control groups tells what a group may take and what it has taken.
struct Groups {
    /// What the group's line in `/proc/self/cgroup` has between its colons, as far as it tells.
    controller: &'static str,
    /// Where groups are.
    mount: &'static str,
    limit: &'static str,
    taken: &'static str,
    /// Lines of `memory.stat` with the bytes of files that lie in memory and can be dropped.
    files: [&'static str; 2],
}

const VERSIONS: [Groups; 2] = [
    Groups {
        controller: "",
        mount: "/sys/fs/cgroup",
        limit: "memory.max",
        taken: "memory.current",
        files: ["inactive_file", "active_file"],
    },
    Groups {
        controller: "memory",
        mount: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        taken: "memory.usage_in_bytes",
        files: ["total_inactive_file", "total_active_file"],
    },
];

/// A group without a limit says "max"; one of version 1 says the largest number that is whole pages.
const MOST_LIMIT_BYTES: u64 = 1 << 62;

/// The tightest limit from this process's control group up to the root, and the least that is left of one.
fn limits(root: &Root) -> (Option<u64>, Option<u64>) {
    let (mut tightest, mut least_left) = (None, None);
    let known = root.read("/proc/self/cgroup").unwrap_or_default();
    for version in VERSIONS {
        let mut lines = known.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        });
        let is_it = |controllers: &str| controllers.split(',').any(|name| name == version.controller);
        let Some((_, group)) = lines.find(|(controllers, _)| is_it(controllers)) else { continue };
        let mut group = group.trim_end_matches('/');
        loop {
            let folder = format!("{}{group}", version.mount);
            let limit = root.read_u64(&format!("{folder}/{}", version.limit)).ok();
            if let Some(limit) = limit.filter(|limit| *limit < MOST_LIMIT_BYTES) {
                tightest = Some(tightest.unwrap_or(limit).min(limit));
                let left = limit.saturating_sub(taken(root, &folder, &version));
                least_left = Some(least_left.unwrap_or(left).min(left));
            }
            match group.rsplit_once('/') {
                Some((parent, _)) => group = parent,
                None => break,
            }
        }
    }
    (tightest, least_left)
}

/// What the group in `folder` has taken and cannot give back by dropping files.
fn taken(root: &Root, folder: &str, version: &Groups) -> u64 {
    let taken = root.read_u64(&format!("{folder}/{}", version.taken)).unwrap_or(0);
    let stat = root.read(&format!("{folder}/memory.stat")).unwrap_or_default();
    let of = |name: &str| {
        let found = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0u64)
    };
    version.files.iter().fold(taken, |taken, name| taken.saturating_sub(of(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of files that are written one by one.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Machine(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn memory(&self) -> Memory {
            Memory::detect(&Root::new(self.0.path()))
        }

        fn limits(&self) -> (Option<u64>, Option<u64>) {
            let Memory { limit_bytes, limit_left_bytes, .. } = self.memory();
            (limit_bytes, limit_left_bytes)
        }
    }

    #[test]
    fn the_tightest_limit_of_all_groups_counts() {
        let machine = Machine::new();
        assert_eq!(machine.limits(), (None, None));
        machine.write("proc/self/cgroup", "4:cpu:/old\n0::/system.slice/tern.service\n");
        assert_eq!(machine.limits(), (None, None));
        let service = "sys/fs/cgroup/system.slice/tern.service";
        machine.write(&format!("{service}/memory.max"), "max\n");
        machine.write("sys/fs/cgroup/system.slice/memory.max", "300000000\n");
        assert_eq!(machine.limits(), (Some(300_000_000), Some(300_000_000)));
        machine.write(&format!("{service}/memory.max"), "200000000\n");
        assert_eq!(machine.limits().0, Some(200_000_000));
        // Inside a container its own group is the root.
        machine.write("proc/self/cgroup", "0::/\n");
        machine.write("sys/fs/cgroup/memory.max", "100000000\n");
        assert_eq!(machine.limits().0, Some(100_000_000));
    }

    #[test]
    fn what_others_of_the_group_have_taken_is_not_free_but_files_in_memory_are() {
        let machine = Machine::new();
        machine.write("proc/meminfo", "MemTotal: 2000000 kB\nMemAvailable: 500000 kB\n");
        assert_eq!(machine.memory().usable_bytes(), Some(512_000_000));
        machine.write("proc/self/cgroup", "0::/a/b\n");
        machine.write("sys/fs/cgroup/a/b/memory.max", "400000000");
        assert_eq!(machine.memory().usable_bytes(), Some(400_000_000));
        machine.write("sys/fs/cgroup/a/b/memory.current", "350000000");
        let stat = "anon 50000000\ninactive_file 200000000\nactive_file 100000000\n";
        machine.write("sys/fs/cgroup/a/b/memory.stat", stat);
        assert_eq!(machine.memory().usable_bytes(), Some(350_000_000));
        // The group above has more to give, but less left of it.
        machine.write("sys/fs/cgroup/a/memory.max", "900000000");
        machine.write("sys/fs/cgroup/a/memory.current", "800000000");
        assert_eq!(machine.limits(), (Some(400_000_000), Some(100_000_000)));
        machine.write("sys/fs/cgroup/a/memory.current", "950000000");
        assert_eq!(machine.memory().usable_bytes(), Some(0), "above its limit for a moment");
    }

    #[test]
    fn groups_of_version_1_count_as_well() {
        let machine = Machine::new();
        machine.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/0123\n0::/\n");
        // A container sees its own group at the root of the mount, under another name than the one above.
        machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456");
        machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "68435456");
        machine.write("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 10000000\n");
        assert_eq!(machine.limits(), (Some(268_435_456), Some(210_000_000)));
        machine.write("sys/fs/cgroup/memory/docker/0123/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(machine.limits().0, Some(268_435_456), "no limit of its own");
    }

    #[test]
    fn lines_need_the_exact_name_and_unit() {
        let text = "MemTotalX: 1 kB\nMemTotal:       426332 kB\nMemAvailable: 12 MB\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(426_332 * 1024));
        assert_eq!(kilobytes(text, "MemAvailable"), None);
        assert_eq!(kilobytes(text, "MemFree"), None);
    }

    #[test]
    fn the_running_machine_has_memory_and_a_page_size() {
        let memory = Memory::detect(&Root::new("/"));
        assert!(memory.total_bytes.unwrap() >= memory.available_bytes.unwrap());
        assert!(memory.page_bytes.unwrap().is_power_of_two());
    }
}
