//! The kernel sets of a tier: ternary products of every layout, compiled for its features.
//!
//! What this file adds to the products themselves is the jump from ordinary code into code compiled for a tier.

use tern_kernels::{Grain, Layout, TernaryOps, reference};

use crate::{gemm, t5c};

/// Tokens of a task: its sums, 160 rows of them at most, stay in a second-level cache beside the strip.
const TASK_TOKENS: usize = 128;

/// Whether a product in `T2B128` expands strips; else it reads rows as they lie. With few columns the sums across lanes
/// weigh more, which strips do not need. Measured on a Zen 5 with AVX-512: 16 tokens of 2,560 columns take as long in
/// either way, and so do 4 of 256.
#[inline(always)]
pub(crate) fn in_strips(cols: usize, tokens: usize) -> bool {
    tokens >= if cols < FEW_COLS { 5 } else { 16 }
}

/// Columns of a row so short that what is done once a row weighs.
pub(crate) const FEW_COLS: usize = 1024;

/// From this many tokens on a task is two strips, because expanding one takes a while.
const STRIP_TOKENS: usize = 8;

/// Rows of a task with few tokens: a whole strip of [`gemm`], few enough that workers finish together.
const fn task_rows(layout: Layout) -> usize {
    if matches!(layout, Layout::T5R) { 80 } else { 64 }
}

/// The functions of a set for `layout` but for its product.
pub(crate) const fn ops(layout: Layout) -> TernaryOps {
    TernaryOps {
        prepared_bytes: match layout {
            Layout::T5C => t5c::prepared_bytes,
            _ => reference::prepared_bytes,
        },
        grain: match layout {
            Layout::T5R => |rows, _, tokens, _| grain(Layout::T5R, rows, tokens),
            Layout::Tl1P32 => |rows, _, tokens, _| grain(Layout::Tl1P32, rows, tokens),
            _ => |rows, _, tokens, _| grain(Layout::T2R4, rows, tokens),
        },
        scratch_words: gemm::scratch_words,
        ..reference::PLAIN_OPS
    }
}

/// A strip or two, or a whole small matrix; up to [`TASK_TOKENS`].
fn grain(layout: Layout, rows: usize, tokens: usize) -> Grain {
    let whole = rows.max(1).next_multiple_of(layout.panel_rows());
    let most = if tokens < STRIP_TOKENS { task_rows(layout) } else { 2 * task_rows(layout) };
    Grain { rows: whole.min(most), tokens: tokens.clamp(1, TASK_TOKENS) }
}

/// For a tier of a name, its features, its token and its vector functions: how strips are multiplied, and the module
/// `products` with the product of every layout and `SETS`, its sets besides that of `T2B128`.
macro_rules! featured {
    (
        $tier:literal, $features:literal, $token:ident, $vector:expr,
        t5r: $t5r:path, t2r4: $t2r4:path, t5c: $t5c:path,
        t5r_groups: $t5r_groups:path, t2r4_groups: $t2r4_groups:path $(,)?
    ) => {
        impl $crate::gemm::StripProduct for $token {
            #[inline(always)]
            unsafe fn strip_product<const N: usize, const T: usize>(
                self,
                strip: *const u8,
                runs: usize,
                q: [*const u8; T],
                soon: $crate::gemm::Soon,
            ) -> [[Self::V; T]; N] {
                // SAFETY: the token proves the features; the duties are the caller's.
                unsafe { products::strip_product(self, strip, runs, q, soon) }
            }
        }

        mod products {
            use tern_kernels::{GroupedOps, GroupedTile, KernelSet, Layout, TernaryOps, Tile};

            use super::$token;
            use $crate::vectors::Vectors;
            use $crate::{gemm, gemm_groups, products};

            /// See [`gemm::StripProduct::strip_product`].
            ///
            /// # Safety
            /// As there.
            // Not inlined: layouts share it, and a call in hundreds of dot products costs nothing.
            #[inline(never)]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn strip_product<const N: usize, const T: usize>(
                b: $token,
                strip: *const u8,
                runs: usize,
                q: [*const u8; T],
                soon: $crate::gemm::Soon,
            ) -> [[<$token as Vectors>::V; T]; N] {
                // SAFETY: the duties are the caller's.
                unsafe { gemm::strip_product(b, strip, runs, q, soon) }
            }

            products::product!($features, $token, t2b128, $crate::t2b128::multiply_strips);
            products::product!($features, $token, t5r, $t5r);
            products::product!($features, $token, t2r4, $t2r4);
            products::product!($features, $token, t5c, $t5c);
            products::product!($features, $token, tl1, $crate::tl1::multiply_strips);
            products::grouped!($features, $token, t5r_groups, $t5r_groups);
            products::grouped!($features, $token, t2r4_groups, $t2r4_groups);
            products::grouped!($features, $token, tl1_groups, $crate::tl1::multiply_groups);

            /// The sets of all layouts but `T2B128`.
            pub(super) static SETS: [KernelSet; 4] = [
                products::set!($tier, "t5ri8", Layout::T5R, t5r, Some(T5R_GROUPS), $vector),
                products::set!($tier, "t2r4i8", Layout::T2R4, t2r4, Some(T2R4_GROUPS), $vector),
                products::set!($tier, "t5ci8", Layout::T5C, t5c, None, $vector),
                products::set!($tier, "tl1i8", Layout::Tl1P32, tl1, Some(TL1_GROUPS), $vector),
            ];

            const T5R_GROUPS: GroupedOps = products::grouped_ops!(t5r_groups);
            const T2R4_GROUPS: GroupedOps = products::grouped_ops!(t2r4_groups);
            const TL1_GROUPS: GroupedOps = products::grouped_ops!(tl1_groups);
        }
    };
}

/// A set of [`featured`].
macro_rules! set {
    ($tier:literal, $weights:literal, $layout:expr, $multiply:ident, $grouped:expr, $vector:expr) => {
        KernelSet::new(
            concat!("x86_64-", $weights, "-", $tier),
            $layout,
            TernaryOps {
                // SAFETY: the table is reached through the token alone; shapes and scratch were checked by its wrapper.
                multiply: |tile, scratch, sums| unsafe { $multiply(tile, scratch, sums) },
                grouped: $grouped,
                ..products::ops($layout)
            },
            $vector,
        )
    };
}

/// A product of [`featured`], compiled for its features.
macro_rules! product {
    ($features:literal, $token:ident, $name:ident, $product:path) => {
        /// The product.
        ///
        /// # Safety
        /// 1. `tile` and the lengths of `scratch` and `sums` are what [`KernelSet::multiply`] checked.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
            // Without columns there are no bytes to point at.
            if tile.cols == 0 {
                return sums.fill(0);
            }
            // SAFETY: duty (1) is the caller's.
            unsafe { $product($token(()), tile, scratch, sums) }
        }
    };
}

/// A product in groups of [`featured`], compiled for its features.
macro_rules! grouped {
    ($features:literal, $token:ident, $name:ident, $product:path) => {
        /// The product in groups.
        ///
        /// # Safety
        /// 1. `tile` and the lengths of `scratch` and `values` are what [`KernelSet::multiply_groups`] checked.
        #[target_feature(enable = $features)]
        unsafe fn $name(tile: GroupedTile<'_>, scratch: &mut [u64], values: &mut [f32]) {
            // SAFETY: duty (1) is the caller's.
            unsafe { $product($token(()), tile, scratch, values) }
        }
    };
}

/// What a set says of a function of [`grouped`].
macro_rules! grouped_ops {
    ($name:ident) => {
        GroupedOps {
            scratch_words: gemm_groups::scratch_words,
            // SAFETY: the table is reached through the token alone; shapes and scratch were checked by its wrapper.
            multiply: |tile, scratch, values| unsafe { $name(tile, scratch, values) },
        }
    };
}

pub(crate) use {featured, grouped, grouped_ops, product, set};
