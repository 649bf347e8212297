//! Sharing one piece of work between workers, with every output element written by exactly one of them.
//!
//! [`Exec`] runs a task for each item of a range; [`Serial`] does so on the calling thread, `pool::Pool` (feature
//! `std`) on threads made once. The functions here give each task its own part of the output and each worker its own
//! scratch, so that the rest of the runtime needs no `unsafe` to use several cores. How items fall to workers never
//! changes a result: an element is always computed whole, by one task, in one order.

use core::marker::PhantomData;
use core::ops::Range;

/// Something that runs a task for every item of `0..items`.
///
/// # Safety
/// An implementation must
/// 1. call `task(worker, item)` exactly once for each item in `0..items`,
/// 2. never run two calls of one `run` with the same `worker` at the same time, and keep `worker < workers()`,
/// 3. return from `run` only after every call has returned, with their writes visible to the caller.
pub unsafe trait Exec: Sync {
    /// How many workers there are, at least one.
    fn workers(&self) -> usize;

    /// Runs `task(worker, item)` for each item.
    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync));
}

/// Runs every item on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

// SAFETY: 1. the loop visits each item once. 2. There is one worker and one thread. 3. Calls return before `run`.
unsafe impl Exec for Serial {
    fn workers(&self) -> usize {
        1
    }

    fn run(&self, items: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        for item in 0..items {
            task(0, item);
        }
    }
}

/// A mutable slice that several threads hold at once, each touching elements no other touches.
struct Shared<'a, T> {
    base: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: threads only ever get disjoint parts (duty of the callers of `part`), and `T: Send` lets each go there.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Shared { base: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The elements in `range`.
    ///
    /// # Safety
    /// No other live reference may cover an element of `range`.
    #[allow(clippy::mut_from_ref, reason = "handing out disjoint parts is what this type is for")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part of a shared slice");
        // SAFETY: in bounds by the assertion, within one allocation; unaliased by the caller's duty.
        unsafe { core::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }
}

/// Scratch memory cut into one equal piece a worker.
struct WorkerScratch<'a> {
    words: Shared<'a, u64>,
    each: usize,
}

impl<'a> WorkerScratch<'a> {
    fn new(exec: &dyn Exec, scratch: &'a mut [u64]) -> Self {
        WorkerScratch { each: scratch.len() / exec.workers(), words: Shared::new(scratch) }
    }

    /// The piece of `worker`.
    ///
    /// # Safety
    /// Only to be called from a task that `Exec::run` called with this `worker`, once at a time.
    #[allow(clippy::mut_from_ref, reason = "one worker, one piece")]
    unsafe fn of(&self, worker: usize) -> &mut [u64] {
        // SAFETY: pieces of different workers are disjoint; one worker runs one task at a time (`Exec` duty 2).
        unsafe { self.words.part(worker * self.each..(worker + 1) * self.each) }
    }
}

/// Runs `task(scratch, i, a_i, b_i)` for every `i`, with `a` and `b` cut into `items` equal consecutive parts.
///
/// # Panics
/// If a length is not a multiple of `items`.
pub fn rows<A: Send, B: Send>(
    exec: &dyn Exec,
    scratch: &mut [u64],
    items: usize,
    (a, b): (&mut [A], &mut [B]),
    task: impl Fn(&mut [u64], usize, &mut [A], &mut [B]) + Sync,
) {
    if items == 0 {
        return;
    }
    assert!(a.len().is_multiple_of(items) && b.len().is_multiple_of(items), "equal parts");
    let (a_len, b_len) = (a.len() / items, b.len() / items);
    let (a, b, scratch) = (Shared::new(a), Shared::new(b), WorkerScratch::new(exec, scratch));
    exec.run(items, &|worker, i| {
        // SAFETY: parts of different items are disjoint and each item runs once (`Exec` duty 1); scratch by duty 2.
        let (scratch, a, b) = unsafe {
            (scratch.of(worker), a.part(i * a_len..(i + 1) * a_len), b.part(i * b_len..(i + 1) * b_len))
        };
        task(scratch, i, a, b);
    });
}

/// Runs `task(scratch, i, a_i, stripe)` for every `i`, with `a` cut into `items` equal consecutive parts and the columns of
/// `matrix: [_, stride]` into as many equal stripes.
///
/// # Panics
/// If a length is not a multiple of `items`, or the matrix not of `stride`.
pub fn columns<A: Send, T: Send>(
    exec: &dyn Exec,
    scratch: &mut [u64],
    items: usize,
    a: &mut [A],
    (matrix, stride): (&mut [T], usize),
    task: impl Fn(&mut [u64], usize, &mut [A], Stripe<'_, T>) + Sync,
) {
    if items == 0 {
        return;
    }
    let is_whole = stride > 0 && stride.is_multiple_of(items) && matrix.len().is_multiple_of(stride);
    assert!(is_whole && a.len().is_multiple_of(items), "equal parts");
    let (a_len, width, rows) = (a.len() / items, stride / items, matrix.len() / stride);
    let (a, matrix, scratch) = (Shared::new(a), Shared::new(matrix), WorkerScratch::new(exec, scratch));
    exec.run(items, &|worker, i| {
        // SAFETY: parts of different items are disjoint and each item runs once (`Exec` duty 1); scratch by duty 2. So are
        // the columns of different items, which the stripe hands out.
        let (scratch, a) = unsafe { (scratch.of(worker), a.part(i * a_len..(i + 1) * a_len)) };
        let cols = i * width..(i + 1) * width;
        task(scratch, i, a, Stripe { matrix: &matrix, stride, rows: 0..rows, cols });
    });
}

/// Consecutive columns cut into pieces. Pieces are disjoint because they are computed from numbers, not asked of a
/// caller: two tasks can never be told that they own the same column.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Columns of each segment; a piece lies in one of them.
    pub segments: &'a [usize],
    /// Columns of a piece, at least 1; the last one of a segment may have fewer.
    pub most: usize,
}

/// One piece of a [`Cut`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The segment it lies in.
    pub segment: usize,
    /// Its columns, counted from the start of the segment.
    pub range: Range<usize>,
    /// Columns of the segments before.
    before: usize,
}

impl Cut<'_> {
    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.segments.iter().map(|cols| cols.div_ceil(self.most)).sum()
    }

    /// Columns of all segments, or `None` on overflow.
    fn cols(&self) -> Option<usize> {
        self.segments.iter().try_fold(0usize, |total, cols| total.checked_add(*cols))
    }

    /// Piece `item` of `0..self.pieces()`.
    fn piece(&self, mut item: usize) -> Piece {
        let mut before = 0;
        for (segment, cols) in self.segments.iter().enumerate() {
            let pieces = cols.div_ceil(self.most);
            if item < pieces {
                let start = item * self.most;
                return Piece { segment, range: start..start + self.most.min(cols - start), before };
            }
            item -= pieces;
            before += cols;
        }
        panic!("a cut has no such piece");
    }
}

/// The part of a row-major matrix that one task may write.
pub struct Stripe<'a, T> {
    matrix: &'a Shared<'a, T>,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl<T> Stripe<'_, T> {
    /// The columns of this stripe.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// This stripe's part of its row `row`, counted from its first.
    ///
    /// # Panics
    /// If the stripe has no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        // In range before it is multiplied: a product that wraps would end in the columns of another stripe.
        assert!(row < self.rows.len(), "row {row} of a stripe");
        let start = (self.rows.start + row) * self.stride;
        // SAFETY: `stripes`, `tiles` or `columns` gave these rows of these columns to one task only, and `&mut self` lends one row
        // at a time.
        unsafe { self.matrix.part(start + self.cols.start..start + self.cols.end) }
    }
}

/// Runs `task(scratch, piece, stripe)` for every piece of `cut`, the stripe being its columns of `matrix: [_, stride]`.
///
/// # Panics
/// If the segments have more columns than the matrix, or pieces none.
pub fn stripes<T: Send>(
    exec: &dyn Exec,
    scratch: &mut [u64],
    (matrix, stride): (&mut [T], usize),
    cut: Cut<'_>,
    task: impl Fn(&mut [u64], Piece, Stripe<'_, T>) + Sync,
) {
    assert!(cut.most > 0 && cut.cols().is_some_and(|cols| cols <= stride), "a cut within the matrix");
    let rows = matrix.len().div_ceil(stride.max(1));
    let (matrix, scratch) = (Shared::new(matrix), WorkerScratch::new(exec, scratch));
    exec.run(cut.pieces(), &|worker, item| {
        // SAFETY: called from a task that `Exec::run` called with this worker.
        let scratch = unsafe { scratch.of(worker) };
        let piece = cut.piece(item);
        let cols = piece.before + piece.range.start..piece.before + piece.range.end;
        task(scratch, piece, Stripe { matrix: &matrix, stride, rows: 0..rows, cols });
    });
}

/// Consecutive columns of a [`Grid`] and how they are cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Columns.
    pub cols: usize,
    /// Columns of a tile, at least 1; the last one of a segment may have fewer.
    pub most_cols: usize,
    /// Rows of a tile, at least 1; the last one may have fewer.
    pub most_rows: usize,
}

/// A matrix cut into tiles by columns and by rows, each [`Segment`] in its own way. As with a [`Cut`], tiles are
/// disjoint because they are computed from numbers.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// Rows of the matrix.
    pub rows: usize,
    /// Its columns.
    pub segments: &'a [Segment],
}

/// One tile of a [`Grid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridTile {
    /// The segment it lies in.
    pub segment: usize,
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns, counted from the start of the segment.
    pub cols: Range<usize>,
    /// Columns of the segments before.
    before: usize,
}

impl Grid<'_> {
    /// How many tiles there are.
    pub fn tiles(&self) -> usize {
        self.segments.iter().map(|segment| self.tiles_of(segment)).sum()
    }

    fn tiles_of(&self, segment: &Segment) -> usize {
        segment.cols.div_ceil(segment.most_cols) * self.rows.div_ceil(segment.most_rows)
    }

    /// Tile `item` of `0..self.tiles()`. The tiles of the same columns follow one another, so that what belongs to
    /// them is still in a cache when their next rows need it.
    fn tile(&self, mut item: usize) -> GridTile {
        let mut before = 0;
        for (at, segment) in self.segments.iter().enumerate() {
            let tiles = self.tiles_of(segment);
            if item < tiles {
                let down = self.rows.div_ceil(segment.most_rows);
                let (col, row) = (item / down * segment.most_cols, item % down * segment.most_rows);
                return GridTile {
                    segment: at,
                    rows: row..row + segment.most_rows.min(self.rows - row),
                    cols: col..col + segment.most_cols.min(segment.cols - col),
                    before,
                };
            }
            item -= tiles;
            before += segment.cols;
        }
        panic!("a grid has no such tile");
    }

    /// Whether every tile has a size and all of them lie in a matrix of `len` values with `stride` columns.
    fn fits(&self, len: usize, stride: usize) -> bool {
        let sized = self.segments.iter().all(|segment| segment.most_cols > 0 && segment.most_rows > 0);
        let cols = self.segments.iter().try_fold(0usize, |total, segment| total.checked_add(segment.cols));
        sized && cols.is_some_and(|cols| cols <= stride) && Some(len) == self.rows.checked_mul(stride)
    }
}

/// Runs `task(scratch, tile, stripe)` for every tile of `grid`, the stripe being its part of `matrix`, whose rows are
/// `stride` long.
///
/// # Panics
/// If the matrix does not have the grid's rows, or not its columns, or tiles have no size.
pub fn tiles<T: Send>(
    exec: &dyn Exec,
    scratch: &mut [u64],
    (matrix, stride): (&mut [T], usize),
    grid: Grid<'_>,
    task: impl Fn(&mut [u64], GridTile, Stripe<'_, T>) + Sync,
) {
    assert!(grid.fits(matrix.len(), stride), "a grid within the matrix");
    let (matrix, scratch) = (Shared::new(matrix), WorkerScratch::new(exec, scratch));
    exec.run(grid.tiles(), &|worker, item| {
        // SAFETY: called from a task that `Exec::run` called with this worker.
        let scratch = unsafe { scratch.of(worker) };
        let tile = grid.tile(item);
        let (rows, cols) = (tile.rows.clone(), tile.before + tile.cols.start..tile.before + tile.cols.end);
        task(scratch, tile, Stripe { matrix: &matrix, stride, rows, cols });
    });
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn rows_reach_their_task_once() {
        let (mut a, mut b, mut scratch) = ([0u32; 12], [0u8; 4], [0u64; 3]);
        rows(&Serial, &mut scratch, 4, (&mut a, &mut b), |scratch, i, a, b| {
            scratch[0] += 1;
            a.fill(i as u32);
            b[0] = a.len() as u8;
        });
        assert_eq!(a, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        assert_eq!((b, scratch[0]), ([3; 4], 4));
    }

    #[test]
    fn stripes_cover_their_columns_in_every_row() {
        let mut matrix = [9u8; 2 * 8];
        let cut = Cut { segments: &[4, 0, 3], most: 3 };
        stripes(&Serial, &mut [], (&mut matrix, 8), cut, |_, piece, mut stripe| {
            for row in 0..2 {
                for (out, col) in stripe.row(row).iter_mut().zip(piece.range.clone()) {
                    *out = (10 * piece.segment + col) as u8;
                }
            }
        });
        assert_eq!(matrix, [0, 1, 2, 3, 20, 21, 22, 9, 0, 1, 2, 3, 20, 21, 22, 9]);
    }

    #[test]
    fn columns_reach_their_task_once() {
        let (mut a, mut matrix) = ([0u32; 6], [9u8; 2 * 6]);
        columns(&Serial, &mut [], 3, &mut a, (&mut matrix, 6), |_, i, a, mut stripe| {
            a.fill(i as u32);
            for row in 0..2 {
                stripe.row(row).fill((10 * row + i) as u8);
            }
        });
        assert_eq!(a, [0, 0, 1, 1, 2, 2]);
        assert_eq!(matrix, [0, 0, 1, 1, 2, 2, 10, 10, 11, 11, 12, 12]);
        columns(&Serial, &mut [], 0, &mut a, (&mut matrix, 0), |_, _, _, _| panic!("no item"));
    }

    #[test]
    fn a_cut_has_every_column_once() {
        for most in 1..9 {
            let cut = Cut { segments: &[7, 1, 0, 16], most };
            let pieces: Vec<Piece> = (0..cut.pieces()).map(|item| cut.piece(item)).collect();
            assert!(pieces.iter().all(|piece| (1..=most).contains(&piece.range.len())));
            let cols: Vec<usize> =
                pieces.iter().flat_map(|p| p.range.clone().map(|col| p.before + col)).collect();
            assert_eq!(cols, (0..24).collect::<Vec<_>>(), "pieces of {most}");
        }
    }

    #[test]
    fn tiles_cover_their_segments_once() {
        for (rows, most_rows) in [(1, 1), (5, 2), (6, 3), (4, 9), (0, 4)] {
            let segments = [
                Segment { cols: 7, most_cols: 3, most_rows },
                Segment { cols: 0, most_cols: 1, most_rows: 1 },
                Segment { cols: 4, most_cols: 4, most_rows: 1 },
            ];
            let mut matrix = vec![0u32; rows * 12];
            let grid = Grid { rows, segments: &segments };
            tiles(&Serial, &mut [], (&mut matrix, 12), grid, |_, tile, mut stripe| {
                for (i, row) in tile.rows.clone().enumerate() {
                    for (out, col) in stripe.row(i).iter_mut().zip(tile.cols.clone()) {
                        *out += (100 * row + 10 * tile.segment + col + 1) as u32;
                    }
                }
            });
            for (row, found) in matrix.chunks_exact(12).enumerate() {
                let expected: [usize; 12] = core::array::from_fn(|col| match col {
                    0..7 => 100 * row + col + 1,
                    7..11 => 100 * row + 20 + (col - 7) + 1,
                    _ => 0,
                });
                assert_eq!(found, expected.map(|v| v as u32), "row {row} of {rows}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a grid within the matrix")]
    fn a_grid_with_more_rows_than_the_matrix_is_refused() {
        let grid = Grid { rows: 3, segments: &[Segment { cols: 8, most_cols: 8, most_rows: 1 }] };
        tiles(&Serial, &mut [], (&mut [0u8; 16], 8), grid, |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "row 2 of a stripe")]
    fn a_row_of_the_next_tile_is_refused() {
        let grid = Grid { rows: 4, segments: &[Segment { cols: 8, most_cols: 8, most_rows: 2 }] };
        tiles(&Serial, &mut [], (&mut [0u8; 32], 8), grid, |_, _, mut stripe| stripe.row(2).fill(1));
    }

    #[test]
    #[should_panic(expected = "a cut within the matrix")]
    fn a_cut_wider_than_the_matrix_is_refused() {
        let cut = Cut { segments: &[usize::MAX, 9], most: 4 };
        stripes(&Serial, &mut [], (&mut [0u8; 8], 8), cut, |_, _, _| {});
    }

    #[test]
    #[should_panic(expected = "of a stripe")]
    fn a_row_whose_product_wraps_is_refused() {
        // 8 * (2^61 + 0) is 0 in 64 bits: row 0 again, if nothing looked.
        let cut = Cut { segments: &[4], most: 4 };
        stripes(&Serial, &mut [], (&mut [0u8; 16], 8), cut, |_, _, mut stripe| {
            stripe.row(1 << (usize::BITS - 3));
        });
    }
}
