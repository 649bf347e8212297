//! From the engine's answer to what is kept and sent.

use tern_protocol::answer::Answer;

use super::clock::Millis;
use super::link::Publication;
use super::outbox::{Reply, ReplyTo};
use crate::wire;

/// Code of an answer that is no refusal.
const OK: u16 = 200;

/// The reply of `device` with `model` that says `answer` to the request that its sender knows as `id`.
pub fn of(mut answer: wire::Answer, id: &str, device: &str, model: &str) -> Reply {
    let own = match &mut answer {
        Answer::Decision(answer) => Some(&mut answer.id),
        Answer::Token(answer) => Some(&mut answer.id),
        Answer::Text(answer) => Some(&mut answer.id),
        Answer::Cancelled(answer) => Some(&mut answer.id),
        Answer::Status(answer) => Some(&mut answer.id),
        Answer::Error(answer) => answer.id.as_mut(),
    };
    if let Some(own) = own {
        id.clone_into(own);
    }
    let status = if let Answer::Error(failure) = &answer { failure.code } else { OK };
    let mut properties = vec![
        ("status".to_owned(), status.to_string()),
        ("device".to_owned(), device.to_owned()),
        ("model".to_owned(), model.to_owned()),
    ];
    let energy = match &answer {
        Answer::Decision(answer) => Some(&answer.energy),
        Answer::Text(answer) => Some(&answer.energy),
        _ => None,
    };
    // What is not known is left out, never 0.
    if let Some((energy, joules)) = energy.and_then(|energy| Some((energy, energy.joules?))) {
        properties.push(("energy_joules".to_owned(), joules.to_string()));
        let method = serde_json::to_value(energy.method).ok();
        if let Some(method) = method.as_ref().and_then(serde_json::Value::as_str) {
            properties.push(("energy_method".to_owned(), method.to_owned()));
        }
    }
    // Answers are strings, numbers and lists: nothing that JSON lacks.
    let payload = serde_json::to_string(&answer).unwrap_or_default();
    Reply { status, payload, properties }
}

/// The publication of a reply that is worth something for `left_ms`.
pub fn publication(reply: &Reply, to: &ReplyTo, left_ms: Option<Millis>) -> Publication {
    Publication {
        topic: to.topic.clone(),
        payload: reply.payload.clone().into_bytes(),
        retain: to.retain,
        correlation: to.correlation.clone(),
        content_type: Some("application/json"),
        // The broker counts in seconds; what is left of one is one.
        expiry_s: left_ms.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
        properties: reply.properties.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::answer::Reason;

    use super::*;

    #[test]
    fn a_reply_carries_its_senders_name_and_its_code() {
        let answer = crate::serve::refusal(Some("17".into()), Reason::UnknownTask, "no task");
        let reply = of(answer, "mine", "pi", "m");
        assert_eq!(reply.status, 404);
        assert!(reply.payload.contains("\"id\":\"mine\""), "{}", reply.payload);
        let names: Vec<_> = reply.properties.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["status", "device", "model"]);
        let to = ReplyTo {
            topic: "a".into(),
            correlation: None,
            id: String::new(),
            retain: true,
            expires: None,
            properties: vec![],
        };
        assert_eq!(publication(&reply, &to, Some(1)).expiry_s, Some(1));
        assert_eq!(publication(&reply, &to, Some(2001)).expiry_s, Some(3));
        assert_eq!(publication(&reply, &to, None).expiry_s, None);
    }
}
