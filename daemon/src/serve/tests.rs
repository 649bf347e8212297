//! The daemon in this process, with a meter in the test's hands.

use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex};

use tern_boards::energy::fake::{FakeMeter, Reading};
use tern_boards::energy::model::ModelMeter;
use tern_boards::{Profile, Root};
use tern_protocol::answer::{Method, Scope, Usage};

use super::requester::Requester;
use super::*;
use crate::client::Client;
use crate::model::EngineChoice;
use crate::wire::{Answer, Energy, Generate, Request, Status};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

/// A model that is ready at once, on one thread.
pub(super) fn choice() -> ModelChoice {
    let engine = EngineChoice { threads: Some(1), ..EngineChoice::default() };
    ModelChoice { path: Some(TINY.into()), engine }
}

pub(super) fn start(meter: Option<FakeMeter>) -> (tempfile::TempDir, ServerHandle) {
    start_with(Config::default(), meter)
}

pub(super) fn start_with(mut config: Config, meter: Option<FakeMeter>) -> (tempfile::TempDir, ServerHandle) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config.socket.path = folder.path().join("t.sock");
    let model = choice();
    let meter = meter.map(|meter| Box::new(meter) as Box<dyn Meter>);
    let server = Server::start_metered(&config, &model, meter).expect("it starts");
    (folder, server)
}

pub(super) fn talk(client: &mut Client, max_tokens: u32) -> Request {
    let generate = Generate { max_tokens: Some(max_tokens), ..Generate::new("Hello".into()) };
    Request { generate: Some(generate), ..Request::new(client.new_id()) }
}

fn text(client: &mut Client, max_tokens: u32) -> (Usage, Energy) {
    let request = talk(client, max_tokens);
    match client.ask(&request, |_| Ok(())).expect("it answers") {
        Answer::Text(text) => (text.usage, text.energy),
        other => panic!("text was asked for: {other:?}"),
    }
}

pub(super) fn decision(client: &mut Client) -> (Usage, Energy) {
    let id = client.new_id();
    let request = Request::task(id, "log-severity", "fan stopped");
    match client.ask(&request, |_| Ok(())).expect("it answers") {
        Answer::Decision(decision) => (decision.usage, decision.energy),
        other => panic!("a decision was asked for: {other:?}"),
    }
}

pub(super) fn status(client: &mut Client) -> Status {
    let request = Request { status: true, ..Request::new(client.new_id()) };
    match client.ask(&request, |_| Ok(())).expect("it answers") {
        Answer::Status(status) => status,
        other => panic!("a status was asked for: {other:?}"),
    }
}

#[test]
fn every_answer_says_what_it_cost() {
    let (_folder, server) = start(Some(FakeMeter::steady(5_000_000)));
    let mut client = Client::connect(server.socket()).expect("it listens");
    let (usage, energy) = text(&mut client, 20);
    assert_eq!((usage.generated_tokens, energy.method), (20, Method::EnergyCounter));
    let joules = energy.joules.expect("it was measured");
    let (prefill, decode) = (energy.prefill_joules, energy.decode_joules.expect("it decoded"));
    assert!((prefill.expect("it read a prompt") + decode - joules).abs() < 1e-9);
    // The first token came with the end of the prompt.
    let per_step = decode / 19.0;
    let told = energy.joules_per_token.expect("it has tokens");
    assert!((told - per_step).abs() < 1e-3 * per_step, "{told} J, {per_step} J expected");
    // Five watts for as long as the engine worked on it.
    let expected = 5.0 * energy.window_ms / 1e3;
    assert!((joules - expected).abs() < 1e-4 + expected * 0.01, "{joules} J, {expected} J expected");
    let (usage, energy) = decision(&mut client);
    assert!(usage.prompt_tokens > 10 && usage.generated_tokens == 0);
    assert_eq!((energy.decode_joules, energy.joules), (None, energy.prefill_joules));

    let totals = status(&mut client).energy.expect("there is a meter");
    let parts = totals.requests_joules + totals.idle_joules + totals.unattributed_joules;
    assert!((parts - totals.counter_joules).abs() < 1e-9, "{totals:?}");
    assert!(totals.requests_joules >= joules, "{totals:?}");
    server.stop();
}

#[test]
fn a_calibrated_model_is_a_meter_like_any_other() {
    let profile = "name = \"here\"\ntitle = \"Here\"\ncompatible = [\"x,here\"]\n[calibration]\nscope = \"wall\"\n\
        idle_w = 2.0\nbyte_nj = 0.25\nmedian_error = 0.02\nrelative_uncertainty = 0.08\nloads = 20\n\
        date = \"2026-01-20\"\n[[calibration.core]]\ncluster = 0\nmhz = 1000\nwatts = 0.5\n";
    let profile = Profile::parse("here.toml", profile).expect("a sound profile");
    let meter = ModelMeter::detect(&Root::new("/"), &profile).expect("this machine can be read");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::default();
    config.socket.path = folder.path().join("t.sock");
    let meter: Box<dyn Meter> = Box::new(meter.expect("it is calibrated"));
    let server = Server::start_metered(&config, &choice(), Some(meter)).expect("it starts");
    let mut client = Client::connect(server.socket()).expect("it listens");
    let (_, energy) = text(&mut client, 20);
    assert_eq!((energy.method, energy.scope), (Method::CalibratedModel, Some(Scope::Wall)));
    assert_eq!((energy.relative_uncertainty, energy.idle_watts), (Some(0.08), Some(2.0)));
    assert_eq!(energy.calibrated_at.as_deref(), Some("2026-01-20"));
    // Power at rest for all of the window, and on top of it what this machine was busy with.
    let least = 2.0 * energy.window_ms / 1e3;
    let joules = energy.joules.expect("it is modelled");
    // The meter's own thread reads a little after a step begins and ends, so only all of its readings are sure to cover them.
    let counted = status(&mut client).energy.expect("there is a meter").counter_joules;
    assert!(
        counted >= least && joules > 0.0 && joules <= counted,
        "{energy:?}, {counted} J, at least {least} J"
    );
    server.stop();
}

#[test]
fn a_long_text_costs_what_its_parts_cost() {
    let (_folder, server) = start(Some(FakeMeter::steady(5_000_000)));
    let mut client = Client::connect(server.socket()).expect("it listens");
    // No part is like another, whose answer would be kept.
    let text = (100..160).map(|line| format!("The pump of line {line} has failed. ")).collect::<String>();
    let request = Request::task(client.new_id(), "summarize", text);
    let Answer::Text(answer) = client.ask(&request, |_| Ok(())).expect("it answers") else {
        panic!("text was asked for")
    };
    let status = status(&mut client);
    let (usage, tokens) = (answer.usage, status.tokens);
    assert!(usage.prompt_tokens > 400, "{usage:?}");
    let all = (u64::from(usage.prompt_tokens), u64::from(usage.generated_tokens));
    assert_eq!((all, status.requests.answered), ((tokens.prompt, tokens.generated), 1));
    let totals = status.energy.expect("there is a meter");
    let joules = answer.energy.joules.expect("it was measured");
    assert!((totals.requests_joules - joules).abs() < 1e-9, "{joules} of {totals:?}");
    let (decode, per_token) = (answer.energy.decode_joules, answer.energy.joules_per_token);
    let steps = decode.expect("it decoded") / per_token.expect("it has tokens");
    // At most one step a token, and one for the token that ends each part.
    assert!((1.0..=f64::from(usage.generated_tokens) * 1.001).contains(&steps), "{steps} of {usage:?}");
    server.stop();
}

/// The text and the joules of each streamed token, and the last answer.
fn streamed(client: &mut Client, request: Request) -> (Vec<(String, Option<f64>)>, wire::Text) {
    let id = request.id.clone();
    client.send(&Request { stream: true, ..request }).expect("it listens");
    let mut tokens = Vec::new();
    loop {
        match client.receive().expect("it answers") {
            Answer::Token(token) => tokens.push((token.text, token.joules)),
            Answer::Text(text) => {
                assert_eq!(text.id, id);
                return (tokens, text);
            }
            other => panic!("text was asked for: {other:?}"),
        }
    }
}

#[test]
fn every_streamed_token_says_what_it_cost() {
    let (_folder, server) = start(Some(FakeMeter::steady(5_000_000)));
    let mut client = Client::connect(server.socket()).expect("it listens");
    let request = talk(&mut client, 20);
    let (tokens, end) = streamed(&mut client, request);
    let joules: Vec<f64> = tokens.iter().filter_map(|(_, joules)| *joules).collect();
    assert_eq!((tokens[0].1, joules.len()), (None, tokens.len() - 1), "the first is paid with the prompt");
    assert!(joules.iter().all(|joules| *joules > 0.0), "{joules:?}");
    let uj = |joules: f64| (joules * 1e6).round() as u64;
    let sum_uj: u64 = joules.iter().map(|joules| uj(*joules)).sum();
    assert_eq!(sum_uj, uj(end.energy.decode_joules.expect("it decoded")));
    assert_eq!(tokens.iter().map(|(text, _)| text.as_str()).collect::<String>(), end.text);
    // One that ends by itself: the step that chose to end it costs, too.
    let text = "The pump of line 4 has failed.";
    let request = Request::task(client.new_id(), "summarize", text);
    let (tokens, end) = streamed(&mut client, request);
    let sum_uj: u64 = tokens.iter().filter_map(|(_, joules)| joules.map(uj)).sum();
    assert_eq!(end.energy.decode_joules.map_or(0, uj), sum_uj, "{tokens:?}");
    // The fake resolves a millisecond and a microjoule.
    let window_ms = end.usage.decode_ms / f64::from(end.usage.generated_tokens.max(1));
    assert!(end.tokens_below_resolution || window_ms > 0.5, "{window_ms} ms a token");
    server.stop();

    let (_folder, server) = start(None);
    let mut client = Client::connect(server.socket()).expect("it listens");
    let request = talk(&mut client, 5);
    let (tokens, end) = streamed(&mut client, request);
    assert!(tokens.iter().all(|(_, joules)| joules.is_none()) && !end.tokens_below_resolution);
}

#[test]
fn energy_without_a_meter_or_with_a_broken_one_is_unknown() {
    let (_folder, server) = start(None);
    let mut client = Client::connect(server.socket()).expect("it listens");
    let (_, energy) = text(&mut client, 2);
    assert_eq!((energy.joules, energy.method), (None, Method::Unknown));
    assert_eq!(status(&mut client).energy, None);
    drop(server);

    let (_folder, server) = start(Some(FakeMeter::scripted(None, [Reading::Fail; 1000])));
    let mut client = Client::connect(server.socket()).expect("it listens");
    let (usage, energy) = text(&mut client, 2);
    assert_eq!((usage.generated_tokens, energy.joules, energy.joules_per_token), (2, None, None));
}

#[test]
fn clients_at_once_get_what_they_would_get_alone() {
    let (_folder, server) = start(None);
    let ask = |socket: &Path, prompt: &str| {
        let mut client = Client::connect(socket).expect("it listens");
        let mut request = talk(&mut client, 30);
        if let Some(generate) = &mut request.generate {
            generate.prompt = prompt.into();
        }
        let mut streamed = String::new();
        let answer = client.ask(&Request { stream: true, ..request }, |text| {
            streamed.push_str(text);
            Ok(())
        });
        match answer.expect("it answers") {
            Answer::Text(text) => {
                assert_eq!(text.text, streamed);
                text.text
            }
            other => panic!("text was asked for: {other:?}"),
        }
    };
    let prompts = ["Hello", "The bus", "usb 1-1:", "a", "fan", "Error 5", "x y z"];
    let alone: Vec<_> = prompts.iter().map(|prompt| ask(server.socket(), prompt)).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            prompts.iter().map(|prompt| scope.spawn(|| ask(server.socket(), prompt))).collect();
        asked.into_iter().map(|asked| asked.join().expect("it is answered")).collect()
    });
    assert_eq!(alone, together);
    let mut client = Client::connect(server.socket()).expect("it listens");
    assert_eq!(status(&mut client).requests.answered, 14);
}

#[test]
fn a_daemon_stops_even_if_its_folder_is_gone() {
    let (folder, server) = start(None);
    let mut client = Client::connect(server.socket()).expect("it listens");
    drop(folder);
    assert_eq!(text(&mut client, 2).0.generated_tokens, 2);
    server.stop();
    assert!(matches!(client.receive(), Err(crate::client::ClientError::Closed)));
}

/// A client whose answer is never taken.
#[derive(Debug, Default)]
struct Stuck {
    release: Mutex<bool>,
    changed: Condvar,
    reached: AtomicBool,
}

impl Requester for Stuck {
    fn id(&self) -> requester::ClientId {
        u64::MAX
    }

    fn begin(&self, _: &str) -> Result<(), requester::DuplicateId> {
        Ok(())
    }

    fn is_live(&self, _: &str) -> bool {
        false
    }

    fn send(&self, _: &Answer) {
        self.reached.store(true, Ordering::Release);
        let mut released = self.release.lock().expect("nobody panics with it");
        while !*released {
            released = self.changed.wait(released).expect("nobody panics with it");
        }
    }
}

/// Looks at the pulse until it has gone up, or for so long.
fn goes_up(server: &ServerHandle, within: Duration) -> bool {
    let (from, began) = (server.pulse(), Instant::now());
    while began.elapsed() < within {
        if server.pulse() != from {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn the_pulse_goes_on_while_idle_and_stops_with_the_engines_thread() {
    let (_folder, server) = start(None);
    assert!(goes_up(&server, Duration::from_secs(20)), "an idle daemon looks hung");
    let stuck = Arc::new(Stuck::default());
    let asking: Arc<dyn Requester> = Arc::clone(&stuck) as _;
    let request = Request::task("1", "log-severity", "fan stopped");
    server.service().take_request(&asking, request, None);
    while !stuck.reached.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!goes_up(&server, 3 * worker::TICK / 2), "a hung daemon looks alive");
    *stuck.release.lock().expect("nobody panics with it") = true;
    stuck.changed.notify_all();
    assert!(goes_up(&server, Duration::from_secs(20)), "it goes on");
    server.stop();
}

#[test]
fn one_step_moves_the_pulse_many_times() {
    let engine = EngineChoice { threads: Some(1), ..EngineChoice::default() };
    let model = ModelChoice { path: Some(TINY.into()), engine };
    let (moved, layers) = with_engine(&model, |engine, opened| {
        let prompt = [tern_runtime::engine::Piece::Text("Hello")];
        let goal = tern_runtime::engine::Goal::Choose { labels: &["a", "b"] };
        engine.submit(&tern_runtime::engine::Request { key: 0, prompt: &prompt, goal }).expect("it fits");
        let before = opened.pulse.load(Ordering::Relaxed);
        engine.step(|_, _| ());
        (opened.pulse.load(Ordering::Relaxed) - before, engine.model().config.layers as u64)
    })
    .expect("the fixture opens");
    assert!(moved > layers, "{moved} times in {layers} layers");
}

/// A counter that wraps every joule, stalls, fails and is reset, as by a small generator of random numbers.
fn faulty(readings: usize) -> FakeMeter {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut raw_uj = 0;
    FakeMeter::scripted(
        Some(1_000_000),
        std::iter::repeat_with(move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match random % 100 {
                0 => Reading::Fail,
                1..6 => Reading::Stall,
                6 => {
                    // A reset: less than before, and no wrap that a machine could have drawn.
                    raw_uj = 7;
                    Reading::Raw(raw_uj)
                }
                _ => {
                    raw_uj = (raw_uj + random % 30_000) % 1_000_000;
                    Reading::Raw(raw_uj)
                }
            }
        })
        .take(readings),
    )
}

#[test]
fn whatever_clients_do_the_book_holds_what_the_meter_counted() {
    const CLIENTS: u32 = 6;
    const ROUNDS: u32 = 12;
    let (_folder, server) = start(Some(faulty(200_000)));
    let state = Arc::clone(&server.service.state);
    let told_uj: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                let socket = server.socket();
                scope.spawn(move || {
                    let mut client = Client::connect(socket).expect("it listens");
                    let uj = |joules: Option<f64>| joules.map_or(0, |joules| (joules * 1e6).round() as u64);
                    let mut told_uj = 0;
                    for round in 0..ROUNDS {
                        match (index + round) % 4 {
                            0 => told_uj += uj(decision(&mut client).1.joules),
                            1 => told_uj += uj(text(&mut client, 5 + round).1.joules),
                            2 => {
                                let request = talk(&mut client, 20);
                                let (tokens, end) = streamed(&mut client, request);
                                let sum: u64 = tokens.iter().map(|(_, joules)| uj(*joules)).sum();
                                if end.energy.joules.is_some() {
                                    assert_eq!(sum, uj(end.energy.decode_joules));
                                }
                                told_uj += uj(end.energy.joules);
                            }
                            _ => {
                                let request = talk(&mut client, 200);
                                client.send(&request).expect("it listens");
                                let by = client.new_id();
                                let cancel = Request { cancel: Some(request.id.clone()), ..Request::new(by) };
                                client.send(&cancel).expect("it listens");
                                // Both are answered, in either order; the text may have been quicker.
                                for _ in 0..2 {
                                    if let Answer::Text(text) = client.receive().expect("it answers") {
                                        told_uj += uj(text.energy.joules);
                                    }
                                }
                            }
                        }
                    }
                    // It goes away with a request in the engine.
                    let request = talk(&mut client, 200);
                    client.send(&request).expect("it listens");
                    told_uj
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("it is answered")).sum()
    });
    server.stop();
    let totals = state.energy().expect("there is a meter").totals;
    let book = state.daybook.open();
    let sums = &book.record().totals[0].sums;
    println!(
        "{CLIENTS} clients, {} answers, {} broken off; {totals:?}",
        sums.work().answered,
        sums.work().broken_off
    );
    let booked = (sums.work().uj(), sums.idle_uj, sums.unattributed_uj, sums.counter_uj());
    assert_eq!(booked, (totals.requests_uj, totals.idle_uj, totals.unattributed_uj, totals.counter_uj));
    assert!(totals.counter_uj > 1_000_000 && totals.unattributed_uj > 0 && totals.idle_uj > 0, "{totals:?}");
    assert!(told_uj > 0 && told_uj <= totals.requests_uj, "{told_uj} uJ were told");
    let pages: u64 = book.record().pages.iter().map(|page| page.sums.counter_uj()).sum();
    assert_eq!(pages, totals.counter_uj);
    let work = sums.work();
    // Of those that were cancelled some had not begun, and some were quicker.
    let (least, most) = (u64::from(CLIENTS * ROUNDS * 3 / 4), u64::from(CLIENTS * (ROUNDS + 1)));
    assert!(work.answered >= least && work.answered + work.broken_off <= most, "{work:?}");
    assert_eq!(sums.tasks["log-severity"].answered, u64::from(CLIENTS * ROUNDS / 4));
}
