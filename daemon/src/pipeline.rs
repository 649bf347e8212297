//! Many requests under way on one connection, answers in the order of the requests.
//!
//! A thread of its own takes requests from their source, which may be a slow pipe, and sends them as long as fewer than
//! a window of them are under way; the caller's thread receives. A full queue is waited out.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_protocol::answer::Reason;

use crate::client::{Client, ClientError, Sender};
use crate::error::CommandError;
use crate::wire::{Answer, Request};

/// How long to wait for a place in a full queue whose daemon does not say.
const RETRY_MS: u32 = 50;

/// What the two threads share.
struct Shared {
    flow: Mutex<Flow>,
    changed: Condvar,
}

struct Flow {
    sender: Sender,
    /// Requests without a last answer, by their place in the order.
    under_way: BTreeMap<u64, Request>,
    /// Why the source ended, once it has.
    ended: Option<Result<(), CommandError>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Flow> {
        // A panic of the other thread leaves nothing half done that matters here.
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'s>(
        &'s self,
        flow: MutexGuard<'s, Flow>,
        wait: impl Fn(&Flow) -> bool,
    ) -> MutexGuard<'s, Flow> {
        self.changed.wait_while(flow, |flow| wait(flow)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the requests of `source`, whose ids it sets, at most `window` at a time, and gives `on_answer` the last answer
/// to each in order, with its place counted from 0. Errors of single requests are answers too; streamed text is not
/// expected.
///
/// # Errors
/// The first error of the connection, of `source` (after the answers to what it gave before) or of `on_answer`.
pub fn run(
    client: Client,
    window: usize,
    source: impl Iterator<Item = Result<Request, CommandError>> + Send + 'static,
    mut on_answer: impl FnMut(u64, Answer) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let (sender, mut receiver) = client.split();
    let flow = Flow { sender, under_way: BTreeMap::new(), ended: None };
    let shared = Arc::new(Shared { flow: Mutex::new(flow), changed: Condvar::new() });
    // Not joined: it may be blocked on a terminal when the daemon goes away, and the process ends anyway.
    let feeding = Arc::clone(&shared);
    std::thread::spawn(move || {
        let outcome = feed(&feeding, window.max(1), source);
        feeding.lock().ended = Some(outcome);
        feeding.changed.notify_all();
    });

    let mut early: BTreeMap<u64, Answer> = BTreeMap::new();
    let mut next = 0;
    loop {
        let mut flow =
            shared.wait_while(shared.lock(), |flow| flow.under_way.is_empty() && flow.ended.is_none());
        if flow.under_way.is_empty() {
            return flow.ended.take().unwrap_or(Ok(()));
        }
        drop(flow);
        let answer = receiver.receive()?;
        let Some(place) = answer.id().and_then(|id| id.parse::<u64>().ok()).filter(|_| answer.is_last())
        else {
            if let Answer::Error(failure) = answer {
                return Err(ClientError::Refused(failure).into());
            }
            continue;
        };
        if let Answer::Error(failure) = &answer
            && failure.reason == Reason::QueueFull
        {
            let pause = failure.retry_after_ms.unwrap_or(RETRY_MS);
            std::thread::sleep(Duration::from_millis(pause.into()));
            let mut flow = shared.lock();
            let Flow { sender, under_way, .. } = &mut *flow;
            if let Some(request) = under_way.get(&place) {
                sender.send(request)?;
            }
            continue;
        }
        if shared.lock().under_way.remove(&place).is_none() {
            continue;
        }
        shared.changed.notify_all();
        early.insert(place, answer);
        while let Some(answer) = early.remove(&next) {
            on_answer(next, answer)?;
            next += 1;
        }
    }
}

fn feed(
    shared: &Shared,
    window: usize,
    source: impl Iterator<Item = Result<Request, CommandError>>,
) -> Result<(), CommandError> {
    for (place, request) in (0u64..).zip(source) {
        let mut request = request?;
        request.id = place.to_string();
        let mut flow = shared.wait_while(shared.lock(), |flow| flow.under_way.len() >= window);
        let sent = flow.sender.send(&request);
        if sent.is_ok() {
            flow.under_way.insert(place, request);
        }
        drop(flow);
        shared.changed.notify_all();
        sent?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::error::Exit;

    /// Answers pairs of requests in the wrong order, and says "queue full" to the first request once.
    fn contrary_peer(listener: &UnixListener) {
        let (stream, _) = listener.accept().expect("the client");
        let mut out = stream.try_clone().expect("a second handle");
        let mut full = true;
        let mut held: Option<String> = None;
        let mut answer = |id: &str, reason: &str| {
            writeln!(
                out,
                "{{\"type\":\"error\",\"id\":\"{id}\",\"code\":400,\"reason\":\"{reason}\",\"message\":\"m{id}\",\
                 \"retry_after_ms\":1}}"
            )
            .expect("the client reads");
        };
        for line in BufReader::new(stream).lines() {
            let request: Request = serde_json::from_str(&line.expect("a line")).expect("a request");
            if std::mem::take(&mut full) {
                answer(&request.id, "queue_full");
                continue;
            }
            match held.take() {
                None => held = Some(request.id),
                Some(first) => {
                    answer(&request.id, "bad_request");
                    answer(&first, "bad_request");
                }
            }
        }
    }

    fn connect() -> Client {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let client = Client::connect(&socket).expect("a connection");
        std::thread::spawn(move || contrary_peer(&listener));
        client
    }

    fn requests(count: usize) -> impl Iterator<Item = Result<Request, CommandError>> + Send + 'static {
        (0..count).map(|_| Ok(Request::task("", "t", "x")))
    }

    #[test]
    fn answers_come_in_order_and_a_full_queue_is_waited_out() {
        let mut seen = Vec::new();
        run(connect(), 4, requests(20), |place, answer| {
            let Answer::Error(failure) = answer else { panic!("the peer only refuses") };
            assert_eq!(failure.message, format!("m{place}"));
            seen.push(place);
            Ok(())
        })
        .expect("all answered");
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_the_source_comes_after_the_answers_before_it() {
        let source = requests(4).chain([Err(CommandError::new(Exit::NoInput, "pipe burst"))]);
        let mut seen = 0;
        let error = run(connect(), 2, source, |_, _| {
            seen += 1;
            Ok(())
        })
        .expect_err("the source fails");
        assert_eq!((seen, error.to_string().as_str()), (4, "pipe burst"));
    }

    #[test]
    fn a_source_without_requests_ends_at_once() {
        run(connect(), 2, requests(0), |_, _| panic!("nothing was asked")).expect("nothing to do");
    }
}
