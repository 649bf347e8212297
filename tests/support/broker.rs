//! A real broker, the program mosquitto, on a port of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::mqtt_peer::Peer;

/// Longest wait for the broker.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running broker. It is killed when it goes.
#[derive(Debug)]
pub struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    second_port: u16,
    child: Option<Child>,
}

/// Whether an MQTT broker answers on the port; whoever else took it first does not.
fn is_broker(port: u16) -> std::io::Result<bool> {
    // CONNECT of version 3.1.1, a clean session without a name, no keep-alive; the answer is CONNACK.
    const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0];
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&CONNECT)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(answer[..2] == [0x20, 2])
}

impl Broker {
    /// Starts a broker that forgets everything when it ends.
    pub fn start() -> Broker {
        Broker::start_with("persistence false")
    }

    /// Starts a broker with these lines in its configuration; `SECOND` in them is a free port.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start_with(lines: &str) -> Broker {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut broker = Broker { folder, port: 0, second_port: 0, child: None };
        for _ in 0..10 {
            // Somebody else may take it before mosquitto does, and then another is tried.
            [broker.port, broker.second_port] = [free_port(), free_port()];
            let config = format!(
                "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser root\n{lines}\n",
                broker.port
            )
            .replace("SECOND", &broker.second_port.to_string());
            std::fs::write(broker.folder.path().join("m.conf"), config).expect("the folder can be written");
            broker.spawn();
            if broker.answers() {
                return broker;
            }
        }
        panic!("mosquitto does not start; is it installed?");
    }

    fn spawn(&mut self) {
        // Debian puts it where only root's PATH leads.
        let system = Path::new("/usr/sbin/mosquitto");
        let program = if system.exists() { system } else { Path::new("mosquitto") };
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.path().join("m.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("mosquitto is installed"));
    }

    fn answers(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if is_broker(self.port).unwrap_or(false) {
                return true;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of a second listener, which the configuration calls `SECOND`.
    pub fn second_port(&self) -> u16 {
        self.second_port
    }

    /// A configuration of the daemon that uses it, with the outbox in `state`.
    pub fn config(&self, device: &str, state: &Path) -> String {
        self.config_through(self.port, device, state)
    }

    /// As [`config`](Self::config), with the daemon connecting to another port: that of a proxy.
    pub fn config_through(&self, port: u16, device: &str, state: &Path) -> String {
        format!(
            "[mqtt]\nbroker = 'mqtt://127.0.0.1:{port}'\ndevice = '{device}'\nstate_folder = '{}'\n\
             reconnect_ms = 20\nreconnect_most_ms = 200\nkeep_alive_s = 5\n",
            state.display()
        )
    }

    /// A client with a session of its own that ends with its connection.
    pub fn peer(&self, name: &str) -> Peer {
        Peer::connect(self.port, name, 5)
    }

    /// Ends it as if the power failed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
    }

    /// Lets it end in order, so that it writes what it is to remember.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let told = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status();
            assert!(told.expect("a shell runs").success());
            let _gone_already = child.wait();
        }
    }

    /// Starts it again, on the same port.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn restart(&mut self) {
        self.spawn();
        assert!(self.answers(), "mosquitto does not start again");
    }
}

/// A port that nobody has, below those that systems give to clients: a connection to one of these, tried until the broker
/// listens, can meet itself, and then the broker cannot listen.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Relaxed));
        let port = 10_000 + (next % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
