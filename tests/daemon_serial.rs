//! A serial line, and the protocol's client for microcontrollers at its other end: over a bad wire, through restarts of
//! the daemon and of the client, and when the line itself comes and goes.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use embedded_io::{Read, Write};
use tern_microcontroller::{Node, Reading, Switches, Verdict};
use tern_protocol::answer::Finish;
use tern_protocol::client::{Client, ClientError, Ids};
use tern_protocol::frame::encode;
use tern_protocol::request::Generate;
use tern_protocol::storage::{Borrowed, Fixed};
use tern_protocol::{Answer, Request};
use tern_tests::daemon::Daemon;
use tern_tests::model::bundled_name;
use tern_tests::port::{Noisy, Port, SerialLine};

type Room = Fixed<1024, 16>;
const FRAME_BYTES: usize = 2048;

/// As long as any answer may take on a busy machine.
const LONG: Duration = Duration::from_secs(30);

const LINES: [&str; 4] = [
    "kernel: sdhci-bcm-kona: Error: sd host is stuck in reset!!!",
    "fwio 0000:01:00.0: Firmware download completed.",
    "thermal thermal_zone0: critical temperature reached (105 C), shutting down",
    "gpio-charger: Failed to register power supply: 4",
];

fn section(device: &Path) -> String {
    format!("[serial]\npath = '{}'", device.display())
}

fn task(id: &str, line: &'static str) -> Request<Fixed<128, 1>> {
    let text = |text: &str| heapless_text(text);
    Request::task(text(id), text("log-severity"), text(line))
}

fn heapless_text(text: &str) -> <Fixed<128, 1> as tern_protocol::Storage>::Text {
    text.try_into().expect("it is short")
}

/// Asks the talking model to go on until its context is full.
fn talk(id: &str) -> Request<Borrowed<'_>> {
    let mut request = Request::new(id);
    request.generate = Some(Generate::new("Hello"));
    request
}

fn label(answer: &Answer<Room>) -> &str {
    match answer {
        Answer::Decision(decision) => decision.label.as_deref().expect("this task does not abstain"),
        other => panic!("not a decision: {other:?}"),
    }
}

/// The labels of [`LINES`], asked for over the socket in JSON.
fn labels(daemon: &Daemon) -> Vec<String> {
    let mut peer = daemon.connect();
    let mut ask = |line: &&str| {
        let request = serde_json::json!({"id": "1", "task": "log-severity", "text": line});
        peer.send(&request.to_string());
        peer.last("1")["label"].as_str().expect("a label").to_owned()
    };
    LINES.iter().map(&mut ask).collect()
}

/// Asks for each of [`LINES`] `times` times on a bad wire; says how many bytes the noise hit.
fn ask_all<Port: Read + Write>(port: Port, times: usize, right: &[String]) -> Port
where
    Port::Error: std::fmt::Debug,
{
    let (mut client, mut ids) = (Client::<Port, FRAME_BYTES>::new(port), Ids::after_reset(7));
    for _ in 0..times {
        for (line, right) in LINES.iter().zip(right) {
            let answer = client.ask::<_, Room>(&task(&ids.next_id(), line), 200).expect("it is answered");
            assert_eq!(label(&answer), right, "{line}");
        }
    }
    client.into_inner()
}

#[test]
fn a_client_is_answered_as_it_would_be_over_the_socket() {
    let line = SerialLine::new();
    let daemon = Daemon::start(&section(line.far()));
    ask_all(line.port(LONG), 1, &labels(&daemon));
    let mut client = Client::<Port, FRAME_BYTES>::new(line.port(LONG));
    let mut status = Request::<Borrowed>::new("s");
    status.status = true;
    let Ok(Answer::Status(status)) = client.ask::<_, Room>(&status, 1) else { panic!("no status") };
    assert_eq!((status.model.as_str(), status.requests.answered), (bundled_name().as_str(), 8));
    let mut cancel = Request::<Borrowed>::new("c");
    cancel.cancel = Some("nobody");
    let Ok(Answer::Error(failure)) = client.ask::<_, Room>(&cancel, 1) else { panic!("no error") };
    assert_eq!(failure.code, 404);
}

#[test]
fn nothing_is_answered_wrongly_over_a_wire_full_of_noise() {
    let line = SerialLine::new();
    let mut daemon = Daemon::start(&section(line.far()));
    let right = labels(&daemon);
    let port = Noisy::new(line.port(Duration::from_millis(100)), 400, 20_261_121);
    let port = ask_all(port, 10, &right);
    assert!(port.hits > 10, "the noise hit {} bytes", port.hits);
    daemon.signal("TERM");
    let log = daemon.wait().stderr;
    assert!(log.lines().count() < 20, "{} hits made this log:\n{log}", port.hits);
}

#[test]
fn a_daemon_that_is_killed_and_comes_back_answers_what_was_asked_meanwhile() {
    let line = SerialLine::new();
    let config = section(line.far());
    let mut daemon = Daemon::start(&config);
    let right = labels(&daemon);
    let asked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for _ in 0..6 {
                // Each time another client: a microcontroller that was reset as well.
                ask_all(line.port(Duration::from_millis(200)), 1, &right);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        for kill_after in [1, 3] {
            while asked.load(Ordering::Relaxed) < kill_after && !asking.is_finished() {
                std::thread::yield_now();
            }
            let folder = daemon.kill();
            // Half a frame of a client that loses its power now.
            let frame = encode(&task("9", LINES[0]), &mut [0; 256]).expect("it fits").to_vec();
            line.port(LONG).write_all(&frame[..frame.len() / 2]).expect("the line is there");
            daemon = Daemon::start_in(folder, &config);
        }
        asking.join().expect("all was answered");
    });
    assert_eq!(asked.into_inner(), 6);
}

#[test]
fn a_line_that_vanishes_is_opened_again_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let adapter = folder.path().join("ttyUSB0");
    let plug = |line: &SerialLine| {
        // Nothing is there the first time.
        let _ = std::fs::remove_file(&adapter);
        std::os::unix::fs::symlink(line.far(), &adapter).expect("the folder can be written");
    };
    // It is not even there when the daemon starts.
    let mut daemon = Daemon::start(&section(&adapter));
    let right = labels(&daemon);
    for _ in 0..2 {
        let line = SerialLine::new();
        plug(&line);
        ask_all(line.port(Duration::from_millis(200)), 1, &right);
    }
    daemon.signal("TERM");
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("ttyUSB0") && ended.stderr.contains("waiting for it"), "{ended:?}");
    assert!(ended.stderr.contains("is lost"), "{ended:?}");
    assert!(ended.stderr.lines().count() < 10, "{ended:?}");
}

#[test]
fn what_is_sent_again_while_it_is_live_is_answered_once() {
    let line = SerialLine::new();
    let daemon = Daemon::talker(&section(line.far()));
    let mut client = Client::<Port, FRAME_BYTES>::new(line.port(LONG));
    for _ in 0..5 {
        client.send(&talk("1")).expect("the line is there");
    }
    let Ok(Answer::Text(text)) = client.receive::<Room>() else { panic!("no text") };
    assert_eq!((text.id.as_str(), text.finish), ("1", Finish::ContextFull));
    let mut status = Request::<Borrowed>::new("2");
    status.status = true;
    client.send(&status).expect("the line is there");
    let Ok(Answer::Status(status)) = client.receive::<Room>() else { panic!("another answer to 1") };
    assert_eq!((status.requests.answered, status.requests.refused), (1, 0));
    drop(daemon);
}

#[test]
fn a_client_that_was_reset_does_not_get_the_answer_to_what_it_asked_before() {
    let line = SerialLine::new();
    let daemon = Daemon::talker(&section(line.far()));
    let mut before = Client::<Port, FRAME_BYTES>::new(line.port(LONG));
    let mut streamed = talk("1");
    streamed.stream = true;
    before.send(&streamed).expect("the line is there");
    assert!(matches!(before.receive::<Room>(), Ok(Answer::Token(_))));
    // The same id for another question, as by a client without a number for each reset.
    let mut after = Client::<Port, FRAME_BYTES>::new(line.port(LONG));
    let answer = after.ask::<_, Room>(&task("1", LINES[0]), 1).expect("it is answered");
    assert!(matches!(answer, Answer::Decision(_)), "{answer:?}");
    let status = daemon.status_when(|status| status["live"] == 0);
    assert_eq!(status["requests"]["cancelled"], 1, "{status}");
}

#[test]
fn a_line_that_babbles_or_echoes_drowns_neither_the_log_nor_itself() {
    let line = SerialLine::new();
    let mut daemon = Daemon::start(&format!("{}\n[limits]\nline_bytes = 4096", section(line.far())));
    let right = labels(&daemon);
    let mut port = line.port(Duration::from_millis(300));
    for piece in [&b"login: \r\n"[..], &[0x55; 512], &[0, 1, 2, 0, 3, 0xff, 0]] {
        for _ in 0..100 {
            port.write_all(piece).expect("the daemon reads");
        }
    }
    // Everything that comes goes back, for as long as something comes.
    let (began, mut echoed, mut bytes) = (Instant::now(), Vec::new(), [0; 256]);
    port.write_all(b"\0what?\0").expect("the daemon reads");
    while began.elapsed() < Duration::from_secs(3) {
        let Ok(read) = port.read(&mut bytes) else { break };
        echoed.extend_from_slice(&bytes[..read]);
        port.write_all(&bytes[..read]).expect("the daemon reads");
    }
    let frames = echoed.split(|byte| *byte == 0).filter(|frame| !frame.is_empty()).count();
    assert!((1..20).contains(&frames), "{frames} frames went in circles");
    ask_all(port, 1, &right);
    daemon.signal("TERM");
    let log = daemon.wait().stderr;
    assert!(log.contains("came what is no request"), "{log}");
    // The log tells ten of a kind, and then their number.
    assert!(log.lines().count() < 14, "{log}");
}

#[test]
fn a_daemon_that_stops_delivers_the_last_answer() {
    let line = SerialLine::new();
    let mut daemon = Daemon::talker(&format!("{}\n[limits]\nstop_ms = 0", section(line.far())));
    let mut client = Client::<Port, FRAME_BYTES>::new(line.port(LONG));
    let mut streamed = talk("1");
    streamed.stream = true;
    client.send(&streamed).expect("the line is there");
    assert!(matches!(client.receive::<Room>(), Ok(Answer::Token(_))));
    daemon.signal("TERM");
    let last = loop {
        match client.receive::<Room>() {
            Ok(Answer::Token(_)) => {}
            other => break other,
        }
    };
    let Ok(Answer::Error(failure)) = last else { panic!("{last:?}") };
    assert_eq!((failure.id.as_deref(), failure.code), (Some("1"), 503));
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn what_is_no_serial_line_ends_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start = |path: &Path| {
        let mut command = tern_tests::binary::tern(["serve", "--socket"]);
        command.arg(folder.path().join("t.sock")).arg("--serial").arg(path);
        tern_tests::binary::run(command, "")
    };
    let file = folder.path().join("file");
    std::fs::File::create(&file).and_then(|mut file| file.write_all(b"x")).expect("it can be written");
    let ended = start(&file);
    assert_eq!(ended.code, Some(73), "{ended:?}");
    assert!(ended.stderr.contains("is no serial line"), "{ended:?}");
    let line = SerialLine::new();
    let _first = Daemon::start(&section(line.far()));
    let in_use = start(line.far());
    assert_eq!(in_use.code, Some(73), "{in_use:?}");
    assert!(in_use.stderr.contains("another program uses the serial line"), "{in_use:?}");
}

/// What a node switched.
#[derive(Debug, Default, PartialEq)]
struct Panel {
    restarts: u32,
    called: bool,
}

impl Switches for Panel {
    fn restart_sensor(&mut self) {
        self.restarts += 1;
    }

    fn call(&mut self, on: bool) {
        self.called = on;
    }
}

#[test]
fn the_example_of_a_sensor_node_acts_on_the_daemons_word_and_alone_without_it() {
    let line = SerialLine::new();
    let daemon = Daemon::start(&section(line.far()));
    let (mut node, mut panel) = (Node::new(line.port(LONG), 1), Panel::default());
    let verdict = node.watch(Reading::Failed { times: 1 }, &mut panel);
    assert_eq!((verdict, &panel), (Verdict::Restarted, &Panel { restarts: 1, called: true }));
    let verdict = node.watch(Reading::Celsius(41), &mut panel);
    assert_eq!((verdict, &panel), (Verdict::Fine, &Panel { restarts: 1, called: false }));
    assert_eq!(daemon.status()["requests"]["answered"], 2);
    drop(daemon);
    let mut alone = Node::new(line.port(Duration::from_millis(20)), 2);
    let verdict = alone.watch(Reading::Failed { times: 2 }, &mut panel);
    assert_eq!(
        (verdict, &panel),
        (Verdict::Alone { restarted: false }, &Panel { restarts: 1, called: true })
    );
    let verdict = alone.watch(Reading::Failed { times: 3 }, &mut panel);
    assert_eq!((verdict, &panel), (Verdict::Alone { restarted: true }, &Panel { restarts: 2, called: true }));
    let mut silent = Client::<Port, 256>::new(line.port(Duration::from_millis(20)));
    let failure = silent.ask::<_, Room>(&task("1", LINES[0]), 2);
    assert_eq!(failure, Err(ClientError::NoAnswer { tries: 2 }));
}
