//! Pages whose text is known, as a tree: a path from the root is a text, cut into pages, and a page's place in the tree says
//! which text its cells were computed after.
//!
//! A node *is* a page of the pool and carries its tokens. Two requests share a page only where parent and tokens are equal,
//! and so are all pages before it: texts are compared, never their hashes, so that nobody can get the cells of another text.
//! Children are looked through one after the other; a node has few, but for the one where a task's fixed part ends.
//!
//! A page that nobody holds stays for whoever comes with the same text, until its place is needed. What goes then is a leaf
//! of the least value: `floor + tokens + tokens saved so far`, where the floor rises to the value of what went last. A
//! text that is used again and again outlives any number of others that are used once, and goes in time when its use ends
//! (after GreedyDual-Size-Frequency: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency
//! Caching Policy", HP Labs 1998; here all pages have one size).

use bytemuck::{Pod, Zeroable};

use super::PAGE_CELLS;

/// No page: above the first page of a text, and at the end of a list.
pub(crate) const NONE: u32 = u32::MAX;

/// The most tokens of past use that count for a page, so that a favourite of old goes in bounded time.
const MOST_SAVED: u32 = 1 << 12;

/// What is known of one page.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Node {
    parent: u32,
    first_child: u32,
    next_sibling: u32,
    /// Sequences that hold it; counted in the tree only.
    users: u32,
    /// Tokens it stands for; 0 if it is not in the tree.
    len: u32,
    /// Of these, from the first on, those whose keys and values are there after the step at hand.
    computed: u32,
    /// Tokens that were not computed because of it.
    saved: u32,
    reserved: u32,
    /// What it was worth when it was last used.
    value: u64,
    tokens: [u32; PAGE_CELLS],
}

/// The tree over the pages of a pool.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: &'a mut [Node],
    /// First pages of texts.
    first_child: u32,
    /// Pages that nobody holds.
    idle: usize,
    /// Value of what went last.
    floor: u64,
}

/// Tokens at the start of both.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<'a> Tree<'a> {
    /// An empty tree.
    pub fn new(nodes: &'a mut [Node]) -> Self {
        nodes.fill(Node::zeroed());
        Tree { nodes, first_child: NONE, idle: 0, floor: 0 }
    }

    fn node(&self, page: u32) -> &Node {
        &self.nodes[page as usize]
    }

    fn node_mut(&mut self, page: u32) -> &mut Node {
        &mut self.nodes[page as usize]
    }

    /// Pages that nobody holds: any number of them can be taken, [`cheapest`](Self::cheapest) first, because who holds a
    /// page holds those above it as well.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Whether the page is in the tree.
    pub fn has(&self, page: u32) -> bool {
        self.node(page).len > 0
    }

    /// Whether somebody holds the page as a part of the tree.
    pub fn is_held(&self, page: u32) -> bool {
        self.node(page).users > 0
    }

    /// Cells of a page of the tree that are computed, from its first.
    pub fn computed(&self, page: u32) -> usize {
        self.node(page).computed as usize
    }

    /// `cells` cells of a page of the tree are computed now.
    pub fn note_computed(&mut self, page: u32, cells: usize) {
        let node = self.node_mut(page);
        debug_assert!(cells as u32 <= node.len, "a page stands for what it can hold");
        node.computed = node.computed.max(cells as u32);
    }

    fn children(&self, parent: u32) -> impl Iterator<Item = u32> + '_ {
        let mut next = if parent == NONE { self.first_child } else { self.node(parent).first_child };
        core::iter::from_fn(move || {
            let child = next;
            next = self.nodes.get(child as usize)?.next_sibling;
            Some(child)
        })
    }

    /// The page of these tokens, a whole page of them, after `parent`; perhaps still to be computed.
    pub fn find(&self, parent: u32, tokens: &[u32]) -> Option<u32> {
        self.children(parent).find(|child| {
            let node = self.node(*child);
            node.len as usize == PAGE_CELLS && node.tokens == *tokens
        })
    }

    /// The page after `parent` whose computed cells have the longest beginning in common with `tokens`, and how long that
    /// is; among equals the one that was of more use.
    pub fn nearest(&self, parent: u32, tokens: &[u32]) -> Option<(u32, usize)> {
        let shared = |child: u32| {
            let node = self.node(child);
            (child, common(&node.tokens[..node.computed as usize], tokens))
        };
        let best =
            self.children(parent).map(shared).max_by_key(|(child, cells)| (*cells, self.node(*child).saved));
        best.filter(|(_, cells)| *cells > 0)
    }

    /// A page after `parent` that stands for all of `tokens`.
    pub fn covering(&self, parent: u32, tokens: &[u32]) -> Option<u32> {
        self.children(parent).find(|child| {
            let node = self.node(*child);
            node.tokens[..node.len as usize].starts_with(tokens)
        })
    }

    /// A page that nobody holds and that stands for a beginning of `tokens` only.
    pub fn outgrown(&self, parent: u32, tokens: &[u32]) -> Option<u32> {
        self.children(parent).find(|child| {
            let node = self.node(*child);
            node.users == 0
                && node.len < tokens.len() as u32
                && tokens.starts_with(&node.tokens[..node.len as usize])
        })
    }

    /// Puts a page into the tree, which nobody holds yet, for `tokens` after `parent`, the first `computed` of them computed.
    pub fn insert(&mut self, page: u32, parent: u32, tokens: &[u32], computed: usize) {
        let next_sibling = if parent == NONE { self.first_child } else { self.node(parent).first_child };
        let value = self.floor + tokens.len() as u64;
        let node = self.node_mut(page);
        debug_assert_eq!(node.len, 0, "page {page} is in the tree already");
        *node = Node {
            parent,
            first_child: NONE,
            next_sibling,
            users: 0,
            len: tokens.len() as u32,
            computed: computed as u32,
            saved: 0,
            reserved: 0,
            value,
            tokens: [0; PAGE_CELLS],
        };
        node.tokens[..tokens.len()].copy_from_slice(tokens);
        match parent {
            NONE => self.first_child = page,
            parent => self.node_mut(parent).first_child = page,
        }
        self.idle += 1;
    }

    /// Takes a leaf that nobody holds out of the tree.
    pub fn remove(&mut self, page: u32) {
        let Node { parent, next_sibling, users, first_child, .. } = *self.node(page);
        debug_assert!(users == 0 && first_child == NONE, "page {page} is in use");
        let before = self.children(parent).find(|child| self.node(*child).next_sibling == page);
        match (before, parent) {
            (Some(before), _) => self.node_mut(before).next_sibling = next_sibling,
            (None, NONE) => self.first_child = next_sibling,
            (None, parent) => self.node_mut(parent).first_child = next_sibling,
        }
        self.node_mut(page).len = 0;
        self.idle -= 1;
    }

    /// A sequence holds the page from now on.
    pub fn hold(&mut self, page: u32) {
        let node = self.node_mut(page);
        node.users += 1;
        let was_idle = node.users == 1;
        self.idle -= usize::from(was_idle);
    }

    /// A sequence holds it no more. Returns whether the page left the tree, since nothing of it is computed.
    ///
    /// Pages of a text are to be let go from its end on, so that what is not computed is a leaf when its turn comes.
    pub fn let_go(&mut self, page: u32) -> bool {
        let node = self.node_mut(page);
        node.users -= 1;
        if node.users > 0 {
            return false;
        }
        node.len = node.computed;
        self.idle += 1;
        if self.node(page).computed == 0 {
            self.remove(page);
            return true;
        }
        false
    }

    /// `tokens` tokens need not be computed because of this page.
    pub fn credit(&mut self, page: u32, tokens: usize) {
        let floor = self.floor;
        let node = self.node_mut(page);
        node.saved = node.saved.saturating_add(tokens as u32).min(MOST_SAVED);
        node.value = floor + u64::from(node.len) + u64::from(node.saved);
    }

    /// Takes the page out of the tree that is worth least of those that nobody holds and that no other comes after.
    pub fn evict(&mut self) -> Option<u32> {
        let is_loose = |node: &Node| node.len > 0 && node.users == 0 && node.first_child == NONE;
        let loose = self.nodes.iter().enumerate().filter(|(_, node)| is_loose(node));
        let page = loose.min_by_key(|(_, node)| node.value)?.0 as u32;
        self.floor = self.floor.max(self.node(page).value);
        self.remove(page);
        Some(page)
    }
}
