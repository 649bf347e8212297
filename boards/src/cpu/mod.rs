//! What CPU this is: architecture, core types, clusters, extensions, caches.
//!
//! Core types come from `midr_el1` in sysfs where the kernel shows it, else from `/proc/cpuinfo`. Cores of
//! one type form a cluster here even where the hardware splits them over two frequency domains (RK3588 has
//! two pairs of A76), because the question asked of a cluster is which kernel and how many threads.

mod features;
mod part;

pub use part::Part;

use serde::Serialize;

use crate::root::{Root, parse_cpu_list};
pub(crate) use features::is_known as is_known_feature;

/// The CPU as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cpu {
    /// Instruction set family: `aarch64`, `x86_64`, or what Rust calls it.
    pub arch: &'static str,
    /// The machine below runs another architecture than this program was built for, as under a user-mode
    /// emulator. Timings and joules taken there say nothing about the architecture of the program.
    pub emulated: bool,
    /// Model name in words, where the kernel gives one (x86 does, most ARM boards do not).
    pub model: Option<String>,
    /// Logical CPUs that are online.
    pub logical_cores: usize,
    /// Physical cores behind them; less than `logical_cores` where one core runs two threads.
    pub physical_cores: usize,
    /// Cores grouped by type, fastest group first.
    pub clusters: Vec<Cluster>,
    /// Extensions, named as the standard library names them.
    pub features: Vec<&'static str>,
    /// Caches that hold data, from the smallest level up.
    pub caches: Vec<Cache>,
}

/// Cores of one type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// Core name as profiles write it (`cortex-a76`); `unknown` where the part number is not in the table.
    pub core: String,
    /// The part number behind the name, on ARM.
    pub part: Option<Part>,
    /// Logical CPU numbers.
    pub cpus: Vec<usize>,
    /// Highest frequency that cpufreq allows to any of them.
    pub max_mhz: Option<u32>,
    /// Relative speed that the scheduler assigns, 1024 being the fastest core of the machine.
    pub capacity: Option<u32>,
}

/// One kind of cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 1, 2 or 3.
    pub level: u8,
    /// Size of one instance.
    pub size_bytes: u64,
    /// How many such caches the machine has.
    pub instances: usize,
    /// How many logical CPUs share one instance.
    pub shared_by: usize,
}

impl Cpu {
    /// Reads the CPU under `root`. What the kernel does not show stays empty; nothing is guessed.
    pub fn detect(root: &Root) -> Cpu {
        let cpuinfo = root.read("/proc/cpuinfo").unwrap_or_default();
        let machine_arch = arch_of(&cpuinfo);
        let arch = if root.is_live() { std::env::consts::ARCH } else { machine_arch.unwrap_or("unknown") };
        let emulated = root.is_live() && machine_arch.is_some_and(|found| found != arch);
        let cpus = online_cpus(root, &cpuinfo);
        let features = if root.is_live() {
            features::running()
        } else {
            features::recorded(field(&cpuinfo, "Features").or_else(|| field(&cpuinfo, "flags")).unwrap_or(""))
        };
        Cpu {
            arch,
            emulated,
            model: field(&cpuinfo, "model name").map(str::to_owned),
            logical_cores: cpus.len(),
            physical_cores: physical_cores(root, &cpus),
            clusters: clusters(root, &cpuinfo, &cpus),
            features,
            caches: caches(root, &cpus),
        }
    }

    /// Whether the cores differ in type (big.LITTLE, DynamIQ, or x86 with efficiency cores).
    pub fn is_heterogeneous(&self) -> bool {
        self.clusters.len() > 1
    }

    /// Physical cores of the fastest cluster: the threads that keep step with each other.
    ///
    /// Rows are split evenly over threads, so one slow core would hold up all the others.
    pub fn fast_cores(&self) -> usize {
        match self.clusters.as_slice() {
            [fastest, _, ..] => fastest.cpus.len().min(self.physical_cores),
            _ => self.physical_cores,
        }
        .max(1)
    }
}

/// Which family wrote this `/proc/cpuinfo`.
fn arch_of(cpuinfo: &str) -> Option<&'static str> {
    if field(cpuinfo, "CPU implementer").is_some() {
        Some("aarch64")
    } else if field(cpuinfo, "vendor_id").is_some_and(|vendor| !vendor.contains("IBM")) {
        Some("x86_64")
    } else {
        None
    }
}

/// First value of `key` in the `key : value` lines of `/proc/cpuinfo`.
fn field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn online_cpus(root: &Root, cpuinfo: &str) -> Vec<usize> {
    let listed = root.read("/sys/devices/system/cpu/online").ok().and_then(|text| parse_cpu_list(&text));
    match listed {
        Some(cpus) if !cpus.is_empty() => cpus,
        _ => blocks(cpuinfo).map(|(cpu, _)| cpu).collect(),
    }
}

/// The per-processor paragraphs of `/proc/cpuinfo`.
fn blocks(cpuinfo: &str) -> impl Iterator<Item = (usize, &str)> {
    cpuinfo.split("\n\n").filter_map(|block| Some((field(block, "processor")?.parse().ok()?, block)))
}

fn physical_cores(root: &Root, cpus: &[usize]) -> usize {
    // A core is named by the first logical CPU in its sibling list; without the list each CPU is a core.
    let mut firsts: Vec<usize> = cpus
        .iter()
        .map(|&cpu| {
            let siblings =
                root.read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
            let siblings = siblings.ok().and_then(|text| parse_cpu_list(&text)).unwrap_or_default();
            siblings.into_iter().filter(|sibling| cpus.contains(sibling)).min().unwrap_or(cpu)
        })
        .collect();
    firsts.sort_unstable();
    firsts.dedup();
    firsts.len()
}

fn clusters(root: &Root, cpuinfo: &str, cpus: &[usize]) -> Vec<Cluster> {
    let efficiency = root.read("/sys/devices/cpu_atom/cpus").ok().and_then(|text| parse_cpu_list(&text));
    let mut found: Vec<Cluster> = Vec::new();
    for &cpu in cpus {
        let part = part_of(root, cpuinfo, cpu);
        let core = match (part, &efficiency) {
            (Some(part), _) => part.name().unwrap_or("unknown"),
            (None, Some(slow)) if slow.contains(&cpu) => "x86-efficiency",
            (None, Some(_)) => "x86-performance",
            (None, None) => "unknown",
        };
        let base = format!("/sys/devices/system/cpu/cpu{cpu}");
        let max_mhz = root.read_u64(&format!("{base}/cpufreq/cpuinfo_max_freq")).ok();
        let max_mhz = max_mhz.and_then(|khz| u32::try_from(khz / 1000).ok());
        let capacity =
            root.read_u64(&format!("{base}/cpu_capacity")).ok().and_then(|c| u32::try_from(c).ok());
        let same = |cluster: &&mut Cluster| {
            cluster.core == core
                && cluster.part.map(|p| (p.implementer, p.part)) == part.map(|p| (p.implementer, p.part))
        };
        if let Some(cluster) = found.iter_mut().find(same) {
            cluster.cpus.push(cpu);
            cluster.max_mhz = cluster.max_mhz.max(max_mhz);
            cluster.capacity = cluster.capacity.max(capacity);
        } else {
            found.push(Cluster { core: core.to_owned(), part, cpus: vec![cpu], max_mhz, capacity });
        }
    }
    // Fastest first: by the scheduler's figure, by frequency where it has none.
    found.sort_by_key(|cluster| core::cmp::Reverse((cluster.capacity, cluster.max_mhz)));
    found
}

fn part_of(root: &Root, cpuinfo: &str, cpu: usize) -> Option<Part> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/regs/identification/midr_el1");
    if let Some(midr) = root.read(&path).ok().and_then(|text| parse_hex(&text)) {
        return Some(Part::from_midr(midr));
    }
    let (_, block) = blocks(cpuinfo).find(|&(number, _)| number == cpu)?;
    Some(Part {
        implementer: u8::try_from(parse_hex(field(block, "CPU implementer")?)?).ok()?,
        part: u16::try_from(parse_hex(field(block, "CPU part")?)?).ok()?,
        variant: u8::try_from(parse_hex(field(block, "CPU variant")?)?).ok()?,
        revision: field(block, "CPU revision")?.parse().ok()?,
    })
}

fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn caches(root: &Root, cpus: &[usize]) -> Vec<Cache> {
    let mut seen: Vec<(u8, u64, Vec<usize>)> = Vec::new();
    for &cpu in cpus {
        let folder = format!("/sys/devices/system/cpu/cpu{cpu}/cache");
        for index in root.list(&folder).iter().filter(|name| name.starts_with("index")) {
            let read = |name: &str| root.read(&format!("{folder}/{index}/{name}")).ok();
            let Some(level) = read("level").and_then(|text| text.parse().ok()) else { continue };
            let Some(size) = read("size").and_then(|text| parse_size(&text)) else { continue };
            if read("type").is_some_and(|kind| kind == "Instruction") {
                continue;
            }
            let shared = read("shared_cpu_list").and_then(|text| parse_cpu_list(&text)).unwrap_or(vec![cpu]);
            let instance = (level, size, shared);
            if !seen.contains(&instance) {
                seen.push(instance);
            }
        }
    }
    let mut caches: Vec<Cache> = Vec::new();
    for (level, size_bytes, shared) in seen {
        let same = |c: &&mut Cache| (c.level, c.size_bytes, c.shared_by) == (level, size_bytes, shared.len());
        match caches.iter_mut().find(same) {
            Some(cache) => cache.instances += 1,
            None => caches.push(Cache { level, size_bytes, instances: 1, shared_by: shared.len() }),
        }
    }
    caches.sort_by_key(|cache| (cache.level, core::cmp::Reverse(cache.size_bytes)));
    caches
}

/// `512K`, `2M` or plain bytes.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1u64 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_sizes_carry_their_unit() {
        assert_eq!(parse_size("512K\n"), Some(512 * 1024));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        assert_eq!(parse_size("99"), Some(99));
        assert_eq!(parse_size("K"), None);
        assert_eq!(parse_size(""), None);
    }

    #[test]
    fn the_family_that_wrote_cpuinfo_is_told_by_its_own_fields() {
        assert_eq!(arch_of("processor\t: 0\nCPU implementer\t: 0x41\n"), Some("aarch64"));
        assert_eq!(arch_of("processor\t: 0\nvendor_id\t: AuthenticAMD\n"), Some("x86_64"));
        assert_eq!(arch_of("vendor_id       : IBM/S390\n"), None);
        assert_eq!(arch_of(""), None);
    }

    #[test]
    fn this_machine_has_cores_and_is_read_without_a_guess() {
        let cpu = Cpu::detect(&Root::new("/"));
        assert_eq!(cpu.arch, std::env::consts::ARCH);
        assert!(cpu.logical_cores >= 1 && cpu.physical_cores <= cpu.logical_cores);
        assert_eq!(cpu.clusters.iter().map(|cluster| cluster.cpus.len()).sum::<usize>(), cpu.logical_cores);
        assert!((1..=cpu.physical_cores).contains(&cpu.fast_cores()));
    }
}
