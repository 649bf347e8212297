//! From logits to the next token.
//!
//! The order is the field's usual one: repetition penalty, top-k, temperature, top-p, min-p, then one draw. A
//! temperature of 0 is greedy: the highest logit after the penalty, the lowest id on a tie. Nothing sorts the whole
//! vocabulary: [`Sampling::need`] says which tokens can matter, those are picked out, and only they are put in order. A
//! choice depends on those alone, so a head that computes no others gives the same one ([`choose`]).

use bytemuck::{Pod, Zeroable};
use tern_kernels::KernelSet;
use tern_kernels::lanes::{LANES, fold};

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
pub(crate) fn better(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    // Adding 0 makes one zero of two.
    let key = |c: &Candidate| if c.score.is_nan() { f32::NEG_INFINITY } else { c.score + 0.0 };
    key(b).total_cmp(&key(a)).then(a.id.cmp(&b.id))
}

/// What a choice depends on: tokens that cannot matter need no exact logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Need {
    /// The highest logit.
    Best,
    /// The highest logits, so many of them.
    Top(usize),
    /// Logits at most this far below the highest.
    Within(f32),
    /// Every logit.
    All,
}

impl Sampling {
    /// What choosing among `vocab` tokens depends on.
    pub fn need(&self, vocab: usize) -> Need {
        if self.temperature == 0.0 {
            Need::Best
        } else if (1..vocab).contains(&self.top_k) {
            Need::Top(self.top_k)
        } else if self.min_p > 0.0 && self.top_p == 1.0 {
            // A little further down than the definition, which `choose` applies to what is left.
            let below = -libm::logf(self.min_p) * self.temperature;
            Need::Within(below * 1.0001 + 1e-4 * self.temperature)
        } else {
            Need::All
        }
    }
}

/// Chooses the next token from all logits.
///
/// `logits: [vocab]` is used up; `history` is the sequence so far; `candidates: [vocab]` is working memory.
///
/// # Panics
/// If `logits` is empty or `candidates` is shorter.
pub fn sample(
    set: &KernelSet,
    sampling: &Sampling,
    rng: &mut Rng,
    logits: &mut [f32],
    history: &[u32],
    candidates: &mut [Candidate],
) -> u32 {
    let candidates = &mut candidates[..logits.len()];
    for at in 0..recent(sampling, history, candidates) {
        let logit = &mut logits[candidates[at].id as usize];
        *logit = penalized(sampling, *logit);
    }
    let kept = match sampling.need(logits.len()) {
        Need::Best => return argmax(logits),
        Need::Top(k) => top(logits, k, candidates),
        Need::Within(below) => within(logits, below, candidates),
        Need::All => return sample_all(set, sampling, rng, logits, candidates),
    };
    choose(set, sampling, rng, &mut candidates[..kept], logits)
}

/// Chooses the next token from `kept`, which holds all that [`Sampling::need`] asks for and perhaps more, penalties
/// applied; `scratch` is as long. The same tokens and logits in another order or company give the same choice.
pub fn choose(
    set: &KernelSet,
    sampling: &Sampling,
    rng: &mut Rng,
    kept: &mut [Candidate],
    scratch: &mut [f32],
) -> u32 {
    let Some(first) = best(kept) else { return 0 };
    if sampling.temperature == 0.0 {
        return first.id;
    }
    let mut kept = kept;
    if (1..kept.len()).contains(&sampling.top_k) {
        kept.select_nth_unstable_by(sampling.top_k - 1, better);
        kept = &mut kept[..sampling.top_k];
    }
    // In order, so that sums are the same whoever found the candidates; those below min-p are in none of them.
    kept.sort_unstable_by(better);
    let p = &mut scratch[..kept.len()];
    for (p, candidate) in p.iter_mut().zip(&*kept) {
        *p = candidate.score / sampling.temperature;
    }
    let total = set.exp_sum(p);
    for (p, candidate) in p.iter().zip(&mut *kept) {
        candidate.score = if p.is_nan() { 0.0 } else { *p };
    }
    let kept = if sampling.top_p < 1.0 { nucleus(kept, sampling.top_p * total) } else { kept };
    draw(kept, sampling.min_p * kept[0].score, rng)
}

/// Chooses among all tokens at a temperature, with or without top-p.
fn sample_all(
    set: &KernelSet,
    sampling: &Sampling,
    rng: &mut Rng,
    logits: &mut [f32],
    candidates: &mut [Candidate],
) -> u32 {
    for logit in logits.iter_mut() {
        *logit /= sampling.temperature;
    }
    let total = set.exp_sum(logits);
    if sampling.top_p < 1.0 {
        let last = last_of_nucleus(logits, sampling.top_p * total, candidates);
        let least = last.score.max(sampling.min_p);
        for (id, p) in logits.iter_mut().enumerate() {
            let kept = *p > last.score || id as u32 <= last.id;
            *p = if kept && *p >= least { *p } else { 0.0 };
        }
    }
    draw_from(logits, rng)
}

/// The last token of the fewest best ones whose scores `p: [vocab]`, from 0 to 1, reach `mass` together. Nothing is put in
/// order but the scores near the last one.
fn last_of_nucleus(p: &[f32], mass: f32, candidates: &mut [Candidate]) -> Candidate {
    /// Bits that tell buckets apart: the exponent and four of the significand, for numbers up to 1.
    const SHIFT: u32 = 19;
    const BUCKETS: usize = (1.0f32.to_bits() >> SHIFT) as usize + 1;
    let bucket = |p: f32| ((p.to_bits() >> SHIFT) as usize).min(BUCKETS - 1);
    let mut sums = [0.0f32; BUCKETS];
    // NaN and the like count as 0.
    for p in p.iter().filter(|p| **p > 0.0) {
        sums[bucket(*p)] += p;
    }
    let mut reached = 0.0;
    let mut at = BUCKETS - 1;
    while at > 0 && reached + sums[at] < mass {
        reached += sums[at];
        at -= 1;
    }
    let mut len = 0;
    for (id, p) in p.iter().enumerate() {
        if *p > 0.0 && bucket(*p) == at {
            candidates[len] = Candidate { id: id as u32, score: *p };
            len += 1;
        }
    }
    let nowhere = Candidate { id: u32::MAX, score: 0.0 };
    nucleus(&mut candidates[..len], mass - reached).last().copied().unwrap_or(nowhere)
}

/// The id with the highest logit, the lowest on a tie; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let (mut highest, mut at) = (f32::NEG_INFINITY, 0);
    for (chunk, values) in logits.chunks(CHUNK).enumerate() {
        if any_above(values, highest) {
            for (i, logit) in values.iter().enumerate() {
                if *logit > highest {
                    (highest, at) = (*logit, chunk * CHUNK + i);
                }
            }
        }
    }
    at as u32
}

/// The best of `candidates`.
pub(crate) fn best(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().min_by(better)
}

/// Values that are looked at together: few are worth a second look.
const CHUNK: usize = 64;

/// Whether one of `values` is above `floor`. Free of branches, so that compilers make vectors of it.
fn any_above(values: &[f32], floor: f32) -> bool {
    values.iter().fold(false, |any, v| any | (*v > floor))
}

/// Writes the `k` best of `scores` to the start of `candidates`, in no order, and returns how many there are; minus
/// infinity and NaN are never among them.
pub(crate) fn top(scores: &[f32], k: usize, candidates: &mut [Candidate]) -> usize {
    // Room for twice as many: a selection every `k` of them costs little, and each raises the bar for the rest.
    let room = candidates.len().min(k.saturating_mul(2).max(k.saturating_add(256)));
    let (mut len, mut bar) = (0, f32::NEG_INFINITY);
    for (chunk, values) in scores.chunks(CHUNK).enumerate() {
        if !any_above(values, bar) {
            continue;
        }
        for (i, score) in values.iter().enumerate() {
            // An equal score with a higher id is worse than those that are kept.
            if *score > bar {
                if len == room && k < len {
                    candidates[..len].select_nth_unstable_by(k - 1, better);
                    (len, bar) = (k, candidates[k - 1].score);
                    if *score <= bar {
                        continue;
                    }
                }
                candidates[len] = Candidate { id: (chunk * CHUNK + i) as u32, score: *score };
                len += 1;
            }
        }
    }
    if k < len {
        candidates[..len].select_nth_unstable_by(k - 1, better);
    }
    len.min(k)
}

/// Writes the tokens at most `below` under the highest logit to the start of `candidates`; returns how many there are.
fn within(logits: &[f32], below: f32, candidates: &mut [Candidate]) -> usize {
    let highest = logits[argmax(logits) as usize];
    above(logits, highest - below, candidates)
}

/// Writes the tokens that score at least `floor` to the start of `candidates`; returns how many there are.
fn above(scores: &[f32], floor: f32, candidates: &mut [Candidate]) -> usize {
    let mut len = 0;
    for (chunk, values) in scores.chunks(CHUNK).enumerate() {
        if values.iter().fold(false, |any, v| any | (*v >= floor)) {
            for (i, score) in values.iter().enumerate() {
                if *score >= floor {
                    candidates[len] = Candidate { id: (chunk * CHUNK + i) as u32, score: *score };
                    len += 1;
                }
            }
        }
    }
    len
}

/// Writes the tokens that a repetition penalty is for, each once, to the start of `candidates`; returns how many there
/// are.
pub fn recent(sampling: &Sampling, history: &[u32], candidates: &mut [Candidate]) -> usize {
    if sampling.repetition_penalty == 1.0 {
        return 0;
    }
    let recent = &history[history.len().saturating_sub(sampling.repeat_window)..];
    let vocab = candidates.len();
    let mut len = 0;
    // Put in order in runs, so that a window longer than the vocabulary fits too.
    for run in recent.chunks((vocab / 2).max(1)) {
        for id in run.iter().filter(|id| (**id as usize) < vocab) {
            if len < vocab {
                candidates[len] = Candidate { id: *id, score: 0.0 };
                len += 1;
            }
        }
        len = unique(&mut candidates[..len]);
    }
    len
}

/// Moves one candidate of each id to the front; returns how many there are.
fn unique(candidates: &mut [Candidate]) -> usize {
    candidates.sort_unstable_by_key(|candidate| candidate.id);
    let mut len = 0;
    for at in 0..candidates.len() {
        if len == 0 || candidates[at].id != candidates[len - 1].id {
            candidates[len] = candidates[at];
            len += 1;
        }
    }
    len
}

/// The logit of a token that was seen recently.
pub fn penalized(sampling: &Sampling, logit: f32) -> f32 {
    let penalty = sampling.repetition_penalty;
    if logit > 0.0 { logit / penalty } else { logit * penalty }
}

/// The fewest best candidates whose scores reach `mass` together, best first. Orders growing prefixes, not the whole.
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

/// Draws an index in proportion to `p`; NaN counts as 0.
fn draw_from(p: &[f32], rng: &mut Rng) -> u32 {
    /// Scores that are added up before the chunk of the draw is known.
    const WIDE: usize = 1024;
    let score = |v: &f32| if *v > 0.0 { *v } else { 0.0 };
    // Sixteen sums side by side: one chain of additions would wait for each.
    let sum = |chunk: &[f32]| {
        let (blocks, tail) = chunk.as_chunks::<LANES>();
        let mut lanes = [0.0f32; LANES];
        for block in blocks {
            for (lane, v) in lanes.iter_mut().zip(block) {
                *lane += score(v);
            }
        }
        fold(lanes) + tail.iter().map(score).sum::<f32>()
    };
    let total: f32 = p.chunks(WIDE).map(sum).sum();
    let mut left = rng.next_f32() * total;
    let mut last = 0;
    for (chunk, values) in p.chunks(WIDE).enumerate() {
        let here = sum(values);
        if left >= here {
            left -= here;
            continue;
        }
        for (i, v) in values.iter().enumerate().filter(|(_, v)| **v > 0.0) {
            last = (chunk * WIDE + i) as u32;
            left -= v;
            if left < 0.0 {
                return last;
            }
        }
    }
    // Rounding has left a little behind the last token: the last one that is possible at all takes it.
    p.iter().rposition(|v| *v > 0.0).map_or(last, |at| at as u32)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use tern_kernels::SCALAR;

    /// Draws `n` times and counts each id.
    fn counts(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut rng = Rng::new(sampling.seed);
        let mut candidates = vec![Candidate { id: 0, score: 0.0 }; logits.len()];
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            let id = sample(&SCALAR, &sampling, &mut rng, &mut logits.to_vec(), &[], &mut candidates);
            counts[id as usize] += 1;
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
        let mut candidates = [Candidate { id: 0, score: 0.0 }; 4];
        let recent = recent(&sampling, &[2, 0, 1, 0, 9], &mut candidates);
        assert_eq!(candidates[..recent].iter().map(|c| c.id).collect::<Vec<_>>(), [0, 1]);
        sample(&SCALAR, &sampling, &mut Rng::new(0), &mut logits, &[2, 0, 1, 0], &mut candidates);
        assert_eq!(logits, [2.0, -2.0, 4.0, 3.0]);
    }

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        let mut rng = Rng::new(12);
        for round in 0..300 {
            let n = 1 + (rng.next_u64() % 2000) as usize;
            // Few different values, so that ties are common; some that no choice may fall on.
            let scores: Vec<f32> = (0..n)
                .map(|_| match rng.next_u64() % 50 {
                    0 => f32::NAN,
                    1 => f32::NEG_INFINITY,
                    v => (v % (1 + round % 40)) as f32,
                })
                .collect();
            let k = 1 + (rng.next_u64() % 600) as usize;
            let mut sorted: Vec<_> = (0..n as u32)
                .map(|id| Candidate { id, score: scores[id as usize] })
                .filter(|c| c.score > f32::NEG_INFINITY)
                .collect();
            sorted.sort_by(better);
            sorted.truncate(k);
            let mut found = vec![Candidate { id: 0, score: 0.0 }; n];
            let kept = top(&scores, k, &mut found);
            found[..kept].sort_by(better);
            assert_eq!(found[..kept], sorted, "{k} of {n}");
            let first = sorted.first().map_or(0, |c| c.id);
            assert_eq!(argmax(&scores), first);
        }
    }

    #[test]
    fn a_nucleus_ends_where_a_full_sort_ends_it() {
        let mut rng = Rng::new(14);
        for round in 0..200 {
            let n = 1 + (rng.next_u64() % 3000) as usize;
            // Multiples of 2^-10, so that sums are exact in any order, and many equal ones.
            let p: Vec<f32> = (0..n).map(|_| (rng.next_u64() % (2 + round)) as f32 / 1024.0).collect();
            let mass = p.iter().sum::<f32>() * 0.7;
            let mut sorted: Vec<_> =
                (0..n as u32).map(|id| Candidate { id, score: p[id as usize] }).collect();
            sorted.sort_by(better);
            let mut reached = 0.0;
            let end = sorted.iter().position(|c| {
                reached += c.score;
                reached >= mass
            });
            let mut memory = vec![Candidate { id: 0, score: 0.0 }; n];
            let last = last_of_nucleus(&p, mass, &mut memory);
            if mass > 0.0 {
                assert_eq!(Some(last), end.map(|end| sorted[end]), "{n} scores");
            }
        }
    }

    #[test]
    fn more_candidates_than_needed_change_nothing() {
        let mut rng = Rng::new(13);
        let base = Sampling { temperature: 0.9, ..Sampling::default() };
        let all = [
            Sampling { top_k: 20, top_p: 0.9, min_p: 0.02, ..base },
            Sampling { min_p: 0.05, ..base },
            Sampling::default(),
        ];
        for round in 0..300 {
            let sampling = all[round % all.len()];
            let logits: Vec<f32> = (0..500).map(|_| rng.next_f32() * 12.0).collect();
            let mut memory = vec![Candidate { id: 0, score: 0.0 }; 500];
            let seed = rng.next_u64();
            let expected =
                sample(&SCALAR, &sampling, &mut Rng::new(seed), &mut logits.clone(), &[], &mut memory);
            let floor = rng.next_f32() * 6.0;
            let mut some: Vec<_> = (0..500u32)
                .map(|id| Candidate { id, score: logits[id as usize] })
                .filter(|c| c.score > floor)
                .collect();
            some.reverse();
            let mut scratch = vec![0.0; some.len()];
            let found = choose(&SCALAR, &sampling, &mut Rng::new(seed), &mut some, &mut scratch);
            assert_eq!(found, expected, "{sampling:?}");
        }
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
