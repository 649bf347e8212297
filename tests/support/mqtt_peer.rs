//! A small MQTT client of the tests' own, in version 5 or 3.1.1: it shares no code with what is tested.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A message, out or in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Whether it is or was retained.
    pub retain: bool,
    /// Seconds it is worth something.
    pub expiry_s: Option<u32>,
    /// Where the answer is wanted.
    pub response_topic: Option<String>,
    /// What the answer carries.
    pub correlation: Option<Vec<u8>>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// User properties.
    pub user: Vec<(String, String)>,
}

impl Note {
    /// A message without properties.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Note { topic: topic.into(), payload: payload.into(), ..Note::default() }
    }

    /// A request whose answer goes to `answers` with `correlation`.
    pub fn request(topic: &str, payload: &str, answers: &str, correlation: &str) -> Self {
        Note {
            response_topic: Some(answers.into()),
            correlation: Some(correlation.into()),
            ..Note::new(topic, payload)
        }
    }

    /// The payload as JSON.
    ///
    /// # Panics
    /// If it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The user property `name`.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.user.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The correlation data as text.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.correlation.as_deref().unwrap_or_default()).into_owned()
    }
}

/// A connected client that acknowledges all it gets.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    version: u8,
    buffer: Vec<u8>,
    inbox: VecDeque<Note>,
    acknowledged: VecDeque<u16>,
    next_packet: u16,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
    out.extend(bytes);
}

fn length(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u32 {
        self.take(bytes).iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    fn text(&mut self) -> String {
        let length = self.number(2) as usize;
        String::from_utf8(self.take(length).to_vec()).expect("the broker sends UTF-8")
    }

    fn length(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = usize::from(self.take(1)[0]);
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
}

impl Peer {
    /// Connects with version 5, or 4 for 3.1.1, in a session that ends with the connection.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn connect(port: u16, name: &str, version: u8) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        stream.set_nodelay(true).expect("an option");
        let mut peer = Peer {
            stream,
            version,
            buffer: Vec::new(),
            inbox: VecDeque::new(),
            acknowledged: VecDeque::new(),
            next_packet: 0,
        };
        let mut body = Vec::new();
        text(&mut body, b"MQTT");
        // Version, clean start, no keep-alive.
        body.extend([version, 2, 0, 0]);
        if version == 5 {
            body.push(0);
        }
        text(&mut body, name.as_bytes());
        peer.write(0x10, &body);
        let (kind, answer) = peer.packet(PATIENCE).expect("the broker answers");
        assert_eq!((kind >> 4, answer[1]), (2, 0), "the broker refuses {name}");
        peer
    }

    fn write(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first];
        length(&mut packet, body.len());
        packet.extend(body);
        self.stream.write_all(&packet).expect("the broker reads");
    }

    /// The next packet: its first byte and its body.
    fn packet(&mut self, wait: Duration) -> Option<(u8, Vec<u8>)> {
        let until = Instant::now() + wait;
        loop {
            if let Some(packet) = self.whole() {
                return Some(packet);
            }
            let left = until.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("an option");
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend(&chunk[..read]),
                Err(_) if left.is_zero() => return None,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return None,
            }
        }
    }

    fn whole(&mut self) -> Option<(u8, Vec<u8>)> {
        let end = (1..self.buffer.len().min(5)).find(|at| self.buffer[*at] & 0x80 == 0)?;
        let size = Reader(&self.buffer[1..=end]).length();
        if self.buffer.len() < end + 1 + size {
            return None;
        }
        let packet: Vec<u8> = self.buffer.drain(..end + 1 + size).collect();
        Some((packet[0], packet[end + 1..].to_vec()))
    }

    /// Takes packets until `done` says so; false if it never does.
    fn take_until(&mut self, wait: Duration, done: impl Fn(&Peer) -> bool) -> bool {
        let until = Instant::now() + wait;
        while !done(self) {
            let left = until.saturating_duration_since(Instant::now());
            let Some((first, body)) = self.packet(left) else { return done(self) };
            match first >> 4 {
                3 => self.take_publish(first, &body),
                4 | 9 => self.acknowledged.push_back(u16::from_be_bytes([body[0], body[1]])),
                _ => {}
            }
        }
        true
    }

    fn take_publish(&mut self, first: u8, body: &[u8]) {
        let mut reader = Reader(body);
        let mut note = Note { topic: reader.text(), retain: first & 1 != 0, ..Note::default() };
        let packet = (first & 6 != 0).then(|| reader.number(2) as u16);
        if self.version == 5 {
            let size = reader.length();
            let mut properties = Reader(reader.take(size));
            while !properties.0.is_empty() {
                match properties.take(1)[0] {
                    0x01 => drop(properties.take(1)),
                    0x02 => note.expiry_s = Some(properties.number(4)),
                    0x03 => note.content_type = Some(properties.text()),
                    0x08 => note.response_topic = Some(properties.text()),
                    0x09 => {
                        let length = properties.number(2) as usize;
                        note.correlation = Some(properties.take(length).to_vec());
                    }
                    0x26 => note.user.push((properties.text(), properties.text())),
                    other => panic!("property {other:#x}"),
                }
            }
        }
        note.payload = reader.0.to_vec();
        self.inbox.push_back(note);
        if let Some(packet) = packet {
            self.write(0x40, &packet.to_be_bytes());
        }
    }

    fn new_packet(&mut self) -> u16 {
        self.next_packet = self.next_packet % 60_000 + 1;
        self.next_packet
    }

    /// Subscribes at QoS 1.
    ///
    /// # Panics
    /// If the broker says nothing.
    pub fn subscribe(&mut self, filter: &str) {
        let packet = self.new_packet();
        let mut body = packet.to_be_bytes().to_vec();
        if self.version == 5 {
            body.push(0);
        }
        text(&mut body, filter.as_bytes());
        body.push(1);
        self.write(0x82, &body);
        self.wait_for(packet);
    }

    fn wait_for(&mut self, packet: u16) {
        let there = self.take_until(PATIENCE, |peer| peer.acknowledged.contains(&packet));
        assert!(there, "the broker does not acknowledge");
        self.acknowledged.retain(|found| *found != packet);
    }

    /// Publishes at QoS 1, and waits until the broker has it.
    ///
    /// # Panics
    /// If it does not take it.
    pub fn publish(&mut self, note: &Note) {
        let packet = self.send(note, 1);
        self.wait_for(packet);
    }

    /// Publishes at this QoS and waits for nothing.
    pub fn send(&mut self, note: &Note, qos: u8) -> u16 {
        let packet = self.new_packet();
        let mut body = Vec::new();
        text(&mut body, note.topic.as_bytes());
        if qos > 0 {
            body.extend(packet.to_be_bytes());
        }
        if self.version == 5 {
            let mut properties = Vec::new();
            if let Some(expiry_s) = note.expiry_s {
                properties.push(0x02);
                properties.extend(expiry_s.to_be_bytes());
            }
            for (code, value) in [
                (0x03, note.content_type.as_ref().map(String::as_bytes)),
                (0x08, note.response_topic.as_ref().map(String::as_bytes)),
                (0x09, note.correlation.as_deref()),
            ] {
                if let Some(value) = value {
                    properties.push(code);
                    text(&mut properties, value);
                }
            }
            length(&mut body, properties.len());
            body.extend(properties);
        }
        body.extend(&note.payload);
        self.write(0x30 | qos << 1 | u8::from(note.retain), &body);
        packet
    }

    /// The next message, if one comes within `wait`.
    pub fn next(&mut self, wait: Duration) -> Option<Note> {
        self.take_until(wait, |peer| !peer.inbox.is_empty());
        self.inbox.pop_front()
    }

    /// The next message.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn receive(&mut self) -> Note {
        self.next(PATIENCE).expect("a message comes")
    }

    /// The next message of which `wanted` says so, passing over others.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn receive_where(&mut self, wanted: impl Fn(&Note) -> bool) -> Note {
        loop {
            let note = self.receive();
            if wanted(&note) {
                return note;
            }
        }
    }
}
