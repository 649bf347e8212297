//! The one file that knows which MQTT library is used: rumqttc, its client for version 5.
//!
//! The library is used for the wire alone. It would connect again by itself and forget what it was told when the
//! broker has forgotten our session, so every connection gets a client of its own and ends with its first error.
//! Publications carry no token in this library, but its `Outgoing::Publish` events come in the order in which they were
//! handed in, which pairs tokens with packet identifiers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, LastWillProperties, Packet,
    PubAckReason, Publish, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{Client, Connection, ConnectionError, Event, MqttOptions, RecvTimeoutError, StateError};
use rumqttc::{NetworkOptions, Outgoing, Transport};

use super::link::{
    BrokerLimits, Dial, Link, LinkEvent, LinkFull, LinkOptions, Loss, Message, Outcome, Publication, Report,
    TlsPem,
};
use crate::config::mqtt::Broker;

/// Seconds for connecting, TLS and the broker's answer.
const CONNECT_S: u64 = 10;

/// Tokens of publications that the library has not sent yet, oldest first.
type Unsent = Arc<Mutex<VecDeque<u64>>>;

/// Opens connections with rumqttc.
#[derive(Debug)]
pub struct Rumqtt;

impl Dial for Rumqtt {
    fn check(&self, options: &LinkOptions) -> Result<(), String> {
        settings(options).map(|_| ())
    }

    fn dial(&self, options: &LinkOptions, report: Report) -> Result<Box<dyn Link>, String> {
        let settings = settings(options)?;
        // Acknowledgements and publications are limited by their windows; subscriptions and farewells are few.
        let room = usize::from(options.receive_maximum) + usize::from(options.window) + 64;
        let (client, mut connection) = Client::new(settings, room);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_S);
        connection.eventloop.options.set_network_options(network);
        let unsent = Unsent::default();
        let theirs = Arc::clone(&unsent);
        // A connection that is alive has an event in every keep-alive time, if only a ping.
        let silence = options.keep_alive * 2 + Duration::from_secs(CONNECT_S);
        std::thread::Builder::new()
            .name("tern-mqtt-link".into())
            .spawn(move || Poller { unsent: theirs, sent: BTreeMap::new(), report }.run(connection, silence))
            .map_err(|error| format!("the system refuses a thread: {error}"))?;
        Ok(Box::new(RumqttLink { client, unsent }))
    }
}

fn settings(options: &LinkOptions) -> Result<MqttOptions, String> {
    let mut settings = match &options.broker {
        Broker::Tcp { host, port, .. } => MqttOptions::new(&options.client_id, host, *port),
        Broker::Unix(path) => {
            let path = path.to_str().ok_or("the path of the broker's socket is not UTF-8")?;
            let mut settings = MqttOptions::new(&options.client_id, path, 0);
            settings.set_transport(Transport::Unix);
            settings
        }
    };
    if let Some(pem) = &options.tls {
        settings.set_transport(tls(pem)?);
    }
    let will = &options.will;
    let properties = LastWillProperties {
        delay_interval: None,
        payload_format_indicator: Some(1),
        message_expiry_interval: None,
        content_type: will.content_type.map(str::to_owned),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    let will =
        LastWill::new(&will.topic, will.payload.clone(), QoS::AtLeastOnce, will.retain, Some(properties));
    settings
        .set_keep_alive(options.keep_alive)
        .set_clean_start(false)
        .set_connection_timeout(CONNECT_S)
        .set_session_expiry_interval(Some(options.session_expiry_s))
        .set_receive_maximum(Some(options.receive_maximum))
        // Tells the broker, and is checked on what comes all the same.
        .set_max_packet_size(Some(options.packet_bytes))
        .set_manual_acks(true)
        // The library keeps a slot for every publication that may be under way: 14 MiB if it is not told.
        .set_outgoing_inflight_upper_limit(options.window)
        .set_last_will(will);
    if let Some((user, password)) = &options.login {
        settings.set_credentials(user, password);
    }
    Ok(settings)
}

#[cfg(feature = "tls")]
fn tls(pem: &TlsPem) -> Result<Transport, String> {
    let config = rumqttc::TlsConfiguration::Rustls(super::tls::config(pem)?);
    Ok(Transport::tls_with_config(config))
}

#[cfg(not(feature = "tls"))]
fn tls(_: &TlsPem) -> Result<Transport, String> {
    Err("this program was built without TLS; build it with the feature tls, or use mqtt://".into())
}

struct RumqttLink {
    client: Client,
    unsent: Unsent,
}

impl std::fmt::Debug for RumqttLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RumqttLink")
    }
}

impl Link for RumqttLink {
    fn publish(&mut self, token: u64, publication: Publication) -> Result<(), LinkFull> {
        let Publication { topic, payload, retain, correlation, content_type, expiry_s, properties } =
            publication;
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            message_expiry_interval: expiry_s,
            correlation_data: correlation.map(Into::into),
            content_type: content_type.map(str::to_owned),
            user_properties: properties,
            ..PublishProperties::default()
        };
        // Held until the library has it, so that the order of both is the same.
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let sent =
            self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties);
        sent.map_err(|_| LinkFull)?;
        unsent.push_back(token);
        Ok(())
    }

    fn acknowledge(&mut self, ticket: u16) -> Result<(), LinkFull> {
        let message = Publish { qos: QoS::AtLeastOnce, pkid: ticket, ..Publish::default() };
        self.client.try_ack(&message).map_err(|_| LinkFull)
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<(), LinkFull> {
        let filters = filters.iter().map(|filter| {
            let mut filter = Filter::new(filter, QoS::AtLeastOnce);
            filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
            filter
        });
        self.client.try_subscribe_many(filters).map_err(|_| LinkFull)
    }

    fn disconnect(&mut self) {
        // A link that is too full for a farewell ends without one.
        let _ = self.client.try_disconnect();
    }
}

impl Drop for RumqttLink {
    fn drop(&mut self) {
        // Its thread would go on for as long as the broker does.
        self.disconnect();
    }
}

/// Drives a connection on a thread of its own.
struct Poller {
    unsent: Unsent,
    /// Tokens by packet identifier.
    sent: BTreeMap<u16, u64>,
    report: Report,
}

impl Poller {
    fn run(mut self, mut connection: Connection, silence: Duration) {
        let loss = loop {
            match connection.recv_timeout(silence) {
                Ok(Ok(event)) => {
                    let leaving = event == Event::Outgoing(Outgoing::Disconnect);
                    if let Some(event) = self.translate(event)
                        && !(self.report)(event)
                    {
                        return;
                    }
                    if leaving {
                        break Loss { reason: "we said goodbye".into(), lasting: false };
                    }
                }
                Ok(Err(error)) => break loss(&error),
                Err(RecvTimeoutError::Timeout) => {
                    let reason = format!("nothing was heard or could be sent for {} s", silence.as_secs());
                    break Loss { reason, lasting: false };
                }
                // The link was dropped.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        (self.report)(LinkEvent::Lost(loss));
    }

    fn translate(&mut self, event: Event) -> Option<LinkEvent> {
        match event {
            Event::Outgoing(Outgoing::Publish(packet)) => {
                let token = self.unsent.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                if let Some(token) = token {
                    self.sent.insert(packet, token);
                }
                None
            }
            Event::Incoming(Packet::ConnAck(answer)) => Some(LinkEvent::Connected {
                session_present: answer.session_present,
                limits: limits(&answer),
            }),
            Event::Incoming(Packet::Publish(publish)) => Some(LinkEvent::Message(message(publish))),
            Event::Incoming(Packet::PubAck(answer)) => {
                let token = self.sent.remove(&answer.pkid)?;
                Some(LinkEvent::Published { token, outcome: outcome(answer.reason) })
            }
            Event::Incoming(Packet::SubAck(answer)) => {
                let refused = || {
                    let codes = answer.return_codes.iter();
                    codes.filter(|code| !matches!(code, SubscribeReasonCode::Success(_)))
                };
                let reason = format!("{:?}", refused().next()?);
                Some(LinkEvent::SubscriptionRefused { refused: refused().count(), reason })
            }
            _ => None,
        }
    }
}

fn limits(answer: &ConnAck) -> BrokerLimits {
    let said = answer.properties.as_ref();
    BrokerLimits {
        packet_bytes: said.and_then(|said| said.max_packet_size),
        receive_maximum: said.and_then(|said| said.receive_max).unwrap_or(u16::MAX),
        retain: said.and_then(|said| said.retain_available) != Some(0),
        shared: said.and_then(|said| said.shared_subscription_available) != Some(0),
    }
}

fn message(publish: Publish) -> Message {
    let Publish { dup, qos, topic, pkid, payload, properties, .. } = publish;
    let properties = properties.unwrap_or_default();
    Message {
        topic: String::from_utf8_lossy(&topic).into_owned(),
        payload: payload.into(),
        ticket: (qos != QoS::AtMostOnce).then_some(pkid),
        again: dup,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data.map(Into::into),
        content_type: properties.content_type,
        expiry_s: properties.message_expiry_interval,
    }
}

fn outcome(reason: PubAckReason) -> Outcome {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Outcome::Taken,
        PubAckReason::QuotaExceeded
        | PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError => Outcome::Deferred(format!("{reason:?}")),
        _ => Outcome::Refused(format!("{reason:?}")),
    }
}

fn loss(error: &ConnectionError) -> Loss {
    use ConnectReturnCode as Refusal;
    let lasting = match error {
        ConnectionError::ConnectionRefused(code) => matches!(
            code,
            Refusal::BadUserNamePassword
                | Refusal::NotAuthorized
                | Refusal::Banned
                | Refusal::ClientIdentifierNotValid
                | Refusal::BadClientId
                | Refusal::UnsupportedProtocolVersion
                | Refusal::RefusedProtocolVersion
                | Refusal::BadAuthenticationMethod
        ),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            *reason_code == DisconnectReasonCode::SessionTakenOver
        }
        _ => false,
    };
    Loss { reason: error.to_string(), lasting }
}
