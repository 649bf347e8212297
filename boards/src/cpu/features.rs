//! Which instruction set extensions the CPU has.
//!
//! On the running machine the answer comes from the standard library's run-time detection (CPUID, or
//! `AT_HWCAP` of the kernel), because that is what the kernels crates trust when they offer a set. A recorded
//! tree is not the running machine, so there the names come from its `/proc/cpuinfo`.

/// One extension: our name (the one `is_*_feature_detected!` uses) and the kernel's in `/proc/cpuinfo`.
struct Feature {
    name: &'static str,
    cpuinfo: &'static str,
}

const fn feature(name: &'static str, cpuinfo: &'static str) -> Feature {
    Feature { name, cpuinfo }
}

/// Extensions that decide a kernel or that a report should show, for both families.
const FEATURES: &[Feature] = &[
    feature("neon", "asimd"),
    feature("dotprod", "asimddp"),
    feature("i8mm", "i8mm"),
    feature("fp16", "asimdhp"),
    feature("bf16", "bf16"),
    feature("sve", "sve"),
    feature("sve2", "sve2"),
    feature("lse", "atomics"),
    feature("rcpc", "lrcpc"),
    feature("crc", "crc32"),
    feature("aes", "aes"),
    feature("sha2", "sha2"),
    feature("ssse3", "ssse3"),
    feature("avx2", "avx2"),
    feature("fma", "fma"),
    feature("f16c", "f16c"),
    feature("avxvnni", "avx_vnni"),
    feature("avx512f", "avx512f"),
    feature("avx512bw", "avx512bw"),
    feature("avx512vl", "avx512vl"),
    feature("avx512vbmi", "avx512vbmi"),
    feature("avx512vnni", "avx512_vnni"),
    feature("gfni", "gfni"),
];

/// Extensions of the CPU this program runs on.
pub(super) fn running() -> Vec<&'static str> {
    FEATURES.iter().map(|feature| feature.name).filter(|name| has(name)).collect()
}

/// Extensions that the `Features` or `flags` line of a recorded `/proc/cpuinfo` names.
pub(super) fn recorded(words: &str) -> Vec<&'static str> {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    FEATURES.iter().filter(|feature| words.contains(&feature.cpuinfo)).map(|feature| feature.name).collect()
}

#[cfg(target_arch = "aarch64")]
fn has(name: &str) -> bool {
    use std::arch::is_aarch64_feature_detected as detected;
    match name {
        "neon" => detected!("neon"),
        "dotprod" => detected!("dotprod"),
        "i8mm" => detected!("i8mm"),
        "fp16" => detected!("fp16"),
        "bf16" => detected!("bf16"),
        "sve" => detected!("sve"),
        "sve2" => detected!("sve2"),
        "lse" => detected!("lse"),
        "rcpc" => detected!("rcpc"),
        "crc" => detected!("crc"),
        "aes" => detected!("aes"),
        "sha2" => detected!("sha2"),
        _ => false,
    }
}

#[cfg(target_arch = "x86_64")]
fn has(name: &str) -> bool {
    use std::arch::is_x86_feature_detected as detected;
    match name {
        "aes" => detected!("aes"),
        "ssse3" => detected!("ssse3"),
        "avx2" => detected!("avx2"),
        "fma" => detected!("fma"),
        "f16c" => detected!("f16c"),
        "avxvnni" => detected!("avxvnni"),
        "avx512f" => detected!("avx512f"),
        "avx512bw" => detected!("avx512bw"),
        "avx512vl" => detected!("avx512vl"),
        "avx512vbmi" => detected!("avx512vbmi"),
        "avx512vnni" => detected!("avx512vnni"),
        "gfni" => detected!("gfni"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn has(_name: &str) -> bool {
    false
}

/// Whether `name` is one of the extensions this crate knows; profiles may name no other.
pub(crate) fn is_known(name: &str) -> bool {
    FEATURES.iter().any(|feature| feature.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_words_become_feature_names() {
        let pi5 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp";
        let features = recorded(pi5);
        assert!(features.contains(&"dotprod") && features.contains(&"neon") && features.contains(&"lse"));
        assert!(!features.contains(&"i8mm"));
        // "avx512f" must not be read out of a longer word
        assert!(recorded("avx512_vnni").contains(&"avx512vnni"));
        assert!(!recorded("avx512_vnni").contains(&"avx512f"));
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn every_aarch64_linux_cpu_has_neon() {
        assert!(running().contains(&"neon"));
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn running_features_agree_with_proc_cpuinfo() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':')).unwrap().1;
        let listed = recorded(flags);
        // names that both families share are only tested on the family at hand
        for name in running() {
            assert!(listed.contains(&name), "{name} detected but not in /proc/cpuinfo");
        }
    }
}
