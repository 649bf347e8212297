//! How far one way of computing the next token's probabilities is from another: what it costs to compute with less.

use serde::Serialize;

/// Sums over positions of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    positions: u64,
    same_best: u64,
    kl: f64,
    most_kl: f64,
    /// Positions whose next token is known, and how surprising it was to both.
    followed: u64,
    surprise: [f64; 2],
}

/// What the sums come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Positions compared.
    pub positions: u64,
    /// Share of them in which both have the same best token.
    pub top_1: f64,
    /// Mean of `sum p ln(p / q)`, with `p` of the reference, in nats.
    pub mean_kl: f64,
    /// The largest at one position.
    pub most_kl: f64,
    /// Perplexity of the text to the reference.
    pub reference_perplexity: f64,
    /// And to the other.
    pub perplexity: f64,
}

/// Natural logarithms of the probabilities that `logits` stand for.
fn log_softmax(logits: &[f32]) -> impl Fn(usize) -> f64 + '_ {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let total = f64::from(most) + sum.ln();
    move |at| f64::from(logits[at]) - total
}

/// The place of the highest, the first of equals.
fn best(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

impl Divergence {
    /// Adds a position: logits `[vocab]` of the reference and of the other, and the token that comes next, if one does.
    pub fn add(&mut self, reference: &[f32], other: &[f32], next: Option<u32>) {
        let (p, q) = (log_softmax(reference), log_softmax(other));
        // Rounding can make a sum of nothing a little less than nothing.
        let kl = (0..reference.len()).map(|at| p(at).exp() * (p(at) - q(at))).sum::<f64>().max(0.0);
        self.positions += 1;
        self.same_best += u64::from(best(reference) == best(other));
        self.kl += kl;
        self.most_kl = self.most_kl.max(kl);
        if let Some(next) = next.map(|next| next as usize).filter(|next| *next < reference.len()) {
            self.followed += 1;
            self.surprise = [self.surprise[0] - p(next), self.surprise[1] - q(next)];
        }
    }

    /// What it comes to so far; not numbers where there is nothing.
    pub fn figures(&self) -> Figures {
        let mean = |sum: f64, count: u64| sum / count as f64;
        Figures {
            positions: self.positions,
            top_1: mean(self.same_best as f64, self.positions),
            mean_kl: mean(self.kl, self.positions),
            most_kl: self.most_kl,
            reference_perplexity: mean(self.surprise[0], self.followed).exp(),
            perplexity: mean(self.surprise[1], self.followed).exp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_are_those_worked_out_by_hand() {
        let mut sum = Divergence::default();
        // Halves against a quarter and three quarters, and the same twice.
        let (half, skew) = ([0.0f32, 0.0], [0.0f32, 3.0f32.ln()]);
        sum.add(&half, &skew, Some(1));
        sum.add(&skew, &skew, Some(0));
        let found = sum.figures();
        let kl = 0.5 * (2.0f64).ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert_eq!((found.positions, found.top_1), (2, 0.5));
        assert!((found.mean_kl - kl / 2.0).abs() < 1e-7 && (found.most_kl - kl).abs() < 1e-7, "{found:?}");
        assert!((found.reference_perplexity - 8.0f64.sqrt()).abs() < 1e-6, "{found:?}");
        assert!((found.perplexity - (16.0f64 / 3.0).sqrt()).abs() < 1e-6, "{found:?}");
    }
}
