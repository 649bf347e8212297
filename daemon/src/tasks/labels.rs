//! The labels of a task, and instructions that name them.

use std::collections::HashSet;

use super::TaskError;

/// Where instructions name the labels.
const PLACE: &str = "{labels}";

/// Instructions with which labels of anybody's own are chosen among: the form that models are trained with
/// (`CHOICE_FORM` in `models/train/choices.py`).
pub const CHOICE: &str = "Which of these fits best: {labels}?";

/// `instructions` with the labels where they say `{labels}`, in their order. What the labels say is not looked at again,
/// and other braces are text.
pub fn name_in(instructions: &str, labels: &[String]) -> String {
    instructions.replace(PLACE, &labels.join(", "))
}

/// Whether instructions name labels.
pub fn are_named_in(instructions: &str) -> bool {
    instructions.contains(PLACE)
}

/// Whether labels can be chosen among: two or more, all different, none empty.
///
/// # Errors
/// The first thing that is wrong with them.
pub fn check(labels: &[String]) -> Result<(), TaskError> {
    if labels.len() < 2 {
        return Err(TaskError::TooFewLabels { found: labels.len() });
    }
    let mut seen = HashSet::new();
    for (index, label) in labels.iter().enumerate() {
        if label.is_empty() {
            return Err(TaskError::EmptyLabel { index });
        }
        if !seen.insert(label) {
            return Err(TaskError::DuplicateLabel { label: label.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_instructions_name_them() {
        let labels = ["usb".to_owned(), "{labels}".to_owned(), "a, {b}".to_owned()];
        assert_eq!(name_in(CHOICE, &labels), "Which of these fits best: usb, {labels}, a, {b}?");
        assert_eq!(name_in("{labels}? {labels}!", &labels[..1]), "usb? usb!");
        for other in ["", "{ labels }", "{label} {Labels} {{", "labels"] {
            assert_eq!(name_in(other, &labels), other);
            assert!(!are_named_in(other), "{other}");
        }
    }
}
