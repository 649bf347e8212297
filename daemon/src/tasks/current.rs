//! The tasks in force: read by every request, replaced as a whole by a reload.

use std::sync::{Arc, PoisonError, RwLock};

use super::TaskSet;

/// The tasks in force. Whoever took a set keeps it, and with it each of its tasks, whatever replaces it meanwhile.
#[derive(Debug)]
pub struct CurrentTasks(RwLock<Arc<TaskSet>>);

impl CurrentTasks {
    /// `set` is in force.
    pub fn new(set: TaskSet) -> Self {
        CurrentTasks(RwLock::new(Arc::new(set)))
    }

    /// The set in force now.
    pub fn set(&self) -> Arc<TaskSet> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `set` in force and returns the one before.
    pub fn replace(&self, set: TaskSet) -> Arc<TaskSet> {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), Arc::new(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_outlives_the_set_it_came_from() {
        let current = CurrentTasks::new(TaskSet::load(None).expect("built in"));
        let task = Arc::clone(current.set().find("summarize").expect("built in"));
        let before = current.replace(TaskSet::default());
        assert!(before.find("summarize").is_some() && current.set().find("summarize").is_none());
        drop(before);
        assert_eq!(task.name.as_deref(), Some("summarize"));
    }
}
