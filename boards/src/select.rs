//! The one dispatch: which kernel set and how many threads.
//!
//! Called once at start. The kernels crates answer only with sets whose CPU features are present, each behind a token
//! that proves them, so nothing that leaves this file can fault on the machine it runs on.

use core::fmt;
use core::num::NonZeroUsize;

use tern_kernels::reference::SCALARS;
use tern_kernels::{KernelSet, Layout};

use crate::cpu::Cpu;
use crate::knobs::{KERNELS, Knobs};
use crate::profile::Profile;

/// Every kernel set this machine can run, best first; the portable scalar sets, one for each layout, come last.
pub fn kernel_sets() -> impl Iterator<Item = &'static KernelSet> {
    tern_kernels_neon::all().chain(tern_kernels_x86::all()).chain(SCALARS)
}

/// What a kernel set is chosen for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Names of sets that suit the board, best first; those it cannot run are passed over, since one profile serves boards
    /// of several revisions.
    pub preferred: &'a [String],
    /// The layout that the weights lie in and are to stay in. A set for another layout is chosen only where none but the
    /// scalar one reads this one.
    pub layout: Option<Layout>,
    /// Columns of the weights that share a scale, where they do not all: only sets for layouts that take such groups are
    /// chosen.
    pub group: Option<usize>,
}

/// The kernel set to use: the one the knob names, else the one that suits `wish`, else the best.
///
/// # Errors
/// [`SelectError`] when the knob names a set that this machine cannot run.
pub fn select(knobs: &Knobs, wish: Wish<'_>) -> Result<&'static KernelSet, SelectError> {
    let by_name = |name: &str| kernel_sets().find(|set| set.name == name);
    let all_scalar = kernel_sets().all(is_scalar);
    let takes = |set: &KernelSet| wish.group.is_none_or(|cols| set.layout.takes_groups(cols));
    let stays = |set: &&'static KernelSet| {
        takes(set) && wish.layout.is_none_or(|layout| set.layout == layout && (all_scalar || !is_scalar(set)))
    };
    let (set, why) = match &knobs.kernels {
        Some(name) => {
            let set = by_name(name).ok_or_else(|| SelectError {
                asked: name.clone(),
                usable: kernel_sets().map(|set| set.name).collect(),
            })?;
            (set, KERNELS.name)
        }
        None => {
            let preferred = |stays: &dyn Fn(&&'static KernelSet) -> bool| {
                wish.preferred.iter().filter_map(|name| by_name(name)).find(|set| stays(set))
            };
            let any = |set: &&'static KernelSet| takes(set);
            // Its panels pay least for each group: a register holds the sums of all their rows.
            let is_light = |set: &&'static KernelSet| wish.group.is_some() && set.layout == Layout::T2R4;
            if let Some(set) = preferred(&stays) {
                (set, "the board's profile")
            } else if let Some(set) = kernel_sets().find(|set| is_light(set) && !is_scalar(set) && stays(set))
            {
                (set, "the fastest here for weights in groups")
            } else if let Some(set) = kernel_sets().find(stays) {
                (set, "the fastest here")
            } else if let Some(set) = preferred(&any) {
                (set, "the board's profile, in another layout")
            } else {
                let best = kernel_sets().find(any).expect("there is a scalar set for every layout");
                (best, "the fastest here, in another layout")
            }
        }
    };
    log::debug!("kernel set {} ({why})", set.name);
    Ok(set)
}

/// Whether `set` is one of those that run everywhere and fast nowhere.
pub fn is_scalar(set: &KernelSet) -> bool {
    SCALARS.iter().any(|scalar| scalar.name == set.name)
}

/// How many worker threads to use: the knob's number, else the board's recommendation, else one for each physical
/// core of the fastest cluster; the latter two never more than this process is allowed to run on.
pub fn recommended_threads(knobs: &Knobs, cpu: &Cpu, profile: &Profile) -> usize {
    let allowed = std::thread::available_parallelism().map_or(usize::MAX, NonZeroUsize::get);
    threads(knobs, cpu, profile, allowed)
}

fn threads(knobs: &Knobs, cpu: &Cpu, profile: &Profile, allowed: usize) -> usize {
    match knobs.threads {
        Some(threads) => threads.get(),
        None => profile.recommended.threads.unwrap_or_else(|| cpu.fast_cores()).min(allowed).max(1),
    }
}

/// A kernel set was asked for that this machine cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectError {
    /// The name asked for.
    pub asked: String,
    /// The names that would do here, best first.
    pub usable: Vec<&'static str>,
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, usable } = self;
        write!(f, "{} asks for kernel set {asked:?}, which this machine cannot run; ", KERNELS.name)?;
        write!(f, "use one of {}, or unset it for the fastest", usable.join(", "))
    }
}

impl core::error::Error for SelectError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::built_in;
    use crate::root::Root;

    fn forcing(name: &str) -> Knobs {
        Knobs { kernels: Some(name.into()), ..Knobs::default() }
    }

    #[test]
    fn sets_have_distinct_names_and_scalar_comes_last() {
        let names: Vec<&str> = kernel_sets().map(|set| set.name).collect();
        let scalars = SCALARS.map(|set| set.name);
        assert!(names.ends_with(&scalars), "{names:?}");
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} is offered twice");
        }
    }

    #[test]
    fn every_usable_set_can_be_forced_and_the_default_is_the_first() {
        for set in kernel_sets() {
            assert_eq!(select(&forcing(set.name), Wish::default()).unwrap().name, set.name);
        }
        assert_eq!(
            select(&Knobs::default(), Wish::default()).unwrap().name,
            kernel_sets().next().unwrap().name
        );
    }

    #[test]
    fn a_set_of_another_machine_is_refused_with_the_names_that_would_do() {
        let foreign = if cfg!(target_arch = "aarch64") { "x86_64-t2i8-avx2" } else { "aarch64-t2i8-dotprod" };
        for name in [foreign, "warp", ""] {
            let error = select(&forcing(name), Wish::default()).unwrap_err();
            assert!(error.to_string().contains(tern_kernels::SCALAR.name), "{error}");
            assert!(error.usable.len() == kernel_sets().count());
        }
    }

    #[test]
    fn a_preference_wins_where_it_can_run_and_the_knob_wins_over_it() {
        let scalar = tern_kernels::SCALAR.name.to_owned();
        let preferred = ["warp".to_owned(), scalar.clone()];
        let wish = Wish { preferred: &preferred, ..Wish::default() };
        assert_eq!(select(&Knobs::default(), wish).unwrap().name, scalar);
        let best = kernel_sets().next().unwrap().name;
        assert_eq!(select(&forcing(best), wish).unwrap().name, best);
    }

    #[test]
    fn weights_stay_where_a_fast_set_reads_them() {
        for set in kernel_sets() {
            let wish = Wish { layout: Some(set.layout), ..Wish::default() };
            let chosen = select(&Knobs::default(), wish).unwrap();
            let has_fast = kernel_sets().any(|other| other.layout == set.layout && !is_scalar(other));
            assert_eq!(chosen.layout == set.layout && !is_scalar(chosen), has_fast, "{}", set.name);
        }
    }

    #[test]
    fn weights_in_groups_get_kernels_that_take_them() {
        let t2 = [tern_kernels::SCALAR.name.to_owned()];
        for (group, takes_t2) in [(64, false), (128, true)] {
            let wish = Wish { preferred: &t2, layout: None, group: Some(group) };
            let chosen = select(&Knobs::default(), wish).unwrap();
            assert!(chosen.layout.takes_groups(group), "{}", chosen.name);
            assert_eq!(chosen.name == t2[0], takes_t2);
        }
    }

    #[test]
    fn threads_follow_knob_then_board_then_cores_within_what_is_allowed() {
        let profile = |name: &str| built_in().find(|profile| profile.name == name).unwrap();
        let cpu = Cpu::detect(&Root::new("/"));
        let forced = Knobs { threads: NonZeroUsize::new(7), ..Knobs::default() };
        assert_eq!(threads(&forced, &cpu, &profile("raspberry-pi-5"), 2), 7);
        assert_eq!(threads(&Knobs::default(), &cpu, &profile("raspberry-pi-5"), 64), 4);
        assert_eq!(threads(&Knobs::default(), &cpu, &profile("raspberry-pi-5"), 3), 3);
        let generic = threads(&Knobs::default(), &cpu, &profile("generic-x86-64"), 64);
        assert_eq!(generic, cpu.fast_cores().min(64));
        assert!(recommended_threads(&Knobs::default(), &cpu, &profile("generic-x86-64")) >= 1);
    }
}
