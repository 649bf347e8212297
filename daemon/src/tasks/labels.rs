//! The labels of a task.

use std::collections::HashSet;

use super::TaskError;

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
