//! The model's own chat template, run so that nothing in a message can pass for a marker of the template.
//!
//! Templates are Jinja programs in the model file (`tokenizer.chat_template`). They build one text of markers and
//! messages; read naively, a message that spells `<|im_end|>` would end its turn. So every message goes in between two
//! characters of plane 16 (private use) that occur neither in the template nor in any message, a pair of its own for each
//! message, and the text that comes out is taken apart at them: only what stands outside the pairs may hold markers. A
//! template that cuts a message up, so that a pair is torn apart, is refused. Space around a message stays outside, for
//! templates trim it; a message of nothing but space goes in as it is. Neither can be part of a marker
//! ([`Markers`] takes none that begins or ends with space).
//!
//! Marker texts inside a message are broken by a third such character while the template runs, so that a template that
//! looks into messages (for `</think>`, say) takes them for the text that they are.

mod bounds;
mod json;

use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use tern_protocol::request::Role;

use super::markers::Markers;
use crate::wire::Message;

const NAME: &str = "chat";
/// Instructions that a template may execute; published ones take some tens for each message.
const FUEL: u64 = 1_000_000;
/// Bytes that a template may write besides the messages, and how often it may write those.
const OWN_BYTES: usize = 1 << 16;
const REPEATS: usize = 4;
/// Calls that may be open at once.
const DEPTH: usize = 64;

/// Characters of a block of guards, and where the blocks begin: plane 16 but for its last two, which are no characters.
const BLOCK: u32 = 0x2000;
const BLOCKS: [u32; 7] = [0x10_0000, 0x10_2000, 0x10_4000, 0x10_6000, 0x10_8000, 0x10_a000, 0x10_c000];

/// Texts of the tokens that templates write by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedTokens {
    /// `bos_token`.
    pub bos: String,
    /// `eos_token`.
    pub eos: String,
}

/// Part of a conversation as the template wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The template's own text, which may spell markers.
    Own(String),
    /// From a message: text, whatever it spells.
    Message(String),
}

/// Why a template cannot be used, or not for this conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// It is no Jinja that we know.
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// It refuses the conversation.
    Refused {
        /// Its own words.
        reason: String,
    },
    /// It fails.
    Failed {
        /// Line of the template, from 1; 0 if that is not known.
        line: usize,
        /// Why.
        reason: String,
    },
    /// It runs on and on.
    Endless,
    /// It writes far more than the messages.
    TooLong {
        /// Most bytes.
        most_bytes: usize,
    },
    /// It takes a message apart.
    TakesApart {
        /// Which one, from 0.
        message: usize,
    },
    /// It leaves the only message out.
    LeavesOut,
    /// Every block of guards occurs in the conversation.
    NoGuard,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, reason } => write!(
                f,
                "the model's chat template is wrong in line {line}: {reason}; give the prompt as plain text in the \
                 model's own form"
            ),
            Self::Refused { reason } => {
                write!(f, "the model's chat template refuses this conversation: {reason}")
            }
            Self::Failed { line, reason } => write!(
                f,
                "the model's chat template fails in line {line}: {reason}; give the prompt as plain text in the model's \
                 own form"
            ),
            Self::Endless => f.write_str("the model's chat template runs on and on, so it was stopped"),
            Self::TooLong { most_bytes } => {
                write!(f, "the model's chat template writes more than {most_bytes} bytes, so it was stopped")
            }
            Self::TakesApart { message } => write!(
                f,
                "the model's chat template takes message {message} apart, so its markers could not be told from the \
                 message's text; give the prompt as plain text in the model's own form"
            ),
            Self::LeavesOut => f.write_str("the model's chat template leaves out what the user says"),
            Self::NoGuard => f.write_str(
                "the conversation uses every block of private characters in plane 16; leave some out",
            ),
        }
    }
}

impl std::error::Error for TemplateError {}

/// What `raise_exception` was given.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// A chat template, ready to run.
#[derive(Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    tokens: NamedTokens,
    /// Texts to be broken inside messages.
    markers: Arc<Markers>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Template {
    /// Reads a template and tries it on a conversation of one message.
    ///
    /// # Errors
    /// If it is wrong, or of no use.
    pub fn new(source: &str, tokens: NamedTokens, markers: Arc<Markers>) -> Result<Self, TemplateError> {
        if let Some((line, reason)) = bounds::exceeded(source) {
            return Err(TemplateError::Syntax { line, reason });
        }
        let mut environment = Environment::new();
        // As `transformers` runs them.
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build().map_err(|e| failure(&e))?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_recursion_limit(DEPTH);
        environment.set_fuel(Some(FUEL));
        json::add(&mut environment);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(reason)))
        });
        environment.add_function("strftime_now", |form: String| -> Result<String, Error> {
            let date =
                jiff::fmt::strtime::format(&form, &jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC));
            date.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_template_owned(NAME, without_training_marks(source)).map_err(
            |error| match failure(&error) {
                TemplateError::Failed { line, reason } => TemplateError::Syntax { line, reason },
                other => other,
            },
        )?;
        let this = Self { environment: Arc::new(environment), source: source.into(), tokens, markers };
        let trial = this.render(&[Message { role: Role::User, content: "x".into() }])?;
        if trial.contains(&Segment::Message("x".into())) { Ok(this) } else { Err(TemplateError::LeavesOut) }
    }

    /// A conversation up to where the model goes on, thinking left off where the template knows of it.
    ///
    /// # Errors
    /// If the template refuses it or fails.
    pub fn render(&self, messages: &[Message]) -> Result<Vec<Segment>, TemplateError> {
        let guards = Guards::absent_from(&self.source, messages).ok_or(TemplateError::NoGuard)?;
        let values = messages.iter().zip(0..).map(|(message, index)| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            Value::from_pairs([
                ("role", Value::from(role)),
                ("content", Value::from(guards.around(index, &message.content, &self.markers))),
            ])
        });
        let context = Value::from_pairs([
            ("messages", values.collect::<Value>()),
            ("add_generation_prompt", Value::from(true)),
            ("enable_thinking", Value::from(false)),
            ("bos_token", Value::from(&*self.tokens.bos)),
            ("eos_token", Value::from(&*self.tokens.eos)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        let template = self.environment.get_template(NAME).map_err(|error| failure(&error))?;
        let message_bytes: usize = messages.iter().map(|message| 3 * message.content.len()).sum();
        let most_bytes = OWN_BYTES + REPEATS * message_bytes;
        let mut out = Bounded { bytes: Vec::new(), most_bytes, is_full: false };
        let written = template.render_captured_to(context, &mut out).map(drop);
        if out.is_full {
            return Err(TemplateError::TooLong { most_bytes });
        }
        written.map_err(|error| failure(&error))?;
        // The engine writes UTF-8.
        let text = String::from_utf8_lossy(&out.bytes);
        guards.take_apart(&text)
    }
}

/// Without the tags that say, for training, which text is the model's: they write nothing.
fn without_training_marks(source: &str) -> String {
    let mut source = source.to_owned();
    for (tag, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            source = source.replace(&format!("{open} {tag} {close}"), &format!("{open} {instead} {close}"));
        }
    }
    source
}

/// What a failure of the engine means.
fn failure(error: &Error) -> TemplateError {
    let raised = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
    match (raised, error.kind()) {
        (Some(raised), _) => TemplateError::Refused { reason: raised.0.clone() },
        (None, ErrorKind::OutOfFuel) => TemplateError::Endless,
        (None, kind) => TemplateError::Failed {
            line: error.line().unwrap_or(0),
            reason: error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
        },
    }
}

/// Where a template writes to.
struct Bounded {
    bytes: Vec<u8>,
    most_bytes: usize,
    is_full: bool,
}

impl io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most_bytes {
            self.is_full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A block of characters that occur nowhere in a conversation: the first breaks markers, then two for each message.
#[derive(Clone, Copy)]
struct Guards {
    first: u32,
}

impl Guards {
    fn absent_from(source: &str, messages: &[Message]) -> Option<Self> {
        let occurs = |first: u32| {
            let block = first..first + BLOCK;
            let in_block = |c: char| block.contains(&u32::from(c));
            source.contains(in_block) || messages.iter().any(|message| message.content.contains(in_block))
        };
        // Each message needs two of them.
        let enough = (messages.len() as u32).checked_mul(2).is_some_and(|most| most < BLOCK);
        BLOCKS.into_iter().filter(|_| enough).find(|first| !occurs(*first)).map(|first| Self { first })
    }

    fn character(self, index: u32) -> char {
        char::from_u32(self.first + index).unwrap_or(char::REPLACEMENT_CHARACTER) // all of plane 16 are characters
    }

    fn breaker(self) -> char {
        self.character(0)
    }

    fn open(self, message: u32) -> char {
        self.character(1 + 2 * message)
    }

    fn close(self, message: u32) -> char {
        self.character(2 + 2 * message)
    }

    /// A message between its guards, with markers broken after their first character.
    fn around(self, index: u32, content: &str, markers: &Markers) -> String {
        let inner = content.trim();
        if inner.is_empty() {
            return content.to_owned();
        }
        let (before, after) = (content.len() - content.trim_start().len(), content.trim_end().len());
        let mut text = String::with_capacity(content.len() + 12);
        text.push_str(&content[..before]);
        text.push(self.open(index));
        for (at, c) in inner.char_indices() {
            text.push(c);
            // One of a single character cannot be broken, and need not be: it is told from the template's by its place.
            if markers.at(&inner[at..]).is_some_and(|(bytes, _)| bytes > c.len_utf8()) {
                text.push(self.breaker());
            }
        }
        text.push(self.close(index));
        text.push_str(&content[after..]);
        text
    }

    fn take_apart(self, text: &str) -> Result<Vec<Segment>, TemplateError> {
        let (mut segments, mut part, mut inside) = (Vec::new(), String::new(), None);
        let is_guard = |c: char| (self.first..self.first + BLOCK).contains(&u32::from(c));
        for c in text.chars() {
            if !is_guard(c) {
                part.push(c);
                continue;
            }
            if c == self.breaker() {
                match inside {
                    Some(_) => continue,
                    None => return Err(TemplateError::TakesApart { message: 0 }),
                }
            }
            let number = u32::from(c) - self.first - 1;
            let (index, opens) = (number / 2, number.is_multiple_of(2));
            match inside {
                None if opens => {
                    segments.push(Segment::Own(std::mem::take(&mut part)));
                    inside = Some(index);
                }
                Some(open) if !opens && open == index => {
                    segments.push(Segment::Message(std::mem::take(&mut part)));
                    inside = None;
                }
                _ => return Err(TemplateError::TakesApart { message: index as usize }),
            }
        }
        if let Some(index) = inside {
            return Err(TemplateError::TakesApart { message: index as usize });
        }
        segments.push(Segment::Own(part));
        segments.retain(|segment| !matches!(segment, Segment::Own(text) if text.is_empty()));
        Ok(segments)
    }
}

#[cfg(test)]
mod tests;
