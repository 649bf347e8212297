//! MQTT 5.

use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, LastWillProperties, Packet,
    PubAckReason, Publish, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as Malformed, QoS};
use rumqttc::v5::{Client, Connection, ConnectionError, Event, MqttOptions, RecvTimeoutError, StateError};

use super::{CONNECT_S, Drive, Step, Tokens, address, network, room, transport};
use crate::config::mqtt::Protocol;
use crate::transport::mqtt::link::{
    BrokerLimits, Link, LinkEvent, LinkFull, LinkOptions, Loss, Message, Objection, Outcome, Publication,
    Report,
};

/// Begins a connection.
pub fn dial(options: &LinkOptions, report: Report) -> Result<Box<dyn Link>, String> {
    let settings = settings(options)?;
    let (client, mut connection) = Client::new(settings, room(options));
    connection.eventloop.options.set_network_options(network());
    let tokens = Tokens::default();
    let driver = Driver { connection, tokens: tokens.clone(), is_up: false };
    super::drive(driver, options, report)?;
    Ok(Box::new(V5 { client, tokens }))
}

/// The library's form of the options.
pub fn settings(options: &LinkOptions) -> Result<MqttOptions, String> {
    let (host, port) = address(options)?;
    let mut settings = MqttOptions::new(&options.client_id, host, port);
    if let Some(transport) = transport(options)? {
        settings.set_transport(transport);
    }
    settings
        .set_keep_alive(options.keep_alive)
        .set_clean_start(!options.keep_session)
        .set_connection_timeout(CONNECT_S)
        .set_session_expiry_interval(Some(if options.keep_session { options.session_expiry_s } else { 0 }))
        .set_receive_maximum(Some(options.receive_maximum))
        // Tells the broker, and is checked on what comes all the same.
        .set_max_packet_size(Some(options.packet_bytes))
        .set_manual_acks(true)
        // The library keeps a slot for every publication that may be under way: 14 MiB if it is not told.
        .set_outgoing_inflight_upper_limit(options.window);
    if let Some(will) = &options.will {
        let properties = LastWillProperties {
            delay_interval: None,
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: will.content_type.map(str::to_owned),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let (topic, payload) = (&will.topic, will.payload.clone());
        settings.set_last_will(LastWill::new(
            topic,
            payload,
            QoS::AtLeastOnce,
            will.retain,
            Some(properties),
        ));
    }
    if let Some((user, password)) = &options.login {
        settings.set_credentials(user, password);
    }
    Ok(settings)
}

struct V5 {
    client: Client,
    tokens: Tokens,
}

impl std::fmt::Debug for V5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("V5")
    }
}

impl Link for V5 {
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
        self.tokens.hand_in(token, || {
            let sent =
                self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties);
            sent.map_err(|_| LinkFull)
        })
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

    fn unsubscribe(&mut self, filter: &str) -> Result<(), LinkFull> {
        self.client.try_unsubscribe(filter).map_err(|_| LinkFull)
    }

    fn disconnect(&mut self) {
        // A link that is too full for a farewell ends without one.
        let _ = self.client.try_disconnect();
    }
}

impl Drop for V5 {
    fn drop(&mut self) {
        // Its thread would go on for as long as the broker does.
        self.disconnect();
    }
}

/// Drives a connection.
struct Driver {
    connection: Connection,
    tokens: Tokens,
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
                Some(LinkEvent::Connected {
                    session_present: answer.session_present,
                    limits: limits(&answer),
                })
            }
            Event::Incoming(Packet::Publish(publish)) => Some(LinkEvent::Message(message(publish))),
            Event::Incoming(Packet::PubAck(answer)) => {
                let token = self.tokens.came_back(answer.pkid)?;
                Some(LinkEvent::Published { token, outcome: outcome(answer.reason) })
            }
            Event::Incoming(Packet::SubAck(answer)) => {
                let codes = answer.return_codes.iter();
                let refused: Vec<_> =
                    codes.filter(|code| !matches!(code, SubscribeReasonCode::Success(_))).collect();
                let reason = refused.first().map(|code| format!("{code:?}")).unwrap_or_default();
                Some(LinkEvent::Subscribed { refused: refused.len(), reason })
            }
            _ => None,
        }
    }
}

fn limits(answer: &ConnAck) -> BrokerLimits {
    let said = answer.properties.as_ref();
    BrokerLimits {
        protocol: Protocol::V5,
        packet_bytes: said.and_then(|said| said.max_packet_size),
        receive_maximum: said.and_then(|said| said.receive_max).unwrap_or(u16::MAX),
        retain: said.and_then(|said| said.retain_available) != Some(0),
        shared: said.and_then(|said| said.shared_subscription_available) != Some(0),
    }
}

fn message(publish: Publish) -> Message {
    let Publish { dup, qos, retain, topic, pkid, payload, properties } = publish;
    let properties = properties.unwrap_or_default();
    Message {
        topic: String::from_utf8_lossy(&topic).into_owned(),
        payload: payload.into(),
        oversize: None,
        ticket: (qos != QoS::AtMostOnce).then_some(pkid),
        again: dup,
        retained: retain,
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

fn loss(error: &ConnectionError, is_up: bool) -> Loss {
    use ConnectReturnCode as Refusal;
    let mut objection = Objection::None;
    let lasting = match error {
        ConnectionError::ConnectionRefused(
            Refusal::UnsupportedProtocolVersion | Refusal::RefusedProtocolVersion,
        ) => {
            objection = Objection::Refused;
            true
        }
        ConnectionError::ConnectionRefused(code) => matches!(
            code,
            Refusal::BadUserNamePassword
                | Refusal::NotAuthorized
                | Refusal::Banned
                | Refusal::ClientIdentifierNotValid
                | Refusal::BadClientId
                | Refusal::BadAuthenticationMethod
        ),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            *reason_code == DisconnectReasonCode::SessionTakenOver
        }
        // Some that do not understand what comes wait for more of it.
        ConnectionError::Timeout(_) if !is_up => {
            objection = Objection::HungUp;
            false
        }
        // The refusal of an old broker is too short for this library, which takes it for the end.
        ConnectionError::MqttState(StateError::ConnectionAborted) if !is_up => {
            objection = Objection::HungUp;
            false
        }
        ConnectionError::MqttState(
            StateError::Deserialization(Malformed::Io(error)) | StateError::Io(error),
        )
        | ConnectionError::Io(error)
            if !is_up && super::is_hanging_up(error) =>
        {
            objection = Objection::HungUp;
            false
        }
        _ => false,
    };
    Loss { reason: error.to_string(), lasting, objection }
}
