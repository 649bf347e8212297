//! `/v1/systemone`: typed questions about a state, answered with probabilities and without a word.
//!
//! | `type` | `criteria` | answer |
//! |---|---|---|
//! | `choice` | an object of options with descriptions or null, or a list of options | `choice`, `probabilities`, `confidence` |
//! | `score` | a list of descriptions, the least first | `score`, `legend`, `probabilities`, `confidence` |
//! | `noul` | null, or an object with descriptions of `true` and `false` | `noul`, the probability of true |
//!
//! A question may name a `task` of the daemon instead. Every question is a request of its own; they run together.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tern_protocol::answer::{Answer, Usage, Value as Decided};
use tern_protocol::request::Kind;

use super::dialect::shortest;
use super::error::ApiError;
use super::fields::{Fields, Ordered};
use crate::wire::{Ask, Decision, Request};

/// Most questions of one call.
const QUESTIONS: usize = 64;

/// A call: its questions by id, as requests.
#[derive(Debug)]
pub struct Questions {
    /// The model that was asked for.
    pub model: Option<String>,
    /// The requests; the id of each is its place.
    pub requests: Vec<Request>,
    ids: Vec<(String, Form)>,
}

/// What an answer is to look like.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Choice,
    Noul,
    /// With the descriptions of the levels.
    Score(Vec<String>),
    /// By the kind of the task.
    Task,
}

/// A text as it is; anything else as the JSON that was sent.
fn as_text(value: &RawValue) -> Result<String, serde_json::Error> {
    let text = value.get();
    if text.starts_with('"') { serde_json::from_str(text) } else { Ok(text.to_owned()) }
}

fn listed(instructions: String, entries: impl IntoIterator<Item = (String, Option<String>)>) -> String {
    let mut text = instructions;
    for (name, description) in entries {
        if let Some(description) = description {
            text += &format!("\n{name}: {description}");
        }
    }
    text
}

/// Options of a choice.
#[derive(Deserialize)]
#[serde(untagged, expecting = "an object of options, or a list of them")]
enum Options {
    Names(Vec<String>),
    Described(Ordered<Option<String>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sides {
    r#true: Option<String>,
    r#false: Option<String>,
}

fn question(id: &str, place: usize, value: &RawValue, state: &str) -> Result<(Request, Form), ApiError> {
    let blame = |error: ApiError| {
        let param =
            error.param.as_ref().map_or(format!("questions.{id}"), |at| format!("questions.{id}.{at}"));
        ApiError { message: format!("question {id:?}: {}", error.message), param: Some(param), ..error }
    };
    let mut fields = Fields::of("question", value).map_err(blame)?;
    let read = asked(&mut fields, place, state);
    fields.ignore(&["metadata"]);
    read.and_then(|read| fields.finish().map(|()| read)).map_err(blame)
}

fn asked(fields: &mut Fields, place: usize, state: &str) -> Result<(Request, Form), ApiError> {
    let id = place.to_string();
    if let Some(task) = fields.take::<String>("task")? {
        return Ok((Request::task(id, task, state), Form::Task));
    }
    let kind: String = fields.need("type")?;
    let instructions: Box<RawValue> = fields.need("instructions")?;
    let instructions = as_text(&instructions)
        .map_err(|error| ApiError::field("instructions", format!("instructions cannot be used: {error}")))?;
    let criteria = "criteria";
    let (ask, form) = match kind.as_str() {
        "choice" => {
            let (labels, instructions) = match fields.need(criteria)? {
                Options::Names(names) => (names, instructions),
                Options::Described(Ordered(options)) => {
                    let names = options.iter().map(|(name, _)| name.clone()).collect();
                    (names, listed(instructions, options))
                }
            };
            (
                Ask { instructions: Some(instructions), labels: Some(labels), ..Ask::new(Kind::Choice) },
                Form::Choice,
            )
        }
        "noul" => {
            let sides: Option<Sides> = fields.take(criteria)?;
            let sides = sides.map(|sides| [("yes".into(), sides.r#true), ("no".into(), sides.r#false)]);
            let instructions = listed(instructions, sides.into_iter().flatten());
            (Ask { instructions: Some(instructions), ..Ask::new(Kind::YesNo) }, Form::Noul)
        }
        "score" => {
            let levels: Vec<String> = fields.need(criteria)?;
            let numbered = levels.iter().enumerate();
            let numbered = numbered.map(|(level, text)| (level.to_string(), Some(text.clone())));
            let instructions = listed(instructions, numbered);
            let max = i32::try_from(levels.len()).unwrap_or(i32::MAX) - 1;
            let ask = Ask {
                instructions: Some(instructions),
                min: Some(0),
                max: Some(max),
                ..Ask::new(Kind::Score)
            };
            (ask, Form::Score(levels))
        }
        other => {
            let message = format!("type is {other:?}; there are choice, score and noul");
            return Err(ApiError::field("type", message));
        }
    };
    let ask = Ask { threshold: fields.take("threshold")?, ..ask };
    Ok((Request { ask: Some(ask), text: Some(state.to_owned()), ..Request::new(id) }, form))
}

impl Questions {
    /// Reads a call.
    ///
    /// # Errors
    /// The first thing in it that makes no sense.
    pub fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let model = fields.take("model")?;
        let state: Box<RawValue> = fields.need("state")?;
        let state = as_text(&state)
            .map_err(|error| ApiError::field("state", format!("state cannot be used: {error}")))?;
        let Ordered(questions) = fields.need::<Ordered<Box<RawValue>>>("questions")?;
        fields.ignore(&["user", "metadata", "store"]);
        fields.finish()?;
        if !(1..=QUESTIONS).contains(&questions.len()) {
            let message = format!("{} questions; ask 1 to {QUESTIONS}", questions.len());
            return Err(ApiError::field("questions", message));
        }
        let mut all = Questions { model, requests: Vec::new(), ids: Vec::new() };
        for (place, (id, value)) in questions.into_iter().enumerate() {
            let (request, form) = question(&id, place, &value, &state)?;
            all.requests.push(request);
            all.ids.push((id, form));
        }
        Ok(all)
    }

    /// The id of a question.
    pub fn id(&self, place: usize) -> &str {
        self.ids.get(place).map_or("", |(id, _)| id)
    }

    /// The response, of answers in the order of the questions.
    ///
    /// # Errors
    /// If a task that was named gives text.
    pub fn response(&self, model: &str, answers: &[Answer<crate::wire::Heap>]) -> Result<Value, ApiError> {
        let mut by_id = Map::new();
        let mut counted = Usage::default();
        for ((id, form), answer) in self.ids.iter().zip(answers) {
            let Answer::Decision(decision) = answer else {
                let message = format!("question {id:?}: its task gives text; name one that decides");
                return Err(ApiError::field(format!("questions.{id}.task"), message));
            };
            counted.prompt_tokens += decision.usage.prompt_tokens;
            let cached = counted.cached_tokens.unwrap_or(0) + decision.usage.cached_tokens.unwrap_or(0);
            counted.cached_tokens = Some(cached);
            by_id.insert(id.clone(), one(form, decision));
        }
        Ok(json!({
            "model": model,
            "answers": by_id,
            "usage": usage(&counted),
        }))
    }
}

/// How far the best is above chance: 0 if all are as likely, 1 if it is certain.
fn confidence(probabilities: &[f64]) -> f64 {
    let chance = 1.0 / probabilities.len().max(2) as f64;
    let best = probabilities.iter().copied().fold(0.0, f64::max);
    ((best - chance) / (1.0 - chance)).clamp(0.0, 1.0)
}

fn usage(usage: &Usage) -> Value {
    let details = json!({"cached_tokens": usage.cached_tokens.unwrap_or(0)});
    json!({"input_tokens": usage.prompt_tokens, "input_tokens_details": details, "output_tokens": 0})
}

fn one(form: &Form, decision: &Decision) -> Value {
    let each: Vec<f64> = decision.probabilities.iter().map(|each| shortest(each.p)).collect();
    let named = || -> Map<String, Value> {
        let labels = decision.probabilities.iter().map(|each| each.label.clone());
        labels.zip(each.iter().map(|p| json!(p))).collect()
    };
    let yes = || each.first().copied().unwrap_or_default();
    let mut answer = match (form, decision.value) {
        (Form::Noul, _) | (Form::Task, Some(Decided::Bool(_))) => json!({"type": "noul", "noul": yes()}),
        (Form::Score(levels), value) => {
            let legend: Map<String, Value> =
                levels.iter().enumerate().map(|(level, text)| (level.to_string(), json!(text))).collect();
            json!({"type": "score", "score": number(value), "legend": legend, "probabilities": named()})
        }
        (Form::Task, value @ Some(Decided::Number(_))) => {
            json!({"type": "score", "score": number(value), "probabilities": named()})
        }
        _ => json!({"type": "choice", "choice": decision.label, "probabilities": named()}),
    };
    if answer["type"] != "noul" {
        answer["confidence"] = json!(confidence(&each));
    }
    if decision.abstained {
        answer["abstained"] = json!(true);
    }
    answer["usage"] = usage(&decision.usage);
    answer["energy"] = json!(decision.energy);
    answer
}

fn number(value: Option<Decided>) -> Value {
    match value {
        Some(Decided::Number(number)) => json!(shortest(number)),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Questions, ApiError> {
        Questions::read(Fields::parse(body.as_bytes())?)
    }

    #[test]
    fn questions_become_asks() {
        let body = r#"{"model":"m","state":{"b":1,"a":[2]},"questions":{
            "team":{"type":"choice","instructions":"Who?","criteria":{"power":"Supplies","net":null}},
            "bad":{"type":"score","instructions":"How bad?","criteria":["fine","poor","broken"]},
            "urgent":{"type":"noul","instructions":"Now?","criteria":{"true":"people wait"}},
            "old":{"task":"log-severity"}}}"#;
        let all = read(body).expect("it is sound");
        let ask = |place: usize| all.requests[place].ask.clone().expect("an ask");
        assert_eq!(all.requests[0].text.as_deref(), Some(r#"{"b":1,"a":[2]}"#));
        assert_eq!(ask(0).labels, Some(vec!["power".to_owned(), "net".to_owned()]));
        assert_eq!(ask(0).instructions.as_deref(), Some("Who?\npower: Supplies"));
        assert_eq!((ask(1).min, ask(1).max), (Some(0), Some(2)));
        assert_eq!(ask(1).instructions.as_deref(), Some("How bad?\n0: fine\n1: poor\n2: broken"));
        assert_eq!(
            (ask(2).kind, ask(2).instructions.as_deref()),
            (Kind::YesNo, Some("Now?\nyes: people wait"))
        );
        assert_eq!(all.requests[3].task.as_deref(), Some("log-severity"));
        assert_eq!((all.id(2), all.id(9)), ("urgent", ""));
    }

    #[test]
    fn what_makes_no_sense_is_blamed_on_its_question() {
        let ask = |question: &str| read(&format!(r#"{{"state":"s","questions":{{"q":{question}}}}}"#));
        for (question, param) in [
            (r#"{"type":"poem","instructions":"x"}"#, "questions.q.type"),
            (r#"{"type":"noul"}"#, "questions.q.instructions"),
            (r#"{"type":"choice","instructions":"x"}"#, "questions.q.criteria"),
            (r#"{"type":"noul","instructions":"x","criteria":{"maybe":"y"}}"#, "questions.q.criteria"),
            (r#"{"type":"noul","instructions":"x","labels":["a"]}"#, "questions.q.labels"),
            ("7", "questions.q.question"),
        ] {
            let error = ask(question).expect_err(question);
            assert_eq!(error.param.as_deref(), Some(param), "{error:?}");
            assert!(error.message.contains("question \"q\""), "{error:?}");
        }
        assert!(
            read(r#"{"state":"s","questions":{}}"#).is_err_and(|error| error.message.contains("0 questions"))
        );
        assert!(read(r#"{"questions":{}}"#).is_err_and(|error| error.param.as_deref() == Some("state")));
    }

    #[test]
    fn confidence_is_the_distance_from_chance() {
        assert!(confidence(&[0.25; 4]).abs() < 1e-12);
        assert!((confidence(&[1.0, 0.0, 0.0]) - 1.0).abs() < 1e-12);
        assert!((confidence(&[0.75, 0.25]) - 0.5).abs() < 1e-12);
    }
}
