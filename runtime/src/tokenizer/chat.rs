//! Which chat template a model is asked through.
//!
//! A chat template is a program (Jinja) in the model file. The runtime hands it out and does not run it; who runs it must
//! see to it that nothing in a message can pass for the template's own markers (`daemon/src/tasks/template.rs`).

/// What the 2B-4T model was trained on, which its published GGUF file does not hold.
const ROLE_PREFIXED: &str = "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] \
                             }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}";

/// The template to use in place of one that is known to be wrong.
///
/// A published converter of BitNet files writes one of its own, `Human: ... BITNETAssistant: `, that no model was
/// trained on.
pub(super) fn trained(architecture: &str, template: &str) -> Option<&'static str> {
    (architecture.starts_with("bitnet") && template.contains("BITNETAssistant")).then_some(ROLE_PREFIXED)
}
