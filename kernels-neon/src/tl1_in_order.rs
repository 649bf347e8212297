//! The inner loop of [`crate::tl1`] in an order that an in-order core runs without waiting.
//!
//! On a Cortex-A53 an operation on 128 bits takes a cycle in which only a core instruction may follow, its result is
//! there after four, and a load of 128 bits takes two cycles alone. A register loaded as two halves takes one: the
//! first by `ldr d`; the second by `ldr x`, which goes beside an operation, and `ins`, which goes beside another `ldr d`.
//!
//! ```text
//! for each step of 16 columns, of two panels:
//!   for each of four groups of 4 columns:
//!     for each panel, whose two vectors of indices are x and y:   20 operations, none waits for one of the last four
//!       high = indices >> 4                                         2 ushr
//!       find low and high in lo and hi                              8 tbl
//!       lo, hi += what low found                                    4 add; in group 0 it begins the sums
//!       low = indices & 15, of what comes next                      2 and
//!       lo, hi += what high found                                   4 add
//!     meanwhile load what comes next: 2 vectors of indices of each panel, 4 tables        8 cycles, not 16
//!   wide += lo; wide += 32 hi                                     8 uaddw, 8 smlal, 1 movi
//! ```
//!
//! ```text
//! v0-v7      wide: two of each vector of rows
//! v8-v11     lo of four vectors of rows
//! v12-v15    hi
//! v16-v19    tables: lo and hi of both pairs of columns
//! v20        15
//! v21, v28   x of the first panel in this group and the next, in turn, then what its high half found
//! v22-v27    low; what was found
//! v29-v31    y of the first panel, x and y of the second, then what their high halves found
//! ```
//!
//! Bounds and source: those of [`crate::tl1`], whose code takes a panel that is alone and columns behind the last whole
//! step. What is loaded behind the last step is the start of that step again: nothing outside is read.
//!
//! Expected cycles per 64 weights: 12.6 in this loop (201 for a step) on Cortex-A53, 13.8 with what is around it. llvm-mca
//! says 19.5: in its model results arrive in the order of the instructions, so that a load waits for the operation
//! before it, and a load of 128 bits takes one cycle. Those who measured boards say neither, and load by halves: ncnn,
//! docs/developer-guide/arm-a53-a55-dual-issue.md, and for the A55 ONNX Runtime, pull request 10862.

use crate::tl1::{OutOfOrder, PanelSteps, Steps, TableSteps};
use core::arch::aarch64::int16x8_t;
use core::arch::asm;

/// Bytes of a panel ahead of a step that are asked for: four lines, two steps.
const AHEAD: usize = 256;

/// Two panels in the order above; one as the compiler finds it.
pub(crate) struct InOrder;

impl Steps for InOrder {
    #[inline]
    fn add<const P: usize>(
        panels: [PanelSteps<'_>; P],
        tables: TableSteps<'_>,
        wide: &mut [[int16x8_t; 4]; P],
    ) {
        if let ([first, second], [first_wide, second_wide]) = (&panels[..], &mut wide[..]) {
            // SAFETY: NEON is part of the target that this module is compiled for.
            unsafe { add_two(first, second, tables, first_wide, second_wide) }
        } else {
            OutOfOrder::add(panels, tables, wide);
        }
    }
}

/// [`Steps::add`] of two panels.
#[inline]
#[target_feature(enable = "neon")]
fn add_two(
    first: PanelSteps<'_>,
    second: PanelSteps<'_>,
    tables: TableSteps<'_>,
    first_wide: &mut [int16x8_t; 4],
    second_wide: &mut [int16x8_t; 4],
) {
    // Loads the halves of `$register` from `$from`, and moves the second half of the register `$before` into its place.
    #[rustfmt::skip] // an instruction a line
    macro_rules! load {
        ($register:literal $half:literal, $from:literal + $at:literal + $more:literal,
            $before:literal $half_before:literal) => {
            concat!(
                "ldr {", $half, "}, [{", $from, "}, #", $at, " + ", $more, " + 8]\n",
                "ldr d", $register, ", [{", $from, "}, #", $at, " + ", $more, "]\n",
                "ins v", $before, ".d[1], {", $half_before, "}\n",
            )
        };
    }
    // A panel in a group: its indices are in `$x` and `$y`, with those of pairs that stand first in 22 and 23 already,
    // and the next ones in `$next_x` and `$next_y`. `$a` to `$e` is other work.
    macro_rules! panel {
        (begin $x:literal $y:literal, $lo_x:literal $lo_y:literal $hi_x:literal $hi_y:literal,
            $next_x:literal $next_y:literal, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
            concat!(
                panel!(find $x $y, $lo_x $lo_y $hi_x $hi_y, $a, $b), $c,
                panel!(low $next_x $next_y), panel!(add $lo_x $lo_y, 26 27), $d,
                panel!(add $hi_x $hi_y, $x $y), $e,
            )
        };
        (more $x:literal $y:literal, $lo_x:literal $lo_y:literal $hi_x:literal $hi_y:literal,
            $next_x:literal $next_y:literal, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
            concat!(
                panel!(find $x $y, 24 25 22 23, $a, $b), $c,
                panel!(add $lo_x $lo_y, 24 25), panel!(add $hi_x $hi_y, 22 23), $d,
                panel!(low $next_x $next_y), panel!(add $lo_x $lo_y, 26 27), $e,
                panel!(add $hi_x $hi_y, $x $y),
            )
        };
        (low $x:literal $y:literal) => {
            concat!(
                "and v22.16b, v", $x, ".16b, v20.16b\n",
                "and v23.16b, v", $y, ".16b, v20.16b\n",
            )
        };
        (find $x:literal $y:literal, $lo_x:literal $lo_y:literal $hi_x:literal $hi_y:literal, $a:expr, $b:expr) => {
            concat!(
                "ushr v", $x, ".16b, v", $x, ".16b, #4\n",
                "ushr v", $y, ".16b, v", $y, ".16b, #4\n",
                $a,
                "tbl v", $lo_x, ".16b, {{v16.16b}}, v22.16b\n",
                "tbl v", $lo_y, ".16b, {{v16.16b}}, v23.16b\n",
                "tbl v", $hi_x, ".16b, {{v17.16b}}, v22.16b\n",
                "tbl v", $hi_y, ".16b, {{v17.16b}}, v23.16b\n",
                $b,
                "tbl v26.16b, {{v18.16b}}, v", $x, ".16b\n",
                "tbl v27.16b, {{v18.16b}}, v", $y, ".16b\n",
                "tbl v", $x, ".16b, {{v19.16b}}, v", $x, ".16b\n",
                "tbl v", $y, ".16b, {{v19.16b}}, v", $y, ".16b\n",
            )
        };
        (add $sum_x:literal $sum_y:literal, $x:literal $y:literal) => {
            concat!(
                "add v", $sum_x, ".16b, v", $sum_x, ".16b, v", $x, ".16b\n",
                "add v", $sum_y, ".16b, v", $sum_y, ".16b, v", $y, ".16b\n",
            )
        };
    }
    // A group, whose first panel's indices are in `$x` and 29; the next one's will be in `$next` and 29. The second
    // panel's indices are read at `$second`, those of the first panel and the tables for the next group at `$first` and
    // `$table`. Core instructions `$one` and `$other` go beside an operation each.
    macro_rules! group {
        ($how:ident $x:literal $next:literal, $second:literal, $first:literal, $table:literal,
            $one:literal, $other:literal) => {
            concat!(
                panel!($how $x 29, 8 9 12 13, 30 31,
                    load!(30 "p", "second" + 0 + $second, 19 "q"),
                    load!(31 "q", "second" + 16 + $second, 30 "p"),
                    load!($next "p", "first" + 0 + $first, 31 "q"),
                    concat!($one, "\n"),
                    concat!($other, "\n")),
                panel!($how 30 31, 10 11 14 15, $next 29,
                    load!(29 "q", "first" + 16 + $first, $next "p"),
                    load!(16 "p", "tables" + 0 + $table, 29 "q"),
                    load!(17 "q", "tables" + 16 + $table, 16 "p"),
                    load!(18 "p", "tables" + 32 + $table, 17 "q"),
                    load!(19 "q", "tables" + 48 + $table, 18 "p")),
            )
        };
    }
    assert!(
        first.len() == tables.len() && second.len() == tables.len(),
        "as many steps of each panel as of tables"
    );
    let [mut w0, mut w1, mut w2, mut w3] = *first_wide;
    let [mut w4, mut w5, mut w6, mut w7] = *second_wide;
    if !tables.is_empty() {
        // SAFETY: `left` counts down from the number of steps, at least one, as many in all slices. A turn reads the step
        // that the pointers are at, 128 bytes of each panel and 256 of tables, and the start of the next, which in the
        // last turn is the same. Nothing is written.
        unsafe {
            asm!(
                "movi v20.16b, #15",
                "ldp q28, q29, [{first}]",
                "ldp q16, q17, [{tables}]",
                "ldp q18, q19, [{tables}, #32]",
                "ldr {q}, [{tables}, #56]",
                "and v22.16b, v28.16b, v20.16b",
                "and v23.16b, v29.16b, v20.16b",
                "2:",
                group!(begin 28 21, 0, 32, 64, "subs {left}, {left}, #1", "csel {by}, xzr, {step}, eq"),
                group!(more 21 28, 32, 64, 128, "prfm pldl1strm, [{first}, #{ahead}]",
                    "prfm pldl1strm, [{first}, #{ahead} + 64]"),
                group!(more 28 21, 64, 96, 192, "prfm pldl1strm, [{second}, #{ahead}]",
                    "prfm pldl1strm, [{second}, #{ahead} + 64]"),
                "add {first}, {first}, {by}, lsr #1",
                group!(more 21 28, 96, 0, 0, "add {tables}, {tables}, {by}",
                    "add {second}, {second}, {by}, lsr #1"),
                "uaddw v0.8h, v0.8h, v8.8b",
                "uaddw2 v1.8h, v1.8h, v8.16b",
                "uaddw v2.8h, v2.8h, v9.8b",
                "uaddw2 v3.8h, v3.8h, v9.16b",
                "movi v24.16b, #32",
                "uaddw v4.8h, v4.8h, v10.8b",
                "uaddw2 v5.8h, v5.8h, v10.16b",
                "uaddw v6.8h, v6.8h, v11.8b",
                "uaddw2 v7.8h, v7.8h, v11.16b",
                "smlal v0.8h, v12.8b, v24.8b",
                "smlal2 v1.8h, v12.16b, v24.16b",
                "smlal v2.8h, v13.8b, v24.8b",
                "smlal2 v3.8h, v13.16b, v24.16b",
                "smlal v4.8h, v14.8b, v24.8b",
                "smlal2 v5.8h, v14.16b, v24.16b",
                "smlal v6.8h, v15.8b, v24.8b",
                "smlal2 v7.8h, v15.16b, v24.16b",
                "b.ne 2b",
                left = inout(reg) tables.len() => _,
                first = inout(reg) first.as_ptr() => _,
                second = inout(reg) second.as_ptr() => _,
                tables = inout(reg) tables.as_ptr() => _,
                step = in(reg) size_of::<[[u8; 16]; 16]>(),
                by = out(reg) _, p = out(reg) _, q = out(reg) _,
                ahead = const AHEAD,
                inout("v0") w0, inout("v1") w1, inout("v2") w2, inout("v3") w3,
                inout("v4") w4, inout("v5") w5, inout("v6") w6, inout("v7") w7,
                out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
                out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
                out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
                out("v29") _, out("v30") _, out("v31") _,
                options(readonly, nostack),
            );
        }
    }
    *first_wide = [w0, w1, w2, w3];
    *second_wide = [w4, w5, w6, w7];
}
