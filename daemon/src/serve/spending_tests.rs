//! Requests with `max_joules`, against a daemon in this process whose meter is in the test's hands.

use tern_boards::energy::Resolution;
use tern_boards::energy::fake::{FakeMeter, Reading};
use tern_protocol::answer::Finish;

use super::tests::{decision, start, start_with, status, talk};
use super::*;
use crate::client::{Client, ClientError};
use crate::wire::{Failure, Request, Text};

/// Ten joules between every two readings: how long a step takes, which other programs decide, is without effect.
fn ten_joules_a_step() -> FakeMeter {
    let readings = (0..20_000).map(|reading| Reading::Raw(10_000_000 * reading));
    let fine = Resolution { period: Duration::from_nanos(1), quantum_uj: 1 };
    FakeMeter::scripted(None, readings).with_resolution(fine)
}

fn text(client: &mut Client, max_tokens: u32, max_joules: Option<f64>) -> Text {
    let request = Request { max_joules, stream: true, ..talk(client, max_tokens) };
    let mut streamed = String::new();
    let answer = client.ask(&request, |text| {
        streamed.push_str(text);
        Ok(())
    });
    match answer.expect("it answers") {
        Answer::Text(text) => {
            assert_eq!(text.text, streamed, "nothing of it is lost");
            text
        }
        other => panic!("text was asked for: {other:?}"),
    }
}

fn refused(client: &mut Client, request: Request) -> Failure {
    match client.ask(&request, |_| Ok(())) {
        Err(ClientError::Refused(failure)) => failure,
        other => panic!("it cannot be answered: {other:?}"),
    }
}

fn classify(client: &mut Client, max_joules: f64) -> Request {
    let request = Request::task(client.new_id(), "log-severity", "fan stopped");
    Request { max_joules: Some(max_joules), ..request }
}

#[test]
fn a_text_ends_with_what_its_joules_paid_for() {
    let (_folder, server) = start(Some(ten_joules_a_step()));
    let mut client = Client::connect(server.socket()).expect("it listens");
    let whole = text(&mut client, 200, None);
    let joules = whole.energy.joules.expect("it was measured");
    let prefill = whole.energy.prefill_joules.expect("it read a prompt");
    // A third of what writing took, so that neither a slow nor a quick step decides.
    let max_joules = prefill + (joules - prefill) / 3.0;
    let cut = text(&mut client, 200, Some(max_joules));
    assert_eq!((whole.finish, cut.finish), (Finish::MaxTokens, Finish::Energy));
    assert!((1..200).contains(&cut.usage.generated_tokens), "{:?}", cut.usage);
    assert!(whole.text.starts_with(&cut.text) && !cut.text.is_empty());
    let spent = cut.energy.joules.expect("it was measured");
    assert!(spent >= max_joules, "{spent} J of {max_joules} J");
    // One step at most above it; a step here is one of at most 201.
    let counted = status(&mut client);
    assert_eq!((counted.requests.answered, counted.live), (2, 0));
    // Enough is enough.
    assert_eq!(text(&mut client, 20, Some(1e6)).finish, Finish::MaxTokens);
    server.stop();
}

#[test]
fn what_has_no_answer_when_its_joules_are_spent_is_told_what_it_cost() {
    let (_folder, server) = start(Some(ten_joules_a_step()));
    let mut client = Client::connect(server.socket()).expect("it listens");
    let long = "The pump of line 4 has failed. ".repeat(12);
    let request = |client: &mut Client| Request {
        max_joules: Some(2.5),
        ..Request::task(client.new_id(), "log-severity", long.clone())
    };
    let asked = request(&mut client);
    let late = refused(&mut client, asked);
    assert_eq!((late.code, late.reason), (402, Reason::Energy), "{late:?}");
    assert!(late.message.contains("10.000 J were spent") && late.message.contains("max_joules is 2.5"));
    // What three cost is held against the fourth before it costs anything.
    for _ in 0..3 {
        decision(&mut client);
    }
    let before = status(&mut client).energy.expect("there is a meter").requests_joules;
    let asked = request(&mut client);
    let early = refused(&mut client, asked);
    assert!(early.message.contains("takes at least"), "{early:?}");
    assert_eq!(status(&mut client).energy.expect("there is a meter").requests_joules, before);
    assert_eq!(status(&mut client).requests.refused, 1);
    server.stop();
}

#[test]
fn joules_that_cannot_be_counted_are_refused_unless_the_operator_says_otherwise() {
    let (_folder, server) = start(None);
    let mut client = Client::connect(server.socket()).expect("it listens");
    let asked = classify(&mut client, 5.0);
    let failure = refused(&mut client, asked);
    assert_eq!((failure.code, failure.reason), (402, Reason::Energy));
    assert!(failure.message.contains("no power meter"), "{failure:?}");
    let asked = classify(&mut client, -5.0);
    assert_eq!(refused(&mut client, asked).reason, Reason::BadRequest);
    server.stop();

    let mut config = Config::default();
    config.energy.unmetered = crate::config::energy::Unmetered::Ignore;
    let (_folder, server) = start_with(config, None);
    let mut client = Client::connect(server.socket()).expect("it listens");
    let asked = classify(&mut client, 5.0);
    assert!(matches!(client.ask(&asked, |_| Ok(())), Ok(Answer::Decision(_))));
    server.stop();

    let (_folder, server) = start(Some(FakeMeter::scripted(None, [Reading::Fail; 1000])));
    let mut client = Client::connect(server.socket()).expect("it listens");
    let request = Request { max_joules: Some(1e6), ..talk(&mut client, 20) };
    let Ok(Answer::Text(text)) = client.ask(&request, |_| Ok(())) else { panic!("it has a token by then") };
    assert_eq!((text.finish, text.usage.generated_tokens, text.energy.joules), (Finish::Energy, 1, None));
    server.stop();
}

#[test]
fn a_long_text_shares_its_joules_among_its_parts() {
    let (_folder, server) = start(Some(ten_joules_a_step()));
    let mut client = Client::connect(server.socket()).expect("it listens");
    // Answers to parts are kept: each text has its own.
    let mut ask = |first: u32, max_joules| {
        let text: String =
            (first..first + 60).map(|line| format!("The pump of line {line} has failed. ")).collect();
        let request = Request { max_joules, ..Request::task(client.new_id(), "summarize", text) };
        match client.ask(&request, |_| Ok(())).expect("it answers") {
            Answer::Text(text) => text,
            other => panic!("text was asked for: {other:?}"),
        }
    };
    let whole = ask(100, None).energy.joules.expect("it was measured");
    let cut = ask(200, Some(whole / 2.0));
    assert_eq!(cut.finish, Finish::Energy);
    let spent = cut.energy.joules.expect("it was measured");
    assert!(spent < whole, "{spent} J of {whole} J");
    server.stop();
}
