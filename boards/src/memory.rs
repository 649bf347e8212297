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
    /// Page size; 16384 on a Raspberry Pi 5 with its default kernel. Known for the running machine only.
    pub page_bytes: Option<u64>,
}

impl Memory {
    /// Reads the memory figures under `root`; a figure that is not shown is `None`.
    pub fn detect(root: &Root) -> Memory {
        let meminfo = root.read("/proc/meminfo").unwrap_or_default();
        Memory {
            total_bytes: kilobytes(&meminfo, "MemTotal"),
            available_bytes: kilobytes(&meminfo, "MemAvailable"),
            limit_bytes: limit(root),
            page_bytes: root.is_live().then(|| rustix::param::page_size() as u64),
        }
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

/// The tightest `memory.max` from this process's control group up to the root (control groups version 2).
fn limit(root: &Root) -> Option<u64> {
    let groups = root.read("/proc/self/cgroup").ok()?;
    let mut group = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
    let mut tightest = None;
    loop {
        // Without a limit the file says "max"; the topmost group has none.
        let found = root.read_u64(&format!("/sys/fs/cgroup{group}/memory.max")).ok();
        tightest = [tightest, found].into_iter().flatten().min();
        match group.rsplit_once('/') {
            Some((parent, _)) => group = parent,
            None => return tightest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_of_all_groups_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = Root::new(folder.path());
        assert_eq!(limit(&root), None);
        write("proc/self/cgroup", "4:memory:/old\n0::/system.slice/tern.service\n");
        assert_eq!(limit(&root), None);
        write("sys/fs/cgroup/system.slice/tern.service/memory.max", "max\n");
        write("sys/fs/cgroup/system.slice/memory.max", "300000000\n");
        assert_eq!(limit(&root), Some(300_000_000));
        write("sys/fs/cgroup/system.slice/tern.service/memory.max", "200000000\n");
        assert_eq!(limit(&root), Some(200_000_000));
        // Inside a container its own group is the root.
        write("proc/self/cgroup", "0::/\n");
        write("sys/fs/cgroup/memory.max", "100000000\n");
        assert_eq!(limit(&root), Some(100_000_000));
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
