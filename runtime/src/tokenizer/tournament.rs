//! Which of many pairs is to be merged next, in O(log n) after each merge.

/// The rank of a pair that cannot be merged, and the position that is none.
pub(super) const NONE: u32 = u32::MAX;

/// A tournament over positions 0..n: each inner node (1..n) holds the better of its two children, leaf i is node n + i.
/// The shape is not sorted for every n, so ties are settled by position and not by side.
pub(super) struct Tournament<'a> {
    nodes: &'a mut [u32],
}

impl<'a> Tournament<'a> {
    /// Over `rank`, in memory of as many nodes.
    pub fn new(nodes: &'a mut [u32], rank: &[u32]) -> Self {
        let mut this = Self { nodes };
        for node in (1..this.nodes.len()).rev() {
            this.play(node, rank);
        }
        this
    }

    fn at(&self, node: usize) -> usize {
        let n = self.nodes.len();
        if node >= n { node - n } else { self.nodes[node] as usize }
    }

    fn play(&mut self, node: usize, rank: &[u32]) {
        let (a, b) = (self.at(2 * node), self.at(2 * node + 1));
        self.nodes[node] = if (rank[a], a) < (rank[b], b) { a } else { b } as u32;
    }

    /// Plays all matches of a position again after its rank changed.
    pub fn update(&mut self, position: usize, rank: &[u32]) {
        let mut node = (position + self.nodes.len()) / 2;
        while node > 0 {
            self.play(node, rank);
            node /= 2;
        }
    }

    /// The position of lowest rank, leftmost on ties.
    pub fn winner(&self) -> usize {
        self.at(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tournament_agrees_with_a_scan() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 24
        };
        for n in 1..70 {
            let mut rank = [0; 70];
            rank[..n].fill_with(|| random() % 8);
            let mut nodes = [0; 70];
            let mut best = Tournament::new(&mut nodes[..n], &rank);
            for _ in 0..200 {
                let scan = (0..n).min_by_key(|&i| rank[i]).unwrap();
                assert_eq!(best.winner(), scan, "{n}: {:?}", &rank[..n]);
                let at = random() as usize % n;
                rank[at] = random() % 8;
                best.update(at, &rank[..n]);
            }
        }
    }
}
