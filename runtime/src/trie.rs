//! A label set as a tree of tokens, scored exactly without generating any.
//!
//! Every label, followed by the model's end token, is a path from the root. The probability of a label is that of the
//! model writing it when, at each step, only tokens that keep some label possible are allowed: the product, over the
//! nodes of its path, of a softmax over that node's children. The probabilities of a label set add up to 1.
//!
//! Only nodes at or above a branch need the model at all: where a node has one child, the child's probability is 1.
//! Labels that differ in their first token cost no token beyond the prompt.

use bytemuck::{Pod, Zeroable};
use tern_kernels::exp::exp;

/// The most tokens of one label, the end token included.
pub const MAX_DEPTH: usize = 64;

/// No node.
pub const NONE: u32 = u32::MAX;

/// One token of one or more labels.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Node {
    /// The token; of the root, nothing.
    pub token: u32,
    /// The node before it.
    pub parent: u32,
    /// Tokens before it, the root having 0.
    pub depth: u32,
    first_child: u32,
    next_sibling: u32,
    /// The label that ends here, or [`NONE`].
    label: u32,
    /// 1 if the model must be run on this node.
    runs: u32,
    /// Probability of reaching it.
    p: f32,
}

/// Why a label set cannot be scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// There is nothing to choose between.
    TooFew {
        /// Labels found: 0 or 1.
        found: usize,
    },
    /// More labels than memory was planned for.
    TooMany {
        /// Labels found.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A label without a token.
    Empty {
        /// Its place in the list.
        index: usize,
    },
    /// Two labels are the same.
    Duplicate {
        /// Place of the first.
        first: usize,
        /// Place of the second.
        second: usize,
    },
    /// A label longer than [`MAX_DEPTH`].
    TooLong {
        /// Its place in the list.
        index: usize,
        /// Its length in tokens, the end token included.
        tokens: usize,
    },
    /// A label with more text than memory was planned for.
    TooManyBytes {
        /// Its place in the list.
        index: usize,
        /// Its length in bytes.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// All labels together need more tree than memory was planned for.
    TooManyTokens {
        /// The label that did not fit.
        index: usize,
        /// Tokens that the tree can hold.
        most: usize,
    },
}

impl core::fmt::Display for LabelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LabelError::TooFew { found: 0 } => write!(f, "no labels; give at least two to choose between"),
            LabelError::TooFew { .. } => write!(f, "one label only; give at least two to choose between"),
            LabelError::TooMany { found, most } => {
                write!(f, "{found} labels; at most {most} are taken; ask about groups of labels first")
            }
            LabelError::Empty { index } => write!(f, "label {index} is empty"),
            LabelError::Duplicate { first, second } => write!(f, "labels {first} and {second} are the same"),
            LabelError::TooLong { index, tokens } => {
                write!(f, "label {index} has {tokens} tokens; at most {MAX_DEPTH} are taken")
            }
            LabelError::TooManyBytes { index, bytes, most } => {
                write!(f, "label {index} has {bytes} bytes; at most {most} are taken; shorten it")
            }
            LabelError::TooManyTokens { index, most } => {
                write!(
                    f,
                    "the labels up to {index} need more than {most} tokens; use fewer or shorter labels"
                )
            }
        }
    }
}

impl core::error::Error for LabelError {}

/// A label set in the making, then its scores.
#[derive(Debug)]
pub struct Trie<'a> {
    nodes: &'a mut [Node],
    len: usize,
    labels: usize,
}

impl<'a> Trie<'a> {
    /// An empty tree over `nodes`, which bounds the tokens of all labels together.
    pub fn new(nodes: &'a mut [Node]) -> Self {
        Trie { nodes, len: 0, labels: 0 }
    }

    /// Forgets all labels.
    pub fn clear(&mut self) {
        (self.len, self.labels) = (0, 0);
    }

    /// Labels inserted.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Appends a node and links it in front of its parent's children.
    fn push(&mut self, token: u32, parent: u32, depth: u32) -> Result<u32, LabelError> {
        let index = self.len as u32;
        let most = self.nodes.len();
        let full = LabelError::TooManyTokens { index: self.labels, most };
        let sibling = if parent == NONE { NONE } else { self.nodes[parent as usize].first_child };
        let node = self.nodes.get_mut(self.len).ok_or(full)?;
        *node = Node {
            token,
            parent,
            depth,
            first_child: NONE,
            next_sibling: sibling,
            label: NONE,
            runs: 0,
            p: 0.0,
        };
        self.len += 1;
        if parent != NONE {
            self.nodes[parent as usize].first_child = index;
        }
        Ok(index)
    }

    /// Adds the next label: `tokens`, then `end`.
    ///
    /// # Errors
    /// If it is empty, too long, a duplicate, or the tree is full.
    pub fn insert(&mut self, tokens: &[u32], end: u32) -> Result<(), LabelError> {
        let index = self.labels;
        if tokens.is_empty() {
            return Err(LabelError::Empty { index });
        }
        if tokens.len() + 1 > MAX_DEPTH {
            return Err(LabelError::TooLong { index, tokens: tokens.len() + 1 });
        }
        if self.len == 0 {
            self.push(NONE, NONE, 0)?;
        }
        let mut at = 0;
        for (depth, token) in tokens.iter().chain([&end]).enumerate() {
            let known = self.children(at).find(|child| self.nodes[*child as usize].token == *token);
            at = match known {
                Some(child) => child,
                None => self.push(*token, at, depth as u32 + 1)?,
            };
        }
        let leaf = &mut self.nodes[at as usize];
        if leaf.label != NONE {
            return Err(LabelError::Duplicate { first: leaf.label as usize, second: index });
        }
        leaf.label = index as u32;
        self.labels += 1;
        Ok(())
    }

    /// Ends the making: finds the nodes that the model must be run on.
    ///
    /// # Errors
    /// If there are fewer than two labels.
    pub fn finish(&mut self) -> Result<(), LabelError> {
        if self.labels < 2 {
            return Err(LabelError::TooFew { found: self.labels });
        }
        self.nodes[0].p = 1.0;
        // Children come after their parents, so one pass from the end sees every child first.
        for at in (0..self.len as u32).rev() {
            let branches = self.children(at).nth(1).is_some();
            let below = self.children(at).any(|child| self.nodes[child as usize].runs == 1);
            self.nodes[at as usize].runs = u32::from(branches || below);
        }
        Ok(())
    }

    /// The node at `index`.
    pub fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    /// Nodes the model must be run on after the prompt, parents before children; the root is not among them, because
    /// the prompt's last token stands for it.
    pub fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        (1..self.len as u32).filter(|at| self.nodes[*at as usize].runs == 1)
    }

    /// Whether the children of `index` must be weighed against each other.
    pub fn branches(&self, index: u32) -> bool {
        self.children(index).nth(1).is_some()
    }

    fn children(&self, index: u32) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.nodes[index as usize].first_child;
        core::iter::from_fn(move || {
            let child = next;
            next = self.nodes.get(child as usize)?.next_sibling;
            Some(child)
        })
    }

    /// Shares the probability of `index` among its children by the softmax of `logit(token)`.
    pub fn share(&mut self, index: u32, mut logit: impl FnMut(u32) -> f32) {
        let mut best = f32::NEG_INFINITY;
        let mut at = self.nodes[index as usize].first_child;
        while at != NONE {
            let child = &mut self.nodes[at as usize];
            child.p = logit(child.token);
            best = if child.p > best { child.p } else { best };
            at = child.next_sibling;
        }
        let mut total = 0.0;
        at = self.nodes[index as usize].first_child;
        while at != NONE {
            let child = &mut self.nodes[at as usize];
            let e = exp(child.p - best);
            child.p = if e.is_nan() { 0.0 } else { e };
            total += child.p;
            at = child.next_sibling;
        }
        let here = self.nodes[index as usize].p;
        at = self.nodes[index as usize].first_child;
        while at != NONE {
            let child = &mut self.nodes[at as usize];
            child.p = if total > 0.0 { here * (child.p / total) } else { 0.0 };
            at = child.next_sibling;
        }
    }

    /// Hands single children their parent's probability and writes each label's into `probabilities: [labels]`.
    /// Every branching node must have been [`share`](Self::share)d, parents first.
    ///
    /// # Panics
    /// If the length is not the number of labels.
    pub fn probabilities(&mut self, probabilities: &mut [f32]) {
        assert_eq!(probabilities.len(), self.labels, "one probability a label");
        for at in 1..self.len {
            let Node { parent, label, .. } = self.nodes[at];
            self.pass_on(parent);
            if label != NONE {
                probabilities[label as usize] = self.nodes[at].p;
            }
        }
    }

    /// Hands an only child its parent's probability.
    pub fn pass_on(&mut self, index: u32) {
        if !self.branches(index) {
            let Node { first_child, p, .. } = self.nodes[index as usize];
            if first_child != NONE {
                self.nodes[first_child as usize].p = p;
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    const END: u32 = 1;

    /// Scores a label set with a made-up model whose logits depend on the path.
    fn scores(labels: &[&[u32]]) -> (Vec<f32>, usize) {
        let mut nodes = vec![Node::zeroed(); 100];
        let mut trie = Trie::new(&mut nodes);
        labels.iter().for_each(|label| trie.insert(label, END).unwrap());
        trie.finish().unwrap();
        let rows: Vec<u32> = trie.rows().collect();
        for at in [0].iter().chain(&rows) {
            let path = path(&trie, *at);
            if trie.branches(*at) {
                trie.share(*at, |token| logit(&path, token));
            } else {
                trie.pass_on(*at);
            }
        }
        let mut p = vec![0.0; labels.len()];
        trie.probabilities(&mut p);
        (p, rows.len())
    }

    fn path(trie: &Trie<'_>, mut at: u32) -> Vec<u32> {
        let mut path = vec![];
        while at != 0 {
            path.insert(0, trie.node(at).token);
            at = trie.node(at).parent;
        }
        path
    }

    fn logit(path: &[u32], token: u32) -> f32 {
        let mixed = path.iter().chain([&token]).fold(17u32, |h, t| h.wrapping_mul(31).wrapping_add(*t));
        (mixed % 97) as f32 / 20.0
    }

    /// The definition, label by label.
    fn by_definition(labels: &[&[u32]]) -> Vec<f64> {
        let whole = |label: &[u32]| label.iter().copied().chain([END]).collect::<Vec<_>>();
        let all: Vec<Vec<u32>> = labels.iter().map(|l| whole(l)).collect();
        let p = |label: &Vec<u32>| {
            (0..label.len())
                .map(|i| {
                    let mut next: Vec<u32> =
                        all.iter().filter(|l| l.starts_with(&label[..i])).map(|l| l[i]).collect();
                    next.sort_unstable();
                    next.dedup();
                    let e = |t: u32| f64::from(logit(&label[..i], t)).exp();
                    e(label[i]) / next.iter().map(|t| e(*t)).sum::<f64>()
                })
                .product()
        };
        all.iter().map(p).collect()
    }

    #[test]
    fn probabilities_are_those_of_the_constrained_model() {
        let sets: [&[&[u32]]; 4] = [
            &[&[2], &[3], &[4]],
            &[&[2, 3], &[2, 4], &[5]],
            &[&[2], &[2, 3], &[2, 3, 4], &[6, 7, 8, 9]],
            &[&[9, 9, 9, 2], &[9, 9, 9, 3], &[9, 9, 9, 4, 5], &[9, 9, 9, 4, 6]],
        ];
        for labels in sets {
            let (found, _) = scores(labels);
            for (p, expected) in found.iter().zip(by_definition(labels)) {
                assert!((f64::from(*p) - expected).abs() < 1e-6, "{labels:?}: {found:?}");
            }
            assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn only_nodes_at_or_above_a_branch_are_run() {
        assert_eq!(scores(&[&[2, 8, 9], &[3, 8], &[4]]).1, 0);
        assert_eq!(scores(&[&[2, 3, 8], &[2, 4], &[5, 5]]).1, 1);
        assert_eq!(scores(&[&[9, 9, 9, 2], &[9, 9, 9, 3]]).1, 3);
    }

    #[test]
    fn unusable_label_sets_are_refused() {
        let mut nodes = vec![Node::zeroed(); 8];
        let mut trie = Trie::new(&mut nodes);
        assert_eq!(trie.finish(), Err(LabelError::TooFew { found: 0 }));
        assert_eq!(trie.insert(&[], END), Err(LabelError::Empty { index: 0 }));
        trie.insert(&[2, 3], END).unwrap();
        assert_eq!(trie.finish(), Err(LabelError::TooFew { found: 1 }));
        assert_eq!(trie.insert(&[2, 3], END), Err(LabelError::Duplicate { first: 0, second: 1 }));
        assert_eq!(trie.insert(&[5; 64], END), Err(LabelError::TooLong { index: 1, tokens: 65 }));
        assert_eq!(trie.insert(&[5; 9], END), Err(LabelError::TooManyTokens { index: 1, most: 8 }));
    }
}
