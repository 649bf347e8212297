//! Reading the configuration and the tasks again while the daemon runs.
//!
//! All or nothing: what cannot be used changes nothing, and the caller is told why. Tasks and the level of the log change;
//! everything else was settled when the model was opened and the transports began, and is named if it differs now.

use std::fmt;
use std::path::Path;

use crate::config::changes::changed_keys;
use crate::config::{Config, ConfigError};
use crate::error::CommandError;
use crate::serve::service::Service;
use crate::tasks::TaskSet;

/// Keys that a reload puts in force.
const RELOADED: [&str; 2] = ["log", "tasks.folder"];

/// A configuration, and the text of its file.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// What it says.
    pub config: Config,
    /// The file; empty where there is none.
    text: String,
}

impl Configuration {
    /// Reads a file as it is now.
    ///
    /// # Errors
    /// If it cannot be read or makes no sense.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = Config::text(path)?;
        Ok(Configuration { config: Config::parse(path, &text)?, text })
    }
}

/// What a reload came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Tasks in force now.
    pub tasks: usize,
    /// Names of tasks that were not there before.
    pub added: Vec<String>,
    /// Names of tasks that are another task now.
    pub changed: Vec<String>,
    /// Names of tasks that are gone.
    pub removed: Vec<String>,
    /// Keys that differ from what the daemon was started with and are in force only after a restart.
    pub restart: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks", self.tasks)?;
        for (what, names) in [("new", &self.added), ("changed", &self.changed), ("gone", &self.removed)] {
            if !names.is_empty() {
                write!(f, ", {what}: {}", names.join(" "))?;
            }
        }
        Ok(())
    }
}

/// Reads the tasks again and puts them and what else may change of the configuration `now` in force in `service`, which was
/// started with `running`.
///
/// # Errors
/// If a task file makes no sense, or a task that is needed is gone; nothing has changed then.
pub fn reload(
    now: &Configuration,
    running: &Configuration,
    service: &Service,
) -> Result<Reloaded, CommandError> {
    let tasks = TaskSet::load(now.config.tasks.folder.as_deref())?;
    // Those of the running configuration: another list of topics is in force only after a restart.
    running.config.check_tasks(&tasks)?;
    let mut reloaded = Reloaded { tasks: tasks.names().count(), ..Reloaded::default() };
    let before = service.tasks();
    for name in tasks.names() {
        match before.find(name) {
            None => reloaded.added.push(name.to_owned()),
            Some(task) if tasks.find(name) != Some(task) => reloaded.changed.push(name.to_owned()),
            Some(_) => {}
        }
    }
    reloaded.removed = before.names().filter(|name| tasks.find(name).is_none()).map(str::to_owned).collect();
    reloaded.restart = changed_keys(&running.text, &now.text);
    reloaded.restart.retain(|key| !RELOADED.contains(&&**key));
    service.state.daybook.open().set_tasks(tasks.names());
    service.current_tasks.replace(tasks);
    log::set_max_level(now.config.log.into());
    Ok(reloaded)
}
