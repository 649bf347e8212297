//! A daemon of the program `tern`, and clients that speak to it in bytes, so that they can say what no library would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::tern;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small model with random weights whose greedy text only ends with its context of 256 tokens: long enough to be
/// interrupted.
pub const TALKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

/// A running daemon. It is killed when it goes.
#[derive(Debug)]
pub struct Daemon {
    folder: tempfile::TempDir,
    child: Child,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it logged.
    pub stderr: String,
}

impl Daemon {
    /// Starts a daemon of the talking model, one request at a time on one thread with the scalar kernels, as slow as it
    /// gets. `config` holds further lines of `tern.toml`.
    pub fn talker(config: &str) -> Daemon {
        let model = format!("path = '{TALKER}'\nthreads = 1\nkernels = 'scalar-t2i8'\nslots = 1");
        Daemon::start(&format!("{config}\n[model]\n{model}\n"))
    }

    /// Starts a daemon with this configuration in a folder of its own.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start(config: &str) -> Daemon {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Daemon::start_in(folder, config)
    }

    /// As [`Daemon::start`], in this folder.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start_in(folder: tempfile::TempDir, config: &str) -> Daemon {
        Daemon::start_changed(folder, config, |_| ())
    }

    /// As [`Daemon::start_in`], with the command changed.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start_changed(
        folder: tempfile::TempDir,
        config: &str,
        change: impl FnOnce(&mut Command),
    ) -> Daemon {
        let file = folder.path().join("tern.toml");
        std::fs::write(&file, format!("log = 'warn'\n{config}")).expect("the folder can be written");
        let mut command = command(&folder);
        change(&mut command);
        let child = command.spawn().expect("the program starts");
        let mut daemon = Daemon { folder, child };
        let began = Instant::now();
        while UnixStream::connect(daemon.socket()).is_err() {
            let ended = daemon.child.try_wait().expect("the child can be asked");
            assert!(ended.is_none(), "the daemon ended: {:?}", daemon.wait());
            assert!(began.elapsed() < PATIENCE, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("t.sock")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another daemon on the same socket, not started yet.
    pub fn second(&self) -> Command {
        command(&self.folder)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A new client.
    ///
    /// # Panics
    /// If it cannot connect.
    pub fn connect(&self) -> Peer {
        let stream = UnixStream::connect(self.socket()).expect("the daemon takes clients");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Peer { stream: BufReader::new(stream), passed: Vec::new() }
    }

    /// The answer to a status request on a connection of its own.
    ///
    /// # Panics
    /// If there is none.
    pub fn status(&self) -> Value {
        let mut peer = self.connect();
        peer.send(r#"{"id":"status","status":true}"#);
        peer.receive()
    }

    /// Asks for the status until `is_so`, and returns that.
    ///
    /// # Panics
    /// If it does not become so.
    pub fn status_when(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the status stays {status}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal by name.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.id())]).status();
        assert!(sent.expect("a shell runs").success(), "kill -{name} failed");
    }

    /// Most memory that its process had resident, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    /// Memory that its process has resident, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    fn memory_bytes(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux says so");
        let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("a number of kB") << 10
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it goes on.
    pub fn wait(&mut self) -> Ended {
        let began = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                break status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the daemon goes on");
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut stderr).expect("the log is UTF-8");
        }
        Ended { code, stderr }
    }

    /// Kills it as if the power failed, and hands over its folder with what is left in it.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.end();
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary folder"))
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many requests a test of load sends: 10,000, or what `TERN_TEST_REQUESTS` says.
///
/// # Panics
/// If that is no number.
pub fn requests_of_load() -> usize {
    let given = std::env::var("TERN_TEST_REQUESTS").ok();
    given.map_or(10_000, |given| given.parse().expect("TERN_TEST_REQUESTS is a number"))
}

/// A daemon with its configuration and its socket in `folder`.
fn command(folder: &tempfile::TempDir) -> Command {
    let mut command = tern(["serve", "--config"]);
    command.arg(folder.path().join("tern.toml")).arg("--socket").arg(folder.path().join("t.sock"));
    // Its own, so that daemons side by side do not share a record of energy.
    command.env("STATE_DIRECTORY", folder.path().join("state"));
    command
}

/// A client that sends any bytes.
#[derive(Debug)]
pub struct Peer {
    stream: BufReader<UnixStream>,
    /// Last answers to others that came while one was waited for.
    passed: Vec<Value>,
}

impl Peer {
    /// Sends a line.
    ///
    /// # Panics
    /// If the daemon is gone.
    pub fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes()).expect("the daemon reads");
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Asks for a text as long as the talking model goes on, streamed.
    pub fn talk(&mut self, id: &str) {
        self.send(&format!(r#"{{"id":"{id}","generate":{{"prompt":"Hello"}},"stream":true}}"#));
    }

    /// Waits for the next answer; `None` if the daemon has closed the connection.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        // A connection that the daemon cut off with bytes of ours unread ends with an error.
        let length = self.stream.read_line(&mut line).unwrap_or(0);
        (length > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
    }

    /// Waits for the next answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn receive(&mut self) -> Value {
        self.answer().expect("the daemon answers")
    }

    /// Waits for the last answer to the request `id`, whichever of several ends first: those of others are kept until
    /// they are asked for in this way.
    ///
    /// # Panics
    /// If there is none.
    pub fn last(&mut self, id: &str) -> Value {
        if let Some(at) = self.passed.iter().position(|answer| answer["id"] == id) {
            return self.passed.remove(at);
        }
        loop {
            let answer = self.receive();
            if answer["id"] == id && answer["type"] != "token" {
                return answer;
            }
            if answer["type"] != "token" {
                self.passed.push(answer);
            }
        }
    }

    /// Waits for an error, which must have this code, and say `words`.
    ///
    /// # Panics
    /// If another answer comes.
    #[track_caller]
    pub fn refused(&mut self, id: Option<&str>, code: u64, words: &[&str]) -> Value {
        let answer = self.receive();
        assert_refused(&answer, id, code, words);
        answer
    }

    /// Ends what this client sends; answers still come.
    ///
    /// # Panics
    /// If the connection is gone.
    pub fn end_requests(&mut self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("the connection stands");
    }
}

/// Checks that `answer` is an error to `id` with this code that says `words`.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn assert_refused(answer: &Value, id: Option<&str>, code: u64, words: &[&str]) {
    assert_eq!(answer["type"], "error", "{answer}");
    assert_eq!(answer["id"].as_str(), id, "{answer}");
    assert_eq!(answer["code"], code, "{answer}");
    for word in words {
        assert!(answer["message"].as_str().is_some_and(|text| text.contains(word)), "{word:?} in {answer}");
    }
}
