//! `log`: messages of which importance are written.

use serde::Deserialize;

/// `log`: how much is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// The operator must act.
    Error,
    /// Something works less well than it should.
    Warn,
    /// Start, stop, model, clients refused.
    #[default]
    Info,
    /// Every connection and request, without its text.
    Debug,
    /// Every step of the engine.
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
            LogLevel::Trace => log::LevelFilter::Trace,
        }
    }
}
