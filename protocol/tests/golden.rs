//! The bytes of every message that a small device sends or reads, pinned: the other side may be years older.
//! `golden.txt` was written by `tests/oracles/frames.py`, which shares no code with this crate.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tern_protocol::answer::{
    Cancelled, Decision, Energy, Failure, Finish, Idle, Method, Pacing, Probability, Reason, Requests, Scope,
    SlowedBy, State, Status, Text, Token, Tokens, Usage, Value,
};
use tern_protocol::frame::{decode, decode_all, encode};
use tern_protocol::json::Json;
use tern_protocol::request::{Ask, Chat, Example, Generate, Kind, Limits, Message, Priority, Role, Sampling};
use tern_protocol::storage::Fixed;
use tern_protocol::{Answer, Request};

type Small = Fixed<16, 2>;
type Line = heapless::String<16>;

fn text(text: &str) -> Line {
    text.try_into().expect("it is short")
}

fn list<T>(items: impl IntoIterator<Item = T>) -> heapless::Vec<T, 2> {
    items.into_iter().collect()
}

/// The frame of this name.
fn golden(name: &str) -> Vec<u8> {
    let lines = include_str!("golden.txt").lines();
    let mut found = lines.filter_map(|line| line.split_once(' ')).filter(|(of, _)| *of == name);
    let (_, bytes) = found.next().unwrap_or_else(|| panic!("no golden frame {name}"));
    bytes.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect()
}

/// `message` is written as its golden frame, and that is read as `message`.
#[track_caller]
fn pinned<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: T) {
    let mut golden = golden(name);
    assert_eq!(encode(&message, &mut [0; 512]).expect("it fits"), golden, "{name}");
    assert_eq!(decode_all::<T>(&mut golden).expect("it is sound"), message, "{name}");
}

fn request(id: &str) -> Request<Small> {
    Request::new(text(id))
}

#[test]
fn requests_for_decisions_are_pinned() {
    pinned("task", Request { task: Some(text("t")), text: Some(text("hi")), ..request("7") });
    let choice = Ask {
        instructions: Some(text("Where?")),
        labels: Some(list(["usb", "net"].map(text))),
        threshold: Some(0.5),
        ..Ask::new(Kind::Choice)
    };
    pinned(
        "ask_choice",
        Request { ask: Some(choice), text: Some(text("x")), deadline_ms: Some(2000), ..request("a") },
    );
    let score = Ask {
        name: Some(text("how")),
        instructions: Some(text("How bad?")),
        template: Some(text("{text}")),
        min: Some(-3),
        max: Some(7),
        example: Some(list([Example { text: text("smoke"), answer: text("7") }])),
        limits: Some(Limits { text_bytes: Some(300), ..Limits::default() }),
        ..Ask::new(Kind::Score)
    };
    pinned("ask_score", Request { ask: Some(score), text: Some(text("fire")), ..request("b") });
}

#[test]
fn a_request_with_a_budget_of_joules_is_pinned() {
    let thrifty = || Request { task: Some(text("t")), text: Some(text("x")), ..request("f") };
    pinned("thrifty", Request { max_joules: Some(0.75), ..thrifty() });
    pinned("patient", Request { priority: Some(Priority::Low), ..thrifty() });
    // Frames have no place for the joules of a task's limits, and are the same with them.
    let asked = |max_joules| Request::<Small> {
        ask: Some(Ask {
            limits: Some(Limits { text_bytes: Some(1), max_joules, ..Limits::default() }),
            ..Ask::new(Kind::Text)
        }),
        ..thrifty()
    };
    let (mut with, mut without) = ([0; 128], [0; 128]);
    assert_eq!(encode(&asked(Some(2.0)), &mut with), encode(&asked(None), &mut without));
}

#[test]
fn requests_for_text_are_pinned() {
    let sampling = Sampling {
        temperature: Some(0.5),
        top_k: Some(300),
        seed: Some(1 << 40),
        stop: Some(list([text(".")])),
        ..Sampling::default()
    };
    let generate = Generate { max_tokens: Some(32), sampling: Some(sampling), ..Generate::new(text("Once")) };
    pinned("generate", Request { generate: Some(generate), stream: true, ..request("c") });
    let schema = Some(Json(text(r#"{"type":"null"}"#)));
    let generate = Generate { schema, logprobs: Some(2), ..Generate::new(text("Once")) };
    pinned("schema", Request { generate: Some(generate), ..request("e") });
    let messages = [(Role::System, "Be brief."), (Role::User, "Hello")];
    let messages = list(messages.map(|(role, content)| Message { role, content: text(content) }));
    let chat = Chat { max_tokens: Some(8), ..Chat::new(messages) };
    pinned("chat", Request { chat: Some(chat), ..request("d") });
}

#[test]
fn requests_about_requests_are_pinned() {
    pinned("cancel", Request { cancel: Some(text("7")), ..request("9") });
    pinned("status", Request { status: true, ..request("8") });
}

fn unmetered() -> Energy<Small> {
    Energy {
        joules: None,
        prefill_joules: None,
        decode_joules: None,
        joules_per_token: None,
        method: Method::Unknown,
        source: None,
        scope: None,
        idle: Idle::Included,
        idle_watts: None,
        relative_uncertainty: None,
        samples: 0,
        sample_hz: None,
        window_ms: 0.0,
        calibrated_at: None,
        throttled: None,
        below_resolution: false,
    }
}

fn one_row() -> Usage {
    Usage { prompt_tokens: 1, label_rows: 1, prefill_ms: 1.0, ..Usage::default() }
}

#[test]
fn decisions_are_pinned() {
    let metered = Energy {
        joules: Some(0.25),
        prefill_joules: Some(0.25),
        joules_per_token: Some(0.0125),
        method: Method::EnergyCounter,
        source: Some(text("rapl")),
        scope: Some(Scope::CpuPackage),
        idle: Idle::Subtracted,
        idle_watts: Some(1.5),
        relative_uncertainty: Some(0.125),
        samples: 5,
        sample_hz: Some(50.0),
        window_ms: 8.0,
        throttled: Some(false),
        ..unmetered()
    };
    let probabilities = [("usb", 0.75), ("net", 0.25)];
    let decision = Decision::<Small> {
        id: text("a"),
        label: Some(text("usb")),
        probability: 0.75,
        abstained: false,
        probabilities: list(probabilities.map(|(label, p)| Probability { label: text(label), p })),
        value: None,
        usage: Usage {
            prompt_tokens: 20,
            label_rows: 3,
            queue_ms: 0.5,
            prefill_ms: 8.0,
            prompt_tokens_per_second: Some(2500.0),
            ..Usage::default()
        },
        energy: metered,
        model: text("m"),
        task: Some(text("t")),
    };
    pinned("decision", Answer::Decision(decision.clone()));
    let plain = Decision {
        probability: 0.5,
        probabilities: list([]),
        usage: one_row(),
        energy: unmetered(),
        task: None,
        ..decision
    };
    let value = Some(Value::Bool(false));
    pinned("abstained", Answer::Decision(Decision { label: None, abstained: true, value, ..plain.clone() }));
    let value = Some(Value::Number(6.5));
    pinned("score", Answer::Decision(Decision { id: text("b"), label: Some(text("7")), value, ..plain }));
}

#[test]
fn texts_are_pinned() {
    let token = Token::<Small> { id: text("1"), text: text("ok"), logprobs: None, joules: None };
    pinned("token", Answer::Token(token.clone()));
    pinned("metered", Answer::Token(Token { joules: Some(0.25), ..token }));
    let usage = Usage {
        prompt_tokens: 4,
        generated_tokens: 5,
        label_rows: 0,
        queue_ms: 0.5,
        prefill_ms: 8.0,
        decode_ms: 16.0,
        prompt_tokens_per_second: Some(500.0),
        generated_tokens_per_second: Some(250.0),
        paced_ms: None,
        cached_tokens: None,
        drafted_tokens: None,
        accepted_tokens: None,
    };
    let end = Text::<Small> {
        id: text("c"),
        text: text("ok"),
        finish: Finish::MaxTokens,
        usage,
        energy: unmetered(),
        model: text("m"),
        task: None,
        logprobs: None,
        tokens_below_resolution: false,
    };
    pinned("text", Answer::Text(end.clone()));
    pinned("coarse", Answer::Text(Text { tokens_below_resolution: true, ..end.clone() }));
    let usage = Usage {
        generated_tokens: 2,
        prompt_tokens_per_second: None,
        generated_tokens_per_second: None,
        ..usage
    };
    pinned("spent", Answer::Text(Text { id: text("f"), finish: Finish::Energy, usage, ..end }));
}

#[test]
fn answers_about_requests_are_pinned() {
    pinned("cancelled", Answer::Cancelled(Cancelled::<Small> { id: text("9"), cancel: text("7") }));
    let how = Status::<Small> {
        id: text("8"),
        state: State::Ready,
        model: text("m"),
        kernels: text("scalar-t2i8"),
        threads: 2,
        version: text("0.1.0"),
        queue: 1,
        live: 2,
        requests: Requests { answered: 300, refused: 2, expired: 1, cancelled: 0 },
        tokens: Tokens { prompt: 70_000, generated: 50, ..Tokens::default() },
        uptime_s: 3600.5,
        tasks: list([text("t")]),
        energy: None,
        pacing: None,
    };
    pinned("how", Answer::Status(how.clone()));
    let pacing = Pacing {
        power_budget_w: Some(5.0),
        window_s: Some(60.0),
        mean_w: Some(4.5),
        temperature_c: None,
        temperature_limit_c: None,
        throttled: Some(false),
        throttled_times: 300,
        working: 0.5,
        paced_s: 12.5,
        slowed_by: Some(SlowedBy::Power),
    };
    pinned("paced", Answer::Status(Status { pacing: Some(pacing), ..how }));
    let failure = |id: Option<&str>, reason: Reason, message: &str, retry_after_ms| {
        let (id, message) = (id.map(text), text(message));
        Answer::Error(Failure::<Small> { id, code: reason.code(), reason, message, retry_after_ms })
    };
    pinned("error", failure(None, Reason::QueueFull, "full", Some(700)));
    pinned("costly", failure(Some("f"), Reason::Energy, "no", None));
    pinned("forbidden", failure(Some("7"), Reason::Forbidden, "no", None));
}

#[test]
fn the_page_shows_a_frame() {
    let shown: Vec<_> = golden("task").iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        include_str!("../../docs/wire.md").contains(&shown.join(" ")),
        "docs/wire.md shows another frame"
    );
}

#[test]
fn every_golden_frame_is_read_and_any_changed_bit_is_found() {
    for line in include_str!("golden.txt").lines() {
        let (name, _) = line.split_once(' ').expect("a name and bytes");
        let frame = golden(name);
        let request = decode_all::<Request<Small>>(&mut frame.clone()).is_ok();
        let answer = decode_all::<Answer<Small>>(&mut frame.clone()).is_ok();
        assert!(request || answer, "{name}");
        for bit in 0..8 * (frame.len() - 1) {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = (
                decode::<Request<Small>>(&mut changed.clone()).is_ok(),
                decode::<Answer<Small>>(&mut changed).is_ok(),
            );
            assert_eq!(read, (false, false), "{name} with bit {bit} changed");
        }
    }
}
