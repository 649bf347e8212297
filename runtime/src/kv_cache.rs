//! Keys and values of past positions, in pages that sequences take from a common pool.
//!
//! A page holds [`PAGE_CELLS`] cells of one sequence for all layers, as `[layer][kv head]` strips:
//!
//! ```text
//! strip:  keys [head_dim][cell]    values [cell][head_dim]    int8 only: scales of keys [cell], of values [cell]
//! ```
//!
//! Keys lie column by column, so that the scores of a page are computed in as many lanes as it has cells
//! ([`tern_kernels::attention`]). A value of an int8 cache is `q * scale`, with `q` the absmax quantisation of the head's
//! vector ([`tern_kernels::quant`]) and a scale for each cell.
//!
//! A sequence reserves every page it may ever need when it is admitted; a step can then never run out of memory.
//! Sequences that begin with the same tokens share pages, and what is computed is kept as long as nobody needs its place
//! (`pages`, `tree`): a cell depends on the tokens up to it and on nothing else, so a shared one has the very bits that
//! would be computed.
//!
//! Cells are numbered from 0 in each sequence. For plain text a cell's number is its position; the branches of a
//! label trie share positions and are told apart by cell.

mod pages;
mod tree;

use bytemuck::{cast_slice, cast_slice_mut};
use tern_kernels::attention::CELLS;
use tern_kernels::{Cached, KernelSet, quant};

use crate::forward::Machine;
use crate::parallel::{self, Cut};
use pages::{Begun, Pages};
pub use tree::Node;

/// Cells of a page.
pub const PAGE_CELLS: usize = CELLS;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// binary16, two bytes a value: the default.
    F16,
    /// binary32: twice the memory, for comparing with references that keep full precision.
    F32,
    /// An integer of one byte a value and a scale for each cell and head: half the memory, at some loss.
    I8,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 3] = [KvType::F16, KvType::F32, KvType::I8];

    /// The name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
            KvType::I8 => "i8",
        }
    }

    /// The type called `name`, if there is one.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kv| kv.name() == name)
    }

    /// Bytes of one stored value.
    pub const fn value_bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
            KvType::I8 => 1,
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
    /// Bytes of the keys, or of the values, of one head of one layer on one page.
    const fn part_bytes(&self) -> usize {
        PAGE_CELLS * self.head_dim * self.kv.value_bytes()
    }

    /// Bytes of one head of one layer on one page.
    pub const fn strip_bytes(&self) -> usize {
        let scales = match self.kv {
            KvType::I8 => 2 * PAGE_CELLS * size_of::<f32>(),
            KvType::F16 | KvType::F32 => 0,
        };
        2 * self.part_bytes() + scales
    }

    /// Bytes of the pool, or `None` on overflow.
    pub fn pool_bytes(&self) -> Option<usize> {
        self.pages.checked_mul(self.page_bytes())
    }

    /// Bytes of a page: one sequence's cells for all layers.
    pub const fn page_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.strip_bytes()
    }

    /// Words of book-keeping: a page table a slot and the free list.
    pub const fn table_words(&self) -> usize {
        self.slots * self.pages_per_slot + self.pages
    }
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
    /// `[pages, layers, kv_heads]` strips.
    pool: &'a mut [u8],
    pages: Pages<'a>,
}

/// The most sequences that may be live at once.
pub const MAX_SLOTS: usize = 64;

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

/// One head of one layer on one page.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a> {
    /// `[head_dim, PAGE_CELLS]`.
    pub keys: Cached<'a>,
    /// `[PAGE_CELLS, head_dim]`.
    values: Cached<'a>,
    /// Of keys and of values, `[PAGE_CELLS]` each, where they are integers.
    scales: Option<[&'a [f32]; 2]>,
    head_dim: usize,
}

impl<'a> Strip<'a> {
    /// The values of cells `first..first + count` of the page.
    pub fn values(&self, first: usize, count: usize) -> Cached<'a> {
        let range = first * self.head_dim..(first + count) * self.head_dim;
        match self.values {
            Cached::F32(values) => Cached::F32(&values[range]),
            Cached::F16(values) => Cached::F16(&values[range]),
            Cached::I8(values) => Cached::I8(&values[range]),
        }
    }

    /// What every number of a cell's key is to be multiplied by, where it is not 1: `[PAGE_CELLS]`.
    pub fn key_scales(&self) -> Option<&'a [f32]> {
        self.scales.map(|[keys, _]| keys)
    }

    /// As [`key_scales`](Self::key_scales), for values.
    pub fn value_scales(&self) -> Option<&'a [f32]> {
        self.scales.map(|[_, values]| values)
    }
}

impl<'a> KvCache<'a> {
    /// A cache over `pool` (`shape.pool_bytes()` bytes), `tables` (`shape.table_words()` words) and `nodes` (one a page),
    /// all pages free.
    ///
    /// # Panics
    /// If a length does not belong to the shape, or there are more than [`MAX_SLOTS`] slots.
    pub fn new(shape: KvShape, pool: &'a mut [u8], tables: &'a mut [u32], nodes: &'a mut [Node]) -> Self {
        assert_eq!(Some(pool.len()), shape.pool_bytes(), "bytes of the pool");
        KvCache { shape, pool, pages: Pages::new(&shape, tables, nodes) }
    }

    /// Pages for admission, those included that are kept for nobody in particular.
    pub fn free_pages(&self) -> usize {
        self.pages.free()
    }

    /// Gives `slot`, which must hold none, the pages for `cells` cells that begin with those of `tokens`, and returns how
    /// many of these are there already, from the first on; never the last, whose state is wanted in any case.
    ///
    /// # Errors
    /// If fewer pages are free; nothing is taken then.
    ///
    /// # Panics
    /// If the slot holds pages or `cells` is more than a slot may have.
    pub fn reserve(&mut self, slot: usize, tokens: &[u32], cells: usize) -> Result<usize, NoPages> {
        let Begun { computed, copy } = self.pages.reserve(slot, tokens, cells)?;
        if let Some((from, to)) = copy {
            let bytes = self.shape.page_bytes();
            let from = from as usize * bytes;
            self.pool.copy_within(from..from + bytes, to as usize * bytes);
        }
        Ok(computed)
    }

    /// Takes back the pages of `slot`; what it computed of `text`, all of it, may serve others.
    pub fn release(&mut self, slot: usize, text: &[u32]) {
        self.pages.release(slot, text);
    }

    /// Whether somebody else who shares the page has computed this cell of the slot's text, or will in the step at hand.
    pub fn is_computed(&self, slot: usize, cell: usize) -> bool {
        self.pages.is_computed(slot, cell)
    }

    /// The step at hand computes this cell of the slot's text.
    pub fn note_computed(&mut self, slot: usize, cell: usize) {
        self.pages.note_computed(slot, cell);
    }

    /// Forgets everything that no live sequence holds.
    pub fn forget(&mut self) {
        self.pages.forget();
    }

    /// The bytes of the longest beginning of `text` that is kept, a page at a time, whole pages only.
    pub fn stored<'s>(&'s self, text: &'s [u32]) -> impl Iterator<Item = &'s [u8]> + 's {
        let bytes = self.shape.page_bytes();
        self.pages.stored(text).map(move |page| &self.pool[page as usize * bytes..][..bytes])
    }

    /// Keeps page `index` of `text`, whose pages before must be kept already, with these bytes, which
    /// [`stored`](Self::stored) gave to a cache of the same shape. Says whether it did: it takes the place of nothing else.
    pub fn restore(&mut self, text: &[u32], index: usize, bytes: &[u8]) -> bool {
        let page_bytes = self.shape.page_bytes();
        if bytes.len() != page_bytes {
            return false;
        }
        let Some(page) = self.pages.restore(text, index) else { return false };
        self.pool[page as usize * page_bytes..][..page_bytes].copy_from_slice(bytes);
        true
    }

    /// The shape it is cut for.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// A head on the page that holds `cell`.
    pub fn strip(&self, at: HeadAt, cell: usize) -> Strip<'_> {
        let KvShape { layers, kv_heads, head_dim, kv, .. } = self.shape;
        let bytes = self.shape.strip_bytes();
        let index = (self.pages.page(at.slot, cell) as usize * layers + at.layer) * kv_heads + at.head;
        let strip = &self.pool[index * bytes..(index + 1) * bytes];
        let (parts, scales) = strip.split_at(2 * self.shape.part_bytes());
        let (keys, values) = parts.split_at(self.shape.part_bytes());
        let scales = (kv == KvType::I8).then(|| {
            let (keys, values) = cast_slice(scales).split_at(PAGE_CELLS);
            [keys, values]
        });
        Strip { keys: cached(kv, keys), values: cached(kv, values), scales, head_dim }
    }

    /// Words of scratch that [`write`](Self::write) takes of each worker.
    pub const fn write_words(head_dim: usize) -> usize {
        // A key as floats and as what is stored, which is no wider.
        2 * head_dim.div_ceil(2)
    }

    /// Stores one position for each of `cells`, which are (slot, cell): `vectors(row, head, key)` writes the key of a
    /// head, `[head_dim]`, and returns its value. Heads are shared out among the workers, because a head's strips are
    /// its own, whatever the cells.
    pub fn write<'v, C: Iterator<Item = (usize, usize)>>(
        &mut self,
        machine: Machine<'_>,
        scratch: &mut [u64],
        layer: usize,
        cells: impl Fn() -> C + Sync,
        vectors: impl Fn(usize, usize, &mut [f32]) -> &'v [f32] + Sync,
    ) {
        let (shape, bytes) = (self.shape, self.shape.strip_bytes());
        let stride = shape.kv_heads * bytes;
        let Self { pool, pages, .. } = self;
        let (pool, tables): (&mut [u8], &[u32]) = (pool, pages.tables());
        let cut = Cut { segments: &[stride], most: bytes };
        parallel::stripes(machine.exec, scratch, (pool, stride), cut, |scratch, piece, mut stripe| {
            let head = piece.range.start / bytes;
            let (key, stored) = scratch.split_at_mut(shape.head_dim.div_ceil(2));
            let key = &mut cast_slice_mut::<u64, f32>(key)[..shape.head_dim];
            for (row, (slot, cell)) in cells().enumerate() {
                let value = vectors(row, head, key);
                let page = tables[slot * shape.pages_per_slot + cell / PAGE_CELLS] as usize;
                let strip = stripe.row(page * shape.layers + layer);
                write_cell(machine.set, &shape, strip, cell % PAGE_CELLS, (key, value), stored);
            }
        });
    }
}

/// Bytes of the pool as what they hold.
fn cached(kv: KvType, part: &[u8]) -> Cached<'_> {
    match kv {
        KvType::F16 => Cached::F16(cast_slice(part)),
        KvType::F32 => Cached::F32(cast_slice(part)),
        KvType::I8 => Cached::I8(cast_slice(part)),
    }
}

/// Stores a key and a value as cell `cell` of a page.
fn write_cell(
    set: &KernelSet,
    shape: &KvShape,
    strip: &mut [u8],
    cell: usize,
    (key, value): (&[f32], &[f32]),
    scratch: &mut [u64],
) {
    let (dim, part_bytes) = (shape.head_dim, shape.part_bytes());
    let (parts, scales) = strip.split_at_mut(2 * part_bytes);
    let (keys, values) = parts.split_at_mut(part_bytes);
    let place = cell * dim..(cell + 1) * dim;
    match shape.kv {
        KvType::F32 => {
            scatter(key, cell, cast_slice_mut(keys));
            cast_slice_mut::<u8, f32>(values)[place].copy_from_slice(value);
        }
        KvType::F16 => {
            let narrow = &mut cast_slice_mut::<u64, u16>(scratch)[..dim];
            set.narrow(key, narrow);
            scatter(narrow, cell, cast_slice_mut(keys));
            set.narrow(value, &mut cast_slice_mut::<u8, u16>(values)[place]);
        }
        KvType::I8 => {
            let narrow = &mut cast_slice_mut::<u64, i8>(scratch)[..dim];
            let scales = cast_slice_mut::<u8, f32>(scales);
            scales[cell] = 1.0 / quant::quantize(set, key, narrow);
            scatter(narrow, cell, cast_slice_mut(keys));
            let values = &mut cast_slice_mut::<u8, i8>(values)[place];
            scales[PAGE_CELLS + cell] = 1.0 / quant::quantize(set, value, values);
        }
    }
}

/// `columns[d][cell] = vector[d]`.
fn scatter<T: Copy>(vector: &[T], cell: usize, columns: &mut [T]) {
    for (column, v) in columns.as_chunks_mut::<PAGE_CELLS>().0.iter_mut().zip(vector) {
        column[cell] = *v;
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::parallel::Serial;
    use bytemuck::Zeroable;
    use tern_kernels::SCALAR;
    use tern_kernels::half::f16_to_f32;

    const MACHINE: Machine<'_> = Machine { set: &SCALAR, exec: &Serial };

    fn shape(kv: KvType) -> KvShape {
        KvShape { layers: 2, kv_heads: 2, head_dim: 4, slots: 3, pages_per_slot: 4, pages: 7, kv }
    }

    /// Number `at` of what is cached.
    fn number(cached: Cached<'_>, at: usize) -> f32 {
        match cached {
            Cached::F32(values) => values[at],
            Cached::F16(values) => f16_to_f32(values[at]),
            Cached::I8(values) => f32::from(values[at]),
        }
    }

    #[test]
    fn cells_come_back_from_their_own_slot_layer_and_head() {
        for kv in KvType::ALL {
            let shape = shape(kv);
            let mut pool = vec![0u64; shape.pool_bytes().unwrap() / 8];
            let mut tables = vec![0u32; shape.table_words()];
            let mut nodes = vec![Node::zeroed(); shape.pages];
            let mut cache = KvCache::new(shape, cast_slice_mut(&mut pool), &mut tables, &mut nodes);
            // Reserve and release in between, so that pages are not in order.
            cache.reserve(0, &[], 40).unwrap();
            cache.reserve(1, &[], 70).unwrap();
            cache.release(0, &[]);
            cache.reserve(2, &[], 100).unwrap();
            let vector = |slot, layer, cell, head, part| {
                [1.0f32, 2.0, 4.0, 8.0]
                    .map(|x| x * (1 + slot * 7 + layer * 3 + cell + 50 * head + part) as f32)
            };
            for (layer, (slot, cells)) in [(0, (1, 70)), (1, (1, 70)), (0, (2, 100)), (1, (2, 100))] {
                let values: Vec<[f32; 4]> =
                    (0..2 * cells).map(|i| vector(slot, layer, i / 2, i % 2, 1)).collect();
                let mut scratch = vec![0u64; KvCache::write_words(4)];
                cache.write(
                    MACHINE,
                    &mut scratch,
                    layer,
                    || (0..cells).map(|cell| (slot, cell)),
                    |row, head, key| {
                        key.copy_from_slice(&vector(slot, layer, row, head, 0));
                        &values[2 * row + head]
                    },
                );
            }
            for (slot, cells) in [(1, 70), (2, 100)] {
                for (cell, at) in (0..cells).flat_map(|cell| {
                    [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(layer, head)| (cell, HeadAt { slot, layer, head }))
                }) {
                    let strip = cache.strip(at, cell);
                    let i = cell % PAGE_CELLS;
                    let (key_scale, value_scale) = (
                        strip.key_scales().map_or(1.0, |s| s[i]),
                        strip.value_scales().map_or(1.0, |s| s[i]),
                    );
                    let (key, value) =
                        (vector(slot, at.layer, cell, at.head, 0), vector(slot, at.layer, cell, at.head, 1));
                    // Half a step of the largest of the four where they are integers, nothing where they are floats.
                    let most = if kv == KvType::I8 { 0.51 / 127.0 } else { 0.0 };
                    for d in 0..4 {
                        let found = number(strip.keys, d * PAGE_CELLS + i) * key_scale;
                        assert!(
                            (found - key[d]).abs() <= most * key[3],
                            "{kv:?} {at:?} cell {cell} key {d}: {found}"
                        );
                        let found = number(strip.values(i, 1), d) * value_scale;
                        assert!(
                            (found - value[d]).abs() <= most * value[3],
                            "{kv:?} {at:?} cell {cell}: {found}"
                        );
                    }
                }
            }
        }
    }
}
