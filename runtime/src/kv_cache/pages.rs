//! Who holds which pages: page tables of sequences, free pages, and pages that are shared by what is on them.
//!
//! A sequence reserves every page it may ever need when it is admitted. The pages that its prompt fills are in the
//! [`Tree`] from that moment on, computed or not: one that comes with the same beginning holds the same pages, whichever
//! of the two computes them first. What it may write later, the page with the last token of the prompt included, is its own;
//! where another page begins with the same tokens, those cells are copied. When it ends, its own pages go to the tree
//! too as far as there is text on them. Pages there that nobody holds are as good as free.

use super::tree::{NONE, Node, Tree};
use super::{KvShape, MAX_SLOTS, NoPages, PAGE_CELLS};

/// Pages and who holds them.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    pages_per_slot: usize,
    /// `[slots, pages_per_slot]`: which page holds cells `32 i..32 (i + 1)` of a slot.
    tables: &'a mut [u32],
    /// Stack of free pages; the first `free` entries count.
    free_pages: &'a mut [u32],
    free: usize,
    /// Pages held by each slot.
    held: heapless::Vec<usize, MAX_SLOTS>,
    tree: Tree<'a>,
}

/// What a sequence begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// Cells that it need not compute, once `copy` is done.
    pub computed: usize,
    /// The page to copy and the page to copy it to.
    pub copy: Option<(u32, u32)>,
}

/// Tokens of page `index` of a text.
fn of_page(text: &[u32], index: usize) -> &[u32] {
    let rest = text.get(index * PAGE_CELLS..).unwrap_or(&[]);
    &rest[..rest.len().min(PAGE_CELLS)]
}

impl<'a> Pages<'a> {
    /// All pages free.
    ///
    /// # Panics
    /// If a length does not belong to the shape, or there are more than [`MAX_SLOTS`] slots.
    pub fn new(shape: &KvShape, tables: &'a mut [u32], nodes: &'a mut [Node]) -> Self {
        assert_eq!(tables.len(), shape.table_words(), "words of the page tables");
        assert_eq!(nodes.len(), shape.pages, "one node a page");
        let (tables, free_pages) = tables.split_at_mut(shape.slots * shape.pages_per_slot);
        for (page, entry) in free_pages.iter_mut().enumerate() {
            *entry = page as u32;
        }
        let mut held = heapless::Vec::new();
        held.resize(shape.slots, 0).expect("at most MAX_SLOTS slots");
        let (pages_per_slot, free) = (shape.pages_per_slot, free_pages.len());
        Pages { pages_per_slot, tables, free, free_pages, held, tree: Tree::new(nodes) }
    }

    /// Pages for admission: free ones, and those that are kept for nobody in particular.
    pub fn free(&self) -> usize {
        self.free + self.tree.idle()
    }

    /// Page tables, `[slots, pages_per_slot]`.
    pub fn tables(&self) -> &[u32] {
        self.tables
    }

    /// The page that holds `cell` of `slot`.
    pub fn page(&self, slot: usize, cell: usize) -> u32 {
        debug_assert!(cell / PAGE_CELLS < self.held[slot], "cell {cell} of slot {slot} is not reserved");
        self.tables[slot * self.pages_per_slot + cell / PAGE_CELLS]
    }

    /// Gives `slot`, which must hold none, the pages for `cells` cells that begin with `tokens`, whose last is computed in
    /// any case.
    ///
    /// # Errors
    /// If there are too few; nothing has changed then.
    ///
    /// # Panics
    /// If the slot holds pages or `cells` is more than a slot may have.
    pub fn reserve(&mut self, slot: usize, tokens: &[u32], cells: usize) -> Result<Begun, NoPages> {
        let count = cells.div_ceil(PAGE_CELLS);
        assert!(self.held[slot] == 0 && count <= self.pages_per_slot, "reserve once, within a slot");
        let known = &tokens[..tokens.len().saturating_sub(1)];
        let whole = known.len() / PAGE_CELLS;
        let Self { tables, free_pages, free, tree, .. } = self;
        let table = &mut tables[slot * self.pages_per_slot..][..count];

        let (mut parent, mut shared, mut computed) = (NONE, 0, 0);
        while shared < whole
            && let Some(page) = tree.find(parent, of_page(tokens, shared))
        {
            tree.hold(page);
            table[shared] = page;
            if computed == shared * PAGE_CELLS {
                computed += tree.computed(page);
            }
            (parent, shared) = (page, shared + 1);
        }
        // Nothing comes after a page that is not wholly computed yet.
        let mut source = tree.nearest(parent, of_page(known, shared));
        if let Some((page, _)) = source {
            tree.hold(page);
        }
        let needed = count - shared;
        if needed > *free + tree.idle()
            && let Some((page, _)) = source.take()
        {
            // It may be the very page that is missing.
            tree.let_go(page);
        }
        if needed > *free + tree.idle() {
            let error = NoPages { needed, free: *free + tree.idle() };
            table[..shared].iter().rev().for_each(|page| {
                tree.let_go(*page);
            });
            return Err(error);
        }

        table[..shared].iter().for_each(|page| tree.credit(*page, PAGE_CELLS));
        while *free < needed {
            free_pages[*free] = tree.evict().expect("idle pages were counted");
            *free += 1;
        }
        *free -= needed;
        table[shared..].copy_from_slice(&free_pages[*free..*free + needed]);
        for (index, page) in table.iter().copied().enumerate().take(whole).skip(shared) {
            tree.insert(page, parent, of_page(tokens, index), 0);
            tree.hold(page);
            parent = page;
        }
        self.held[slot] = count;
        let copy = source.map(|(page, same)| {
            tree.credit(page, same);
            tree.let_go(page);
            computed += same;
            let to = table[shared];
            if shared < whole {
                tree.note_computed(to, same);
            }
            (page, to)
        });
        Ok(Begun { computed, copy })
    }

    /// Takes back the pages of `slot` and keeps what it computed: the keys and values of `text`, from its first cell on.
    pub fn release(&mut self, slot: usize, text: &[u32]) {
        let held = core::mem::take(&mut self.held[slot]);
        let Self { tables, free_pages, free, tree, .. } = self;
        let mut give_back = |page: u32| {
            free_pages[*free] = page;
            *free += 1;
        };
        let table = &tables[slot * self.pages_per_slot..][..held];
        // The page that the next one comes after, if that is wholly there.
        let mut parent = Some(NONE);
        for (index, page) in table.iter().copied().enumerate() {
            let tokens = of_page(text, index);
            if tree.has(page) {
                parent = (tree.computed(page) == PAGE_CELLS).then_some(page);
                continue;
            }
            let Some(after) = parent.filter(|_| !tokens.is_empty()) else {
                give_back(page);
                continue;
            };
            let is_whole = tokens.len() == PAGE_CELLS;
            if let Some(known) = tree.covering(after, tokens) {
                parent = (is_whole && tree.computed(known) == PAGE_CELLS).then_some(known);
                give_back(page);
                continue;
            }
            while let Some(less) = tree.outgrown(after, tokens) {
                tree.remove(less);
                give_back(less);
            }
            tree.insert(page, after, tokens, tokens.len());
            parent = is_whole.then_some(page);
        }
        // Those that were put there just now are held by nobody.
        for page in table.iter().rev().copied() {
            if tree.is_held(page) && tree.let_go(page) {
                give_back(page);
            }
        }
    }

    /// Whether a cell of text of `slot` is computed, or will be by the step at hand, on a page that is shared.
    pub fn is_computed(&self, slot: usize, cell: usize) -> bool {
        let page = self.page(slot, cell);
        self.tree.has(page) && self.tree.computed(page) > cell % PAGE_CELLS
    }

    /// The step at hand computes this cell of text of `slot`, and has computed those before it.
    pub fn note_computed(&mut self, slot: usize, cell: usize) {
        let page = self.page(slot, cell);
        if self.tree.has(page) {
            self.tree.note_computed(page, cell % PAGE_CELLS + 1);
        }
    }

    /// Forgets every page that nobody holds.
    pub fn forget(&mut self) {
        while let Some(page) = self.tree.evict() {
            self.free_pages[self.free] = page;
            self.free += 1;
        }
    }

    /// The pages of the longest beginning of `text` that is there, whole pages only.
    pub fn stored<'s>(&'s self, text: &'s [u32]) -> impl Iterator<Item = u32> + 's {
        let mut parent = NONE;
        text.chunks_exact(PAGE_CELLS).map_while(move |tokens| {
            let page = self.tree.find(parent, tokens)?;
            parent = page;
            (self.tree.computed(page) == PAGE_CELLS).then_some(page)
        })
    }

    /// A free page for page `index` of `text`, all of whose pages before are there; `None` if there is none, or nothing to
    /// be stored. It must be filled at once.
    pub fn restore(&mut self, text: &[u32], index: usize) -> Option<u32> {
        let parent = match index {
            0 => NONE,
            _ => self.stored(text).nth(index - 1)?,
        };
        let tokens = of_page(text, index);
        if self.free == 0 || tokens.len() < PAGE_CELLS || self.tree.covering(parent, tokens).is_some() {
            return None;
        }
        self.free -= 1;
        let page = self.free_pages[self.free];
        self.tree.insert(page, parent, tokens, PAGE_CELLS);
        Some(page)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use std::hash::{DefaultHasher, Hash, Hasher};

    const SLOTS: usize = 5;
    const PER_SLOT: usize = 6;

    fn shape(pages: usize) -> KvShape {
        let kv = super::super::KvType::F16;
        KvShape { layers: 1, kv_heads: 1, head_dim: 2, slots: SLOTS, pages_per_slot: PER_SLOT, pages, kv }
    }

    fn pages<R>(count: usize, test: impl FnOnce(Pages<'_>) -> R) -> R {
        let shape = shape(count);
        let (mut tables, mut nodes) = (vec![0; shape.table_words()], vec![Node::zeroed(); count]);
        test(Pages::new(&shape, &mut tables, &mut nodes))
    }

    /// What a cell holds: it depends on the text up to it.
    fn content(text: &[u32]) -> u64 {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }

    struct Sequence {
        text: Vec<u32>,
        cells: usize,
        prompt: usize,
        done: usize,
    }

    #[test]
    fn whatever_is_shared_is_the_cell_of_the_same_text_and_no_page_is_lost() {
        let mut seed = 20_261_122u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let (mut saved, mut refused) = (0, 0);
        pages(13, |mut pages| {
            let mut pool = vec![0u64; 13 * PAGE_CELLS];
            let mut live: Vec<Option<Sequence>> = (0..SLOTS).map(|_| None).collect();
            for round in 0..20_000 {
                let slot = random(SLOTS);
                let Some(sequence) = &mut live[slot] else {
                    // A few beginnings, and little to tell texts apart, so that much is shared.
                    let length = 1 + random(PER_SLOT * PAGE_CELLS - 1);
                    let (kind, turn) = (random(3) as u32, random(length));
                    let text: Vec<u32> =
                        (0..length).map(|i| if i < turn { kind } else { 7 + random(2) as u32 }).collect();
                    let prompt = 1 + random(length);
                    let room: usize = live.iter().flatten().map(|s| s.cells.div_ceil(PAGE_CELLS)).sum();
                    match pages.reserve(slot, &text[..prompt], length) {
                        Ok(Begun { computed, copy }) => {
                            if let Some((from, to)) = copy {
                                let from = from as usize * PAGE_CELLS;
                                pool.copy_within(from..from + PAGE_CELLS, to as usize * PAGE_CELLS);
                            }
                            assert!(computed < prompt, "the last token is run");
                            saved += computed;
                            live[slot] = Some(Sequence { text, cells: length, prompt, done: computed });
                        }
                        Err(NoPages { needed, free }) => {
                            refused += 1;
                            assert!(needed > free && free <= pages.free());
                            assert!(room + length.div_ceil(PAGE_CELLS) > 13, "round {round}: there is room");
                        }
                    }
                    continue;
                };
                if random(12) == 0 || sequence.done == sequence.cells {
                    pages.release(slot, &sequence.text[..sequence.done]);
                    live[slot] = None;
                    continue;
                }
                for _ in 0..random(40) {
                    let Sequence { text, cells, prompt, done } = sequence;
                    if done == cells {
                        break;
                    }
                    let (page, is_last) = (pages.page(slot, *done) as usize, *done + 1 == *prompt);
                    let place = &mut pool[page * PAGE_CELLS + *done % PAGE_CELLS];
                    if !is_last && *done < *prompt && pages.is_computed(slot, *done) {
                        saved += 1;
                    } else {
                        *place = content(&text[..=*done]);
                        pages.note_computed(slot, *done);
                    }
                    *done += 1;
                }
                for (slot, sequence) in live.iter().enumerate() {
                    let Some(Sequence { text, done, .. }) = sequence else { continue };
                    for cell in 0..*done {
                        let at = pages.page(slot, cell) as usize * PAGE_CELLS + cell % PAGE_CELLS;
                        assert_eq!(
                            pool[at],
                            content(&text[..=cell]),
                            "round {round}, slot {slot}, cell {cell}"
                        );
                    }
                }
            }
            for (slot, _) in live.iter().enumerate().filter(|(_, sequence)| sequence.is_some()) {
                pages.release(slot, &[]);
            }
            assert_eq!(pages.free(), 13, "all pages come back");
            pages.forget();
            assert_eq!((pages.free, pages.tree.idle()), (13, 0));
        });
        assert!(saved > 30_000 && refused > 100, "{saved} cells saved, {refused} refused");
    }

    /// Reserves, computes and releases a text.
    fn pass(pages: &mut Pages<'_>, text: &[u32]) -> usize {
        let begun = pages.reserve(0, text, text.len()).expect("there is room");
        (begun.computed..text.len()).for_each(|cell| pages.note_computed(0, cell));
        pages.release(0, text);
        begun.computed
    }

    #[test]
    fn what_saves_most_stays_longest_and_goes_when_its_use_ends() {
        pages(8, |mut pages| {
            let fixed = [1; 2 * PAGE_CELLS];
            let with = |message: u32| fixed.iter().copied().chain([message; 20]).collect::<Vec<_>>();
            assert_eq!(pass(&mut pages, &with(100)), 0);
            for message in 101..140 {
                assert_eq!(pass(&mut pages, &with(message)), 2 * PAGE_CELLS, "message {message}");
            }
            // Texts that come once push each other out.
            for stranger in 0..30 {
                pass(&mut pages, &[1000 + stranger; 3 * PAGE_CELLS]);
                assert_eq!(pages.stored(&fixed).count(), 2, "stranger {stranger}");
            }
            let gone = (0..1000).find(|stranger| {
                pass(&mut pages, &[2000 + stranger; 3 * PAGE_CELLS]);
                pages.stored(&fixed).count() == 0
            });
            assert!(gone.is_some(), "what nobody uses any more goes");
        });
    }

    #[test]
    fn pages_are_never_promised_twice_and_all_come_back() {
        pages(7, |mut pages| {
            pages.reserve(0, &[], 4 * PAGE_CELLS).unwrap();
            assert_eq!(pages.reserve(1, &[], 4 * PAGE_CELLS), Err(NoPages { needed: 4, free: 3 }));
            pages.reserve(1, &[], 2 * PAGE_CELLS + 1).unwrap();
            assert_eq!(pages.free(), 0);
            let of = |pages: &Pages<'_>, slot, count| {
                (0..count).map(|i| pages.page(slot, i * PAGE_CELLS)).collect::<Vec<_>>()
            };
            let mut taken = [of(&pages, 0, 4), of(&pages, 1, 3)].concat();
            taken.sort_unstable();
            assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6]);
            pages.release(0, &[]);
            pages.release(1, &[]);
            assert_eq!(pages.free(), 7);
        });
    }

    #[test]
    fn stored_pages_come_back_in_order_and_take_nobodys_place() {
        let text: Vec<u32> = (0..100).collect();
        pages(4, |mut pages| {
            assert_eq!(pages.restore(&text, 1), None, "the first page comes first");
            for index in 0..3 {
                assert!(pages.restore(&text, index).is_some());
                assert_eq!(pages.restore(&text, index), None, "once");
            }
            assert_eq!(pages.restore(&text, 3), None, "it is not whole");
            assert_eq!(pages.reserve(0, &text, 100).map(|begun| begun.computed), Ok(96));
            assert_eq!(pages.restore(&[5; 64], 0), None, "no page is free");
        });
    }
}
