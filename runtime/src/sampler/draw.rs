//! One token by its probability: what temperature, top-k, top-p and min-p leave, and one draw among it.

use tern_kernels::KernelSet;
use tern_kernels::lanes::{LANES, fold};

use super::select::within;
use super::{Candidate, Need, Rng, Sampling, argmax, best, better, penalize, top};

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
    penalize(sampling, logits, history, candidates);
    sample_penalized(set, sampling, rng, logits, candidates)
}

/// As [`sample`], from logits that were [`penalize`]d. A logit of minus infinity is never chosen where there are others.
///
/// # Panics
/// If `logits` is empty or `candidates` is shorter.
pub fn sample_penalized(
    set: &KernelSet,
    sampling: &Sampling,
    rng: &mut Rng,
    logits: &mut [f32],
    candidates: &mut [Candidate],
) -> u32 {
    let candidates = &mut candidates[..logits.len()];
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
    use tern_kernels::SCALAR;

    use super::*;

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
}
