//! x86-64 kernels of Tern: AVX2, AVX-VNNI and AVX-512 VNNI, picked at run time.
//!
//! Development hosts, gateways with a small Intel core and the fallback of boards that are not ARM. [`all`] is the
//! whole interface: the kernel sets that this machine can run, best first. Each returns the bits that
//! [`tern_kernels::reference`](mod@tern_kernels::reference) returns.
//!
//! | set | needs | ternary product |
//! |---|---|---|
//! | `x86_64-t2i8-avx512vnni` | AVX-512 F, BW, VL, VNNI | `vpdpbusd`, two blocks at a time |
//! | `x86_64-t2i8-avxvnni` | AVX2, F16C, AVX-VNNI | `vpdpbusd`, one block at a time |
//! | `x86_64-t2i8-avx2` | AVX2, F16C | `vpmaddubsw`, widened every ten blocks |
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
mod head;
#[cfg(target_arch = "x86_64")]
mod isa;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;

/// The kernel sets usable on this machine, best first; none where the machine has not even AVX2.
#[cfg(target_arch = "x86_64")]
pub fn all() -> impl Iterator<Item = &'static KernelSet> {
    [
        vnni::Avx512Vnni::detect().map(vnni::Avx512Vnni::set),
        avxvnni::AvxVnni::detect().map(avxvnni::AvxVnni::set),
        avx2::Avx2::detect().map(avx2::Avx2::set),
    ]
    .into_iter()
    .flatten()
}

/// The kernel sets usable on this machine: none, because it is not an x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub fn all() -> impl Iterator<Item = &'static KernelSet> {
    core::iter::empty()
}
