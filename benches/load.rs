//! The whole way of a request: requests a second and latency over the Unix socket and over MQTT, by 1 and 8 clients
//! that each send the next request when they have the last answer.
//!
//! `cargo bench --bench load`. It needs mosquitto. Every request is another log line, so that nothing but the task's own
//! words is found computed already. Beside what clients see it prints what the engine says that it spent
//! on a request: with one client no transport can be quicker than that, and with eight the engine works on several at
//! once. Each answer is checked to be a decision. MQTT is measured at a broker that sends small packets at once, and as
//! `delay` at one that is left as it comes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::mqtt_daemon::{start, topic};
use tern_tests::mqtt_peer::Note;

/// Time that each case is measured, after a tenth of it to warm up.
const TIME: Duration = Duration::from_secs(5);

/// Clients at once.
const CLIENTS: [usize; 2] = [1, 8];

/// Log lines of the held-out set of severities.
struct Lines(Vec<String>);

impl Lines {
    fn open() -> Lines {
        let set = concat!(env!("CARGO_MANIFEST_DIR"), "/models/eval/log-severity.jsonl");
        let rows = std::fs::read_to_string(set).expect("the repository has this set");
        let text =
            |row: &str| serde_json::from_str::<Value>(row).expect("JSON")["text"].as_str().map(str::to_owned);
        Lines(rows.lines().map(|row| text(row).expect("a text")).collect())
    }

    /// What `client` of [`CLIENTS`] sends as its request `number`: under a time of its own, as kernels write them.
    fn of(&self, client: usize, number: u64) -> String {
        let text = &self.0[(client * 191 + number as usize) % self.0.len()];
        format!("[{:5}.{number:06}] {text}", 100 + client)
    }
}

/// What a client saw of its requests.
#[derive(Default)]
struct Seen {
    /// From before the request was written until its answer was read, in microseconds.
    latencies_us: Vec<u64>,
    /// What the engine says it spent on it, in microseconds.
    engine_us: Vec<u64>,
}

impl Seen {
    /// Sends requests one after the other.
    fn of(mut request: impl FnMut(u64) -> Value) -> Seen {
        let mut seen = Seen::default();
        let warm = Instant::now() + TIME / 10;
        let end = warm + TIME;
        for number in 0.. {
            let began = Instant::now();
            let answer = request(number);
            assert_eq!(answer["type"], "decision", "{answer}");
            let now = Instant::now();
            if began >= warm && now <= end {
                let ms = |key: &str| answer["usage"][key].as_f64().expect("a number");
                seen.latencies_us.push((now - began).as_micros() as u64);
                seen.engine_us.push(((ms("prefill_ms") + ms("decode_ms")) * 1e3) as u64);
            }
            if now > end {
                break;
            }
        }
        seen
    }
}

fn percentile(sorted: &[u64], of_hundred: usize) -> f64 {
    sorted[(sorted.len() * of_hundred / 100).min(sorted.len() - 1)] as f64 / 1e3
}

/// Runs `clients` at once and prints what they saw.
fn report(way: &str, clients: usize, client: impl Fn(usize) -> Seen + Sync) {
    let mut all = Seen::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn({
                    let client = &client;
                    move || client(number)
                })
            })
            .collect();
        for thread in threads {
            let seen = thread.join().expect("a client does not panic");
            all.latencies_us.extend(seen.latencies_us);
            all.engine_us.extend(seen.engine_us);
        }
    });
    assert!(!all.latencies_us.is_empty(), "no request was answered within {TIME:?}");
    all.latencies_us.sort_unstable();
    all.engine_us.sort_unstable();
    let rate = all.latencies_us.len() as f64 / TIME.as_secs_f64();
    let [p50, p95, p99] = [50, 95, 99].map(|of_hundred| percentile(&all.latencies_us, of_hundred));
    let engine = percentile(&all.engine_us, 50);
    println!(
        "{way:6} {clients:7} {rate:10.0} {p50:8.2} {p95:8.2} {p99:8.2} {engine:10.2} {:8.2}",
        p50 / engine
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn machine(daemon: &Daemon) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let name = cpus.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"));
    let name = name.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let status = daemon.status();
    let mut said = String::new();
    for key in ["model", "kernels", "threads"] {
        if let Some(value) = status.get(key) {
            let _ = write!(said, ", {key} {value}");
        }
    }
    format!("{name}, {cores} cores, load average {load} before{said}")
}

fn main() {
    // As mosquitto comes it lets small packets wait for the acknowledgement of earlier ones, which takes 40 ms.
    let brokers = [("MQTT", "set_tcp_nodelay true"), ("delay", "set_tcp_nodelay false")]
        .map(|(way, line)| (way, Broker::start_with(&format!("persistence false\n{line}"))));
    let lines = Lines::open();
    let mut first = true;
    for (way, broker) in &brokers {
        let daemon = start(broker, "pi", "");
        if std::mem::take(&mut first) {
            println!("cargo bench --bench load: {}", machine(&daemon));
            println!("resident when idle: {:.1} MiB", mib(daemon.resident_bytes()));
            println!("way    clients requests/s   p50 ms   p95 ms   p99 ms  engine ms  p50/engine");
            over_socket(&daemon, &lines);
        }
        over_mqtt(way, broker, &lines);
        let (now, peak) = (mib(daemon.resident_bytes()), mib(daemon.peak_bytes()));
        println!("resident after this: {now:.1} MiB, at most {peak:.1} MiB");
    }
}

fn over_socket(daemon: &Daemon, lines: &Lines) {
    for clients in CLIENTS {
        report("socket", clients, |client| {
            let mut peer = daemon.connect();
            Seen::of(|number| {
                let text = lines.of(client, number);
                peer.send(&serde_json::json!({"id": "1", "task": "log-severity", "text": text}).to_string());
                peer.receive()
            })
        });
    }
}

fn over_mqtt(way: &str, broker: &Broker, lines: &Lines) {
    for clients in CLIENTS {
        report(way, clients, |client| {
            let mut peer = broker.peer(&format!("load-{clients}-{client}"));
            let answers = format!("load/{clients}/{client}");
            peer.subscribe(&answers);
            Seen::of(|number| {
                let name = number.to_string();
                let text = lines.of(client, number);
                peer.send(&Note::request(&topic("pi", "log-severity"), &text, &answers, &name), 1);
                let answer = peer.receive();
                assert_eq!(answer.name(), name);
                answer.json()
            })
        });
    }
}
