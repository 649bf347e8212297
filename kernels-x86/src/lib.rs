//! x86-64 kernels of Tern: AVX2, AVX-VNNI and AVX-512 VNNI, picked at run time.
//!
//! Development hosts, gateways with a small Intel core and the fallback of boards that are not ARM. [`all`] is the
//! whole interface: the kernel sets that this machine can run, best first. Each returns the bits that
//! [`tern_kernels::reference`](mod@tern_kernels::reference) returns.
//!
//! There are three tiers, and a set of each for every weight layout, `x86_64-{weights}-{tier}`:
//!
//! | tier | needs | ternary product |
//! |---|---|---|
//! | `avx512vnni` | AVX-512 F, BW, VL, VNNI | `vpdpbusd` on 512 bits |
//! | `avxvnni` | AVX2, F16C, AVX-VNNI | `vpdpbusd` on 256 bits |
//! | `avx2` | AVX2, F16C | `vpmaddubsw`, widened before it can overflow |
//!
//! | weights | one token | many tokens |
//! |---|---|---|
//! | `t2i8` | rows as they lie | strips of codes |
//! | `t5ri8`, `t2r4i8`, `t5ci8` | bytes as they lie, where there is `vpdpbusd` | strips of codes |
//! | `tl1i8` | strips of codes | strips of codes |
//!
//! A strip is a few rows expanded to a byte a weight, once for all tokens. With a scale for each group of columns `t5ri8` and
//! `t2r4i8` read bytes as they lie for few tokens, and they and `tl1i8` strips of a group; `t2i8` multiplies group after group.
//!
//! A set is only reachable through a token (`Avx2::detect()` and its like) that proves its features: `cpuid` says
//! that the processor has them and `xgetbv` that the operating system saves their registers. On any other
//! architecture the crate is empty and [`all`] yields nothing.
//!
//! ```
//! for set in tern_kernels_x86::all() {
//!     println!("{} reads {}", set.name, set.layout.name());
//! }
//! ```
//!
//! It refuses to look at a file, a model or a thread, and has no switch that turns a feature on.

use tern_kernels::KernelSet;

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "x86_64")]
mod floats;
#[cfg(target_arch = "x86_64")]
mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_groups;
#[cfg(target_arch = "x86_64")]
mod groups;
#[cfg(target_arch = "x86_64")]
mod head;
#[cfg(target_arch = "x86_64")]
mod isa;
#[cfg(target_arch = "x86_64")]
mod products;
#[cfg(target_arch = "x86_64")]
mod t2b128;
#[cfg(target_arch = "x86_64")]
mod t2r4;
#[cfg(target_arch = "x86_64")]
mod t2r4_groups;
#[cfg(target_arch = "x86_64")]
mod t5c;
#[cfg(target_arch = "x86_64")]
mod t5r;
#[cfg(target_arch = "x86_64")]
mod t5r_groups;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod tl1;
#[cfg(target_arch = "x86_64")]
mod vectors;
#[cfg(target_arch = "x86_64")]
mod vectors256;
#[cfg(target_arch = "x86_64")]
mod vectors512;
#[cfg(target_arch = "x86_64")]
mod vnni;

/// The kernel sets usable on this machine, layout after layout and best first; none where the machine has not even AVX2.
#[cfg(target_arch = "x86_64")]
pub fn all() -> impl Iterator<Item = &'static KernelSet> {
    let tiers = [
        vnni::Avx512Vnni::detect().map(vnni::Avx512Vnni::sets),
        avxvnni::AvxVnni::detect().map(avxvnni::AvxVnni::sets),
        avx2::Avx2::detect().map(avx2::Avx2::sets),
    ];
    (0..5).flat_map(move |layout| tiers.into_iter().flatten().map(move |sets| sets[layout]))
}

/// The kernel sets usable on this machine: none, because it is not an x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub fn all() -> impl Iterator<Item = &'static KernelSet> {
    core::iter::empty()
}
