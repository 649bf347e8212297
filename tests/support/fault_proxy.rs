//! A network that fails on purpose: it stands between the daemon and the broker, knows the packets that pass, and does
//! to each what a test says.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest wait for what must pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the daemon to the broker.
    Up,
    /// From the broker to the daemon.
    Down,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Publish,
    /// The acknowledgement of a message that went the other way.
    Acknowledgement,
    /// Anything else.
    Other,
}

/// A packet on its way.
#[derive(Debug)]
pub struct Packet {
    /// Which way.
    pub way: Way,
    /// What it is.
    pub kind: Kind,
    /// Topic of the message, or of the message that is acknowledged; empty for others.
    pub topic: String,
    /// All of it. A rule may change it.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// Whether it is of this kind, goes this way, and its topic ends so.
    pub fn is(&self, way: Way, kind: Kind, topic: &str) -> bool {
        self.way == way && self.kind == kind && self.topic.ends_with(topic)
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It waits, and all that come behind it, until another rule holds and judges it again.
    Hold,
    /// Half of it goes on; the rest waits until another rule holds.
    Halve,
    /// It is gone, and the connection stands.
    Lose,
    /// It goes on in bits of so many bytes, with a pause of so many microseconds before each.
    Trickle {
        /// Bytes at once.
        bytes: usize,
        /// Microseconds before each.
        pause_us: u64,
    },
}

type Rule = Box<dyn FnMut(&mut Packet) -> Fate + Send>;

struct State {
    rule: Rule,
    /// Rules so far: what is held waits for the next one.
    rules: u64,
    /// Packets that wait now.
    held: usize,
    /// Packets lost since the rule holds.
    lost: usize,
    /// Connections are closed as soon as they are made.
    refusing: bool,
    /// Connections that were made or tried.
    attempts: usize,
    /// Those that stand, or did.
    streams: Vec<TcpStream>,
    /// Raised at every cut: pumps of an earlier one end.
    cuts: u64,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy on a port of its own. Its connections end when it goes.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("port", &self.port).finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// A proxy to this port of 127.0.0.1 that lets everything pass.
    ///
    /// # Panics
    /// If the system has no port.
    pub fn before(broker: u16) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                rule: Box::new(|_| Fate::Pass),
                rules: 0,
                held: 0,
                lost: 0,
                refusing: false,
                attempts: 0,
                streams: Vec::new(),
                cuts: 0,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, broker, &theirs));
        FaultProxy { port, shared }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on `rule` decides, also on what is held.
    pub fn rule(&self, rule: impl FnMut(&mut Packet) -> Fate + Send + 'static) {
        let mut state = self.shared.state();
        state.rule = Box::new(rule);
        state.rules += 1;
        state.lost = 0;
        self.shared.changed.notify_all();
    }

    /// From now on everything passes.
    pub fn pass(&self) {
        self.rule(|_| Fate::Pass);
    }

    /// Packets of this kind whose topic ends so are lost from now on; all others pass.
    pub fn lose(&self, way: Way, kind: Kind, topic: &'static str) {
        self.rule(move |packet| if packet.is(way, kind, topic) { Fate::Lose } else { Fate::Pass });
    }

    /// Waits until a packet is held.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn wait_held(&self) {
        self.wait("a packet is held", |state| state.held > 0);
    }

    /// Waits until so many packets were lost by the rule that holds.
    ///
    /// # Panics
    /// If they do not come.
    #[track_caller]
    pub fn wait_lost(&self, count: usize) {
        self.wait("packets are lost", |state| state.lost >= count);
    }

    /// Waits until so many connections were made or tried.
    ///
    /// # Panics
    /// If they are not.
    #[track_caller]
    pub fn wait_attempts(&self, count: usize) {
        self.wait("connections are tried", |state| state.attempts >= count);
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let not_yet = |state: &mut State| !is_so(state);
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), PATIENCE, not_yet);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(is_so(&state), "it does not come to this: {what}; {} are lost", state.lost);
    }

    /// Ends every connection; what is held is gone. New ones may come.
    pub fn cut(&self) {
        let mut state = self.shared.state();
        state.cuts += 1;
        for stream in state.streams.drain(..) {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Whether connections are closed as soon as they are made.
    pub fn refuse(&self, refusing: bool) {
        self.shared.state().refusing = refusing;
    }

    /// Connections that were made or tried so far.
    pub fn attempts(&self) -> usize {
        self.shared.state().attempts
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.cut();
        // Wakes the listener, which then ends.
        let _gone_already = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, broker: u16, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mut state = shared.state();
        if state.ended {
            return;
        }
        state.attempts += 1;
        shared.changed.notify_all();
        let Ok(client) = client else { continue };
        if state.refusing {
            continue;
        }
        // The broker may be down; the client then finds its connection closed.
        let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
        let topics = Arc::new(Mutex::new(BTreeMap::new()));
        for (way, from, to) in [(Way::Up, &client, &broker), (Way::Down, &broker, &client)] {
            let pump = Pump {
                way,
                from: from.try_clone().expect("a stream can be shared"),
                to: to.try_clone().expect("a stream can be shared"),
                topics: Arc::clone(&topics),
                shared: Arc::clone(shared),
                cuts: state.cuts,
            };
            to.set_nodelay(true).expect("an option");
            std::thread::spawn(move || pump.run());
        }
        state.streams.extend([client, broker]);
    }
}

/// One direction of a connection.
struct Pump {
    way: Way,
    from: TcpStream,
    to: TcpStream,
    /// Topics of messages under way, by direction and packet identifier.
    topics: Arc<Mutex<BTreeMap<(bool, u16), String>>>,
    shared: Arc<Shared>,
    cuts: u64,
}

impl Pump {
    fn run(mut self) {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        // An error is the end as well; nothing of it matters to the other side.
        while let Ok(read @ 1..) = self.from.read(&mut chunk) {
            buffer.extend(&chunk[..read]);
            while let Some(length) = packet_length(&buffer) {
                let packet = self.packet(buffer.drain(..length).collect());
                if self.forward(packet).is_none() {
                    return;
                }
            }
        }
        let _gone_already = self.to.shutdown(Shutdown::Both);
    }

    fn packet(&self, bytes: Vec<u8>) -> Packet {
        let body = 1 + bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, topic) = match bytes[0] >> 4 {
            3 => {
                let end = body + 2 + usize::from(number(body));
                let topic = String::from_utf8_lossy(&bytes[body + 2..end]).into_owned();
                if bytes[0] & 6 != 0 {
                    topics.insert((self.way == Way::Up, number(end)), topic.clone());
                }
                (Kind::Publish, topic)
            }
            4 => {
                let topic = topics.remove(&(self.way == Way::Down, number(body)));
                (Kind::Acknowledgement, topic.unwrap_or_default())
            }
            _ => (Kind::Other, String::new()),
        };
        Packet { way: self.way, kind, topic, bytes }
    }

    /// Does with a packet what the rule says; `None` when the connection is over.
    fn forward(&mut self, mut packet: Packet) -> Option<()> {
        let mut state = self.shared.state();
        let fate = loop {
            let fate = (state.rule)(&mut packet);
            if fate == Fate::Halve {
                let rest = packet.bytes.split_off(packet.bytes.len() / 2);
                self.to.write_all(&packet.bytes).ok()?;
                packet.bytes = rest;
            }
            if !matches!(fate, Fate::Hold | Fate::Halve) {
                break fate;
            }
            let rules = state.rules;
            state.held += 1;
            self.shared.changed.notify_all();
            let waits = |state: &mut State| state.rules == rules && state.cuts == self.cuts;
            let waited = self.shared.changed.wait_while(state, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.held -= 1;
            if state.cuts != self.cuts {
                return None;
            }
        };
        state.lost += usize::from(fate == Fate::Lose);
        self.shared.changed.notify_all();
        drop(state);
        match fate {
            Fate::Lose => {}
            Fate::Trickle { bytes, pause_us } => {
                for bit in packet.bytes.chunks(bytes) {
                    std::thread::sleep(Duration::from_micros(pause_us));
                    self.to.write_all(bit).ok()?;
                }
            }
            _ => self.to.write_all(&packet.bytes).ok()?,
        }
        Some(())
    }
}

/// Bytes of the packet at the front, once it is whole.
fn packet_length(buffer: &[u8]) -> Option<usize> {
    let (mut value, mut shift) = (0, 0);
    for (at, byte) in buffer.iter().enumerate().skip(1).take(4) {
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let length = at + 1 + value;
            return (buffer.len() >= length).then_some(length);
        }
    }
    None
}
