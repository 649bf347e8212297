//! From logits to the next token.
//!
//! The order is the field's usual one: repetition penalty, top-k, temperature, top-p, min-p, then one draw. A
//! temperature of 0 is greedy: the highest logit after the penalty, the lowest id on a tie. Nothing sorts the whole
//! vocabulary: candidates are partitioned first and only the survivors are put in order.

use bytemuck::{Pod, Zeroable};

/// How to choose among tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0 chooses greedily.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest tokens whose probabilities reach `top_p` together; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the last `repeat_window` (arXiv 1909.05858,
    /// section 4.1); 1 does nothing.
    pub repetition_penalty: f32,
    /// Tokens that the penalty looks back on.
    pub repeat_window: usize,
    /// Start of the random sequence; the same seed, prompt and settings give the same text.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy, which is also what the values of an industrial summary want.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

/// A setting outside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingError {
    /// The setting.
    pub name: &'static str,
    /// What it was.
    pub found: f32,
    /// What it may be.
    pub expected: &'static str,
}

impl core::fmt::Display for SamplingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} is {}; it must be {}", self.name, self.found, self.expected)
    }
}

impl core::error::Error for SamplingError {}

impl Sampling {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is outside its range, NaN included.
    pub fn check(&self) -> Result<(), SamplingError> {
        let checks = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "0 to 100"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..1.0).contains(&self.min_p), "at least 0 and below 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                (0.1..=10.0).contains(&self.repetition_penalty),
                "0.1 to 10",
            ),
        ];
        match checks.into_iter().find(|(_, _, ok, _)| !ok) {
            Some((name, found, _, expected)) => Err(SamplingError { name, found, expected }),
            None => Ok(()),
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): one 64-bit state, good enough to draw tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng(u64);

impl Rng {
    /// A generator started at `seed`.
    pub const fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A value in [0, 1) with 24 random bits.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 24) as f32
    }
}

/// A token and its score, first its logit and later its probability.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Logit, or probability after the softmax.
    pub score: f32,
}

/// Higher scores first, lower ids first on a tie; NaN last.
fn better(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    let key = |c: &Candidate| if c.score.is_nan() { f32::NEG_INFINITY } else { c.score };
    key(b).total_cmp(&key(a)).then(a.id.cmp(&b.id))
}

/// Chooses the next token.
///
/// `logits: [vocab]` is changed by the repetition penalty; `history` is the sequence so far; `candidates: [vocab]` is
/// working memory.
///
/// # Panics
/// If `logits` is empty or `candidates` is shorter.
pub fn sample(
    sampling: &Sampling,
    rng: &mut Rng,
    logits: &mut [f32],
    history: &[u32],
    candidates: &mut [Candidate],
) -> u32 {
    penalize(sampling, logits, history);
    if sampling.temperature == 0.0 {
        return argmax(logits);
    }
    let mut kept = &mut candidates[..logits.len()];
    for (id, (candidate, logit)) in kept.iter_mut().zip(logits.iter()).enumerate() {
        *candidate = Candidate { id: id as u32, score: *logit };
    }
    if (1..kept.len()).contains(&sampling.top_k) {
        kept.select_nth_unstable_by(sampling.top_k - 1, better);
        kept = &mut kept[..sampling.top_k];
    }
    let total = softmax(kept, sampling.temperature);
    let kept = if sampling.top_p < 1.0 { nucleus(kept, sampling.top_p * total) } else { kept };
    let best = kept.iter().fold(0.0f32, |best, c| best.max(c.score));
    draw(kept, sampling.min_p * best, rng)
}

/// The id with the highest logit, the lowest on a tie; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (id as u32, *logit);
        }
    }
    best.0
}

/// Makes recently seen tokens less likely, each once.
fn penalize(sampling: &Sampling, logits: &mut [f32], history: &[u32]) {
    if sampling.repetition_penalty == 1.0 {
        return;
    }
    let recent = &history[history.len().saturating_sub(sampling.repeat_window)..];
    for (i, id) in recent.iter().enumerate() {
        if recent[..i].contains(id) {
            continue;
        }
        if let Some(logit) = logits.get_mut(*id as usize) {
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Turns logits into unnormalised probabilities, the best being 1; returns their sum.
fn softmax(kept: &mut [Candidate], temperature: f32) -> f32 {
    let best = kept.iter().fold(f32::NEG_INFINITY, |best, c| if c.score > best { c.score } else { best });
    let mut total = 0.0;
    for candidate in kept {
        let p = tern_kernels::exp::exp((candidate.score - best) / temperature);
        candidate.score = if p.is_nan() { 0.0 } else { p };
        total += candidate.score;
    }
    total
}

/// The fewest best candidates whose scores reach `mass` together. Orders growing prefixes, not the whole.
fn nucleus(kept: &mut [Candidate], mass: f32) -> &mut [Candidate] {
    let mut ordered = 0;
    let mut reached = 0.0;
    while ordered < kept.len() {
        let rest = &mut kept[ordered..];
        let take = (ordered.max(64) * 2).min(rest.len());
        if take < rest.len() {
            rest.select_nth_unstable_by(take - 1, better);
        }
        rest[..take].sort_unstable_by(better);
        for (i, candidate) in rest[..take].iter().enumerate() {
            reached += candidate.score;
            if reached >= mass {
                return &mut kept[..ordered + i + 1];
            }
        }
        ordered += take;
    }
    kept
}

/// Draws one of the candidates that score at least `floor`, in proportion to their scores.
fn draw(kept: &[Candidate], floor: f32, rng: &mut Rng) -> u32 {
    let allowed = || kept.iter().filter(|c| c.score >= floor && c.score > 0.0);
    let total: f32 = allowed().map(|c| c.score).sum();
    let mut left = rng.next_f32() * total;
    let mut last = kept[0].id;
    for candidate in allowed() {
        last = candidate.id;
        left -= candidate.score;
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// Draws `n` times and counts each id.
    fn counts(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut rng = Rng::new(sampling.seed);
        let mut candidates = vec![Candidate { id: 0, score: 0.0 }; logits.len()];
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sample(&sampling, &mut rng, &mut logits.to_vec(), &[], &mut candidates) as usize] += 1;
        }
        counts
    }

    /// 1 plus the logarithms of 0.15, 0.5, 0.1 and 0.25.
    const LOGITS: [f32; 4] = [-0.8971, 0.3069, -1.3026, -0.3863];

    #[test]
    fn greedy_takes_the_best_and_the_first_of_equals() {
        let greedy = Sampling::default();
        assert_eq!(counts(greedy, &LOGITS, 3), [0, 3, 0, 0]);
        assert_eq!(argmax(&[1.0, 3.0, 3.0, f32::NAN]), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let drawn = counts(Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }, &LOGITS, 20_000);
        for (count, p) in drawn.iter().zip([0.15, 0.5, 0.1, 0.25]) {
            let deviation = (*count as f64 - 20_000.0 * p).abs() / (20_000.0f64 * p * (1.0 - p)).sqrt();
            assert!(deviation < 4.0, "{drawn:?}: {deviation} standard deviations off {p}");
        }
    }

    #[test]
    fn each_filter_removes_what_it_says() {
        let base = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
        let support = |s| counts(s, &LOGITS, 4000).iter().map(|c| (*c > 0) as usize).collect::<Vec<_>>();
        assert_eq!(support(base), [1, 1, 1, 1]);
        assert_eq!(support(Sampling { top_k: 2, ..base }), [0, 1, 0, 1]);
        assert_eq!(support(Sampling { top_p: 0.7, ..base }), [0, 1, 0, 1]);
        assert_eq!(support(Sampling { top_p: 0.8, ..base }), [1, 1, 0, 1]);
        assert_eq!(support(Sampling { min_p: 0.29, ..base }), [1, 1, 0, 1]);
        assert_eq!(support(Sampling { temperature: 0.01, ..base }), [0, 1, 0, 0]);
    }

    #[test]
    fn a_nucleus_is_the_same_as_a_full_sort_gives() {
        let mut rng = Rng::new(11);
        for _ in 0..200 {
            let n = 1 + (rng.next_u64() % 700) as usize;
            let all: Vec<_> = (0..n)
                .map(|id| Candidate { id: id as u32, score: (rng.next_f32() * 40.0).floor() })
                .collect();
            let mass = rng.next_f32() * all.iter().map(|c| c.score).sum::<f32>();
            let mut sorted = all.clone();
            sorted.sort_by(better);
            let mut reached = 0.0;
            let end = sorted.iter().position(|c| {
                reached += c.score;
                reached >= mass
            });
            let mut kept = all.clone();
            assert_eq!(nucleus(&mut kept, mass), &sorted[..end.map_or(n, |end| end + 1)]);
        }
    }

    #[test]
    fn repeated_tokens_are_penalised_once_each() {
        let sampling = Sampling { repetition_penalty: 2.0, repeat_window: 3, ..Sampling::default() };
        let mut logits = [4.0, -1.0, 4.0, 3.0];
        penalize(&sampling, &mut logits, &[2, 0, 1, 0]);
        assert_eq!(logits, [2.0, -2.0, 4.0, 3.0]);
    }

    #[test]
    fn the_same_seed_gives_the_same_draws() {
        let sampling = Sampling { temperature: 2.0, seed: 5, ..Sampling::default() };
        assert_eq!(counts(sampling, &LOGITS, 500), counts(sampling, &LOGITS, 500));
        assert_ne!(counts(sampling, &LOGITS, 500), counts(Sampling { seed: 6, ..sampling }, &LOGITS, 500));
    }

    #[test]
    fn noise_in_the_logits_still_gives_a_token() {
        let sampling = Sampling { temperature: 1.0, top_p: 0.9, min_p: 0.1, ..Sampling::default() };
        for logits in [[f32::NAN; 4], [f32::NEG_INFINITY; 4], [f32::INFINITY, 0.0, f32::NAN, 1.0]] {
            counts(sampling, &logits, 10);
        }
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        let bad = Sampling { top_p: f32::NAN, ..Sampling::default() };
        assert_eq!(bad.check().unwrap_err().name, "top_p");
        let message = Sampling { temperature: -1.0, ..Sampling::default() }.check().unwrap_err();
        assert_eq!(std::format!("{message}"), "temperature is -1; it must be 0 to 100");
        Sampling::default().check().unwrap();
    }
}
