//! MQTT 5 and 3.1.1: requests from a broker, answers to it, and nothing lost or answered twice differently in between.
//!
//! | module | holds |
//! |---|---|
//! | [`link`] | what is needed of an MQTT library; [`client`] is the one folder that names it |
//! | `tls` | who may vouch for the broker, and who we are to it |
//! | [`topic`], [`asked`] | topics; from a message to a request |
//! | [`payload`], [`senml`] | from what devices send to text |
//! | [`outbox`], [`journal`], [`clock`] | what was taken and what is owed, on disk |
//! | [`digest`] | messages that are collected and answered together |
//! | [`bridge`], [`inbox`] | the thread that does the work, and what it is told |
//! | [`requester`] | the broker as the engine sees it |
//! | [`reply`], [`presence`] | what is said |
//! | [`plug`] | a smart plug that is heard as a power meter, on a connection of its own |
//! | [`reconnect`], [`version`] | when to connect again, and in which version |
//!
//! # The way of a request
//!
//! ```text
//! broker --PUBLISH--> 1 take --> 2 journal: asked --> 3 engine --> 4 journal: answered, synced
//!        <--PUBLISH-- 5 send                                            |
//!        --PUBACK---> 6 journal: delivered <----------------------------+
//!        <--PUBACK--- 7 acknowledge the request, in the order of arrival
//! ```
//! The connection is a persistent session at QoS 1, and the broker keeps a request until step 7. The daemon may be
//! killed, or the connection lost, behind any step:
//!
//! - **before 2**: the broker sends the request again, and it is new to us.
//! - **2 to 4**: the record of step 2 survives the process, though a power cut may take it. The request is run again
//!   from the record, or from the broker's copy. Both bear the same correlation data and response topic and so are one
//!   entry; without correlation data they are one by the broker's word (DUP, the same packet identifier, the same
//!   content). No answer had left, so there is no other answer to contradict.
//! - **4 to 6**: the answer is on disk and is the only one there will ever be. It is sent again, and the broker's copy
//!   of the request finds it. The sender may get the same answer twice.
//! - **6 to 7**: as 4 to 6 after a restart. On a resumed connection the entry knows that it is this very packet whose
//!   acknowledgement is missing, and acknowledges it without sending the answer again.
//! - **after 7**: the answer stays in the outbox for `cache_s`, or until the request expires if that is later: a
//!   sender that asks again with the same correlation data gets it again.
//!
//! A broker that forgets our session loses what it had not sent us; what we had taken is in the outbox and is answered.
//! Only both losing their memory, a broker without persistence and a device without power, loses a request that was
//! taken, and then its sender, who has no answer, repeats it.
//!
//! A disk that cannot be written holds all of this up before 5: nothing leaves, and nothing is acknowledged.
//! A request that is in the engine whenever the daemon ends is given up in the end: see `bridge/suspects.rs`.
//!
//! Everything is bounded: un-acknowledged messages by the receive maximum, or, where the broker knows none, by letting
//! what cannot be held lie there until the connection is made anew; requests in the engine by twice that,
//! messages of QoS 0 by being dropped beyond it, entries by `outbox_bytes`, publications under way by a window, events
//! of the connection by the inbox, which lets the connection's thread wait and so the broker.

pub mod asked;
pub mod bridge;
pub mod client;
pub mod clock;
pub mod digest;
pub mod inbox;
pub mod journal;
pub mod link;
pub mod outbox;
pub mod payload;
pub mod plug;
pub mod presence;
pub mod reconnect;
pub mod reply;
pub mod requester;
pub mod senml;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topic;
pub mod version;

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Transport;
use crate::config::digest::Digest;
use crate::config::mqtt::{Broker, MqttSection, Protocol, Watch};
use crate::serve::service::Service;
use asked::Topics;
use bridge::{Bridge, OptionsSource, Parts};
use digest::Digests;
use inbox::{Inbox, Input};
use journal::{JournalError, fnv1a};
use link::{Dial, LinkOptions, Publication, TlsPem};
use outbox::Outbox;
use presence::Presence;
use reconnect::Pauses;
use version::Version;

/// The bridge to the broker cannot start. A broker that is not there is no reason: it is tried again.
#[derive(Debug)]
#[non_exhaustive]
pub enum MqttError {
    /// The outbox cannot be used.
    Outbox(JournalError),
    /// A watch or a digest names a task that is not there.
    UnknownTask {
        /// Its filter.
        topic: String,
        /// The task.
        task: String,
    },
    /// A secret cannot be read.
    Secret(String),
    /// The system refuses a thread.
    Thread(io::Error),
}

impl fmt::Display for MqttError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MqttError::Outbox(error) => write!(f, "{error}"),
            MqttError::UnknownTask { topic, task } => {
                write!(f, "{topic:?} is read for the task {task:?}, which is not there")
            }
            MqttError::Secret(reason) => f.write_str(reason),
            MqttError::Thread(_) => f.write_str("the system refuses a thread; raise the limit of tasks"),
        }
    }
}

impl Error for MqttError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            MqttError::Outbox(error) => error.source(),
            MqttError::Thread(error) => Some(error),
            MqttError::UnknownTask { .. } | MqttError::Secret(_) => None,
        }
    }
}

/// A bridge to a broker.
#[derive(Debug)]
pub struct MqttTransport {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl MqttTransport {
    /// Starts the bridge; it connects when it can.
    ///
    /// # Errors
    /// If the outbox or a secret cannot be had, or a watch wants a task that is not there.
    pub fn start(
        section: &MqttSection,
        watches: &[Watch],
        digests: &[Digest],
        dial: Box<dyn Dial>,
        service: Arc<Service>,
    ) -> Result<Self, MqttError> {
        let watched = watches.iter().map(|watch| (&watch.topic, &watch.task));
        for (topic, task) in watched.chain(digests.iter().map(|digest| (&digest.topic, &digest.task))) {
            if service.tasks().find(task).is_none() {
                return Err(MqttError::UnknownTask { topic: topic.clone(), task: task.clone() });
            }
        }
        let cache_ms = u64::from(section.cache_s) * 1000;
        let outbox = Outbox::open(&section.state_folder(), section.outbox_bytes as usize, cache_ms)
            .map_err(MqttError::Outbox)?;
        let clock = outbox.clock();
        let windows = Digests::open(&section.state_folder(), digests, usize::from(section.receive_maximum))
            .map_err(MqttError::Outbox)?;
        let topics = Topics::of(section, watches, digests);
        let presence = Presence::new(topics.clone(), section.discovery.clone());
        // Now, so that a missing file is told at the start; later ones may have changed.
        let now = options(section, Some(presence.will()), section.protocol).map_err(MqttError::Secret)?;
        dial.check(&now).map_err(MqttError::Secret)?;
        let theirs = section.clone();
        let inbox = Arc::new(Inbox::default());
        let seed = clock.now() ^ fnv1a(&[section.client_id().as_bytes()]) ^ u64::from(std::process::id());
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let bridge = Bridge::new(Parts {
            dial,
            options: OptionsSource(Box::new(move |will, protocol| options(&theirs, Some(will), protocol))),
            service,
            inbox: Arc::clone(&inbox),
            outbox,
            digests: windows,
            clock,
            topics,
            presence,
            pauses: Pauses::new(ms(section.reconnect_ms), ms(section.reconnect_most_ms), seed),
            version: Version::new(section.protocol),
            receive_maximum: usize::from(section.receive_maximum),
            packet_bytes: section.packet_bytes as usize,
            figures: Duration::from_secs(u64::from(section.metrics_s)),
            attempts: section.attempts,
        });
        let thread = std::thread::Builder::new()
            .name("tern-mqtt".into())
            .spawn(move || bridge.run())
            .map_err(MqttError::Thread)?;
        Ok(MqttTransport { inbox, thread: Some(thread) })
    }
}

impl Transport for MqttTransport {
    fn stop_accepting(&mut self) {
        self.inbox.push(Input::Quiet);
    }

    fn finish(mut self: Box<Self>) {
        self.inbox.push(Input::Finish);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the broker panicked; this is a fault of Tern");
        }
    }
}

/// How to connect, with the contents of all files.
fn options(
    section: &MqttSection,
    will: Option<Publication>,
    protocol: Protocol,
) -> Result<LinkOptions, String> {
    let login = match (&section.user, &section.password) {
        (Some(user), Some(password)) => Some((user.clone(), password.read_line("the broker's password")?)),
        (Some(user), None) => Some((user.clone(), String::new())),
        _ => None,
    };
    let tls = match (&section.tls.ca, &section.tls.certificate, &section.tls.key) {
        (Some(ca), certificate, key) => Some(TlsPem {
            ca: ca.read("the certificate of the authority")?,
            own: match (certificate, key) {
                (Some(certificate), Some(key)) => {
                    Some((certificate.read("our certificate")?, key.read("the key of our certificate")?))
                }
                _ => None,
            },
        }),
        (None, ..) => None,
    };
    let broker = Broker::parse(&section.broker).ok_or("mqtt.broker is no address of a broker")?;
    Ok(LinkOptions {
        protocol,
        broker,
        client_id: section.client_id(),
        login,
        tls,
        keep_session: will.is_some(),
        will,
        keep_alive: Duration::from_secs(u64::from(section.keep_alive_s)),
        session_expiry_s: section.session_expiry_s,
        receive_maximum: section.receive_maximum,
        packet_bytes: section.packet_bytes,
        window: bridge::WINDOW,
    })
}
