//! What a model is run with on this machine: kernels, threads, memory.

use std::num::NonZeroUsize;

use tern_boards::memory::Memory;
use tern_boards::select::Wish;
use tern_boards::{Board, Cpu, Knobs, Root, is_scalar, kernel_sets, recommended_threads, select};
use tern_kernels::{KernelSet, Layout};

use super::{EngineChoice, MAX_THREADS, OpenError};
use crate::bandwidth::last_level_cache_bytes;
use crate::state;
use crate::tune::saved::{self, Answer, Question};
use crate::tune::{Load, Trial, best, try_all};

/// What a model is run with on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The kernels.
    pub set: &'static KernelSet,
    /// Worker threads, the calling one included.
    pub threads: usize,
    /// Memory that this process could have, where the system says: what is free, or what its control group leaves.
    pub available_bytes: Option<u64>,
}

/// What kernels and threads are chosen for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    /// The layout that the weights lie in and are to stay in, see [`Wish`].
    pub layout: Option<Layout>,
    /// What the model asks of the machine, where that is known.
    pub load: Option<Load>,
    /// Whether what is fastest may be tried now, where it was not before.
    pub may_try: bool,
}

/// The machine as a choice sees it.
struct Machine {
    knobs: Knobs,
    cpu: Cpu,
    board: Board,
}

impl EngineChoice {
    /// Looks at the machine and applies this choice, then the tuning variables, then what was found fastest for such a
    /// model, then the board's preference.
    ///
    /// # Errors
    /// If a tuning variable cannot be read or names kernels that cannot run here.
    pub fn host(&self, need: Need) -> Result<Host, OpenError> {
        let root = Root::new("/");
        let cpu = Cpu::detect(&root);
        // A profile that cannot be used is for `tern doctor` to report; it must not keep a model from opening.
        let (board, _) = Board::detect(&root, cpu.arch);
        let machine = Machine { knobs: Knobs::from_env().map_err(OpenError::Knob)?, cpu, board };
        let threads = self.threads.or(machine.knobs.threads.map(NonZeroUsize::get));
        if threads.is_some_and(|threads| !(1..=MAX_THREADS).contains(&threads)) {
            return Err(OpenError::Threads { found: threads.unwrap_or(0), most: MAX_THREADS });
        }
        let tuned = if self.kernels.is_none() { machine.tuned(need, threads) } else { None };
        let set = match (&self.kernels, tuned) {
            (Some(asked), _) => kernel_sets().find(|set| set.name == *asked).ok_or_else(|| {
                let usable = kernel_sets().map(|set| set.name).collect();
                OpenError::Kernels { asked: asked.clone(), usable }
            })?,
            (None, Some((set, _))) => set,
            (None, None) => {
                let wish = Wish {
                    preferred: &machine.board.profile.recommended.kernels,
                    layout: need.layout,
                    group: need.load.and_then(|load| load.group),
                };
                select(&machine.knobs, wish).map_err(OpenError::Select)?
            }
        };
        let threads = match (threads, tuned) {
            (Some(threads), _) => threads,
            (None, Some((_, threads))) => threads,
            (None, None) => recommended_threads(&machine.knobs, &machine.cpu, &machine.board.profile),
        };
        let memory = Memory::detect(&root);
        Ok(Host { set, threads, available_bytes: memory.usable_bytes() })
    }
}

impl Machine {
    /// What was found fastest for such a model, or is found now.
    fn tuned(&self, need: Need, threads: Option<usize>) -> Option<(&'static KernelSet, usize)> {
        // Times under emulation say nothing about the machine.
        if self.knobs.no_tuning || self.knobs.kernels.is_some() || self.cpu.emulated {
            return None;
        }
        let load = need.load?;
        let sets = contenders(need.layout, load.group);
        let by_name = |name: &str| sets.iter().copied().find(|set| set.name == name);
        let allowed = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let question = Question::new(load, &self.cpu, allowed, need.layout, threads);
        let folder = state::folder();
        let kept = folder.as_ref().and_then(|folder| saved::find(folder, &question));
        if let Some(answer) = kept
            && let Some(set) = by_name(&answer.kernels)
        {
            return Some((set, answer.best_threads.clamp(1, MAX_THREADS)));
        }
        if !need.may_try || sets.is_empty() {
            return None;
        }
        let trials = self.trials(load, &sets, threads, allowed);
        let trial = best(&trials)?;
        log::info!(
            "found fastest here for this model: {} on {} threads, {:.2} ms a decoded token and {:.2} ms a prompt token \
             in its ternary products",
            trial.kernels,
            trial.threads,
            trial.decode_ms,
            trial.prompt_ms
        );
        if let Some(folder) = &folder {
            saved::keep(folder, Answer::new(question, trial));
        }
        Some((by_name(trial.kernels)?, trial.threads))
    }

    fn trials(
        &self,
        load: Load,
        sets: &[&'static KernelSet],
        threads: Option<usize>,
        allowed: usize,
    ) -> Vec<Trial> {
        log::info!("trying once which kernels and how many threads are fastest here");
        let usual = recommended_threads(&self.knobs, &self.cpu, &self.board.profile);
        let others = if threads.is_some() { Vec::new() } else { thread_numbers(allowed) };
        let cache_bytes = last_level_cache_bytes(&self.cpu).unwrap_or(8 << 20);
        try_all(load, sets, threads.unwrap_or(usual), &others, cache_bytes, |trial| {
            log::debug!("tried {trial:?}");
        })
    }
}

/// The sets that may be fastest, the best tier of each layout: only those that leave weights in `layout` if there are any.
/// Sets for in-order cores stand beside those of their tier, since both run on either kind of core. With matrices in groups
/// of columns only layouts that take them.
pub fn contenders(layout: Option<Layout>, group: Option<usize>) -> Vec<&'static KernelSet> {
    let kind = |set: &KernelSet| (set.layout, set.name.ends_with("-inorder"));
    let mut sets: Vec<&'static KernelSet> = Vec::new();
    let takes = |set: &&'static KernelSet| group.is_none_or(|cols| set.layout.takes_groups(cols));
    for set in kernel_sets().filter(|set| !is_scalar(set)).filter(takes) {
        if !sets.iter().any(|better| kind(better) == kind(set)) {
            sets.push(set);
        }
    }
    if sets.iter().any(|set| Some(set.layout) == layout) {
        sets.retain(|set| Some(set.layout) == layout);
    }
    sets
}

/// Numbers of threads worth trying: all up to eight, then doublings.
pub fn thread_numbers(allowed: usize) -> Vec<usize> {
    let doublings = (4..).map(|n| 1usize << n).take_while(|threads| *threads <= allowed.min(MAX_THREADS));
    (1..=allowed.min(8)).chain(doublings).collect()
}
