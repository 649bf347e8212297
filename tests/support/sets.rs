//! Which kernel sets exist, which of them this machine runs and why not the others.

use tern_kernels::KernelSet;
use tern_kernels::reference::SCALARS;

/// Every set of the project by name, with the architecture and what it needs there.
const KNOWN: [(&str, &str, &str); 35] = [
    ("aarch64-t2i8-dotprod", "aarch64", "FEAT_DotProd"),
    ("aarch64-tl1i8-neon", "aarch64", "NEON"),
    ("aarch64-tl1i8-neon-inorder", "aarch64", "NEON"),
    ("aarch64-t5ri8-dotprod", "aarch64", "FEAT_DotProd"),
    ("aarch64-t5ri8-dotprod-inorder", "aarch64", "FEAT_DotProd"),
    ("aarch64-t5ri8-neon", "aarch64", "NEON"),
    ("aarch64-t5ri8-neon-inorder", "aarch64", "NEON"),
    ("aarch64-t2r4i8-dotprod", "aarch64", "FEAT_DotProd"),
    ("aarch64-t2r4i8-neon", "aarch64", "NEON"),
    ("aarch64-t5ci8-dotprod", "aarch64", "FEAT_DotProd"),
    ("aarch64-t5ci8-neon", "aarch64", "NEON"),
    ("aarch64-t5ci8-neon-inorder", "aarch64", "NEON"),
    ("aarch64-t2i8-i8mm", "aarch64", "FEAT_I8MM"),
    ("aarch64-t5ri8-i8mm", "aarch64", "FEAT_I8MM"),
    ("aarch64-t2r4i8-i8mm", "aarch64", "FEAT_I8MM"),
    ("x86_64-t2i8-avx512vnni", "x86_64", "AVX-512 F, BW, VL and VNNI"),
    ("x86_64-t2i8-avxvnni", "x86_64", "AVX2, F16C and AVX-VNNI"),
    ("x86_64-t2i8-avx2", "x86_64", "AVX2 and F16C"),
    ("x86_64-t5ri8-avx512vnni", "x86_64", "AVX-512 F, BW, VL and VNNI"),
    ("x86_64-t5ri8-avxvnni", "x86_64", "AVX2, F16C and AVX-VNNI"),
    ("x86_64-t5ri8-avx2", "x86_64", "AVX2 and F16C"),
    ("x86_64-t2r4i8-avx512vnni", "x86_64", "AVX-512 F, BW, VL and VNNI"),
    ("x86_64-t2r4i8-avxvnni", "x86_64", "AVX2, F16C and AVX-VNNI"),
    ("x86_64-t2r4i8-avx2", "x86_64", "AVX2 and F16C"),
    ("x86_64-t5ci8-avx512vnni", "x86_64", "AVX-512 F, BW, VL and VNNI"),
    ("x86_64-t5ci8-avxvnni", "x86_64", "AVX2, F16C and AVX-VNNI"),
    ("x86_64-t5ci8-avx2", "x86_64", "AVX2 and F16C"),
    ("x86_64-tl1i8-avx512vnni", "x86_64", "AVX-512 F, BW, VL and VNNI"),
    ("x86_64-tl1i8-avxvnni", "x86_64", "AVX2, F16C and AVX-VNNI"),
    ("x86_64-tl1i8-avx2", "x86_64", "AVX2 and F16C"),
    ("scalar-t2i8", std::env::consts::ARCH, "nothing"),
    ("scalar-tl1i8", std::env::consts::ARCH, "nothing"),
    ("scalar-t2r4i8", std::env::consts::ARCH, "nothing"),
    ("scalar-t5ri8", std::env::consts::ARCH, "nothing"),
    ("scalar-t5ci8", std::env::consts::ARCH, "nothing"),
];

/// The sets that this machine can run, the scalar ones last.
pub fn usable() -> Vec<&'static KernelSet> {
    tern_kernels_neon::all().chain(tern_kernels_x86::all()).chain(SCALARS).collect()
}

/// The sets that this machine can run and would choose, and one scalar one: for whole models, where the scalar sets of all
/// layouts would be most of a test's time and `tests/kernels.rs` has held them to the definition.
pub fn for_models() -> Vec<&'static KernelSet> {
    let is_other_scalar = |set: &&KernelSet| SCALARS[1..].iter().any(|scalar| scalar.name == set.name);
    usable().into_iter().filter(|set| !is_other_scalar(set)).collect()
}

/// One line for each known set: whether it runs here or why it is skipped.
///
/// # Panics
/// If a back end offers a set that is not listed here, because it could then be skipped unseen on other machines.
pub fn report() -> Vec<String> {
    let usable: Vec<&str> = usable().iter().map(|set| set.name).collect();
    for name in &usable {
        assert!(KNOWN.iter().any(|known| known.0 == *name), "list {name} in tests/support/sets.rs");
    }
    let line = |(name, arch, needs): (&str, &str, &str)| {
        if usable.contains(&name) {
            format!("{name}: runs")
        } else if arch != std::env::consts::ARCH {
            format!("{name}: skipped, it is for {arch} and this is {}", std::env::consts::ARCH)
        } else {
            format!("{name}: skipped, this CPU lacks {needs}")
        }
    };
    KNOWN.map(line).into()
}

/// The sets named in `expected` (separated by commas) that are not usable here.
pub fn missing(expected: &str) -> Vec<String> {
    let names = expected.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.filter(|name| !usable().iter().any(|set| set.name == *name)).map(String::from).collect()
}
