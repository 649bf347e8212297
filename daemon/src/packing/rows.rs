//! A ternary matrix that is made row by row, packed a few rows at a time: what is in memory of it beside the result are
//! some rows a thread.

use std::thread;

use tern_kernels::half::f32_to_f16;
use tern_kernels::{Layout, pack};
use tern_runtime::gguf::PACKED_TAIL_BYTES;

/// One matrix as a packed file has it; its memory serves for the next one, too.
#[derive(Default)]
pub struct PackedMatrix {
    /// Codes and what stands behind them.
    pub bytes: Vec<u8>,
    /// `[groups, rows]` as binary16 bits, where it is in groups.
    scales: Vec<u16>,
}

impl PackedMatrix {
    /// Takes the matrix `[rows, cols]` in place of the one before, as [`pack_groups`]; `scale` is that of the whole matrix,
    /// 1 in groups.
    ///
    /// # Errors
    /// Those of `row`.
    ///
    /// # Panics
    /// If the layout has no room for such a matrix.
    pub fn pack<E: Send>(
        &mut self,
        (layout, workers): (Layout, usize),
        (rows, cols): (usize, usize),
        group: Option<usize>,
        scale: f32,
        row: &(impl Fn(usize, &mut [i8], &mut [f32]) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        let bytes = match group {
            None => layout.bytes(rows, cols),
            Some(group) => layout.grouped_bytes(rows, cols, group),
        };
        let bytes = bytes.expect("a matrix that was found to fit the layout");
        self.bytes.clear();
        self.bytes.resize(bytes + PACKED_TAIL_BYTES, 0);
        self.scales.clear();
        self.scales.resize(group.map_or(0, |group| rows * (cols / group)), 0);
        let (packed, tail) = self.bytes.split_at_mut(bytes);
        tail[..4].copy_from_slice(&scale.to_le_bytes());
        pack_groups(layout, (rows, cols), group, workers, (packed, &mut self.scales), row)
    }

    /// The bytes of its scales, if it is in groups and has been packed.
    pub fn scale_bytes(&self) -> Option<Vec<u8>> {
        let bytes = || self.scales.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        (!self.scales.is_empty()).then(bytes)
    }
}

/// What one thread writes: its rows of every group.
#[derive(Default)]
struct Part<'p> {
    panels: Vec<&'p mut [u8]>,
    scales: Vec<&'p mut [u16]>,
}

/// Packs the matrix `[rows, cols]` into `packed`, `layout.bytes(rows, cols)` long, with `workers` threads. `row(r, trits,
/// scales)` writes row `r`, each weight -1, 0 or +1, and its scales; every row is asked for once.
///
/// In groups of `group` columns a row has a scale for each, a number of binary16. They go to `scales: [groups, rows]`, and
/// `packed` is `layout.grouped_bytes(rows, cols, group)` long. Without a group a row has one scale, which goes nowhere.
///
/// # Errors
/// Those of `row`: the first of the first thread that has one.
///
/// # Panics
/// If a length does not belong to the shape.
pub fn pack_groups<E: Send>(
    layout: Layout,
    (rows, cols): (usize, usize),
    group: Option<usize>,
    workers: usize,
    (packed, scales): (&mut [u8], &mut [u16]),
    row: &(impl Fn(usize, &mut [i8], &mut [f32]) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let width = group.unwrap_or(cols);
    let (groups, height, panel) = (cols / width.max(1), pack::rows_at_once(layout), layout.panel_rows());
    let group_bytes = layout.bytes(rows, width).expect("groups of columns that fit the layout");
    assert_eq!(packed.len(), groups * group_bytes, "packed length for {rows} x {cols}");
    assert_eq!(scales.len(), if group.is_some() { groups * rows } else { 0 }, "scales of {rows} x {cols}");
    let panels_bytes = |rows: usize| rows.div_ceil(panel) * layout.panel_bytes(width);
    // Whole panels for each worker, of every group.
    let each = rows.div_ceil(height).div_ceil(workers.max(1)).max(1) * height;
    let mut parts: Vec<Part<'_>> = Vec::new();
    parts.resize_with(rows.div_ceil(each), Default::default);
    for panels in packed.chunks_exact_mut(group_bytes.max(1)) {
        parts
            .iter_mut()
            .zip(panels.chunks_mut(panels_bytes(each)))
            .for_each(|(part, own)| part.panels.push(own));
    }
    for scales in scales.chunks_exact_mut(rows.max(1)) {
        parts.iter_mut().zip(scales.chunks_mut(each)).for_each(|(part, own)| part.scales.push(own));
    }
    let pack_part = |at: usize, Part { mut panels, mut scales }: Part<'_>| {
        let (first, last) = (at * each, rows.min((at + 1) * each));
        let (mut trits, mut found) = (vec![0i8; height * cols], vec![0f32; groups]);
        for start in (first..last).step_by(height) {
            let some = height.min(last - start);
            let trits = &mut trits[..some * cols];
            for (r, line) in trits.chunks_exact_mut(cols).enumerate() {
                row(start + r, line, &mut found)?;
                for (scales, scale) in scales.iter_mut().zip(&found) {
                    scales[start - first + r] = f32_to_f16(*scale);
                }
            }
            let bytes = panels_bytes(start - first)..panels_bytes(start - first + some);
            for (at, panels) in panels.iter_mut().enumerate() {
                pack::pack_rows(
                    layout,
                    trits,
                    cols,
                    at * width..(at + 1) * width,
                    &mut panels[bytes.clone()],
                );
            }
        }
        Ok(())
    };
    let pack_part = &pack_part;
    thread::scope(|scope| {
        let threads: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(at, part)| scope.spawn(move || pack_part(at, part)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("packing does not panic"))
    })
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
                let row = |row: usize, trits: &mut [i8], _: &mut [f32]| {
                    trits.iter_mut().enumerate().for_each(|(col, trit)| *trit = weight(row, col));
                    Ok::<(), ()>(())
                };
                pack_groups(layout, (rows, 128), None, workers, (&mut by_rows, &mut []), &row)
                    .expect("no row fails");
                assert_eq!(by_rows, whole, "{} {rows} rows, {workers} workers", layout.name());
            }
        }
    }

    #[test]
    fn groups_are_matrices_one_after_another_and_an_error_comes_out() {
        let weight = |row: usize, col: usize| ((row * 31 + col * 7 + row * col % 5) % 3) as i8 - 1;
        let (rows, cols, group) = (65, 256, 64);
        let row = |row: usize, trits: &mut [i8], scales: &mut [f32]| {
            trits.iter_mut().enumerate().for_each(|(col, trit)| *trit = weight(row, col));
            scales.iter_mut().enumerate().for_each(|(at, scale)| *scale = (row + 100 * at) as f32);
            if row < rows { Ok(()) } else { Err(row) }
        };
        for layout in Layout::ALL.into_iter().filter(|layout| layout.takes_groups(group)) {
            let bytes = layout.grouped_bytes(rows, cols, group).expect("it fits");
            let (mut packed, mut scales) = (vec![9; bytes], vec![9; rows * 4]);
            pack_groups(layout, (rows, cols), Some(group), 3, (&mut packed, &mut scales), &row)
                .expect("no row fails");
            for (at, found) in packed.chunks_exact(bytes / 4).enumerate() {
                let mut expected = vec![0; bytes / 4];
                pack::pack_with(layout, rows, group, &mut expected, |row, col| weight(row, at * group + col));
                assert!(found == expected, "{} group {at}", layout.name());
                assert_eq!(scales[at * rows + 64], f32_to_f16((64 + 100 * at) as f32));
            }
        }
        let fails = |_: usize, _: &mut [i8], _: &mut [f32]| Err("no row");
        let mut packed = vec![0; Layout::T5R.bytes(10, 128).expect("it fits")];
        let found = pack_groups(Layout::T5R, (10, 128), None, 1, (&mut packed, &mut []), &fails);
        assert_eq!(found, Err("no row"));
    }
}
