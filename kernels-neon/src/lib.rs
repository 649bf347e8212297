//! AArch64 kernels for Tern, chosen at run time.
//!
//! | module | set | needs | for |
//! |---|---|---|---|
//! | `dotprod` | `aarch64-t2i8-dotprod` | FEAT_DotProd (Cortex-A55, A75 and later) | 2-bit codes straight from the file |
//! | `tl1` | `aarch64-tl1i8-neon`, `aarch64-tl1i8-neon-inorder` | Armv8.0 | lookup tables of weight pairs, for cores without `sdot` |
//! | `t5r_dotprod` | `aarch64-t5ri8-dotprod`, `aarch64-t5ri8-dotprod-inorder` | FEAT_DotProd | five rows a byte |
//! | `t5r` | `aarch64-t5ri8-neon`, `aarch64-t5ri8-neon-inorder` | Armv8.0 | five rows a byte, for cores without `sdot` |
//! | `t2r4_dotprod` | `aarch64-t2r4i8-dotprod` | FEAT_DotProd | four rows a byte, where arithmetic binds and memory does not |
//! | `t2r4` | `aarch64-t2r4i8-neon` | Armv8.0 | four rows a byte, for cores without `sdot` |
//! | `t5c_dotprod` | `aarch64-t5ci8-dotprod` | FEAT_DotProd | five columns a byte: the fastest with many tokens |
//! | `t5c` | `aarch64-t5ci8-neon`, `aarch64-t5ci8-neon-inorder` | Armv8.0 | the same, for cores without `sdot` |
//! | `gemm_i8mm` | `aarch64-t2i8-i8mm`, `aarch64-t5ri8-i8mm`, `aarch64-t2r4i8-i8mm` | FEAT_I8MM | the sets with `sdot`, and `smmla` for many tokens |
//! | `float` | both | Armv8.0 | float operations with the bits of [`tern_kernels::lanes`], binary16 rows by `fcvtl` |
//!
//! Eight tokens and more share work: `veclut` (its loops are in `veclut_rows`) looks five weights up at a time, for five
//! columns a byte and, through `t5r_indices`, five rows; `gemm_dotprod` and `gemm_i8mm` multiply strips of rows that
//! `strip` expands. `head` holds the products of an int8 LM head for both.
//!
//! One binary serves every core: [`all`] asks the running machine, never the compiler. On other architectures, and on
//! a bare-metal target (where nothing can be asked) for sets beyond the baseline, the iterator is shorter or empty.
//! The crate refuses big-endian AArch64, where lane order in memory would have to be told apart from lane order in
//! registers.
//!
//! ```
//! for set in tern_kernels_neon::all() {
//!     println!("{} reads {}", set.name, set.layout.name());
//! }
//! ```
#![no_std]

#[cfg(all(
    target_arch = "aarch64",
    target_feature = "neon",
    target_endian = "little",
    not(target_os = "none")
))]
extern crate std;

#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod asm;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod attention;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod dotprod;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod float;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod gemm_dotprod;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod gemm_i8mm;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod head;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod panels;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod strip;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t2r4;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t2r4_dotprod;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t5c;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t5c_dotprod;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t5r;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t5r_dotprod;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod t5r_indices;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod tl1;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod tl1_in_order;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod veclut;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
mod veclut_rows;

use tern_kernels::KernelSet;

/// The sets that this machine can run, best first; the answer never changes while the process runs.
#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"))]
pub fn all() -> impl Iterator<Item = &'static KernelSet> {
    let dotprod = dotprod::DotProd::detect();
    let with_i8mm = dotprod.and_then(gemm_i8mm::Int8MatMul::detect).map(gemm_i8mm::Int8MatMul::sets);
    let five_rows = dotprod.map(|proof| [t5r_dotprod::set(proof), t5r_dotprod::in_order_set(proof)]);
    dotprod
        .map(dotprod::DotProd::set)
        .into_iter()
        .chain([&tl1::SET, &tl1::IN_ORDER_SET])
        .chain(five_rows.into_iter().flatten())
        .chain([&t5r::SET, &t5r::IN_ORDER_SET])
        .chain(dotprod.map(t2r4_dotprod::set))
        .chain([&t2r4::SET])
        .chain(dotprod.map(t5c_dotprod::set))
        .chain([&t5c::SET, &t5c::IN_ORDER])
        .chain(with_i8mm.into_iter().flatten())
}

/// The sets that this machine can run: none, because it is not a little-endian AArch64 with NEON.
#[cfg(not(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little")))]
pub fn all() -> impl Iterator<Item = &'static KernelSet> {
    core::iter::empty()
}
