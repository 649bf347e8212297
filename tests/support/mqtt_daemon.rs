//! A daemon at a broker, what is asked of it there, and a record of its answers that knows a second, different one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::Broker;
use crate::daemon::{Daemon, TALKER};
use crate::mqtt_peer::{Note, PATIENCE, Peer};

/// Long enough for whatever may still be on its way.
pub const SHORT: Duration = Duration::from_millis(700);

/// A daemon called `device` at `broker`, once it is online there. Its outbox is in its own folder.
pub fn start(broker: &Broker, device: &str, more: &str) -> Daemon {
    start_in(folder(), broker, device, more)
}

/// As [`start`], in this folder.
pub fn start_in(folder: TempDir, broker: &Broker, device: &str, more: &str) -> Daemon {
    start_through(folder, broker, broker.port(), device, more)
}

/// As [`start_in`], connecting to another port: that of a proxy.
pub fn start_through(folder: TempDir, broker: &Broker, port: u16, device: &str, more: &str) -> Daemon {
    let mut peer = broker.peer(&format!("watch-{device}"));
    peer.subscribe(&format!("tern/{device}/status"));
    let config = broker.config_through(port, device, &folder.path().join("state"));
    let daemon = Daemon::start_in(folder, &format!("{config}{more}"));
    // Retained ones are of an earlier life.
    peer.receive_where(|note| !note.retain && note.json()["state"] == "online");
    daemon
}

/// A folder for a daemon.
///
/// # Panics
/// If there is none.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Configuration of a daemon whose answers take long: it talks until its context is full.
pub fn slow_model() -> String {
    format!("[model]\npath = '{TALKER}'\nthreads = 1\nkernels = 'scalar-t2i8'\nslots = 1\n")
}

/// The topic of requests for `task`.
pub fn topic(device: &str, task: &str) -> String {
    format!("tern/{device}/{task}/request")
}

/// A request to the device `pi`, which is quick.
pub fn severity(correlation: &str, text: &str) -> Note {
    Note::request(&topic("pi", "log-severity"), text, "me/answers", correlation)
}

/// A request to the device `pi`, which takes long with the [`slow_model`].
pub fn talk(correlation: &str) -> Note {
    let body = r#"{"generate":{"prompt":"Hello"}}"#;
    Note::request(&topic("pi", "generate"), body, "me/answers", correlation)
}

/// A client that gets the answers to [`severity`] and [`talk`].
pub fn asking(broker: &Broker) -> Peer {
    let mut peer = broker.peer("me");
    peer.subscribe("me/answers");
    peer
}

/// Answers by the names of their requests. The same answer may come again, another one may not.
#[derive(Debug, Default)]
pub struct Answers {
    first: BTreeMap<String, Note>,
    again: usize,
}

impl Answers {
    /// Notes an answer.
    ///
    /// # Panics
    /// If it is a refusal, or not the one that came before.
    #[track_caller]
    pub fn note(&mut self, answer: Note) {
        assert_eq!(answer.property("status"), Some("200"), "{answer:?}");
        match self.first.get(&answer.name()) {
            None => drop(self.first.insert(answer.name(), answer)),
            Some(first) => {
                let text = |note: &Note| String::from_utf8_lossy(&note.payload).into_owned();
                assert_eq!(text(first), text(&answer), "answered differently twice");
                self.again += 1;
            }
        }
    }

    /// Takes answers until there are `count`.
    ///
    /// # Panics
    /// If they do not come.
    #[track_caller]
    pub fn wait(&mut self, peer: &mut Peer, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.first.len() < count {
            assert!(Instant::now() < until, "{} of {count} requests were answered", self.first.len());
            if let Some(answer) = peer.next(SHORT) {
                self.note(answer);
            }
        }
    }

    /// Takes what still comes, until nothing does.
    #[track_caller]
    pub fn drain(&mut self, peer: &mut Peer) {
        while let Some(answer) = peer.next(SHORT) {
            self.note(answer);
        }
    }

    /// Requests that were answered.
    pub fn count(&self) -> usize {
        self.first.len()
    }

    /// Answers that came once more, the same to the byte.
    pub fn again(&self) -> usize {
        self.again
    }
}
