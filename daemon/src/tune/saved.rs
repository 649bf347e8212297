//! What was found fastest, kept from one start to the next.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tern_boards::Cpu;
use tern_kernels::Layout;

use super::{Load, Trial};
use crate::replace::Replacement;

/// Name of the file in the state directory.
pub const FILE: &str = "tuning.json";

/// The question that a choice answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Version of the program: kernels change with it.
    pub program: String,
    /// The CPU: its name, core types and extensions.
    pub cpu: String,
    /// Logical CPUs that this process may run on.
    pub cpus: usize,
    /// Hidden size of the model.
    pub hidden: usize,
    /// Its feed-forward size.
    pub ffn: usize,
    /// Its ternary weights.
    pub weights: u64,
    /// Columns that share a scale, where a matrix has several.
    #[serde(default)]
    pub group: Option<usize>,
    /// The layout that they must stay in, where they must.
    pub layout: Option<String>,
    /// The number of threads, where it was given.
    pub threads: Option<usize>,
}

impl Question {
    /// For a model that asks for `load` on `cpu`.
    pub fn new(load: Load, cpu: &Cpu, cpus: usize, layout: Option<Layout>, threads: Option<usize>) -> Self {
        let cores: Vec<String> =
            cpu.clusters.iter().map(|cluster| format!("{} {}", cluster.cpus.len(), cluster.core)).collect();
        let model = cpu.model.as_deref().unwrap_or(cpu.arch);
        Question {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: format!("{model}; {}; {}", cores.join(" + "), cpu.features.join(" ")),
            cpus,
            hidden: load.hidden,
            ffn: load.ffn,
            weights: load.weights,
            group: load.group,
            layout: layout.map(|layout| layout.name().to_owned()),
            threads,
        }
    }
}

/// A question and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked.
    #[serde(flatten)]
    pub question: Question,
    /// Kernel set.
    pub kernels: String,
    /// Threads.
    pub best_threads: usize,
    /// Milliseconds of a decoded token, as then measured.
    pub decode_ms: f64,
    /// Milliseconds of a token of a prompt, as then measured.
    pub prompt_ms: f64,
}

impl Answer {
    /// What `trial` says to `question`.
    pub fn new(question: Question, trial: &Trial) -> Self {
        Answer {
            question,
            kernels: trial.kernels.to_owned(),
            best_threads: trial.threads,
            decode_ms: trial.decode_ms,
            prompt_ms: trial.prompt_ms,
        }
    }
}

/// The answer to `question` in `folder`. A file that cannot be read answers nothing: it is written anew.
pub fn find(folder: &Path, question: &Question) -> Option<Answer> {
    all(folder).into_iter().find(|answer| answer.question == *question)
}

fn all(folder: &Path) -> Vec<Answer> {
    let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Keeps `answer` in `folder` in place of an earlier one to the same question. Where that is not possible, the question
/// is asked again at the next start, and the log says so.
pub fn keep(folder: &Path, answer: Answer) {
    let mut answers = all(folder);
    answers.retain(|old| old.question != answer.question);
    answers.push(answer);
    let write = || {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let text = serde_json::to_string_pretty(&answers).map_err(|error| error.to_string())?;
        let mut file = Replacement::create(&folder.join(FILE)).map_err(|error| error.to_string())?;
        file.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
        file.keep().map_err(|error| error.to_string())
    };
    if let Err(why) = write() {
        log::info!("what is fastest here is found anew at each start, because it cannot be kept: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tern_boards::Root;

    fn question(threads: Option<usize>) -> Question {
        let load = Load { hidden: 256, ffn: 512, weights: 1 << 20, group: None };
        Question::new(load, &Cpu::detect(&Root::new("/")), 2, Some(Layout::T5R), threads)
    }

    fn answer(threads: Option<usize>, kernels: &'static str) -> Answer {
        let trial = Trial { kernels, layout: "t5r", threads: 2, decode_ms: 1.5, prompt_ms: 0.25 };
        Answer::new(question(threads), &trial)
    }

    #[test]
    fn an_answer_comes_back_until_it_is_replaced_or_damaged() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("state");
        assert_eq!(find(&state, &question(None)), None);
        keep(&state, answer(None, "one"));
        keep(&state, answer(Some(2), "two"));
        keep(&state, answer(None, "three"));
        assert_eq!(find(&state, &question(None)), Some(answer(None, "three")));
        assert_eq!(find(&state, &question(Some(2))), Some(answer(Some(2), "two")));
        assert_eq!(find(&state, &question(Some(3))), None);
        assert_eq!(all(&state).len(), 2);
        fs::write(state.join(FILE), "[{").expect("a few bytes");
        assert_eq!(find(&state, &question(None)), None);
        keep(&state, answer(None, "four"));
        assert_eq!(find(&state, &question(None)).map(|answer| answer.kernels), Some("four".into()));
    }
}
