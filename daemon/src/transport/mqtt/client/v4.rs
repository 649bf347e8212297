//! MQTT 3.1.1, which the protocol calls 4: no properties, no limits that one side tells the other.

use std::time::Duration;

use rumqttc::mqttbytes::v4::{ConnectReturnCode, LastWill, Packet, Publish, SubscribeReasonCode};
use rumqttc::mqttbytes::{Error as Malformed, QoS};
use rumqttc::{
    Client, Connection, ConnectionError, Event, MqttOptions, Outgoing, RecvTimeoutError, StateError,
    SubscribeFilter,
};

use super::{Drive, Step, Tokens, address, network, room, transport};
use crate::config::mqtt::Protocol;
use crate::transport::mqtt::link::{
    BrokerLimits, Link, LinkEvent, LinkFull, LinkOptions, Loss, Message, Objection, Outcome, Publication,
    Report,
};

/// Bytes of the largest packet that is read at all, unless more is wanted. A larger one ends the connection, and the
/// broker will send it again: it cannot be told otherwise.
const READ_BYTES: usize = 16 << 20;

/// Begins a connection.
pub fn dial(options: &LinkOptions, report: Report) -> Result<Box<dyn Link>, String> {
    let settings = settings(options)?;
    let (client, mut connection) = Client::new(settings, room(options));
    connection.eventloop.set_network_options(network());
    let tokens = Tokens::default();
    let most = options.packet_bytes as usize;
    super::drive(Driver { connection, tokens: tokens.clone(), most, is_up: false }, options, report)?;
    Ok(Box::new(V4 { client, tokens }))
}

fn settings(options: &LinkOptions) -> Result<MqttOptions, String> {
    let (host, port) = address(options)?;
    let mut settings = MqttOptions::new(&options.client_id, host, port);
    if let Some(transport) = transport(options)? {
        settings.set_transport(transport);
    }
    settings
        .set_keep_alive(options.keep_alive)
        .set_clean_session(!options.keep_session)
        // What we send is measured by the bridge.
        .set_max_packet_size(READ_BYTES.max(options.packet_bytes as usize), usize::MAX)
        .set_manual_acks(true)
        .set_inflight(options.window);
    if let Some(will) = &options.will {
        let will = LastWill::new(&will.topic, will.payload.clone(), QoS::AtLeastOnce, will.retain);
        settings.set_last_will(will);
    }
    if let Some((user, password)) = &options.login {
        settings.set_credentials(user, password);
    }
    Ok(settings)
}

struct V4 {
    client: Client,
    tokens: Tokens,
}

impl std::fmt::Debug for V4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("V4")
    }
}

impl Link for V4 {
    fn publish(&mut self, token: u64, publication: Publication) -> Result<(), LinkFull> {
        // The rest has no place in this version.
        let Publication { topic, payload, retain, .. } = publication;
        self.tokens.hand_in(token, || {
            let sent = self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload);
            sent.map_err(|_| LinkFull)
        })
    }

    fn acknowledge(&mut self, ticket: u16) -> Result<(), LinkFull> {
        let mut message = Publish::new("", QoS::AtLeastOnce, "");
        message.pkid = ticket;
        self.client.try_ack(&message).map_err(|_| LinkFull)
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<(), LinkFull> {
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        self.client.try_subscribe_many(filters).map_err(|_| LinkFull)
    }

    fn unsubscribe(&mut self, filter: &str) -> Result<(), LinkFull> {
        self.client.try_unsubscribe(filter).map_err(|_| LinkFull)
    }

    fn disconnect(&mut self) {
        // A link that is too full for a farewell ends without one.
        let _ = self.client.try_disconnect();
    }
}

impl Drop for V4 {
    fn drop(&mut self) {
        // Its thread would go on for as long as the broker does.
        self.disconnect();
    }
}

/// Drives a connection.
struct Driver {
    connection: Connection,
    tokens: Tokens,
    /// Bytes of the largest payload that is kept.
    most: usize,
    is_up: bool,
}

impl Drive for Driver {
    fn step(&mut self, silence: Duration) -> Step {
        match self.connection.recv_timeout(silence) {
            Ok(Ok(Event::Outgoing(Outgoing::Disconnect))) => Step::Left,
            Ok(Ok(event)) => Step::Went(self.translate(event)),
            Ok(Err(error)) => Step::Lost(loss(&error, self.is_up)),
            Err(RecvTimeoutError::Timeout) => Step::Silent,
            // The link was dropped.
            Err(RecvTimeoutError::Disconnected) => Step::Dropped,
        }
    }
}

impl Driver {
    fn translate(&mut self, event: Event) -> Option<LinkEvent> {
        match event {
            Event::Outgoing(Outgoing::Publish(packet)) => {
                self.tokens.went_out(packet);
                None
            }
            Event::Incoming(Packet::ConnAck(answer)) => {
                self.is_up = true;
                Some(LinkEvent::Connected { session_present: answer.session_present, limits: LIMITS })
            }
            Event::Incoming(Packet::Publish(publish)) => Some(LinkEvent::Message(self.message(publish))),
            Event::Incoming(Packet::PubAck(answer)) => {
                let token = self.tokens.came_back(answer.pkid)?;
                Some(LinkEvent::Published { token, outcome: Outcome::Taken })
            }
            Event::Incoming(Packet::SubAck(answer)) => {
                let refused =
                    answer.return_codes.iter().filter(|code| **code == SubscribeReasonCode::Failure).count();
                Some(LinkEvent::Subscribed { refused, reason: "it does not say why".into() })
            }
            _ => None,
        }
    }

    fn message(&self, publish: Publish) -> Message {
        let Publish { dup, qos, retain, topic, pkid, payload } = publish;
        let oversize = Some(payload.len()).filter(|bytes| *bytes > self.most);
        Message {
            topic,
            payload: if oversize.is_some() { Vec::new() } else { payload.into() },
            oversize,
            ticket: (qos != QoS::AtMostOnce).then_some(pkid),
            again: dup,
            retained: retain,
            response_topic: None,
            correlation: None,
            content_type: None,
            expiry_s: None,
        }
    }
}

/// A broker of this version says nothing, so it may have what it turns out not to have.
const LIMITS: BrokerLimits = BrokerLimits {
    protocol: Protocol::V311,
    packet_bytes: None,
    receive_maximum: u16::MAX,
    retain: true,
    shared: true,
};

fn loss(error: &ConnectionError, is_up: bool) -> Loss {
    use ConnectReturnCode as Refusal;
    let mut objection = Objection::None;
    let mut reason = error.to_string();
    let lasting = match error {
        ConnectionError::ConnectionRefused(Refusal::RefusedProtocolVersion) => {
            objection = Objection::Refused;
            true
        }
        ConnectionError::ConnectionRefused(code) => {
            matches!(code, Refusal::BadUserNamePassword | Refusal::NotAuthorized | Refusal::BadClientId)
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) if !is_up => {
            objection = Objection::HungUp;
            false
        }
        ConnectionError::MqttState(StateError::Io(error)) | ConnectionError::Io(error)
            if !is_up && super::is_hanging_up(error) =>
        {
            objection = Objection::HungUp;
            false
        }
        ConnectionError::MqttState(StateError::Deserialization(Malformed::PayloadSizeLimitExceeded(
            bytes,
        ))) => {
            reason = format!(
                "it sends a packet of {bytes} bytes, more than can be read, and will send it again; limit the size of \
                 messages at the broker, and end this client's session there"
            );
            true
        }
        _ => false,
    };
    Loss { reason, lasting, objection }
}
