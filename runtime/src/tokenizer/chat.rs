//! How a model was taught to see a conversation.
//!
//! Chat templates are programs in the model file. Tern does not run them: it recognises the forms it knows and lays the
//! conversation out itself, so that nothing in a message can pass for the template's own markers.

use core::fmt;

use crate::error::Name;

/// A conversation layout that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatForm {
    /// BitNet b1.58 2B-4T: `System: ...<|eot_id|>User: ...<|eot_id|>Assistant: `.
    RolePrefixed,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person or device that asks.
    User,
    /// The model.
    Assistant,
}

/// What stands around a message. Both parts may hold special tokens, the message may not: encode the joined text with
/// [`Special::Outside`](super::Special::Outside) of the message's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// In front of the message.
    pub before: &'static str,
    /// Behind it.
    pub after: &'static str,
}

impl ChatForm {
    /// What stands around a message of `role`.
    #[must_use]
    pub fn turn(self, role: Role) -> Turn {
        match self {
            Self::RolePrefixed => {
                let before = match role {
                    Role::System => "System: ",
                    Role::User => "User: ",
                    Role::Assistant => "Assistant: ",
                };
                Turn { before, after: "<|eot_id|>" }
            }
        }
    }

    /// What stands at the end of a prompt, where the model goes on.
    #[must_use]
    pub fn reply_opening(self) -> &'static str {
        self.turn(Role::Assistant).before
    }

    /// The special tokens the form is made of.
    pub(super) fn markers(self) -> &'static [&'static str] {
        match self {
            Self::RolePrefixed => &["<|eot_id|>"],
        }
    }

    /// The form a template writes, if it is known.
    pub(super) fn recognise(template: &str) -> Option<Self> {
        let has = |part| template.contains(part);
        let is_role_prefixed = has("capitalize") && has("<|eot_id|>") && has("Assistant: ");
        (is_role_prefixed && !has("<|start_header_id|>")).then_some(Self::RolePrefixed)
    }

    /// Whether a template is the one that a published converter put in place of the model's own.
    pub(super) fn is_placeholder(template: &str) -> bool {
        template.contains("BITNETAssistant")
    }
}

/// Why a model cannot chat; it may still complete plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatError {
    /// The file has no chat template.
    NoTemplate,
    /// The template is none of the known ones.
    UnknownTemplate {
        /// How it starts.
        head: Name,
    },
    /// The template needs a special token that the vocabulary lacks.
    NoMarker {
        /// The token's text.
        marker: &'static str,
    },
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTemplate => f.write_str(
                "the model has no chat template, so it was probably not trained to chat; give it plain text",
            ),
            Self::UnknownTemplate { head } => write!(
                f,
                "the model's chat template is not one this build knows (it starts '{head}'); give the prompt as plain \
                 text in the model's own form"
            ),
            Self::NoMarker { marker } => write!(
                f,
                "the model's chat template needs the token {marker}, which its vocabulary lacks; the file's tables do \
                 not belong together"
            ),
        }
    }
}

impl core::error::Error for ChatError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_by_what_a_template_writes() {
        let trained = "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}<|eot_id|>{% endfor %}\
                       {% if add_generation_prompt %}Assistant: {% endif %}";
        assert_eq!(ChatForm::recognise(trained), Some(ChatForm::RolePrefixed));
        for other in ["", "<|im_start|>user", "<|start_header_id|> capitalize <|eot_id|> Assistant: "] {
            assert_eq!(ChatForm::recognise(other), None, "{other:?}");
        }
        assert!(ChatForm::is_placeholder("Human: {c}\n\nBITNETAssistant: "));
    }
}
