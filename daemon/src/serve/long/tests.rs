//! Long texts before an engine in the test's hands: four bytes a token, and any answer it likes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tern_protocol::answer::Finish;
use tern_runtime::engine::Piece;

use super::*;
use crate::serve::queue::JobGoal;
use crate::serve::session::Session;
use crate::serve::spending::Budgets;
use crate::serve::state::Facts;
use crate::serve::tokenizing::{Found, Tokenizing, Wanted};
use crate::tasks::Task;
use crate::tasks::prompt::Prompt;
use crate::wire::{Ask, Text};

/// Tokens of the context.
const CONTEXT: usize = 100;

/// A daemon without an engine.
struct Bench {
    queue: Arc<Queue>,
    state: Arc<State>,
    texts: LongTexts,
    client: Arc<Session>,
    /// What the parts said, in the order in which the engine got them.
    read: Vec<String>,
    /// The numbers of requesters that are gone.
    gone: Vec<ClientId>,
}

/// What the engine is to do with a part.
enum Deed {
    Say(String),
    Refuse(Reason, &'static str),
}

fn say(text: impl Into<String>) -> Deed {
    Deed::Say(text.into())
}

/// What a prompt of `Shorten.` asks about.
fn text_of(job: &Job) -> String {
    let pieces = job.prompt.pieces();
    let [Piece::Text(prompt)] = pieces[..] else { panic!("a prompt of one text: {pieces:?}") };
    let text = prompt.trim_start_matches("Shorten.\n").trim_start_matches("Join.\n");
    text.trim_end_matches("\nAnswer: ").to_owned()
}

fn answer(job: &Job, text: String) -> wire::Answer {
    let mut energy = crate::serve::report::energy(tern_boards::energy::EnergyReport::unknown());
    energy.joules = Some(0.5);
    let usage = tern_protocol::answer::Usage {
        prompt_tokens: tokens(job) as u32,
        generated_tokens: text.len().div_ceil(4) as u32,
        cached_tokens: Some(0),
        ..Default::default()
    };
    let (id, model) = (job.id.clone(), "m".to_owned());
    Answer::Text(Text {
        id,
        text,
        finish: Finish::StopToken,
        usage,
        energy,
        model,
        task: None,
        logprobs: None,
        tokens_below_resolution: false,
    })
}

fn tokens(job: &Job) -> usize {
    let bytes = |piece| if let Piece::Text(text) = piece { text.len() } else { 0 };
    job.prompt.pieces().into_iter().map(|piece| bytes(piece).div_ceil(4)).sum()
}

impl Bench {
    fn new(queue: usize, most: usize) -> Self {
        let queue = Arc::new(Queue::new(queue, queue));
        let facts = Facts { model: "m".into(), kernels: "k", threads: 1, slots: 2, budgets: Budgets::Kept };
        let state = Arc::new(State::new(facts));
        let around = Surroundings {
            queue: Arc::clone(&queue),
            state: Arc::clone(&state),
            form: Arc::new(PromptForm::bare()),
            context_tokens: CONTEXT,
            prompt_bytes: 16 * CONTEXT,
        };
        let client = Arc::new(Session::new(1, 1 << 20, Box::new(|| ())));
        Bench {
            texts: LongTexts::new(around, most),
            queue,
            state,
            client,
            read: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn job(&self, id: &str, more: &str, text: &str) -> Box<Job> {
        let toml = format!("kind = 'text'\nlong = 'map_reduce'\ninstructions = 'Shorten.'\n{more}");
        let ask: Ask = toml::from_str(&toml).expect("sound TOML");
        let task = Task::new(ask).expect("it makes sense");
        let session: Arc<Session> = Arc::clone(&self.client);
        crate::serve::requester::Requester::begin(&*session, id).expect("it is new");
        Box::new(Job {
            session,
            id: id.into(),
            prompt: PromptForm::bare().task(&task, text),
            goal: JobGoal::Task(Arc::new(task)),
            text: Some(text.into()),
            grammar: None,
            stream: false,
            queued_at: Instant::now(),
            deadline: None,
            max_joules: None,
            priority: tern_protocol::request::Priority::Normal,
        })
    }

    fn begin(&mut self, more: &str, text: &str) {
        let job = self.job("1", &format!("{more}\n[limits]\nmax_tokens = 10\nlong_tokens = 2000"), text);
        self.texts.begin(job);
    }

    /// One round of the engine's loop.
    fn measure(&mut self) {
        for notice in self.queue.take_notices() {
            match notice {
                Notice::Tokenize(Tokenizing { wanted: Wanted::Lengths(prompts), then }) => {
                    let tokens = |prompt: &Prompt| prompt.longest_text_bytes().div_ceil(4);
                    then(Found::Lengths(prompts.iter().map(tokens).collect()));
                }
                Notice::Gone(client) => self.gone.push(client),
                other => panic!("no part cancels: {other:?}"),
            }
        }
    }

    /// The next part that is put in line.
    fn part(&mut self) -> Box<Job> {
        loop {
            self.queue.wait(Duration::from_millis(20));
            self.measure();
            assert!(self.queue.len() <= 2, "more parts wait than the engine has slots");
            if let Some(job) = self.queue.pop(Duration::ZERO) {
                assert!(tokens(&job) + 10 <= CONTEXT, "a part of {} tokens", tokens(&job));
                return job;
            }
        }
    }

    /// Whether all long texts have ended.
    fn is_over(&self) -> bool {
        lock(&self.texts.live).is_empty()
    }

    /// Answers parts until the text has its answer, and returns that.
    fn run(&mut self, deed: impl Fn(&str) -> Deed) -> Value {
        while !self.is_over() {
            self.queue.wait(Duration::from_millis(1));
            self.measure();
            while let Some(job) = self.queue.pop(Duration::ZERO) {
                let text = text_of(&job);
                match deed(&text) {
                    Deed::Say(said) => job.session.send(&answer(&job, said)),
                    Deed::Refuse(reason, why) => {
                        job.session.send(&refusal(Some(job.id.clone()), reason, why))
                    }
                }
                self.read.push(text);
            }
        }
        self.received()
    }

    fn received(&self) -> Value {
        let line = self.client.next_message().expect("there is an answer");
        serde_json::from_slice(&line).expect("it is JSON")
    }
}

/// `count` sentences, each of 6 tokens and one number.
fn sentences(count: usize) -> String {
    (0..count).map(|number| format!("Pump {number:04} failed again. ")).collect()
}

#[test]
fn parts_hold_all_of_the_text_and_sums_are_theirs() {
    let mut bench = Bench::new(10, 1);
    bench.begin("reduce_instructions = 'Join.'", &sentences(50));
    let whole = bench.run(|text| say(format!("of {}", text.len())));
    assert_eq!(
        (&whole["type"], &whole["id"], &whole["finish"]),
        (&json!("text"), &json!("1"), &json!("stop_token"))
    );
    let rounds = bench.read.len();
    let parts = rounds - 1;
    assert_eq!(parts, 4, "{:?}", bench.read);
    assert_eq!(bench.read[..parts].join(" "), sentences(50).trim());
    let said: Vec<_> = bench.read[..parts].iter().map(|part| format!("of {}", part.len())).collect();
    assert_eq!(bench.read[parts], said.join("\n"));
    assert_eq!(whole["text"], format!("of {}", bench.read[parts].len()));
    assert_eq!(whole["energy"]["joules"], json!(0.5 * rounds as f64));
    let generated = bench.read.iter().map(|read| format!("of {}", read.len()).len().div_ceil(4));
    assert_eq!(whole["usage"]["generated_tokens"], json!(generated.sum::<usize>()));
    let status = bench.state.status("s".into(), &bench.queue, &Default::default());
    assert_eq!(status.requests.answered, 1);
}

#[test]
fn a_text_that_fits_after_all_is_one_part() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &format!("{}short{}", " ".repeat(1000), "\n".repeat(1000)));
    assert_eq!(bench.run(|_| say("x"))["text"], "x");
    assert_eq!(bench.read, ["short"]);
}

#[test]
fn many_answers_take_several_rounds() {
    let mut bench = Bench::new(10, 1);
    let job = bench.job("1", "[limits]\nmax_tokens = 10", &sentences(400));
    bench.texts.begin(job);
    // None like another: nothing that is kept is of use.
    let number = std::cell::Cell::new(0);
    let long = || {
        number.set(number.get() + 1);
        format!("an answer with all of forty bytes: {:04}.", number.get())
    };
    let whole = bench.run(|_| say(long()));
    assert_eq!(whole["text"], "an answer with all of forty bytes: 0037.");
    // 400 sentences in parts of 13 make 31 answers; of those 7 go into a prompt, and the 5 answers to those into one.
    let prompts = bench.read.iter().filter(|read| read.starts_with("an answer")).count();
    assert_eq!((bench.read.len() - prompts, prompts), (31, 6));
}

#[test]
fn a_text_that_has_grown_is_asked_about_its_new_parts_alone() {
    let mut bench = Bench::new(10, 1);
    let deed = |text: &str| say(format!("of {}", text.len()));
    bench.begin("reduce_instructions = 'Join.'", &sentences(50));
    bench.run(deed);
    bench.read.clear();
    let mut fresh = Bench::new(10, 1);
    let grown = |bench: &mut Bench| {
        bench.begin("reduce_instructions = 'Join.'", &sentences(60));
        bench.run(deed)
    };
    let (whole, anew) = (grown(&mut bench), grown(&mut fresh));
    assert_eq!((&whole["text"], &whole["finish"]), (&anew["text"], &anew["finish"]));
    // Of 13 sentences each: the three full parts are as they were, the fourth has grown, the fifth is new.
    assert_eq!((bench.read.len(), fresh.read.len()), (3, 6));
    assert_eq!(bench.read, fresh.read[3..]);
    let usage = |whole: &Value, key: &str| whole["usage"][key].as_u64().expect("a number");
    assert_eq!(usage(&whole, "prompt_tokens"), usage(&anew, "prompt_tokens"));
    assert_eq!(usage(&anew, "cached_tokens"), 0);
    let computed = usage(&whole, "prompt_tokens") - usage(&whole, "cached_tokens");
    assert!(computed * 2 < usage(&whole, "prompt_tokens"), "{whole}");
    assert!(usage(&whole, "generated_tokens") < usage(&anew, "generated_tokens"));
    assert_eq!(whole["energy"]["joules"], json!(1.5));
    // Asked in another way nothing of it is of use.
    bench.read.clear();
    bench.begin("sampling.temperature = 0.5\nreduce_instructions = 'Join.'", &sentences(60));
    bench.run(deed);
    assert_eq!(bench.read.len(), 6);
}

#[test]
fn a_part_that_fails_fails_the_whole_with_its_reason() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(50));
    let refused = bench.run(|text| match text.contains("0020") {
        true => Deed::Refuse(Reason::Internal, "the engine stumbled"),
        false => say("fine"),
    });
    assert_eq!((&refused["code"], &refused["id"]), (&json!(500), &json!("1")), "{refused}");
    let message = refused["message"].as_str().expect("text");
    assert!(message.starts_with("part 2 of 4: the engine stumbled"), "{message}");
    bench.measure();
    assert_eq!(bench.gone, [ClientId::MAX]);
}

#[test]
fn a_model_may_have_nothing_to_say_of_a_part() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(50));
    let whole = bench.run(|text| say(if text.contains("0020") { "one" } else { " \n" }));
    // The one answer is read again, and of that there is nothing to say.
    assert_eq!((&whole["text"], bench.read.last().map(String::as_str)), (&json!(" \n"), Some("one")));
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(50));
    let whole = bench.run(|_| say(""));
    assert_eq!((&whole["text"], &whole["finish"]), (&json!(""), &json!("stop_token")));
    assert_eq!(bench.read.len(), 4);
}

#[test]
fn a_text_beyond_the_budget_is_refused_before_it_costs_anything() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(500));
    let refused = bench.run(|_| panic!("nothing is to be asked"));
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(413), &json!("too_large")));
    let message = refused["message"].as_str().expect("text");
    for words in ["parts, which take up to", "limits.long_tokens of the task allows 2000", "shorten"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn answers_longer_than_they_may_be_end_with_the_best_so_far() {
    let mut bench = Bench::new(10, 1);
    // Each answer is as long as what it is about, so that it never gets shorter.
    bench.begin("", &sentences(50));
    let whole = bench.run(|text| say(text.to_owned()));
    assert_eq!(whole["finish"], "budget", "{whole}");
    let text = whole["text"].as_str().expect("text");
    assert_eq!(text.replace('\n', " "), sentences(50).trim());
    let usage = &whole["usage"];
    let spent = usage["prompt_tokens"].as_u64().expect("a number")
        + usage["generated_tokens"].as_u64().expect("a number");
    assert!(spent > 1000, "{spent} tokens");
}

#[test]
fn a_task_that_leaves_no_room_is_told_so() {
    let mut bench = Bench::new(10, 1);
    let job = bench.job("1", "[limits]\nmax_tokens = 40", &sentences(50));
    bench.texts.begin(job);
    let refused = bench.run(|_| panic!("nothing is to be asked"));
    let message = refused["message"].as_str().expect("text");
    assert!(refused["code"] == 413 && message.contains("two answers must fit"), "{message}");
}

#[test]
fn a_cancelled_text_takes_its_parts_back() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(50));
    let part = bench.part();
    assert!(!bench.texts.cancel(1, "2") && !bench.texts.cancel(2, "1"));
    assert!(bench.texts.cancel(1, "1"));
    let cancelled = bench.received();
    assert_eq!((&cancelled["code"], &cancelled["id"]), (&json!(499), &json!("1")));
    assert!(bench.is_over() && !bench.texts.cancel(1, "1"));
    bench.measure();
    assert_eq!(bench.gone, [part.session.id()]);
    // The engine is late with a part: nobody hears it.
    part.session.send(&answer(&part, "late".into()));
    bench.client.end_requests();
    assert_eq!(bench.client.next_message(), None);
}

#[test]
fn a_text_whose_client_is_gone_ends_without_an_answer() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(50));
    bench.part();
    bench.texts.gone(1);
    while !bench.is_over() {
        std::thread::yield_now();
    }
    bench.client.abandon();
    assert_eq!(bench.client.next_message(), None);
    // The thread counts after it has taken itself off the list.
    let cancelled = || bench.state.status("s".into(), &bench.queue, &Default::default()).requests.cancelled;
    while cancelled() == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn parts_wait_for_room_in_the_queue_until_the_deadline() {
    let mut bench = Bench::new(1, 1);
    let other = bench.job("other", "", "hello");
    bench.queue.push(other).map_err(|(_, error)| error).expect("there is room");
    let mut job = bench.job("1", "[limits]\nmax_tokens = 10", &sentences(50));
    let given = Duration::from_millis(300);
    job.deadline = Some((Instant::now() + given, given));
    bench.texts.begin(job);
    while !bench.is_over() {
        std::thread::yield_now();
        bench.measure();
    }
    let late = bench.received();
    assert_eq!((&late["code"], &late["reason"]), (&json!(408), &json!("deadline")));
    assert!(late["message"].as_str().is_some_and(|message| message.contains("300 ms ran out")), "{late}");
    assert_eq!(bench.queue.pop(Duration::ZERO).map(|job| job.id), Some("other".into()));
}

#[test]
fn so_many_texts_at_once_and_no_more() {
    let mut bench = Bench::new(10, 1);
    bench.begin("", &sentences(50));
    bench.part();
    let second = bench.job("2", "", &sentences(50));
    bench.texts.begin(second);
    let refused = bench.received();
    assert_eq!((&refused["code"], &refused["id"]), (&json!(429), &json!("2")));
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{refused}");
    bench.queue.close();
    bench.queue.stop(Instant::now());
    bench.texts.cancel(1, "1");
    assert_eq!(bench.received()["code"], 499);
}

#[test]
fn a_daemon_that_stops_says_so() {
    let mut bench = Bench::new(10, 2);
    bench.queue.close();
    bench.begin("", &sentences(50));
    assert_eq!(bench.received()["code"], 503);
    let mut bench = Bench::new(10, 2);
    bench.begin("", &sentences(50));
    let parts = [bench.part(), bench.part()];
    bench.queue.stop(Instant::now());
    parts[0].session.send(&answer(&parts[0], "done".into()));
    let stopped = bench.received();
    assert_eq!((&stopped["code"], &stopped["reason"]), (&json!(503), &json!("stopping")));
}
