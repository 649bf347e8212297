//! The inner loops of [`crate::veclut`]: look eight indices of a row up and add what they say to its sums.
//!
//! Both forms do the same; they differ in what a core can issue together. They are written out in
//! assembly because the gain lies in addressing and order, of which the compiler knows neither: it puts one base and
//! an addition in place of eight bases, and in-order cores pay for every result that is used too early.
//!
//! ```text
//! for each row:
//!   w = the row's eight indices                              one 64-bit register
//!   for each of them, i: sums += table[i][(w >> 8 i) & 255]  an index is moved to where it counts 16-byte entries
//! ```
//!
//! * [`add_rows_whole`], for cores out of order: 128-bit loads and additions, 3 instructions for 40 products.
//!   Indices come out already multiplied by 16, for a load that scales by 16 costs Cortex-A76 an operation more.
//!   Four rows a round.
//! * [`add_rows_halves`], for cores in order: Cortex-A53 loads 128 bits in two cycles and nothing beside, but 64
//!   bits in one beside a 64-bit addition, so everything is done in halves and in pairs of such, 5 cycles for two
//!   lookups. A group is the same lookup in two rows, ten instructions; offsets are made two groups ahead, entries
//!   added up one group behind and added to the sums two behind, which reaches into the rows that follow, so that
//!   no result is waited for.
//!
//! Source: issue rules of Cortex-A53 as measured by D. Estevez (github.com/daniestevez/qsdr); Arm Cortex-A76 Software
//! Optimization Guide, section 3.14. The order is ours.

use core::arch::asm;

/// Lookups of a row in one pass, one table each.
pub(crate) const GROUPS: usize = 8;
/// Entries of a table, some of which no index reaches.
pub(crate) const ENTRIES: usize = 256;
/// Eight 16-bit lanes, one for each token: an entry, and the sums of a row.
pub(crate) type Lanes = [u64; 2];
/// A table for each index of a row.
pub(crate) type Tables = [[Lanes; ENTRIES]; GROUPS];
/// Rows that a loop may take at once.
pub(crate) const ROW_STEP: usize = 4;

/// Adds to the sums of each row, lane by lane and wrapping, its eight entries.
///
/// `indices` has the rows' indices, the first in the lowest byte, and [`ROW_STEP`] words more that are read but not
/// used. `sums` has [`ROW_STEP`] rows before the first, which are overwritten.
pub(crate) type AddRows = fn(tables: &Tables, indices: &[u64], sums: &mut [Lanes]);

fn check_lengths(indices: &[u64], sums: &[Lanes]) {
    assert_eq!(indices.len(), sums.len(), "indices and sums, each with a step's rows more");
    assert!(sums.len() >= 2 * ROW_STEP && sums.len().is_multiple_of(ROW_STEP), "{} rows", sums.len());
}

/// One lookup of 128 bits into `$to`: index `$i` of the row in register `$w`.
macro_rules! whole {
    ($w:literal, 0, $to:literal) => {
        concat!("ubfiz {x0}, {", $w, "}, #4, #8\nldr ", $to, ", [{t0}, {x0}]\n")
    };
    ($w:literal, $i:literal, $shift:literal, $x:literal, $to:literal) => {
        concat!(
            "and {",
            $x,
            "}, {mask}, {",
            $w,
            "}, lsr #",
            $shift,
            "\n",
            "ldr ",
            $to,
            ", [{t",
            $i,
            "}, {",
            $x,
            "}]\n"
        )
    };
}

/// Two rows, whose indices are at `$indices` and sums at `$load`, then at `$store`.
macro_rules! two_rows {
    ($indices:literal, $load:literal, $store:literal) => {
        concat!(
            "ldp {w0}, {w1}, ",
            $indices,
            "\n",
            "ldp q16, q17, ",
            $load,
            "\n",
            whole!("w0", 0, "q0"),
            whole!("w0", "1", "4", "x1", "q1"),
            "add v16.8h, v16.8h, v0.8h\n",
            whole!("w0", "2", "12", "x0", "q2"),
            whole!("w0", "3", "20", "x1", "q3"),
            "add v1.8h, v1.8h, v2.8h\n",
            whole!("w0", "4", "28", "x0", "q4"),
            "add v16.8h, v16.8h, v3.8h\n",
            whole!("w0", "5", "36", "x1", "q5"),
            "add v1.8h, v1.8h, v4.8h\n",
            whole!("w0", "6", "44", "x0", "q6"),
            "add v16.8h, v16.8h, v5.8h\n",
            whole!("w0", "7", "52", "x1", "q7"),
            "add v1.8h, v1.8h, v6.8h\n",
            whole!("w1", 0, "q18"),
            "add v16.8h, v16.8h, v7.8h\n",
            whole!("w1", "1", "4", "x1", "q19"),
            "add v17.8h, v17.8h, v18.8h\n",
            whole!("w1", "2", "12", "x0", "q20"),
            "add v16.8h, v16.8h, v1.8h\n",
            whole!("w1", "3", "20", "x1", "q21"),
            "add v19.8h, v19.8h, v20.8h\n",
            whole!("w1", "4", "28", "x0", "q22"),
            "add v17.8h, v17.8h, v21.8h\n",
            whole!("w1", "5", "36", "x1", "q23"),
            "add v19.8h, v19.8h, v22.8h\n",
            whole!("w1", "6", "44", "x0", "q24"),
            "add v17.8h, v17.8h, v23.8h\n",
            whole!("w1", "7", "52", "x1", "q25"),
            "add v19.8h, v19.8h, v24.8h\n",
            "add v17.8h, v17.8h, v25.8h\n",
            "add v17.8h, v17.8h, v19.8h\n",
            "stp q16, q17, ",
            $store,
            "\n",
        )
    };
}

/// [`AddRows`] in 128-bit operations.
pub(crate) fn add_rows_whole(tables: &Tables, indices: &[u64], sums: &mut [Lanes]) {
    check_lengths(indices, sums);
    let at = tables.each_ref().map(|table| table.as_ptr());
    let sums = &mut sums[ROW_STEP..];
    // SAFETY: the loop runs once for each four rows of `sums`, of which there are as many or more, and moves 64
    // bytes of `sums` and 32 of `indices`, which is longer. A lookup reads entry 0..=255 of a table. All registers
    // are named.
    unsafe {
        asm!(
            "2:",
            // Addresses move on with the loads, for a store would make the next load wait for what it stores.
            two_rows!("[{indices}], #32", "[{sums}], #64", "[{sums}, #-64]"),
            two_rows!("[{indices}, #-16]", "[{sums}, #-32]", "[{sums}, #-32]"),
            "cmp {sums}, {end}",
            "b.ne 2b",
            indices = inout(reg) indices.as_ptr() => _,
            sums = inout(reg) sums.as_mut_ptr() => _,
            end = in(reg) sums.as_ptr_range().end,
            mask = in(reg) 0xff0u64,
            t0 = in(reg) at[0], t1 = in(reg) at[1], t2 = in(reg) at[2], t3 = in(reg) at[3],
            t4 = in(reg) at[4], t5 = in(reg) at[5], t6 = in(reg) at[6], t7 = in(reg) at[7],
            w0 = out(reg) _, w1 = out(reg) _, x0 = out(reg) _, x1 = out(reg) _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
            out("v7") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _,
            out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
            options(nostack),
        );
    }
}

/// Eight instructions in four pairs: an addition beside a lookup of group `$i`, at the offsets of its row.
macro_rules! halves {
    // Adds up the two entries of each row that the groups before have left in registers 0 to 7; lookups into 0 to 3.
    ($i:literal, even) => {
        concat!(
            "add v24.4h, v0.4h, v4.4h\nldr d0, [{t",
            $i,
            "}, {e0}]\n",
            "add v25.4h, v1.4h, v5.4h\nldr d1, [{h",
            $i,
            "}, {e0}]\n",
            "add v26.4h, v2.4h, v6.4h\nldr d2, [{t",
            $i,
            "}, {e1}]\n",
            "add v27.4h, v3.4h, v7.4h\nldr d3, [{h",
            $i,
            "}, {e1}]\n",
        )
    };
    // Adds that to the sums, which are in registers `$a` to `$d`, giving 16 to 19; lookups into 4 to 7.
    ($i:literal, odd, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "add v16.4h, v",
            $a,
            ".4h, v24.4h\nldr d4, [{t",
            $i,
            "}, {o0}]\n",
            "add v17.4h, v",
            $b,
            ".4h, v25.4h\nldr d5, [{h",
            $i,
            "}, {o0}]\n",
            "add v18.4h, v",
            $c,
            ".4h, v26.4h\nldr d6, [{t",
            $i,
            "}, {o1}]\n",
            "add v19.4h, v",
            $d,
            ".4h, v27.4h\nldr d7, [{h",
            $i,
            "}, {o1}]\n",
        )
    };
    ($i:literal, odd) => {
        halves!($i, odd, 16, 17, 18, 19)
    };
}

/// An offset for the lookups after the next.
macro_rules! offset {
    ($x:literal, $w:literal, 0) => {
        concat!("ubfiz {", $x, "}, {", $w, "}, #4, #8")
    };
    ($x:literal, $w:literal, $shift:literal) => {
        concat!("and {", $x, "}, {mask}, {", $w, "}, lsr #", $shift)
    };
}

/// [`AddRows`] in 64-bit operations.
pub(crate) fn add_rows_halves(tables: &Tables, indices: &[u64], sums: &mut [Lanes]) {
    check_lengths(indices, sums);
    let at = tables.each_ref().map(|table| table.as_ptr().cast::<u64>());
    // The second half of the first entry.
    let half = at.map(|table| table.wrapping_add(1));
    let sums = &mut sums[ROW_STEP - 2..];
    let last = &raw const sums[sums.len() - 2];
    // SAFETY: the loop runs once for each two rows behind the first two. It reads the 32 bytes of `sums` behind
    // `{sums}`, which start as the first two rows and end as the last but two, and writes those at `{sums}`; the
    // last two are written behind the loop. It reads the 16 bytes of `indices` behind the pair it works on, at the
    // end the two words more. A lookup reads half of entry 0..=255 of a table. All registers are named.
    unsafe {
        asm!(
            "ldp {w0}, {w1}, [{indices}], #16",
            offset!("e0", "w0", 0),
            offset!("e1", "w1", 0),
            offset!("o0", "w0", 4),
            offset!("o1", "w1", 4),
            "2:",
            // The first two groups add what the rows before have left; in the first round nothing, into the spare
            // rows.
            halves!("0", even),
            "ldr d20, [{sums}, #32]",
            offset!("e0", "w0", 12),
            "ldr d21, [{sums}, #40]",
            offset!("e1", "w1", 12),
            halves!("1", odd),
            "ldr d22, [{sums}, #48]",
            offset!("o0", "w0", 20),
            "ldr d23, [{sums}, #56]",
            offset!("o1", "w1", 20),
            halves!("2", even),
            offset!("e0", "w0", 28),
            "stp d16, d17, [{sums}]",
            offset!("e1", "w1", 28),
            "stp d18, d19, [{sums}, #16]",
            halves!("3", odd, 20, 21, 22, 23),
            offset!("o0", "w0", 36),
            offset!("o1", "w1", 36),
            "add {sums}, {sums}, #32",
            "cmp {sums}, {last}",
            halves!("4", even),
            offset!("e0", "w0", 44),
            offset!("e1", "w1", 44),
            halves!("5", odd),
            offset!("o0", "w0", 52),
            "ldr {w0}, [{indices}], #8",
            offset!("o1", "w1", 52),
            "ldr {w1}, [{indices}], #8",
            halves!("6", even),
            offset!("e0", "w0", 0),
            offset!("e1", "w1", 0),
            halves!("7", odd),
            offset!("o0", "w0", 4),
            offset!("o1", "w1", 4),
            "b.ne 2b",
            "add v24.4h, v0.4h, v4.4h",
            "add v25.4h, v1.4h, v5.4h",
            "add v26.4h, v2.4h, v6.4h",
            "add v27.4h, v3.4h, v7.4h",
            "add v16.4h, v16.4h, v24.4h",
            "add v17.4h, v17.4h, v25.4h",
            "add v18.4h, v18.4h, v26.4h",
            "add v19.4h, v19.4h, v27.4h",
            "stp d16, d17, [{sums}]",
            "stp d18, d19, [{sums}, #16]",
            indices = inout(reg) indices.as_ptr() => _,
            sums = inout(reg) sums.as_mut_ptr() => _,
            last = in(reg) last,
            mask = in(reg) 0xff0u64,
            t0 = in(reg) at[0], t1 = in(reg) at[1], t2 = in(reg) at[2], t3 = in(reg) at[3],
            t4 = in(reg) at[4], t5 = in(reg) at[5], t6 = in(reg) at[6], t7 = in(reg) at[7],
            h0 = in(reg) half[0], h1 = in(reg) half[1], h2 = in(reg) half[2], h3 = in(reg) half[3],
            h4 = in(reg) half[4], h5 = in(reg) half[5], h6 = in(reg) half[6], h7 = in(reg) half[7],
            w0 = out(reg) _, w1 = out(reg) _,
            e0 = out(reg) _, e1 = out(reg) _, o0 = out(reg) _, o1 = out(reg) _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
            out("v7") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _,
            out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _,
            out("v27") _,
            options(nostack),
        );
    }
}
