//! Tokens tried ahead of their time: what came after the end of the text when it stood there before.
//!
//! A summary or an extraction copies runs of its prompt. Where the last tokens of a text, three of them or two or one, stand
//! earlier in it, what followed there is likely to follow again (prompt lookup decoding, A. Saxena 2023; verified as in
//! arXiv 2211.17192, section 2). Such a *draft* goes through the model in the same step as the token that is due, a row
//! each, so that every weight is read once for all of them:
//!
//! ```text
//! known  ... the pump was switched      rows of the step: switched | off at noon
//! draft                        off at noon
//! row `switched` chooses `off`:  as drafted, so row `off` counts       one token
//! row `off` chooses `at`:        as drafted                            two
//! row `at` chooses `night`:      not as drafted, `noon` was in vain    three
//! ```
//!
//! A row has the same bits in any batch, the cells of rejected rows are overwritten by what comes in their place before
//! anything looks at them, and every row that counts chooses just as it would in a step of its own: with the same random
//! number, history, rules and stop strings. So the text is the same to the bit, at any temperature.
//!
//! Whether a draft pays is learned as the text grows, for nothing: whatever is chosen is compared with what was expected,
//! drafted or not ([`Expectation`]). What a further row costs is learned from the times of steps ([`Costs`]), where the
//! engine has a clock. [`Plan`] puts both together. While a prompt is read the rows are better spent on it, and nothing is
//! drafted.

use crate::kv_cache::MAX_SLOTS;

/// The most tokens that may be drafted in one step, for all requests together.
pub const MOST_DRAFTS: usize = 32;
/// The most tokens of the end of a text that a place is looked up by.
const LONGEST: usize = 3;
/// How fast what was seen is forgotten, of costs and of expectations.
const KEEP: f32 = 31.0 / 32.0;

/// How often expectations with so much agreement came true.
#[derive(Clone, Copy, Debug)]
struct Odds {
    hits: f32,
    tries: f32,
}

/// Of places that agree in 1, 2, 3, 4 to 7, 8 to 15 and more tokens, before anything is known of a text: a guess, soon outweighed
/// by what is seen.
const PRIORS: [f32; 6] = [0.2, 0.45, 0.6, 0.75, 0.85, 0.9];
/// So many observations those count for.
const PRIOR_TRIES: f32 = 4.0;

/// What is expected to follow in one text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectation {
    /// Where the token stands that is expected next; 0 where nothing is.
    at: usize,
    /// Tokens before it that agree with the end of the text.
    agree: usize,
    odds: [Odds; PRIORS.len()],
    /// Drafted tokens reach to here.
    drafted_to: usize,
}

impl Expectation {
    /// Of a text that is not known yet.
    pub fn new() -> Self {
        let odds = PRIORS.map(|p| Odds { hits: p * PRIOR_TRIES, tries: PRIOR_TRIES });
        Expectation { at: 0, agree: 0, odds, drafted_to: 0 }
    }

    /// Learns from the last of `known` tokens, and expects what may follow it.
    pub fn follow(&mut self, known: &[u32]) {
        let Some(last) = known.last() else { return };
        if self.at > 0 && self.at + 1 < known.len() {
            let came_true = known[self.at] == *last;
            let odds = &mut self.odds[bucket(self.agree)];
            odds.tries = odds.tries * KEEP + 1.0;
            odds.hits = odds.hits * KEEP + f32::from(u8::from(came_true));
            if came_true && self.agree >= LONGEST {
                (self.at, self.agree) = (self.at + 1, self.agree + 1);
                return;
            }
        }
        (self.at, self.agree) = look_up(known);
    }

    /// How likely token `ahead` of a draft is what will be chosen, if those before it are.
    fn chance(&self, ahead: usize) -> f32 {
        let Odds { hits, tries } = self.odds[bucket(self.agree + ahead)];
        hits / tries
    }

    /// Token `ahead` of a draft behind `known`; a text that is expected to repeat its very end does so again and again.
    fn token(&self, known: &[u32], ahead: usize) -> Option<u32> {
        (self.at > 0).then(|| known[self.at + ahead % (known.len() - self.at)])
    }

    /// Writes a draft of `count` tokens behind the first `known` of `tokens`.
    fn draft(&mut self, tokens: &mut [u32], known: usize, count: usize) {
        for to in known..known + count {
            tokens[to] = tokens[self.at + to - known];
        }
        self.drafted_to = known + count;
    }

    /// Tokens drafted behind `known` ones.
    pub fn drafted(&self, known: usize) -> usize {
        self.drafted_to.saturating_sub(known)
    }

    /// Nothing is drafted any more.
    pub fn drop_draft(&mut self) {
        self.drafted_to = 0;
    }
}

/// Which odds are those of so much agreement.
fn bucket(agree: usize) -> usize {
    match agree {
        0 | 1 => 0,
        2 | 3 => agree - 1,
        _ => (agree.ilog2() as usize + 1).min(PRIORS.len() - 1),
    }
}

/// The last place before the end of `known` where as many of its last tokens stand as anywhere, three at most: where what
/// followed them stands, and how many they are; zeros if not even the last token stands anywhere.
fn look_up(known: &[u32]) -> (usize, usize) {
    let Some((last, before)) = known.split_last() else { return (0, 0) };
    let mut found = (0, 0);
    for at in (1..known.len()).rev() {
        if known[at - 1] != *last {
            continue;
        }
        let longest = LONGEST.min(at);
        let same = |back: &usize| known[at - 1 - back] == before[before.len() - back];
        let agree = 1 + (1..longest.min(before.len() + 1)).take_while(same).count();
        if agree > found.1 {
            found = (at, agree);
        }
        if agree == LONGEST {
            break;
        }
    }
    found
}

/// What a step takes by its rows, each with logits: a line through steps of late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    /// How many steps the sums stand for; 0 before the first.
    weight: f32,
    mean_rows: f32,
    mean_ns: f32,
    /// Sums of squares and of products of deviations.
    rows_rows: f32,
    rows_ns: f32,
}

/// What a further row costs, in steps of one row, where steps of different rows were not timed lately.
const FURTHER_ROW: f32 = 0.25;
/// How much that counts for, as a sum of squares.
const FURTHER_ROW_WEIGHT: f32 = 1.0;

impl Costs {
    /// Nothing was timed yet.
    pub const fn new() -> Self {
        Costs { weight: 0.0, mean_rows: 1.0, mean_ns: 1.0, rows_rows: 0.0, rows_ns: 0.0 }
    }

    /// A step of `rows` rows, all of them of texts being written, took `ns`.
    pub fn note(&mut self, rows: usize, ns: u64) {
        let rows = rows as f32;
        let expected_ns = self.ns(rows);
        let mut ns = ns as f32;
        if self.weight == 0.0 {
            (self.weight, self.mean_rows, self.mean_ns) = (1.0, rows, ns);
            return;
        }
        // A step in which the system did something else says little of rows.
        ns = ns.clamp(expected_ns / 2.0, expected_ns * 2.0);
        self.weight = self.weight * KEEP + 1.0;
        let (off_rows, off_ns) = (rows - self.mean_rows, ns - self.mean_ns);
        self.mean_rows += off_rows / self.weight;
        self.mean_ns += off_ns / self.weight;
        self.rows_rows = self.rows_rows * KEEP + off_rows * (rows - self.mean_rows);
        self.rows_ns = self.rows_ns * KEEP + off_rows * (ns - self.mean_ns);
    }

    /// What a step of so many rows takes, in nanoseconds, or in any unit before one was timed.
    fn ns(&self, rows: f32) -> f32 {
        let one_row_ns = self.mean_ns / (1.0 + FURTHER_ROW * (self.mean_rows - 1.0));
        let prior = FURTHER_ROW * one_row_ns * FURTHER_ROW_WEIGHT;
        let further_ns = ((self.rows_ns + prior) / (self.rows_rows + FURTHER_ROW_WEIGHT)).max(0.0);
        (self.mean_ns + further_ns * (rows - self.mean_rows)).max(self.mean_ns / 16.0)
    }
}

/// A request that may have a draft.
pub(super) struct Drafter<'d> {
    pub expectation: &'d mut Expectation,
    /// `[context]`, of which `known` are known.
    pub tokens: &'d mut [u32],
    pub known: usize,
    /// Tokens that it may still be drafted.
    pub room: usize,
    /// A draft ends before these.
    pub stops: &'d [u32],
}

/// How many tokens are drafted for whom.
struct Plan {
    counts: [u8; MAX_SLOTS],
    /// Tokens to be expected of the step.
    tokens: f32,
}

/// Drafts for the `drafters` of a step of `rows` rows of texts without drafts, at most `most` tokens in all, as many as promise the
/// most tokens in a time.
pub(super) fn draft<'d>(
    costs: &Costs,
    rows: usize,
    most: usize,
    drafters: &mut heapless::Vec<Drafter<'d>, MAX_SLOTS>,
) {
    let mut plan = Plan { counts: [0; MAX_SLOTS], tokens: rows as f32 };
    let mut best = (plan.tokens / costs.ns(rows as f32), plan.counts);
    // How likely the next token of each draft is to count.
    let mut chances = [0.0f32; MAX_SLOTS];
    let chance = |drafter: &Drafter<'_>, so_far: f32, ahead: usize| {
        let token = drafter.expectation.token(&drafter.tokens[..drafter.known], ahead);
        let fits = ahead < drafter.room && token.is_some_and(|token| !drafter.stops.contains(&token));
        if fits { so_far * drafter.expectation.chance(ahead) } else { 0.0 }
    };
    for (next, drafter) in chances.iter_mut().zip(&*drafters) {
        *next = chance(drafter, 1.0, 0);
    }
    for more in 1..=most.min(MOST_DRAFTS) {
        let likely = (0..drafters.len()).max_by(|a, b| chances[*a].total_cmp(&chances[*b]));
        let Some(index) = likely.filter(|index| chances[*index] > 0.0) else { break };
        plan.tokens += chances[index];
        plan.counts[index] += 1;
        chances[index] = chance(&drafters[index], chances[index], usize::from(plan.counts[index]));
        let rate = plan.tokens / costs.ns((rows + more) as f32);
        if rate > best.0 {
            best = (rate, plan.counts);
        }
    }
    for (drafter, count) in drafters.iter_mut().zip(best.1) {
        drafter.expectation.draft(drafter.tokens, drafter.known, usize::from(count));
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn the_longest_agreement_is_found_and_of_equals_the_last() {
        assert_eq!(look_up(&[]), (0, 0));
        assert_eq!(look_up(&[7]), (0, 0));
        assert_eq!(look_up(&[7, 7]), (1, 1));
        assert_eq!(look_up(&[7, 7, 7, 7, 7]), (4, 3));
        assert_eq!(look_up(&[1, 2, 3, 9, 5, 3, 4, 2, 3]), (3, 2));
        assert_eq!(look_up(&[1, 2, 3, 9, 1, 2, 3, 8, 2, 3, 7, 1, 2, 3]), (7, 3));
        assert_eq!(look_up(&[3, 9, 3, 8, 3]), (3, 1));
    }

    /// All drafts of a text, as `(known, draft)`, where it is written token by token with every draft as long as it may be.
    fn drafts(text: &[u32], prompt: usize, most: usize) -> Vec<(usize, Vec<u32>)> {
        let mut expectation = Expectation::new();
        // A further row costs next to nothing.
        let costs = Costs { rows_rows: 1e9, ..Costs::new() };
        let mut found = Vec::new();
        for known in prompt..text.len() {
            expectation.follow(&text[..known]);
            let mut tokens = text[..known].to_vec();
            tokens.resize(known + most, 0);
            let mut drafters = heapless::Vec::new();
            let drafter = Drafter {
                expectation: &mut expectation,
                tokens: &mut tokens,
                known,
                room: most,
                stops: &[99],
            };
            assert!(drafters.push(drafter).is_ok());
            draft(&costs, 1, most, &mut drafters);
            drop(drafters);
            let end = known + expectation.drafted(known);
            found.push((known, tokens[known..end].to_vec()));
        }
        found
    }

    #[test]
    fn drafts_go_on_as_the_text_did_before() {
        let text = [1, 2, 3, 4, 5, 99, 6, 2, 3, 4];
        assert_eq!(drafts(&text, 8, 4), [(8, vec![3, 4, 5]), (9, vec![4, 5])]);
        // What repeats its own end goes on so.
        assert_eq!(drafts(&[8, 1, 2, 1, 2, 0], 5, 5), [(5, vec![1, 2, 1, 2, 1])]);
        assert_eq!(drafts(&[1, 2, 3, 0], 3, 5), [(3, vec![])]);
    }

    #[test]
    fn a_text_that_disappoints_is_expected_less_of() {
        let mut expectation = Expectation::new();
        let before = expectation.chance(0);
        // Every other token stood there before, followed by something else.
        let mut text = vec![1, 2];
        for next in 3..40 {
            text.extend([1, next]);
            for known in text.len() - 1..=text.len() {
                expectation.follow(&text[..known]);
            }
        }
        expectation.follow(&[1, 2, 1]);
        assert!(expectation.chance(0) < before / 2.0, "{expectation:?}");
        let mut copied = Expectation::new();
        let text: Vec<u32> = (0..60).chain(0..60).collect();
        (61..120).for_each(|known| copied.follow(&text[..known]));
        assert!(copied.chance(0) > 0.95 && copied.agree > 50, "{copied:?}");
    }

    /// How many tokens are drafted of a long copy where steps of `rows` rows take `ns(rows)`.
    fn drafted(rows: usize, ns: impl Fn(usize) -> u64, timed: &[usize]) -> usize {
        let mut costs = Costs::new();
        for _ in 0..64 {
            timed.iter().for_each(|rows| costs.note(*rows, ns(*rows)));
        }
        let mut tokens: Vec<u32> = (0..40).chain(0..20).chain([0; 32]).collect();
        let mut expectation = Expectation::new();
        (1..=60).for_each(|known| expectation.follow(&tokens[..known]));
        let mut drafters = heapless::Vec::new();
        let drafter =
            Drafter { expectation: &mut expectation, tokens: &mut tokens, known: 60, room: 20, stops: &[] };
        assert!(drafters.push(drafter).is_ok());
        draft(&costs, rows, 20, &mut drafters);
        drop(drafters);
        expectation.drafted(60)
    }

    #[test]
    fn drafts_are_as_long_as_further_rows_are_cheap() {
        let cheap = drafted(1, |rows| 100_000_000 + 1_000_000 * rows as u64, &[1, 8]);
        let middling = drafted(1, |rows| 80_000_000 + 20_000_000 * rows as u64, &[1, 8]);
        let dear = drafted(1, |rows| 1_000_000 + 99_000_000 * rows as u64, &[1, 8]);
        assert!(cheap == 20 && (4..20).contains(&middling) && dear == 0, "{cheap} {middling} {dear}");
        // Many texts at once share the reading of weights already.
        let crowded = drafted(16, |rows| 80_000_000 + 20_000_000 * rows as u64, &[16, 24]);
        assert!(crowded < middling, "{crowded} {middling}");
        // Nobody timed anything, or only steps of one row.
        assert!((2..20).contains(&drafted(1, |_| 0, &[])));
        assert_eq!(drafted(1, |_| 0, &[]), drafted(1, |_| 5_000_000, &[1]));
    }

    #[test]
    fn one_slow_step_does_not_change_the_mind() {
        let ns = |rows: usize| 80_000_000 + 20_000_000 * rows as u64;
        let mut costs = Costs::new();
        (0..40).for_each(|at| costs.note(1 + at % 8, ns(1 + at % 8)));
        let before = costs.ns(8.0) / costs.ns(1.0);
        costs.note(8, 100 * ns(8));
        let after = costs.ns(8.0) / costs.ns(1.0);
        assert!((before - 2.4).abs() < 0.1 && (after - before).abs() < 1.0, "{before} {after}");
    }
}
