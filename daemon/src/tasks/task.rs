//! One task, checked.

use tern_protocol::limits::SCORE_STEPS;
use tern_protocol::request::{Kind, Limits, Long, Priority};
use tern_runtime::sampler::{Sampling, SamplingError};

use super::answer::Reading;
use super::{TaskError, labels};
use crate::grammar::Schema;
use crate::serve::spending;
use crate::wire::{self, Ask};

/// How instructions and text become one message where the task does not say.
const TEMPLATE: &str = "{instructions}\n{text}";

/// A task that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name; `None` if it was given in a request without one.
    pub name: Option<String>,
    /// What to do, with the labels where the task's file says `{labels}`.
    pub instructions: String,
    /// `{instructions}` and `{text}` are replaced.
    pub template: String,
    /// Solved examples: text and answer.
    pub examples: Vec<(String, String)>,
    /// Bytes of the longest text, where the task says.
    pub text_bytes: Option<usize>,
    /// Deadline of requests that give none, where the task says.
    pub deadline_ms: Option<u32>,
    /// Joules of requests that name none, where the task says.
    pub max_joules: Option<f64>,
    /// Priority of requests that name none, where the task says.
    pub priority: Option<Priority>,
    /// What comes out.
    pub answering: Answering,
    /// How a text longer than the context is worked on; `None` if it is refused.
    pub long: Option<LongForm>,
}

/// How a task works on a text longer than the context: in parts, and then on what came of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongForm {
    /// Tokens that one text may cost.
    pub most_tokens: u64,
    /// What to do with the answers to the parts, if not the same.
    pub reduce_instructions: Option<String>,
}

/// Tokens that one long text may cost where the task does not say: enough for `limits.text_bytes` of prose.
const LONG_TOKENS: u32 = 65_536;

/// What comes out of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Answering {
    /// One of some labels.
    Decision {
        /// The labels as the model says them.
        labels: Vec<String>,
        /// What they mean.
        reading: Reading,
        /// Abstain if the best is less probable.
        threshold: Option<f32>,
    },
    /// Text.
    Text {
        /// How tokens are chosen.
        sampling: Sampling,
        /// Strings that end it.
        stops: Vec<String>,
        /// Most tokens.
        max_tokens: Option<usize>,
        /// What the text is to be, if it is to be JSON.
        schema: Option<Schema>,
        /// How many alternatives to tell beside each token and its log probability.
        logprobs: Option<usize>,
    },
}

/// Sampling as the runtime takes it, checked, and the stop strings.
///
/// # Errors
/// If a setting is outside its range.
pub fn sampling(wire: Option<wire::Sampling>) -> Result<(Sampling, Vec<String>), SamplingError> {
    let wire = wire.unwrap_or_default();
    let plain = Sampling::default();
    let sampling = Sampling {
        temperature: wire.temperature.unwrap_or(plain.temperature),
        top_k: wire.top_k.map_or(plain.top_k, |top_k| top_k as usize),
        top_p: wire.top_p.unwrap_or(plain.top_p),
        min_p: wire.min_p.unwrap_or(plain.min_p),
        repetition_penalty: wire.repetition_penalty.unwrap_or(plain.repetition_penalty),
        seed: wire.seed.unwrap_or(plain.seed),
        ..plain
    };
    sampling.check()?;
    Ok((sampling, wire.stop.unwrap_or_default()))
}

impl Task {
    /// Checks a task.
    ///
    /// # Errors
    /// The first thing in it that makes no sense.
    pub fn new(ask: Ask) -> Result<Self, TaskError> {
        let kind = kind_name(ask.kind);
        let limits = ask.limits.unwrap_or_default();
        refuse_unused(&ask, limits, kind)?;
        let template = ask.template.unwrap_or_else(|| TEMPLATE.to_owned());
        match template.matches("{text}").count() {
            1 => {}
            found => return Err(TaskError::TemplateText { found }),
        }
        let needs_instructions = template.contains("{instructions}");
        let instructions = match ask.instructions {
            Some(instructions) => instructions,
            None if needs_instructions => return Err(TaskError::Missing { field: "instructions", kind }),
            None => String::new(),
        };
        let is_text = matches!(ask.kind, Kind::Text | Kind::Extract);
        let named = |words: &str| is_text && labels::are_named_in(words);
        if named(&instructions) {
            return Err(TaskError::NoLabelsToName { field: "instructions", kind });
        }
        if ask.reduce_instructions.as_deref().is_some_and(named) {
            return Err(TaskError::NoLabelsToName { field: "reduce_instructions", kind });
        }
        spending::check(limits.max_joules).map_err(TaskError::Joules)?;
        let threshold = ask.threshold;
        if let Some(found) = threshold.filter(|threshold| !(0.0..=1.0).contains(threshold)) {
            return Err(TaskError::Threshold { found });
        }
        let decision = |labels, reading| Answering::Decision { labels, reading, threshold };
        let missing = |field| TaskError::Missing { field, kind };
        let answering = match ask.kind {
            Kind::Choice => {
                let labels = ask.labels.ok_or(missing("labels"))?;
                labels::check(&labels)?;
                decision(labels, Reading::Choice)
            }
            Kind::YesNo => decision(vec!["yes".to_owned(), "no".to_owned()], Reading::YesNo),
            Kind::Score => {
                let (min, max) = (ask.min.ok_or(missing("min"))?, ask.max.ok_or(missing("max"))?);
                let steps = i64::from(max) - i64::from(min);
                if !(1..=i64::from(SCORE_STEPS)).contains(&steps) {
                    return Err(TaskError::ScoreRange { min, max });
                }
                decision((min..=max).map(|value| value.to_string()).collect(), Reading::Score { min })
            }
            Kind::Text | Kind::Extract => {
                let schema = match (ask.kind, &ask.schema) {
                    (Kind::Extract, None) => return Err(missing("schema")),
                    (_, schema) => schema.as_ref().map(Schema::new).transpose().map_err(TaskError::Schema)?,
                };
                let (sampling, stops) = sampling(ask.sampling).map_err(TaskError::Sampling)?;
                let max_tokens = limits.max_tokens.map(|tokens| tokens as usize);
                if max_tokens == Some(0) {
                    return Err(TaskError::NoTokens);
                }
                if schema.is_some() && !stops.is_empty() {
                    return Err(TaskError::StopsInJson);
                }
                Answering::Text { sampling, stops, max_tokens, schema, logprobs: None }
            }
        };
        let instructions = match &answering {
            Answering::Decision { labels, .. } => labels::name_in(&instructions, labels),
            Answering::Text { .. } => instructions,
        };
        let examples: Vec<_> = ask
            .example
            .unwrap_or_default()
            .into_iter()
            .map(|example| (example.text, example.answer))
            .collect();
        let cannot_be = |answer: &String| match &answering {
            Answering::Decision { labels, .. } => !labels.contains(answer),
            Answering::Text { schema: Some(_), .. } => {
                serde_json::from_str::<serde::de::IgnoredAny>(answer).is_err()
            }
            Answering::Text { .. } => false,
        };
        if let Some(index) = examples.iter().position(|(_, answer)| cannot_be(answer)) {
            return Err(TaskError::ExampleAnswer { index, answer: examples[index].1.clone() });
        }
        let long = ask.long.map(|Long::MapReduce| LongForm {
            most_tokens: u64::from(limits.long_tokens.unwrap_or(LONG_TOKENS)),
            reduce_instructions: ask.reduce_instructions,
        });
        Ok(Task {
            name: ask.name,
            instructions,
            template,
            examples,
            text_bytes: limits.text_bytes.map(|bytes| bytes as usize),
            deadline_ms: limits.deadline_ms,
            max_joules: limits.max_joules,
            priority: limits.priority,
            answering,
            long,
        })
    }

    /// The message that asks for `text`: the template with instructions and text in place. What they say is not
    /// looked at again.
    pub fn message(&self, text: &str) -> String {
        let mut message = String::with_capacity(self.template.len() + self.instructions.len() + text.len());
        let mut rest = self.template.as_str();
        while let Some(at) = rest.find('{') {
            message.push_str(&rest[..at]);
            rest = &rest[at..];
            let places = [("{instructions}", self.instructions.as_str()), ("{text}", text), ("{", "{")];
            for (place, content) in places {
                if let Some(behind) = rest.strip_prefix(place) {
                    message.push_str(content);
                    rest = behind;
                    break;
                }
            }
        }
        message.push_str(rest);
        message
    }
}

/// A kind as the wire spells it.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Choice => "choice",
        Kind::YesNo => "yes_no",
        Kind::Score => "score",
        Kind::Text => "text",
        Kind::Extract => "extract",
    }
}

/// A field that would have no effect was meant to have one.
fn refuse_unused(ask: &Ask, limits: Limits, kind: &'static str) -> Result<(), TaskError> {
    let is_text = matches!(ask.kind, Kind::Text | Kind::Extract);
    let is_long = ask.long.is_some();
    if ask.kind == Kind::Text && !is_long {
        let alone = [
            ("reduce_instructions", ask.reduce_instructions.is_some()),
            ("limits.long_tokens", limits.long_tokens.is_some()),
        ];
        if let Some((field, _)) = alone.into_iter().find(|(_, is_given)| *is_given) {
            return Err(TaskError::NotLong { field });
        }
    }
    let unused = [
        ("labels", ask.labels.is_some() && ask.kind != Kind::Choice),
        ("min", ask.min.is_some() && ask.kind != Kind::Score),
        ("max", ask.max.is_some() && ask.kind != Kind::Score),
        ("schema", ask.schema.is_some() && ask.kind != Kind::Extract),
        ("threshold", ask.threshold.is_some() && is_text),
        ("sampling", ask.sampling.is_some() && !is_text),
        ("limits.max_tokens", limits.max_tokens.is_some() && !is_text),
        ("long", is_long && ask.kind != Kind::Text),
        ("reduce_instructions", ask.reduce_instructions.is_some() && ask.kind != Kind::Text),
        ("limits.long_tokens", limits.long_tokens.is_some() && ask.kind != Kind::Text),
    ];
    match unused.into_iter().find(|(_, unused)| *unused) {
        Some((field, _)) => Err(TaskError::Unused { field, kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(toml: &str) -> Result<Task, String> {
        let ask: Ask = toml::from_str(toml).map_err(|error| error.message().to_owned())?;
        Task::new(ask).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_knows_its_labels() {
        let labels = |toml: &str| match task(toml).expect("it makes sense").answering {
            Answering::Decision { labels, reading, .. } => (labels, reading),
            Answering::Text { .. } => panic!("a decision was asked for"),
        };
        let choice = "kind = 'choice'\ninstructions = 'Which?'\nlabels = ['a', 'b']";
        assert_eq!(labels(choice), (vec!["a".into(), "b".into()], Reading::Choice));
        let score = "kind = 'score'\ninstructions = 'How bad?'\nmin = -1\nmax = 1";
        assert_eq!(labels(score).0, ["-1", "0", "1"]);
        assert_eq!(labels(score).1, Reading::Score { min: -1 });
        assert_eq!(labels("kind = 'yes_no'\ninstructions = 'Bad?'").0, ["yes", "no"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases = [
            ("kind = 'choice'\ninstructions = 'x'", "needs labels"),
            ("kind = 'choice'\ninstructions = 'x'\nlabels = []", "labels has 0 entries"),
            ("kind = 'choice'\ninstructions = 'x'\nlabels = ['a']", "labels has 1 entries"),
            ("kind = 'choice'\ninstructions = 'x'\nlabels = ['a', 'b', 'a']", "\"a\" is given twice"),
            ("kind = 'choice'\ninstructions = 'x'\nlabels = ['a', '']", "label 1 is empty"),
            ("kind = 'choice'\nlabels = ['a', 'b']", "needs instructions"),
            ("kind = 'yes_no'\ninstructions = 'x'\nthreshold = 1.5", "threshold is 1.5"),
            ("kind = 'yes_no'\ninstructions = 'x'\nlabels = ['a', 'b']", "no use for labels"),
            ("kind = 'score'\ninstructions = 'x'\nmin = 0\nmax = 21", "1 to 20 above min"),
            ("kind = 'score'\ninstructions = 'x'\nmin = -2147483648\nmax = 2147483647", "1 to 20 above min"),
            ("kind = 'score'\ninstructions = 'x'\nmin = 3", "needs max"),
            ("kind = 'text'\ninstructions = 'x'\ntemplate = '{instructions}'", "{text} 0 times"),
            ("kind = 'text'\ninstructions = 'x'\n[sampling]\ntop_p = 2.0", "top_p is 2"),
            ("kind = 'text'\ninstructions = 'x'\n[limits]\nmax_tokens = 0", "max_tokens is 0"),
            ("kind = 'yes_no'\ninstructions = 'x'\n[[example]]\ntext = 'a'\nanswer = 'maybe'", "\"maybe\""),
            ("kind = 'text'\ninstructions = 'x'\nreduce_instructions = 'y'", "without long"),
            ("kind = 'text'\ninstructions = 'x'\n[limits]\nlong_tokens = 9", "without long"),
            ("kind = 'yes_no'\ninstructions = 'x'\nlong = 'map_reduce'", "no use for long"),
            ("kind = 'text'\ninstructions = 'x'\nlong = 'cut'", "unknown variant `cut`"),
            (
                "kind = 'text'\ninstructions = 'One of {labels}.'",
                "instructions has {labels}, and a task of kind text",
            ),
            ("kind = 'extract'\ninstructions = 'x'", "needs schema"),
            ("kind = 'extract'\ninstructions = 'x'\nschema = '7'", "a schema is a JSON object"),
            ("kind = 'extract'\ninstructions = 'x'\nschema = { not = {} }", "\"not\" is not supported"),
            ("kind = 'text'\ninstructions = 'x'\nschema = {}", "no use for schema"),
            ("kind = 'poem'", "unknown variant `poem`"),
            ("kind = 'text'\nintsructions = 'x'", "unknown field `intsructions`"),
        ];
        for (toml, expected) in cases {
            let message = task(toml).expect_err(toml);
            assert!(message.contains(expected), "{toml}: {message}");
        }
    }

    #[test]
    fn an_extract_has_its_schema_in_the_order_of_the_file() {
        let toml = "kind = 'extract'\ninstructions = 'What?'\n[schema]\ntype = 'object'\n\
                    properties.z = { type = 'integer' }\nproperties.a = { enum = ['x', 1.5] }";
        match task(toml).expect("it makes sense").answering {
            Answering::Text { schema: Some(schema), .. } => assert_eq!(
                schema.text(),
                r#"{"type":"object","properties":{"z":{"type":"integer"},"a":{"enum":["x",1.5]}}}"#
            ),
            other => panic!("{other:?}"),
        }
        let text = toml.replace("[schema]", "[limits]\nmax_tokens = 9\n[schema]");
        assert!(task(&text).is_ok());
        let stops = format!("{toml}\n[sampling]\nstop = ['}}']");
        assert!(task(&stops).expect_err("stops").contains("leave out stop or schema"));
        let example = format!("{toml}\n[[example]]\ntext = 'a'\nanswer = '{{'");
        assert!(task(&example).expect_err("no JSON").contains("or JSON"));
    }

    #[test]
    fn a_text_cannot_use_the_template() {
        let toml = "kind = 'text'\ninstructions = 'Do {text}.'\ntemplate = '<{instructions}> {x} {text}!'";
        let task = task(toml).expect("it makes sense");
        assert_eq!(task.message("a {instructions} b"), "<Do {text}.> {x} a {instructions} b!");
    }

    #[test]
    fn instructions_name_the_labels_they_are_about() {
        let message = |toml: &str| task(toml).expect("it makes sense").message("t {labels}");
        let choice = "kind = 'choice'\ninstructions = 'One of {labels}, {x}?'\nlabels = ['b', 'a']";
        assert_eq!(message(choice), "One of b, a, {x}?\nt {labels}");
        assert_eq!(message("kind = 'yes_no'\ninstructions = '{labels}?'"), "yes, no?\nt {labels}");
        let score = "kind = 'score'\nmin = 1\nmax = 3\ninstructions = 'How bad, {labels}?'\ntemplate = '{text}: {instructions}'";
        assert_eq!(message(score), "t {labels}: How bad, 1, 2, 3?");
    }

    #[test]
    fn a_task_can_say_how_pressing_it_is() {
        let of = |word: &str| {
            task(&format!("kind = 'yes_no'\ninstructions = 'Bad?'\n[limits]\npriority = '{word}'"))
                .map(|task| task.priority)
        };
        assert_eq!(of("low"), Ok(Some(Priority::Low)));
        assert!(of("urgent").is_err_and(|error| error.contains("`urgent`")));
    }
}
