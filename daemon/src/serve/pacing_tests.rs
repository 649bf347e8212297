//! A daemon with a budget of watts, and one on a hot machine, whose sensors are in the test's hands.

use std::path::Path;
use std::sync::OnceLock;

use tern_boards::energy::fake::FakeMeter;
use tern_boards::energy::{Faults, MeterError, Method, Resolution, Sample, Scope};
use tern_protocol::answer::SlowedBy;

use super::tests::{choice, status, talk};
use super::*;
use crate::client::Client;
use crate::wire::{Request, Status, Text};

/// A board that draws two watts at rest, and six more while the engine's pulse beats as fast as it can.
struct Board {
    pulse: Arc<OnceLock<Arc<AtomicU64>>>,
    beat_uj: f64,
    idle_w: Option<f64>,
}

impl Meter for Board {
    fn source(&self) -> &str {
        "simulated"
    }
    fn method(&self) -> Method {
        Method::EnergyCounter
    }
    fn scope(&self) -> Scope {
        Scope::BoardDc
    }
    fn relative_uncertainty(&self) -> f64 {
        0.01
    }
    fn resolution(&self) -> Resolution {
        Resolution { period: Duration::from_micros(1), quantum_uj: 1 }
    }
    fn idle_watts(&self) -> Option<f64> {
        self.idle_w
    }
    fn faults(&self) -> Faults {
        Faults::default()
    }
    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let beats = self.pulse.get().map_or(0, |pulse| pulse.load(Ordering::Relaxed));
        let energy_uj = (2.0 * now.as_micros() as f64 + self.beat_uj * beats as f64) as u64;
        Ok(Sample { at: now, energy_uj, readings: beats })
    }
}

fn start(
    mut config: Config,
    meter: Option<Box<dyn Meter>>,
    root: &Path,
) -> (tempfile::TempDir, ServerHandle) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    config.socket.path = folder.path().join("t.sock");
    let server = Server::start_on(&config, &choice(), meter, Root::new(root)).expect("it starts");
    (folder, server)
}

fn text(client: &mut Client, max_tokens: u32) -> Text {
    let request = talk(client, max_tokens);
    match client.ask(&request, |_| Ok(())).expect("it answers") {
        Answer::Text(text) => text,
        other => panic!("text was asked for: {other:?}"),
    }
}

/// Beats of the pulse by second of work.
fn beats_by_second(nothing: &Path) -> f64 {
    let (_folder, server) = start(Config::default(), None, nothing);
    let mut client = Client::connect(server.socket()).expect("it listens");
    text(&mut client, 200);
    let (before, mut work_s) = (server.pulse(), 0.0);
    for _ in 0..5 {
        let usage = text(&mut client, 200).usage;
        work_s += (usage.prefill_ms + usage.decode_ms) / 1e3;
    }
    (server.pulse() - before) as f64 / work_s
}

#[test]
fn a_budget_of_watts_is_kept_and_told() {
    let nothing = tempfile::tempdir().expect("a temporary folder");
    let beat_uj = 6e6 / beats_by_second(nothing.path());
    let mut config = Config::default();
    config.energy.power_budget_w = Some(4.0);
    config.energy.power_window_s = 1;
    let pulse = Arc::new(OnceLock::new());
    let meter = Board { pulse: Arc::clone(&pulse), beat_uj, idle_w: Some(2.0) };
    let (_folder, server) = start(config, Some(Box::new(meter)), nothing.path());
    pulse.set(Arc::clone(&server.opened().pulse)).expect("it is set once");
    let mut client = Client::connect(server.socket()).expect("it listens");
    text(&mut client, 1);
    let before = status(&mut client);
    let (mut paced_ms, mut took_ms) = (0.0, 0.0);
    let mut last = before.clone();
    while last.uptime_s - before.uptime_s < 3.0 {
        let usage = text(&mut client, 200).usage;
        paced_ms += usage.paced_ms.unwrap_or(0.0);
        took_ms += usage.prefill_ms + usage.decode_ms;
        last = status(&mut client);
    }
    let joules = |status: &Status| status.energy.as_ref().expect("there is a meter").counter_joules;
    let mean_w = (joules(&last) - joules(&before)) / (last.uptime_s - before.uptime_s);
    // Joules are told at the end of an answer, so that the span is known to a text's length. How much of the budget is used
    // on a machine that runs other tests is not certain; `pace/tests.rs` says that on a simulated one.
    assert!((2.1..4.4).contains(&mean_w), "{mean_w} W of 4 W");
    let rested = paced_ms / took_ms;
    assert!((0.02..1.0).contains(&rested), "{rested}");
    let pacing = last.pacing.expect("it looked");
    assert_eq!(pacing.power_budget_w, Some(4.0));
    assert_ne!(pacing.slowed_by, Some(SlowedBy::Heat));
    assert!(pacing.mean_w.is_some_and(|mean_w| mean_w < 4.12), "{pacing:?}");
    assert!((pacing.paced_s - paced_ms / 1e3).abs() < 0.2, "{pacing:?}, {paced_ms} ms");
    server.stop();
}

#[test]
fn a_budget_that_cannot_be_kept_is_refused_at_the_start() {
    let nothing = tempfile::tempdir().expect("a temporary folder");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::default();
    config.socket.path = folder.path().join("t.sock");
    config.energy.power_budget_w = Some(1.5);
    let start = |meter: Option<Box<dyn Meter>>| {
        let root = Root::new(nothing.path());
        Server::start_on(&config, &choice(), meter, root).map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(start(None).expect_err("there is no meter").contains("no power meter"));
    let board = Board { pulse: Arc::default(), beat_uj: 0.0, idle_w: Some(2.0) };
    let message = start(Some(Box::new(board))).expect_err("two watts at rest");
    assert!(message.contains("draws 2.00 W at rest") && message.contains("by simulated"), "{message}");
    // Where nobody knows beforehand, it starts, and is as slow as it gets once that was measured.
    assert_eq!(start(Some(Box::new(FakeMeter::steady(2_000_000)))), Ok(()));
}

#[test]
fn a_hot_machine_is_spared_and_a_throttled_one_is_told() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    };
    write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    write("sys/class/thermal/thermal_zone0/temp", "79000\n");
    write("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive\n");
    write("sys/class/thermal/thermal_zone0/trip_point_0_temp", "80000\n");
    write("sys/devices/platform/soc/soc:firmware/get_throttled", "0x50005\n");
    let (_folder, server) = start(Config::default(), None, root.path());
    let mut client = Client::connect(server.socket()).expect("it listens");
    let answer = text(&mut client, 100);
    assert!(answer.usage.paced_ms.is_some_and(|ms| ms > 0.0), "{:?}", answer.usage);
    assert_eq!(answer.energy.throttled, Some(true));
    let pacing = status(&mut client).pacing.expect("it looked");
    assert_eq!((pacing.temperature_c, pacing.temperature_limit_c), (Some(79.0), Some(78.0)));
    assert_eq!((pacing.throttled, pacing.throttled_times), (Some(true), 1));
    let page = crate::transport::http::metrics::render(server.service());
    for line in [
        "tern_temperature_celsius{zone=\"cpu-thermal\"} 79",
        "tern_temperature_limit_celsius 78",
        "tern_throttled 1",
        "tern_throttled_times_total 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    assert!(page.contains("tern_paced_seconds_total 0."), "{page}");
    // What cannot be done in time is told why.
    let late = Request { deadline_ms: Some(3), ..talk(&mut client, 200) };
    let Err(crate::client::ClientError::Refused(failure)) = client.ask(&late, |_| Ok(())) else {
        panic!("three milliseconds are too few")
    };
    assert_eq!(failure.reason, Reason::Deadline);
    assert!(failure.message.contains("to stay below 78 degrees"), "{failure:?}");
    server.stop();
}
