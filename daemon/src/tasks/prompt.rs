//! Tasks, conversations and plain text as prompts.
//!
//! Markers of the model's conversation form become special tokens by id; everything a task or a client wrote stays
//! plain text, whatever it spells. Text between two markers is one piece, so that it is split into tokens as it was in
//! training: `User: {message}<|eot_id|>Assistant: ` is text, token, text.

use tern_protocol::request::Role;
use tern_runtime::engine::Piece;
use tern_runtime::tokenizer::{ChatError, ChatForm, EncodeError, Role as Speaker, Special, Tokenizer};

use super::Task;
use crate::wire::Message;

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
}

/// What prompts for a model need to know of its tokenizer, so that they can be made without the engine.
#[derive(Clone, Debug)]
pub struct PromptForm {
    /// The token every prompt begins with.
    begin: Option<u32>,
    chat: Result<ChatForm, ChatError>,
    /// Control tokens by spelling.
    markers: Vec<(String, u32)>,
}

impl PromptForm {
    /// The form of prompts for the model of this tokenizer.
    pub fn of(tokenizer: &Tokenizer<'_>) -> Self {
        let ids = (0..tokenizer.len() as u32).filter(|id| tokenizer.is_control(*id));
        PromptForm {
            begin: tokenizer.bos().filter(|_| tokenizer.add_bos()),
            chat: tokenizer.chat_form(),
            markers: ids.map(|id| (tokenizer.token_text(id).to_owned(), id)).collect(),
        }
    }

    /// A form without any marker, for tests of what only counts prompts.
    #[cfg(test)]
    pub fn bare() -> Self {
        PromptForm { begin: None, chat: Err(ChatError::NoTemplate), markers: Vec::new() }
    }

    fn begin(&self) -> Prompt {
        Prompt { parts: self.begin.map(Part::Token).into_iter().collect() }
    }

    /// Text of the form itself, in which markers are tokens.
    fn push_form(&self, prompt: &mut Prompt, form: &str) {
        let mut rest = form;
        let next = |rest: &str| {
            let found = self.markers.iter().filter(|(spelling, _)| !spelling.is_empty());
            let found = found.filter_map(|(spelling, id)| Some((rest.find(spelling)?, spelling.len(), *id)));
            // The first in the text, the longest of those that begin there.
            found.min_by_key(|(at, length, _)| (*at, usize::MAX - length))
        };
        while let Some((at, length, id)) = next(rest) {
            prompt.text(&rest[..at]);
            prompt.token(id);
            rest = &rest[at + length..];
        }
        prompt.text(rest);
    }

    fn push_turn(&self, prompt: &mut Prompt, form: ChatForm, speaker: Speaker, message: &str) {
        let turn = form.turn(speaker);
        self.push_form(prompt, turn.before);
        prompt.text(message);
        self.push_form(prompt, turn.after);
    }

    /// A task on a text: as a conversation where the model was taught one, else in plain text of the same shape.
    pub fn task(&self, task: &Task, text: &str) -> Prompt {
        let mut prompt = self.begin();
        let examples = task.examples.iter().map(|(text, answer)| (text.as_str(), Some(answer.as_str())));
        for (text, answer) in examples.chain([(text, None)]) {
            let message = task.message(text);
            match (self.chat, answer) {
                (Ok(form), Some(answer)) => {
                    self.push_turn(&mut prompt, form, Speaker::User, &message);
                    self.push_turn(&mut prompt, form, Speaker::Assistant, answer);
                }
                (Ok(form), None) => {
                    self.push_turn(&mut prompt, form, Speaker::User, &message);
                    self.push_form(&mut prompt, form.reply_opening());
                }
                (Err(_), Some(answer)) => prompt.text(&format!("{message}\nAnswer: {answer}\n\n")),
                (Err(_), None) => prompt.text(&format!("{message}\nAnswer: ")),
            }
        }
        prompt
    }

    /// A conversation that the model is to continue.
    ///
    /// # Errors
    /// If the model was not taught conversations.
    pub fn chat(&self, messages: &[Message]) -> Result<Prompt, ChatError> {
        let form = self.chat?;
        let mut prompt = self.begin();
        for message in messages {
            let speaker = match message.role {
                Role::System => Speaker::System,
                Role::User => Speaker::User,
                Role::Assistant => Speaker::Assistant,
            };
            self.push_turn(&mut prompt, form, speaker, &message.content);
        }
        self.push_form(&mut prompt, form.reply_opening());
        Ok(prompt)
    }

    /// Text that the model is to continue.
    pub fn plain(&self, text: &str) -> Prompt {
        let mut prompt = self.begin();
        prompt.text(text);
        prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Ask;

    fn form(chat: Result<ChatForm, ChatError>) -> PromptForm {
        PromptForm { begin: Some(1), chat, markers: vec![("<|eot_id|>".into(), 9), ("<|eot".into(), 8)] }
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
        let prompt = form(Ok(ChatForm::RolePrefixed)).task(&severity(""), "x <|eot_id|> y");
        let expected =
            [Part::Token(1), text("User: How bad?\nx <|eot_id|> y"), Part::Token(9), text("Assistant: ")];
        assert_eq!(prompt.parts, expected);
        assert_eq!(prompt.pieces()[2], Piece::Token(9));
    }

    #[test]
    fn examples_come_first_as_turns() {
        let task = severity("[[example]]\ntext = 'one'\nanswer = 'b'");
        let prompt = form(Ok(ChatForm::RolePrefixed)).task(&task, "two");
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
        let prompt = form(Err(ChatError::NoTemplate)).task(&task, "two");
        let expected = [Part::Token(1), text("How bad?\none\nAnswer: b\n\nHow bad?\ntwo\nAnswer: ")];
        assert_eq!(prompt.parts, expected);
    }

    #[test]
    fn a_conversation_needs_a_model_that_knows_one() {
        let messages = [
            Message { role: Role::System, content: "Be brief.".into() },
            Message { role: Role::User, content: "Hi".into() },
        ];
        let prompt = form(Ok(ChatForm::RolePrefixed)).chat(&messages).expect("it knows conversations");
        let expected = [
            Part::Token(1),
            text("System: Be brief."),
            Part::Token(9),
            text("User: Hi"),
            Part::Token(9),
            text("Assistant: "),
        ];
        assert_eq!(prompt.parts, expected);
        assert_eq!(form(Err(ChatError::NoTemplate)).chat(&messages), Err(ChatError::NoTemplate));
        assert_eq!(form(Err(ChatError::NoTemplate)).plain("a").parts, [Part::Token(1), text("a")]);
    }
}
