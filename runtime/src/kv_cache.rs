//! Keys and values of past positions, in pages that sequences take from a common pool.
//!
//! A page holds [`PAGE_CELLS`] cells of one sequence for all layers:
//! `[layer][kv head][key, value][cell][head_dim]`, so one head of one page is a contiguous little matrix.
//! A sequence reserves every page it may ever need when it is admitted; a step can then never run out of memory.
//! Cells are numbered from 0 in each sequence. For plain text a cell's number is its position; the branches of a
//! label trie share positions and are told apart by cell.

use core::ops::Range;

use tern_kernels::KernelSet;
use tern_kernels::half::f32_to_f16;

/// Cells of a page.
pub const PAGE_CELLS: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// binary16, two bytes a value: the default.
    F16,
    /// binary32: twice the memory, for comparing with references that keep full precision.
    F32,
}

impl KvType {
    /// Bytes of one stored value.
    pub const fn value_bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

/// What the cache is cut for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Transformer layers.
    pub layers: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Sequences that may be live at once.
    pub slots: usize,
    /// Pages that one sequence may hold.
    pub pages_per_slot: usize,
    /// Pages in the pool.
    pub pages: usize,
    /// Storage type.
    pub kv: KvType,
}

impl KvShape {
    /// Values (not bytes) of one page.
    pub const fn page_values(&self) -> usize {
        self.layers * self.kv_heads * 2 * PAGE_CELLS * self.head_dim
    }

    /// Bytes of the pool, or `None` on overflow.
    pub fn pool_bytes(&self) -> Option<usize> {
        self.pages.checked_mul(self.page_values())?.checked_mul(self.kv.value_bytes())
    }

    /// Words of book-keeping: a page table a slot and the free list.
    pub const fn table_words(&self) -> usize {
        self.slots * self.pages_per_slot + self.pages
    }
}

/// The pool in its storage type.
#[derive(Debug)]
enum Values<'a> {
    F16(&'a mut [u16]),
    F32(&'a mut [f32]),
}

/// The pool ran out of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPages {
    /// Pages asked for.
    pub needed: usize,
    /// Pages free.
    pub free: usize,
}

/// Keys and values of all live sequences.
#[derive(Debug)]
pub struct KvCache<'a> {
    shape: KvShape,
    values: Values<'a>,
    /// `[slots, pages_per_slot]`: which page holds cells `32 i..32 (i + 1)` of a slot.
    tables: &'a mut [u32],
    /// Stack of free pages; the first `free` entries count.
    free_pages: &'a mut [u32],
    free: usize,
    /// Pages held by each slot.
    held: heapless::Vec<usize, MAX_SLOTS>,
}

/// The most sequences that may be live at once.
pub const MAX_SLOTS: usize = 64;

/// One piece of contiguous cells of one head of one layer.
#[derive(Clone, Copy, Debug)]
enum Block<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
}

impl<'a> KvCache<'a> {
    /// A cache over `pool` (`shape.pool_bytes()` bytes) and `tables` (`shape.table_words()` words), all pages free.
    ///
    /// # Panics
    /// If a length does not belong to the shape, or there are more than [`MAX_SLOTS`] slots.
    pub fn new(shape: KvShape, pool: &'a mut [u8], tables: &'a mut [u32]) -> Self {
        assert_eq!(Some(pool.len()), shape.pool_bytes(), "bytes of the pool");
        assert_eq!(tables.len(), shape.table_words(), "words of the page tables");
        let values = match shape.kv {
            KvType::F16 => Values::F16(bytemuck::cast_slice_mut(pool)),
            KvType::F32 => Values::F32(bytemuck::cast_slice_mut(pool)),
        };
        let (tables, free_pages) = tables.split_at_mut(shape.slots * shape.pages_per_slot);
        for (page, entry) in free_pages.iter_mut().enumerate() {
            *entry = page as u32;
        }
        let mut held = heapless::Vec::new();
        held.resize(shape.slots, 0).expect("at most MAX_SLOTS slots");
        KvCache { shape, values, tables, free: free_pages.len(), free_pages, held }
    }

    /// Pages free for admission.
    pub fn free_pages(&self) -> usize {
        self.free
    }

    /// Gives `slot`, which must hold none, the pages for `cells` cells.
    ///
    /// # Errors
    /// If fewer are free; nothing is taken then.
    ///
    /// # Panics
    /// If the slot holds pages or `cells` is more than a slot may have.
    pub fn reserve(&mut self, slot: usize, cells: usize) -> Result<(), NoPages> {
        let needed = cells.div_ceil(PAGE_CELLS);
        assert!(self.held[slot] == 0 && needed <= self.shape.pages_per_slot, "reserve once, within a slot");
        if needed > self.free {
            return Err(NoPages { needed, free: self.free });
        }
        self.free -= needed;
        let table = slot * self.shape.pages_per_slot;
        self.tables[table..table + needed].copy_from_slice(&self.free_pages[self.free..self.free + needed]);
        self.held[slot] = needed;
        Ok(())
    }

    /// Takes back the pages of `slot`.
    pub fn release(&mut self, slot: usize) {
        let (table, held) = (slot * self.shape.pages_per_slot, self.held[slot]);
        self.free_pages[self.free..self.free + held].copy_from_slice(&self.tables[table..table + held]);
        self.free += held;
        self.held[slot] = 0;
    }

    /// Index of the first key value of (`slot`, `layer`, `head`) on the page that holds `cell`; values come
    /// `PAGE_CELLS * head_dim` later.
    fn base(&self, slot: usize, layer: usize, head: usize, cell: usize) -> usize {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        debug_assert!(cell / PAGE_CELLS < self.held[slot], "cell {cell} of slot {slot} is not reserved");
        let page = self.tables[slot * self.shape.pages_per_slot + cell / PAGE_CELLS] as usize;
        page * self.shape.page_values() + (layer * kv_heads + head) * 2 * PAGE_CELLS * head_dim
    }

    /// Stores one position: `keys` and `values`, both `[kv_heads, head_dim]`.
    pub fn write(&mut self, slot: usize, layer: usize, cell: usize, keys: &[f32], values: &[f32]) {
        let dim = self.shape.head_dim;
        for head in 0..self.shape.kv_heads {
            let at = self.base(slot, layer, head, cell) + (cell % PAGE_CELLS) * dim;
            for (at, source) in [(at, keys), (at + PAGE_CELLS * dim, values)] {
                let source = &source[head * dim..(head + 1) * dim];
                match &mut self.values {
                    Values::F32(pool) => pool[at..at + dim].copy_from_slice(source),
                    Values::F16(pool) => {
                        for (stored, v) in pool[at..at + dim].iter_mut().zip(source) {
                            *stored = f32_to_f16(*v);
                        }
                    }
                }
            }
        }
    }

    /// Cells `cells`, all on one page, of a head's keys (`part` 0) or values (`part` 1).
    fn block(&self, slot: usize, layer: usize, head: usize, part: usize, cells: Range<usize>) -> Block<'_> {
        let dim = self.shape.head_dim;
        let base = self.base(slot, layer, head, cells.start) + part * PAGE_CELLS * dim;
        let first = base + (cells.start % PAGE_CELLS) * dim;
        let range = first..first + cells.len() * dim;
        match &self.values {
            Values::F16(pool) => Block::F16(&pool[range]),
            Values::F32(pool) => Block::F32(&pool[range]),
        }
    }

    /// `scores[i] = key[cells.start + i] . query` for consecutive cells.
    pub fn scores(
        &self,
        set: &KernelSet,
        at: HeadAt,
        cells: Range<usize>,
        query: &[f32],
        scores: &mut [f32],
    ) {
        for (cells, part) in pages(cells) {
            let scores = &mut scores[part];
            match self.block(at.slot, at.layer, at.head, 0, cells) {
                Block::F16(keys) => set.matvec_f16(keys, query, scores),
                Block::F32(keys) => set.matvec_f32(keys, query, scores),
            }
        }
    }

    /// `y += sum_i weights[i] value[cells.start + i]`, in cell order.
    pub fn mix(&self, set: &KernelSet, at: HeadAt, cells: Range<usize>, weights: &[f32], y: &mut [f32]) {
        for (cells, part) in pages(cells) {
            let weights = &weights[part];
            match self.block(at.slot, at.layer, at.head, 1, cells) {
                Block::F16(values) => set.mix_f16(values, weights, y),
                Block::F32(values) => set.mix_f32(values, weights, y),
            }
        }
    }
}

/// Which head of which layer of which sequence.
#[derive(Clone, Copy, Debug)]
pub struct HeadAt {
    /// Sequence.
    pub slot: usize,
    /// Layer.
    pub layer: usize,
    /// Key/value head.
    pub head: usize,
}

/// Cuts `cells` at page edges; the second range is the same piece counted from `cells.start`.
fn pages(cells: Range<usize>) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut at = cells.start;
    core::iter::from_fn(move || {
        if at >= cells.end {
            return None;
        }
        let end = cells.end.min((at / PAGE_CELLS + 1) * PAGE_CELLS);
        let piece = (at..end, at - cells.start..end - cells.start);
        at = end;
        Some(piece)
    })
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use tern_kernels::SCALAR;

    fn shape(kv: KvType) -> KvShape {
        KvShape { layers: 2, kv_heads: 2, head_dim: 4, slots: 3, pages_per_slot: 4, pages: 7, kv }
    }

    #[test]
    fn cells_come_back_from_their_own_slot_layer_and_head() {
        for kv in [KvType::F16, KvType::F32] {
            let shape = shape(kv);
            let mut pool = vec![0u64; shape.pool_bytes().unwrap() / 8];
            let mut tables = vec![0u32; shape.table_words()];
            let mut cache = KvCache::new(shape, bytemuck::cast_slice_mut(&mut pool), &mut tables);
            // Reserve and release in between, so that pages are not in order.
            cache.reserve(0, 40).unwrap();
            cache.reserve(1, 70).unwrap();
            cache.release(0);
            cache.reserve(2, 100).unwrap();
            let value = |slot, layer, cell, head, part| {
                [1.0f32, 2.0, 4.0, 8.0]
                    .map(|x| x * (1 + slot * 7 + layer * 3 + cell + 50 * head + part) as f32)
            };
            for (slot, cells) in [(1, 70), (2, 100)] {
                for (layer, cell) in (0..2).flat_map(|l| (0..cells).map(move |c| (l, c))) {
                    let row = |part| [0, 1].map(|head| value(slot, layer, cell, head, part)).concat();
                    cache.write(slot, layer, cell, &row(0), &row(1));
                }
            }
            for (slot, range) in [(1, 0..70), (2, 31..97), (2, 5..5), (1, 64..65)] {
                for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let at = HeadAt { slot, layer, head };
                    let mut scores = vec![0.0; range.len()];
                    cache.scores(&SCALAR, at, range.clone(), &[0.0, 1.0, 0.0, 0.0], &mut scores);
                    for (cell, score) in range.clone().zip(&scores) {
                        assert_eq!(*score, value(slot, layer, cell, head, 0)[1], "cell {cell}");
                    }
                    for cell in range.clone() {
                        let (mut y, mut weights) = ([0.0; 4], vec![0.0; range.len()]);
                        weights[cell - range.start] = 1.0;
                        cache.mix(&SCALAR, at, range.clone(), &weights, &mut y);
                        assert_eq!(y, value(slot, layer, cell, head, 1));
                    }
                }
            }
        }
    }

    #[test]
    fn pages_are_never_promised_twice_and_all_come_back() {
        let shape = shape(KvType::F16);
        let mut pool = vec![0u64; shape.pool_bytes().unwrap() / 8];
        let mut tables = vec![0u32; shape.table_words()];
        let mut cache = KvCache::new(shape, bytemuck::cast_slice_mut(&mut pool), &mut tables);
        cache.reserve(0, 4 * PAGE_CELLS).unwrap();
        assert_eq!(cache.reserve(1, 4 * PAGE_CELLS), Err(NoPages { needed: 4, free: 3 }));
        cache.reserve(1, 2 * PAGE_CELLS + 1).unwrap();
        assert_eq!(cache.free_pages(), 0);
        let mut taken: Vec<u32> = cache.tables[..4].iter().chain(&cache.tables[4..7]).copied().collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6]);
        cache.release(0);
        cache.release(1);
        assert_eq!(cache.free_pages(), 7);
    }
}
