//! Faults: the daemon killed with SIGKILL at each point between receiving a request and acknowledging it.
//!
//! A proxy between daemon and broker stops the packet that marks the point, so that every kill is where it is said to
//! be. The steps are those of `daemon/src/transport/mqtt/mod.rs`. Kills at random moments are in `daemon_mqtt.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tern_tests::broker::Broker;
use tern_tests::daemon::Daemon;
use tern_tests::fault_proxy::{Fate, FaultProxy, Kind, Way};
use tern_tests::mqtt_daemon::{Answers, asking, folder, severity, slow_model, start_through, talk};
use tern_tests::mqtt_peer::{Note, PATIENCE, Peer};

/// Times that the daemon is killed at each point.
const ROUNDS: usize = 10;

/// Requests under way at each kill.
const REQUESTS: usize = 3;

/// Answers that may come again whatever is held: an acknowledgement that the proxy has seen is the broker's a moment later,
/// and the next kill may be quicker on a busy machine. Rare: no more than one in three kills.
const IN_FLIGHT: usize = ROUNDS / 3;

/// The daemon at its broker, what was sent and what came of it.
struct Course {
    broker: Broker,
    proxy: FaultProxy,
    more: String,
    daemon: Daemon,
    me: Peer,
    answers: Answers,
    asked: usize,
}

impl Course {
    fn new(more: &str) -> Course {
        let broker = Broker::start();
        let proxy = FaultProxy::before(broker.port());
        let me = asking(&broker);
        let daemon = start_through(folder(), &broker, proxy.port(), "pi", more);
        Course { broker, proxy, more: more.into(), daemon, me, answers: Answers::default(), asked: 0 }
    }

    fn ask(&mut self, request: impl Fn(&str) -> Note) {
        for _ in 0..REQUESTS {
            self.me.publish(&request(&format!("r{}", self.asked)));
            self.asked += 1;
        }
    }

    /// Waits until the sender has every answer.
    fn answered(&mut self) {
        self.answers.wait(&mut self.me, self.asked);
    }

    /// Kills the daemon together with all that is on its way, starts it again, and waits until it has answered
    /// everything and the broker has the acknowledgements of what it sent again.
    fn kill(self, sent_again: usize) -> Course {
        let folder = self.daemon.kill();
        self.proxy.cut();
        let acknowledged = count(&self.proxy, Way::Up, Kind::Acknowledgement, "/request");
        let daemon = start_through(folder, &self.broker, self.proxy.port(), "pi", &self.more);
        let mut course = Course { daemon, ..self };
        course.answered();
        wait("the requests are acknowledged", || acknowledged.load(Relaxed) == sent_again);
        course
    }

    /// Requests that the engine has answered in this life of the daemon.
    fn run(&self) -> u64 {
        self.daemon.status()["requests"]["answered"].as_u64().expect("a number")
    }

    /// Everything was answered, nothing differently twice; returns how many answers came again.
    fn end(mut self, point: &str) -> usize {
        self.answers.drain(&mut self.me);
        let (count, again) = (self.answers.count(), self.answers.again());
        println!("{point}: {ROUNDS} kills, {} requests, {count} answered, {again} came again", self.asked);
        assert_eq!(count, self.asked);
        again
    }
}

/// Lets everything pass and counts such packets.
fn count(proxy: &FaultProxy, way: Way, kind: Kind, topic: &'static str) -> Arc<AtomicUsize> {
    let counted = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&counted);
    proxy.rule(move |packet| {
        theirs.fetch_add(packet.is(way, kind, topic).into(), Relaxed);
        Fate::Pass
    });
    counted
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it never comes to this: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A short text, as every sensor has its own.
fn quick(name: &str) -> Note {
    severity(name, &format!("fan {name} stopped"))
}

#[test]
fn before_the_request_has_come_whole() {
    let mut course = Course::new("");
    for _ in 0..ROUNDS {
        course.proxy.rule(|packet| match packet.is(Way::Down, Kind::Publish, "/request") {
            true => Fate::Halve,
            false => Fate::Pass,
        });
        course.ask(quick);
        course.proxy.wait_held();
        course = course.kill(REQUESTS);
    }
    assert!(course.end("1 half of the request has come") <= IN_FLIGHT);
}

#[test]
fn when_the_request_has_come_and_nobody_has_looked_at_it() {
    let mut course = Course::new("");
    for _ in 0..ROUNDS {
        // The system takes in what a process that does not run will read.
        course.daemon.signal("STOP");
        let passed = count(&course.proxy, Way::Down, Kind::Publish, "/request");
        course.ask(quick);
        wait("the requests are passed on", || passed.load(Relaxed) == REQUESTS);
        course = course.kill(REQUESTS);
    }
    assert!(course.end("1 received, not read") <= IN_FLIGHT);
}

#[test]
fn when_it_is_written_down_and_runs_or_waits() {
    let mut course = Course::new(&slow_model());
    for _ in 0..ROUNDS {
        course.ask(talk);
        let others = REQUESTS as u64 - 1;
        course.daemon.status_when(|status| status["live"] == 1 && status["queue"] == others);
        course = course.kill(REQUESTS);
    }
    // One that was run again and delivered before the broker sent it again is delivered again.
    assert!(course.end("2 to 3 written down, running or waiting") <= ROUNDS * REQUESTS);
}

#[test]
fn when_the_answer_is_stored_and_never_arrives() {
    let mut course = Course::new("");
    for _ in 0..ROUNDS {
        course.proxy.lose(Way::Up, Kind::Publish, "me/answers");
        course.ask(quick);
        course.proxy.wait_lost(REQUESTS);
        course = course.kill(REQUESTS);
        assert_eq!(course.run(), 0, "what is stored was run again");
    }
    assert!(course.end("4 to 5 answer stored, lost on its way") <= ROUNDS * REQUESTS);
}

#[test]
fn when_the_answer_has_arrived_and_its_acknowledgement_has_not() {
    let mut course = Course::new("");
    for _ in 0..ROUNDS {
        course.proxy.lose(Way::Down, Kind::Acknowledgement, "me/answers");
        course.ask(quick);
        course.proxy.wait_lost(REQUESTS);
        course.answered();
        course = course.kill(REQUESTS);
        assert_eq!(course.run(), 0, "what is stored was run again");
    }
    // The daemon cannot know, so each comes a second time, to the byte; and once more if that was too quick.
    let again = course.end("5 to 6 answer arrived, acknowledgement lost");
    assert!((ROUNDS * REQUESTS..=2 * ROUNDS * REQUESTS).contains(&again), "{again}");
}

#[test]
fn when_the_answer_is_acknowledged_and_the_request_is_not() {
    let mut course = Course::new("");
    for _ in 0..ROUNDS {
        course.proxy.lose(Way::Up, Kind::Acknowledgement, "/request");
        course.ask(quick);
        course.proxy.wait_lost(REQUESTS);
        course.answered();
        course = course.kill(REQUESTS);
        assert_eq!(course.run(), 0, "what is stored was run again");
    }
    let again = course.end("6 to 7 answer acknowledged, request not");
    assert!((ROUNDS * REQUESTS..=ROUNDS * REQUESTS + IN_FLIGHT).contains(&again), "{again}");
}

#[test]
fn when_all_is_done() {
    let mut course = Course::new("");
    for _ in 0..ROUNDS {
        let acknowledged = count(&course.proxy, Way::Up, Kind::Acknowledgement, "/request");
        course.ask(quick);
        course.answered();
        wait("the requests are acknowledged", || acknowledged.load(Relaxed) == REQUESTS);
        // What the proxy has seen is the broker's a moment later.
        course.me.subscribe("me/answers");
        course = course.kill(0);
        let acknowledged = count(&course.proxy, Way::Up, Kind::Acknowledgement, "/request");
        let name = format!("r{}", course.asked - 1);
        course.me.publish(&quick(&name));
        course.answers.note(course.me.receive());
        assert_eq!(course.run(), 0, "a repeated request was run again");
        wait("the repeated request is acknowledged", || acknowledged.load(Relaxed) == 1);
    }
    assert_eq!(course.end("7 all acknowledged, the last repeated"), ROUNDS);
}
