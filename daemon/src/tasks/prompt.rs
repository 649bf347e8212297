//! Tasks, conversations and plain text as prompts.
//!
//! Markers of the model's chat template become special tokens by id; everything a task or a client wrote stays plain
//! text, whatever it spells. Text between two markers is one piece, so that it is split into tokens as it was in
//! training: `User: {message}<|eot_id|>Assistant: ` is text, token, text.
//!
//! A model without a chat template was not taught to chat: tasks go to it as plain text of the same shape, and a
//! conversation is refused. So it is with a template that cannot be run.

use std::fmt;
use std::sync::Arc;

use tern_protocol::request::Role;
use tern_runtime::engine::Piece;
use tern_runtime::tokenizer::{EncodeError, Special, TokenKind, Tokenizer};

use super::markers::Markers;
use super::template::{NamedTokens, Segment, Template, TemplateError};
use super::{Task, nfc};
use crate::wire::Message;

/// Why a model cannot take a conversation; it may still complete plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatError {
    /// The file has no chat template.
    NoTemplate,
    /// Its template is of no use, or not for this conversation.
    Template(TemplateError),
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTemplate => f.write_str(
                "the model has no chat template, so it was probably not trained to chat; give it plain text",
            ),
            Self::Template(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChatError {}

/// A prompt in pieces that belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Token(u32),
}

impl Prompt {
    /// The pieces, as the engine takes them.
    pub fn pieces(&self) -> Vec<Piece<'_>> {
        let piece = |part| match part {
            &Part::Token(id) => Piece::Token(id),
            Part::Text(text) => Piece::Text(text),
        };
        self.parts.iter().map(piece).collect()
    }

    /// How many tokens it has, just as the engine counts them; `scratch` is for the tokenizer and grows as needed.
    pub fn tokens(&self, tokenizer: &Tokenizer<'_>, scratch: &mut Vec<u32>) -> usize {
        let mut count = |text: &str| loop {
            match tokenizer.encode(text, Special::Plain, scratch, &mut []) {
                Ok(tokens) => return tokens,
                Err(EncodeError::TooLong { needed_tokens, .. }) => return needed_tokens,
                Err(EncodeError::ScratchTooSmall { needed_words, .. }) => scratch.resize(needed_words, 0),
                // More than its bytes they cannot be.
                Err(_) => return text.len(),
            }
        };
        let tokens = |part: &Part| match part {
            Part::Token(_) => 1,
            Part::Text(text) => count(text),
        };
        self.parts.iter().map(tokens).sum()
    }

    /// Its tokens, just as the engine reads them.
    pub fn ids(&self, tokenizer: &Tokenizer<'_>) -> Vec<u32> {
        let (mut ids, mut scratch, mut room) = (Vec::new(), Vec::new(), Vec::new());
        for part in &self.parts {
            match part {
                Part::Token(id) => ids.push(*id),
                Part::Text(text) => {
                    // A token has a byte at least.
                    room.resize(text.len(), 0);
                    scratch.resize(Tokenizer::scratch_words(text.len()), 0);
                    let found = tokenizer.encode(text, Special::Plain, &mut scratch, &mut room);
                    ids.extend_from_slice(&room[..found.unwrap_or(0)]);
                }
            }
        }
        ids
    }

    /// Bytes of all its texts.
    pub fn bytes(&self) -> usize {
        let bytes = |part: &Part| if let Part::Text(text) = part { text.len() } else { 0 };
        self.parts.iter().map(bytes).sum()
    }

    /// Bytes of its longest text.
    pub fn longest_text_bytes(&self) -> usize {
        let bytes = |part: &Part| match part {
            Part::Token(_) => 0,
            Part::Text(text) => text.len(),
        };
        self.parts.iter().map(bytes).max().unwrap_or(0)
    }

    /// A text alone, to be measured.
    pub fn piece(text: &str) -> Prompt {
        Prompt { parts: vec![Part::Text(text.to_owned())] }
    }

    fn token(&mut self, id: u32) {
        self.parts.push(Part::Token(id));
    }

    fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    fn normalise(&mut self) {
        for part in &mut self.parts {
            if let Part::Text(text) = part
                && let std::borrow::Cow::Owned(normalised) = nfc::normalised(text)
            {
                *text = normalised;
            }
        }
    }
}

/// What prompts for a model need to know of its tokenizer, so that they can be made without the engine.
#[derive(Clone, Debug)]
pub struct PromptForm {
    /// The token every prompt begins with.
    begin: Option<u32>,
    chat: Result<Template, ChatError>,
    markers: Arc<Markers>,
    /// Whether text is brought into normalisation form C.
    nfc: bool,
}

impl PromptForm {
    /// The form of prompts for the model of this tokenizer. What is wrong with its template is logged.
    pub fn of(tokenizer: &Tokenizer<'_>) -> Self {
        let is_special =
            |id: &u32| matches!(tokenizer.token_kind(*id), TokenKind::Control | TokenKind::UserDefined);
        let ids = (0..tokenizer.len() as u32).filter(is_special);
        let markers = Arc::new(Markers::new(ids.map(|id| (tokenizer.token_text(id).to_owned(), id))));
        let text = |id: Option<u32>| id.map_or_else(String::new, |id| tokenizer.token_text(id).to_owned());
        let tokens = NamedTokens { bos: text(tokenizer.bos()), eos: text(tokenizer.eos()) };
        let chat = tokenizer.chat_template().ok_or(ChatError::NoTemplate).and_then(|template| {
            Template::new(template, tokens, Arc::clone(&markers)).map_err(ChatError::Template)
        });
        if let Err(ChatError::Template(error)) = &chat {
            log::warn!("{error}; tasks go to the model as plain text");
        }
        PromptForm {
            begin: tokenizer.bos().filter(|_| tokenizer.add_bos()),
            chat,
            markers,
            nfc: tokenizer.wants_nfc(),
        }
    }

    /// A form without any marker, for tests of what only counts prompts.
    #[cfg(test)]
    pub fn bare() -> Self {
        PromptForm { begin: None, chat: Err(ChatError::NoTemplate), markers: Arc::default(), nfc: false }
    }

    /// Whether the model takes conversations.
    ///
    /// # Errors
    /// Why it does not.
    pub fn chats(&self) -> Result<(), ChatError> {
        self.chat.as_ref().map(drop).map_err(Clone::clone)
    }

    fn finish(&self, mut prompt: Prompt) -> Prompt {
        let begins = prompt
            .parts
            .first()
            .is_some_and(|first| matches!(first, Part::Token(id) if Some(*id) == self.begin));
        if let Some(begin) = self.begin
            && !begins
        {
            prompt.parts.insert(0, Part::Token(begin));
        }
        if self.nfc {
            prompt.normalise();
        }
        prompt
    }

    /// Text of the template itself, in which markers are tokens.
    fn push_form(&self, prompt: &mut Prompt, form: &str) {
        let mut rest = form;
        while let Some((at, length, id)) = self.markers.find(rest) {
            prompt.text(&rest[..at]);
            prompt.token(id);
            rest = &rest[at + length..];
        }
        prompt.text(rest);
    }

    /// A task on a text: as a conversation where the model was taught one, else in plain text of the same shape.
    pub fn task(&self, task: &Task, text: &str) -> Prompt {
        let examples = task.examples.iter().map(|(text, answer)| (text.as_str(), Some(answer.as_str())));
        let turns: Vec<_> =
            examples.chain([(text, None)]).map(|(text, answer)| (task.message(text), answer)).collect();
        let user = |content: &str| Message { role: Role::User, content: content.to_owned() };
        let assistant = |content: &str| Message { role: Role::Assistant, content: content.to_owned() };
        let messages: Vec<Message> = turns
            .iter()
            .flat_map(|(message, answer)| [Some(user(message)), answer.map(assistant)])
            .flatten()
            .collect();
        // A template that takes the trial conversation and not this one is treated as one that takes none.
        self.chat(&messages).unwrap_or_else(|_| {
            let mut prompt = Prompt::default();
            for (message, answer) in turns {
                match answer {
                    Some(answer) => prompt.text(&format!("{message}\nAnswer: {answer}\n\n")),
                    None => prompt.text(&format!("{message}\nAnswer: ")),
                }
            }
            self.finish(prompt)
        })
    }

    /// A conversation that the model is to continue.
    ///
    /// # Errors
    /// If the model was not taught conversations, or its template refuses this one.
    pub fn chat(&self, messages: &[Message]) -> Result<Prompt, ChatError> {
        let template = self.chat.as_ref().map_err(Clone::clone)?;
        let mut prompt = Prompt::default();
        for segment in template.render(messages).map_err(ChatError::Template)? {
            match segment {
                Segment::Own(text) => self.push_form(&mut prompt, &text),
                Segment::Message(text) => prompt.text(&text),
            }
        }
        Ok(self.finish(prompt))
    }

    /// Text that the model is to continue.
    pub fn plain(&self, text: &str) -> Prompt {
        let mut prompt = Prompt::default();
        prompt.text(text);
        self.finish(prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ask;

    const ROLE_PREFIXED: &str = "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}<|eot_id|>\
                                 {% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}";

    fn form(template: Option<&str>) -> PromptForm {
        let markers = Arc::new(Markers::new([("<|eot_id|>".to_owned(), 9), ("<|eot".to_owned(), 8)]));
        let chat = template.ok_or(ChatError::NoTemplate).map(|template| {
            Template::new(template, NamedTokens::default(), Arc::clone(&markers)).expect("a sound template")
        });
        PromptForm { begin: Some(1), chat, markers, nfc: false }
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn severity(examples: &str) -> Task {
        let toml = format!("kind = 'choice'\ninstructions = 'How bad?'\nlabels = ['a', 'b']\n{examples}");
        let ask: Ask = toml::from_str(&toml).expect("sound TOML");
        Task::new(ask).expect("it makes sense")
    }

    #[test]
    fn a_task_is_asked_as_in_training() {
        let prompt = form(Some(ROLE_PREFIXED)).task(&severity(""), "x <|eot_id|> y");
        let expected =
            [Part::Token(1), text("User: How bad?\nx <|eot_id|> y"), Part::Token(9), text("Assistant: ")];
        assert_eq!(prompt.parts, expected);
        assert_eq!(prompt.pieces()[2], Piece::Token(9));
    }

    #[test]
    fn examples_come_first_as_turns() {
        let task = severity("[[example]]\ntext = 'one'\nanswer = 'b'");
        let prompt = form(Some(ROLE_PREFIXED)).task(&task, "two");
        let expected = [
            Part::Token(1),
            text("User: How bad?\none"),
            Part::Token(9),
            text("Assistant: b"),
            Part::Token(9),
            text("User: How bad?\ntwo"),
            Part::Token(9),
            text("Assistant: "),
        ];
        assert_eq!(prompt.parts, expected);
        let prompt = form(None).task(&task, "two");
        let expected = [Part::Token(1), text("How bad?\none\nAnswer: b\n\nHow bad?\ntwo\nAnswer: ")];
        assert_eq!(prompt.parts, expected);
    }

    #[test]
    fn a_conversation_needs_a_model_that_knows_one() {
        let messages = [
            Message { role: Role::System, content: "Be brief.".into() },
            Message { role: Role::User, content: "Hi".into() },
        ];
        let prompt = form(Some(ROLE_PREFIXED)).chat(&messages).expect("it knows conversations");
        let expected = [
            Part::Token(1),
            text("System: Be brief."),
            Part::Token(9),
            text("User: Hi"),
            Part::Token(9),
            text("Assistant: "),
        ];
        assert_eq!(prompt.parts, expected);
        assert_eq!(form(None).chat(&messages), Err(ChatError::NoTemplate));
        assert_eq!(form(None).plain("a").parts, [Part::Token(1), text("a")]);
    }
}
