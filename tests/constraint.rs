//! Choices under rules of the caller's are those of a plain look at every logit, and log probabilities are those of a plain
//! softmax, whatever the head and the sampling.

use tern_runtime::constraint::{Constraint, Progress};
use tern_runtime::engine::{Engine, Event, Finish, Generate, Goal, MOST_LOGPROBS, Refusal, Request};
use tern_runtime::head::HeadKind;
use tern_runtime::plan::Options;
use tern_runtime::sampler::{Candidate, Rng, Sampling, sample};
use tern_tests::model::{BUNDLED, Setup, bundled, logits, tokens, with_options};
use tern_tests::sets;

/// Prompts, as ids of the bundled model.
const PROMPTS: [&[u32]; 3] = [&[0, 40, 900, 77], &[0, 1200, 13, 2000, 5], &[3]];

/// Allows one token in so many, by a hash of the token and its place.
struct Hashed {
    vocab: usize,
    one_in: u64,
    /// Tokens taken.
    taken: usize,
    /// Complete after so many.
    length: usize,
    words: Vec<u32>,
    asked_all: usize,
}

impl Hashed {
    fn new(vocab: usize, one_in: u64, length: usize) -> Self {
        Hashed { vocab, one_in, taken: 0, length, words: Vec::new(), asked_all: 0 }
    }

    fn allows_at(&self, place: usize, token: u32) -> bool {
        let hash = Rng::new(place as u64 * 1_000_003 + u64::from(token)).next_u64();
        self.one_in > 0 && hash.is_multiple_of(self.one_in) && (token as usize) < self.vocab
    }
}

impl Constraint for Hashed {
    fn constrains(&self, key: u64) -> bool {
        key == 1
    }

    fn allows(&mut self, _: u64, token: u32) -> bool {
        self.allows_at(self.taken, token)
    }

    fn allowed(&mut self, _: u64) -> &[u32] {
        self.asked_all += 1;
        let mut words = vec![0; self.vocab.div_ceil(32)];
        for token in (0..self.vocab as u32).filter(|token| self.allows_at(self.taken, *token)) {
            words[token as usize / 32] |= 1 << (token % 32);
        }
        self.words = words;
        &self.words
    }

    fn may_end(&mut self, _: u64) -> bool {
        false
    }

    fn take(&mut self, _: u64, token: u32) -> Progress {
        assert!(self.allows_at(self.taken, token), "token {token} was taken and may not follow");
        self.taken += 1;
        if self.taken == self.length { Progress::Complete } else { Progress::Open }
    }
}

/// Tokens, log probabilities and the end of a request.
type Told = (Vec<u32>, Vec<(f32, Vec<Candidate>)>, Finish);

fn serve(engine: &mut Engine<'_>, rules: &mut Hashed, key: u64, prompt: &[u32], goal: Generate<'_>) -> Told {
    let request = Request { key, prompt: &tokens(prompt), goal: Goal::Generate(goal) };
    engine.submit(&request).expect("a good request");
    let (mut ids, mut weighed, mut finish) = (Vec::new(), Vec::new(), None);
    while engine.live() > 0 {
        engine.step_under(rules, |_, event| match event {
            Event::Token { id } => ids.push(id),
            Event::Logprobs { chosen, top } => weighed.push((chosen, top.to_vec())),
            Event::Finished { reason, .. } => finish = Some(reason),
            _ => {}
        });
    }
    (ids, weighed, finish.expect("it ended"))
}

fn on_both_heads(test: impl Fn(&mut Engine<'_>)) {
    let setup = Setup { set: sets::usable()[0], workers: 2, ..Setup::default() };
    for head in [HeadKind::File, HeadKind::Int8] {
        let adjust = |options: &mut Options| options.head = head;
        with_options(&bundled(BUNDLED), setup, adjust, &test);
    }
}

fn samplings() -> [Sampling; 6] {
    let warm = Sampling { temperature: 1.0, seed: 9, ..Sampling::default() };
    [
        Sampling::default(),
        Sampling { repetition_penalty: 1.5, ..Sampling::default() },
        Sampling { top_k: 20, top_p: 0.9, repetition_penalty: 1.2, ..warm },
        Sampling { min_p: 0.05, ..warm },
        Sampling { top_p: 0.8, ..warm },
        warm,
    ]
}

#[test]
fn choices_under_rules_are_those_of_all_allowed_logits() {
    on_both_heads(|engine| {
        let vocab = engine.model().config.vocab;
        let mut memory = vec![Candidate { id: 0, score: 0.0 }; vocab];
        for (prompt, one_in) in PROMPTS.into_iter().zip([2, 40, 1500]) {
            for sampling in samplings() {
                let mut rules = Hashed::new(vocab, one_in, 8);
                let goal = Generate { sampling, max_tokens: Some(20), ..Generate::default() };
                let (ids, _, finish) = serve(engine, &mut rules, 1, prompt, goal);
                assert_eq!((ids.len(), finish), (8, Finish::Complete), "{sampling:?}");
                let text: Vec<u32> = prompt.iter().chain(&ids).copied().collect();
                let all = logits(engine, &text);
                let mut rng = Rng::new(sampling.seed);
                for (i, id) in ids.iter().enumerate() {
                    let known = prompt.len() + i;
                    let mut row = all[(known - 1) * vocab..known * vocab].to_vec();
                    let stops = engine.tokenizer().stop_tokens();
                    for (token, logit) in (0u32..).zip(&mut row) {
                        if !rules.allows_at(i, token) || stops.contains(&token) {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                    let (set, history) = (&tern_kernels::SCALAR, &text[..known]);
                    let expected = sample(set, &sampling, &mut rng, &mut row, history, &mut memory);
                    assert_eq!(*id, expected, "token {i}, one in {one_in}, {sampling:?}");
                }
            }
        }
    });
}

#[test]
fn a_permitted_favourite_needs_no_look_at_the_vocabulary() {
    on_both_heads(|engine| {
        let vocab = engine.model().config.vocab;
        let goal = Generate { max_tokens: Some(12), ignore_stop_tokens: true, ..Generate::default() };
        let mut all = Hashed::new(vocab, 1, 12);
        let (ids, _, _) = serve(engine, &mut all, 1, PROMPTS[0], goal);
        let (free, _, finish) = serve(engine, &mut all, 2, PROMPTS[0], goal);
        assert_eq!((ids, finish), (free, Finish::MaxTokens));
        assert_eq!(all.asked_all, 0, "only the chosen tokens are in play");
        // None may follow, and the text may not end.
        let mut none = Hashed::new(vocab, 0, 12);
        for sampling in samplings() {
            let (ids, _, finish) = serve(engine, &mut none, 1, PROMPTS[0], Generate { sampling, ..goal });
            assert_eq!((ids.len(), finish), (0, Finish::Stuck));
        }
    });
}

#[test]
fn log_probabilities_are_those_of_the_whole_distribution() {
    on_both_heads(|engine| {
        let vocab = engine.model().config.vocab;
        for (most, sampling) in
            [0, 5, MOST_LOGPROBS].into_iter().flat_map(|most| samplings().map(|s| (most, s)))
        {
            for key in [1, 2] {
                let goal = Generate {
                    sampling,
                    max_tokens: Some(6),
                    ignore_stop_tokens: true,
                    logprobs: Some(most),
                    ..Generate::default()
                };
                let mut rules = Hashed::new(vocab, 9, 6);
                let (ids, told, _) = serve(engine, &mut rules, key, PROMPTS[1], goal);
                let plain = Generate { logprobs: None, ..goal };
                let (without, none, _) = serve(engine, &mut Hashed::new(vocab, 9, 6), key, PROMPTS[1], plain);
                assert_eq!((&ids, ids.len(), told.len(), none.len()), (&without, 6, 6, 0), "{sampling:?}");
                let text: Vec<u32> = PROMPTS[1].iter().chain(&ids).copied().collect();
                let all = logits(engine, &text);
                for (i, ((chosen, top), id)) in told.iter().zip(&ids).enumerate() {
                    let row = &all[(PROMPTS[1].len() - 1 + i) * vocab..][..vocab];
                    let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
                    let near = |found: f32, token: u32| {
                        let expected = f64::from(row[token as usize]) - sum.ln();
                        let off = (f64::from(found) - expected).abs();
                        assert!(off < 1e-5 * (1.0 + expected.abs()), "{found} for {expected}");
                    };
                    near(*chosen, *id);
                    let mut best: Vec<u32> = (0..vocab as u32).collect();
                    best.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
                    let found: Vec<u32> = top.iter().map(|token| token.id).collect();
                    assert_eq!(found, best[..most]);
                    top.iter().for_each(|token| near(token.score, token.id));
                }
            }
        }
        let goal = Goal::Generate(Generate { logprobs: Some(21), ..Generate::default() });
        let refused = engine.submit(&Request { key: 1, prompt: &tokens(&[1]), goal });
        assert_eq!(refused, Err(Refusal::TooManyLogprobs { found: 21, most: 20 }));
    });
}
