//! What a model is run with on this machine: kernels, threads, memory.

use tern_boards::memory::Memory;
use tern_boards::select::Wish;
use tern_boards::{Board, Cpu, Knobs, Root, kernel_sets, recommended_threads, select};
use tern_kernels::{KernelSet, Layout};

use super::{EngineChoice, MAX_THREADS, OpenError};

/// What a model is run with on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The kernels.
    pub set: &'static KernelSet,
    /// Worker threads, the calling one included.
    pub threads: usize,
    /// Memory that this process could have, where the system says: what is free, or less where its control group is
    /// limited.
    pub available_bytes: Option<u64>,
}

impl EngineChoice {
    /// Looks at the machine and applies this choice, then the tuning variables, then the board's preference. Weights that
    /// lie in `layout` and are to stay there restrict the choice, see [`Wish`].
    ///
    /// # Errors
    /// If a tuning variable cannot be read or names kernels that cannot run here.
    pub fn host(&self, layout: Option<Layout>) -> Result<Host, OpenError> {
        let root = Root::new("/");
        let knobs = Knobs::from_env().map_err(OpenError::Knob)?;
        let cpu = Cpu::detect(&root);
        // A profile that cannot be used is for `tern doctor` to report; it must not keep a model from opening.
        let (board, _) = Board::detect(&root, cpu.arch);
        let set = match &self.kernels {
            Some(asked) => kernel_sets().find(|set| set.name == *asked).ok_or_else(|| {
                let usable = kernel_sets().map(|set| set.name).collect();
                OpenError::Kernels { asked: asked.clone(), usable }
            })?,
            None => {
                let wish = Wish { preferred: &board.profile.recommended.kernels, layout };
                select(&knobs, wish).map_err(OpenError::Select)?
            }
        };
        let threads = self.threads.unwrap_or_else(|| recommended_threads(&knobs, &cpu, &board.profile));
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(OpenError::Threads { found: threads, most: MAX_THREADS });
        }
        let memory = Memory::detect(&root);
        let available_bytes = [memory.available_bytes, memory.limit_bytes].into_iter().flatten().min();
        Ok(Host { set, threads, available_bytes })
    }
}
