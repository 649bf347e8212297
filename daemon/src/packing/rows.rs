//! A ternary matrix that is made row by row, packed panel by panel: what is in memory of it beside the result is one panel
//! a thread.

use std::thread;

use tern_kernels::{Layout, pack};

/// Packs the matrix `[rows, cols]` into `packed`, `layout.bytes(rows, cols)` long, with `workers` threads. `row(r, trits)`
/// writes row `r`, each weight -1, 0 or +1; every row is asked for once.
///
/// # Panics
/// If `packed` has another length, or a weight is not ternary.
pub fn pack_rows(
    layout: Layout,
    (rows, cols): (usize, usize),
    workers: usize,
    packed: &mut [u8],
    row: &(impl Fn(usize, &mut [i8]) + Sync),
) {
    assert_eq!(layout.bytes(rows, cols), Some(packed.len()), "packed length for {rows} x {cols}");
    let (panel, panel_bytes) = (layout.panel_rows(), layout.panel_bytes(cols));
    let each = rows.div_ceil(panel).div_ceil(workers.max(1)).max(1);
    thread::scope(|scope| {
        for (worker, panels) in packed.chunks_mut(each * panel_bytes).enumerate() {
            scope.spawn(move || {
                let mut trits = vec![0i8; panel * cols];
                for (at, bytes) in panels.chunks_exact_mut(panel_bytes).enumerate() {
                    let first = (worker * each + at) * panel;
                    let here = panel.min(rows - first);
                    for (r, line) in trits[..here * cols].chunks_exact_mut(cols).enumerate() {
                        row(first + r, line);
                    }
                    pack::pack(layout, &trits[..here * cols], here, cols, bytes);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_give_what_a_whole_matrix_gives() {
        let weight = |row: usize, col: usize| ((row * 31 + col * 7) % 3) as i8 - 1;
        for layout in Layout::ALL {
            for (rows, workers) in [(1, 1), (15, 2), (64, 3), (65, 4)] {
                let bytes = layout.bytes(rows, 128).expect("it fits");
                let (mut whole, mut by_rows) = (vec![0; bytes], vec![9; bytes]);
                pack::pack_with(layout, rows, 128, &mut whole, weight);
                pack_rows(layout, (rows, 128), workers, &mut by_rows, &|row, trits: &mut [i8]| {
                    trits.iter_mut().enumerate().for_each(|(col, trit)| *trit = weight(row, col));
                });
                assert_eq!(by_rows, whole, "{} {rows} rows, {workers} workers", layout.name());
            }
        }
    }
}
