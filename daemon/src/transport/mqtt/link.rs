//! What the bridge needs of an MQTT client library: one connection, from its beginning to its end.
//!
//! A [`Link`] is a single connection attempt and whatever follows; it never connects again by itself, and it keeps
//! nothing for the next one. What must survive is in the [`outbox`](super::outbox). All calls return at once; what
//! happens comes as [`LinkEvent`]s.

use std::fmt;
use std::time::Duration;

use crate::config::mqtt::{Broker, Protocol};

/// A message that came in.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic; what is not UTF-8 is replaced.
    pub topic: String,
    /// What it says; nothing if it is oversize.
    pub payload: Vec<u8>,
    /// Bytes of a payload that is more than was to be sent to us; it was not kept.
    pub oversize: Option<usize>,
    /// Packet identifier by which it is acknowledged; `None` at QoS 0.
    pub ticket: Option<u16>,
    /// The broker has sent it before on this session.
    pub again: bool,
    /// The broker had kept it for us: it may be of any age.
    pub retained: bool,
    /// Where an answer is wanted.
    pub response_topic: Option<String>,
    /// What an answer must carry.
    pub correlation: Option<Vec<u8>>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Seconds until it is worth nothing.
    pub expiry_s: Option<u32>,
}

// Payloads are never logged.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("bytes", &self.payload.len())
            .field("ticket", &self.ticket)
            .field("again", &self.again)
            .finish_non_exhaustive()
    }
}

/// A message that goes out, at QoS 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// Where to.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for those who come later.
    pub retain: bool,
    /// The correlation data of the request.
    pub correlation: Option<Vec<u8>>,
    /// What the payload is.
    pub content_type: Option<&'static str>,
    /// Seconds until it is worth nothing.
    pub expiry_s: Option<u32>,
    /// User properties.
    pub properties: Vec<(String, String)>,
}

impl Publication {
    /// An upper bound of its packet's size in bytes.
    pub fn packet_bytes(&self) -> usize {
        // Fixed header, lengths, packet identifier and the properties of fixed size take less than 64.
        let properties: usize =
            self.properties.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
        let correlation = self.correlation.as_ref().map_or(0, Vec::len);
        64 + self.topic.len() + self.payload.len() + correlation + properties
    }
}

/// What a broker lets its clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerLimits {
    /// What is spoken with it.
    pub protocol: Protocol,
    /// Bytes of the largest packet it takes; `None` if it does not say.
    pub packet_bytes: Option<u32>,
    /// Publications it takes before it acknowledges one.
    pub receive_maximum: u16,
    /// Whether it keeps retained messages.
    pub retain: bool,
    /// Whether it knows shared subscriptions.
    pub shared: bool,
}

/// What the broker made of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the broker's now.
    Taken,
    /// It will not take it, and never would.
    Refused(String),
    /// It would not take it now.
    Deferred(String),
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The broker has let us in.
    Connected {
        /// Whether it remembers our session.
        session_present: bool,
        /// What it lets us do.
        limits: BrokerLimits,
    },
    /// A message.
    Message(Message),
    /// A publication was answered.
    Published {
        /// The token given with it.
        token: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// The broker has answered a subscription, and whatever was unsubscribed before it.
    Subscribed {
        /// How many of its filters were refused.
        refused: usize,
        /// What it said to the first of these.
        reason: String,
    },
    /// The connection is gone. Nothing follows.
    Lost(Loss),
}

/// Why a connection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// In words.
    pub reason: String,
    /// Trying again soon makes it no better: bad credentials, or another client under our name.
    pub lasting: bool,
    /// What it says about the version that we greeted the broker in.
    pub objection: Objection,
}

impl Loss {
    /// A loss that says nothing about the version and may be over soon.
    pub fn passing(reason: impl Into<String>) -> Self {
        Loss { reason: reason.into(), lasting: false, objection: Objection::None }
    }
}

/// What a broker has against the version of MQTT that it was greeted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Nothing that is known.
    None,
    /// It hung up on the greeting or let it lie, as those do that do not understand it, and others for a moment.
    HungUp,
    /// It does not speak it.
    Refused,
}

/// The link has no room for more; it is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFull;

/// How to connect.
#[derive(Clone)]
pub struct LinkOptions {
    /// The version of MQTT.
    pub protocol: Protocol,
    /// Where to.
    pub broker: Broker,
    /// As whom.
    pub client_id: String,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// Certificates of the authorities, and our own with its key; all in PEM.
    pub tls: Option<TlsPem>,
    /// What the broker says for us when we are gone.
    pub will: Option<Publication>,
    /// Whether the broker is to keep our session, and what comes meanwhile.
    pub keep_session: bool,
    /// Time between signs of life.
    pub keep_alive: Duration,
    /// Seconds for which the broker keeps our session.
    pub session_expiry_s: u32,
    /// Messages it may send before one is acknowledged.
    pub receive_maximum: u16,
    /// Bytes of the largest packet it may send.
    pub packet_bytes: u32,
    // In 3.1.1 neither can be told to the broker: the caller must bear more, and larger ones come without payload.
    /// Publications that may be under way.
    pub window: u16,
}

// It holds a password.
impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions")
            .field("broker", &self.broker)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// The contents of TLS files.
#[derive(Clone)]
pub struct TlsPem {
    /// The authorities.
    pub ca: Vec<u8>,
    /// Our certificate and its key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

/// A connection. Dropping it ends it.
pub trait Link: fmt::Debug + Send {
    /// Sends a publication; its outcome comes with `token`.
    ///
    /// # Errors
    /// If more are under way than the options allow.
    fn publish(&mut self, token: u64, publication: Publication) -> Result<(), LinkFull>;

    /// Acknowledges a message.
    ///
    /// # Errors
    /// If more are being acknowledged than the options allow.
    fn acknowledge(&mut self, ticket: u16) -> Result<(), LinkFull>;

    /// Subscribes to filters. What the broker has retained comes only for filters that are new to our session; in
    /// 3.1.1 it comes for all of them.
    ///
    /// # Errors
    /// If too much is under way.
    fn subscribe(&mut self, filters: &[String]) -> Result<(), LinkFull>;

    /// Ends a subscription.
    ///
    /// # Errors
    /// If too much is under way.
    fn unsubscribe(&mut self, filter: &str) -> Result<(), LinkFull>;

    /// Says goodbye, so that the will is not published; the session stays.
    fn disconnect(&mut self);
}

/// Where a link says what happens. It waits while there is no room and returns false when nobody listens any more.
pub type Report = Box<dyn Fn(LinkEvent) -> bool + Send>;

/// Opens connections.
pub trait Dial: fmt::Debug + Send {
    /// Checks what can be checked without the broker.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check(&self, options: &LinkOptions) -> Result<(), String>;

    /// Begins a connection.
    ///
    /// # Errors
    /// If it cannot even be tried, in words.
    fn dial(&self, options: &LinkOptions, report: Report) -> Result<Box<dyn Link>, String>;
}
