//! Least squares with held-out errors: from measured loads to coefficients, or to a reason why not.
//!
//! Each load's energy is weighted by its inverse, so that what is made small is the *relative* error. Coefficients may
//! not be negative: no core and no byte gives energy back. The error that a calibration states comes from loads it has
//! not seen: each kind of load is left out in turn, the rest is fitted, and what that predicts is compared with what was
//! measured. The 95 % interval is the conformal one: the smallest half-width that covers 95 % of the held-out errors,
//! corrected for their number, and widened by the reference meter's own uncertainty.

use core::fmt;

use super::calibration::{Calibration, CorePower};
use super::settle::settled;
use super::{Activity, Term};
use crate::energy::Scope;

/// A load that was run and measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// What ran: `idle`, `compute, 2 threads, 1500 MHz` and so on. Repetitions carry the same name.
    pub name: String,
    /// What the machine did.
    pub activity: Activity,
    /// What the reference meter counted, joules.
    pub joules: f64,
}

/// The loads do not make a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FitError {
    /// Too little to go by.
    TooFew {
        /// Different loads.
        found: usize,
        /// How many there must be.
        needed: usize,
    },
    /// A figure that cannot be.
    Implausible {
        /// The load.
        load: String,
        /// What the meter said, joules.
        joules: f64,
    },
    /// No load at rest, so that idle power is not known.
    NoIdle {
        /// Cores that were busy in the least busy load.
        busy: f64,
    },
    /// The meter hardly sees a difference between rest and work.
    Flat {
        /// Watts of the least load.
        least_w: f64,
        /// Watts of the greatest.
        most_w: f64,
        /// What the meter can tell apart, watts.
        resolution_w: f64,
    },
    /// The meter's steps are large beside what the board draws.
    Coarse {
        /// Watts of the least load.
        least_w: f64,
        /// The meter's step, watts.
        resolution_w: f64,
    },
    /// The loads cannot tell a term from the others: it never varies by itself.
    Inseparable {
        /// The term.
        term: Term,
    },
    /// The model does not predict loads that it has not seen.
    Poor {
        /// Median error of held-out loads, a fraction.
        median: f64,
        /// The most that is accepted.
        most: f64,
        /// The load that is predicted worst.
        worst: String,
    },
    /// The interval that would be stated is too wide to be of use.
    Wide {
        /// Its half-width, a fraction.
        half_width: f64,
        /// The most that is accepted.
        most: f64,
        /// The load that is predicted worst.
        worst: String,
    },
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FitError::TooFew { found, needed } => {
                write!(
                    f,
                    "{found} different loads; a calibration needs at least {needed}: let all of them run"
                )
            }
            FitError::Implausible { load, joules } => {
                write!(
                    f,
                    "the meter gave {joules} J for the load '{load}'; it must be above zero: check the meter"
                )
            }
            FitError::NoIdle { busy } => write!(
                f,
                "the machine was never at rest, {busy:.2} cores were busy at least, and idle power is not known; end other \
                 programs, the daemon too, and try again"
            ),
            FitError::Flat { least_w, most_w, resolution_w } => write!(
                f,
                "the meter saw {least_w:.2} W at rest and {most_w:.2} W under load and resolves {resolution_w:.2} W; \
                 it does not measure this board's supply, or is too coarse: use a finer meter or longer loads"
            ),
            FitError::Coarse { least_w, resolution_w } => write!(
                f,
                "the meter goes in steps of {resolution_w:.2} W, which is {:.0} % of the {least_w:.2} W that the board \
                 draws at least; {:.0} % is the most that is accepted: use a finer meter",
                resolution_w / least_w * 100.0,
                COARSEST * 100.0
            ),
            FitError::Inseparable { term } => write!(
                f,
                "the loads cannot tell {term} from the rest; run loads in which it varies by itself"
            ),
            FitError::Poor { median, most, worst } => write!(
                f,
                "loads that were held out are predicted with a median error of {:.1} %, worst '{worst}'; more than \
                 {:.0} % is not accepted: end other programs, cool the board, and measure again",
                median * 100.0,
                most * 100.0
            ),
            FitError::Wide { half_width, most, worst } => write!(
                f,
                "95 % of loads are predicted within {:.0} % only, worst '{worst}'; more than {:.0} % is not accepted: \
                 measure each load for longer, or use a finer meter",
                half_width * 100.0,
                most * 100.0
            ),
        }
    }
}

impl core::error::Error for FitError {}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Idle => f.write_str("idle power"),
            Term::Core { cluster, mhz } => write!(f, "a busy core of cluster {cluster} at {mhz} MHz"),
            Term::Byte => f.write_str("a byte from memory"),
            Term::Instruction => f.write_str("an instruction"),
        }
    }
}

/// What is known of the meter that the loads were measured with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reference {
    /// Half-width of its 95 % interval, a fraction.
    pub relative_uncertainty: f64,
    /// Watts that it can tell apart over one load.
    pub resolution_w: f64,
    /// What it covers.
    pub scope: Scope,
}

impl Reference {
    /// Whether its steps are fine enough for a board that draws `least_w` at least.
    ///
    /// # Errors
    /// [`FitError::Coarse`] where they are not.
    pub fn suits(&self, least_w: f64) -> Result<(), FitError> {
        match self.resolution_w > COARSEST * least_w {
            true => Err(FitError::Coarse { least_w, resolution_w: self.resolution_w }),
            false => Ok(()),
        }
    }
}

/// A calibration that predicts held-out loads worse than this is refused.
const WORST_MEDIAN: f64 = 0.10;

/// Nor is one whose 95 % interval is wider: the board table claims 35 %.
const WIDEST: f64 = 0.30;

/// A meter's step, as a share of the least load: half of it is what a reading may be off by.
const COARSEST: f64 = 0.2;

/// Loads in which fewer cores than this are busy in the mean are at rest.
const AT_REST: f64 = 0.10;

/// A calibration from `loads` that were measured with `reference`.
///
/// # Errors
/// [`FitError`] with the reason why these loads make no model.
pub fn fit(loads: &[Load], reference: Reference) -> Result<Calibration, FitError> {
    let loads = &settled(loads);
    let names = distinct(loads);
    let mut terms = terms(loads);
    let needed = terms.len() + 3;
    if names.len() < needed {
        return Err(FitError::TooFew { found: names.len(), needed });
    }
    if let Some(load) = loads.iter().find(|load| !(load.joules > 0.0 && load.joules.is_finite())) {
        return Err(FitError::Implausible { load: load.name.clone(), joules: load.joules });
    }
    check_range(loads, reference)?;
    // A counter that some loads lack, or that adds nothing, would only blur the rest.
    if loads.iter().any(|load| load.activity.instructions.is_none()) {
        terms.retain(|term| *term != Term::Instruction);
    }
    if let Some(term) = inseparable(&terms, loads) {
        if term != Term::Instruction {
            return Err(FitError::Inseparable { term });
        }
        terms.retain(|other| *other != Term::Instruction);
    }
    let errors = held_out(&terms, loads, &names);
    let mut sizes: Vec<f64> = errors.iter().map(|(_, error)| error.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let median = sizes[sizes.len() / 2];
    let worst = || {
        let worst = errors.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        worst.map(|(name, _)| (*name).to_owned()).unwrap_or_default()
    };
    if median > WORST_MEDIAN {
        return Err(FitError::Poor { median, most: WORST_MEDIAN, worst: worst() });
    }
    let half_width = conformal(&sizes).hypot(reference.relative_uncertainty);
    if half_width > WIDEST {
        return Err(FitError::Wide { half_width, most: WIDEST, worst: worst() });
    }
    let coefficients = solve(&terms, loads.iter());
    let of = |wanted: Term| terms.iter().position(|term| *term == wanted).map(|index| coefficients[index]);
    let mut cores: Vec<CorePower> = terms
        .iter()
        .zip(&coefficients)
        .filter_map(|(term, watts)| match *term {
            Term::Core { cluster, mhz } => Some(CorePower { cluster, mhz, watts: *watts }),
            _ => None,
        })
        .collect();
    cores.sort_by_key(|core| (core.cluster, core.mhz));
    Ok(Calibration {
        scope: reference.scope,
        idle_w: of(Term::Idle).unwrap_or(0.0),
        cores,
        byte_nj: of(Term::Byte).unwrap_or(0.0) * 1e9,
        instruction_nj: of(Term::Instruction).map(|joules| joules * 1e9),
        median_error: median,
        relative_uncertainty: half_width,
        loads: names.len(),
        date: None,
        against: None,
    })
}

/// The names of the loads, each once.
fn distinct(loads: &[Load]) -> Vec<&str> {
    let mut names: Vec<&str> = loads.iter().map(|load| load.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The terms that these loads have something of.
fn terms(loads: &[Load]) -> Vec<Term> {
    let cores = loads.iter().flat_map(|load| &load.activity.busy);
    let cores = cores.map(|busy| Term::Core { cluster: busy.cluster, mhz: busy.mhz });
    let mut terms: Vec<Term> = [Term::Idle, Term::Byte, Term::Instruction].into_iter().chain(cores).collect();
    terms.sort_unstable();
    terms.dedup();
    terms.retain(|term| loads.iter().any(|load| load.activity.amount(*term) > 0.0));
    terms
}

/// Watts of the least of `loads` that are at rest.
///
/// # Errors
/// [`FitError::NoIdle`] where none is.
pub fn at_rest_w(loads: &[Load]) -> Result<f64, FitError> {
    let busy = |load: &Load| {
        let core_seconds: f64 = load.activity.busy.iter().map(|busy| busy.core_seconds).sum();
        core_seconds / load.activity.seconds
    };
    let resting = loads.iter().filter(|load| busy(load) <= AT_REST);
    let least_w = resting.map(|load| load.joules / load.activity.seconds).reduce(f64::min);
    least_w.ok_or_else(|| FitError::NoIdle { busy: loads.iter().map(busy).fold(f64::INFINITY, f64::min) })
}

fn check_range(loads: &[Load], reference: Reference) -> Result<(), FitError> {
    let watts = |load: &Load| load.joules / load.activity.seconds;
    let least_w = at_rest_w(loads)?;
    let most_w = loads.iter().map(watts).fold(0.0, f64::max);
    if most_w - least_w < 5.0 * reference.resolution_w {
        return Err(FitError::Flat { least_w, most_w, resolution_w: reference.resolution_w });
    }
    reference.suits(least_w)
}

/// Rows of the weighted problem: every amount and the energy by the energy, so that each load says "1".
fn row(terms: &[Term], load: &Load) -> Vec<f64> {
    terms.iter().map(|term| load.activity.amount(*term) / load.joules).collect()
}

/// A term of which hardly anything is left once the others have explained what they can of it.
fn inseparable(terms: &[Term], loads: &[Load]) -> Option<Term> {
    // Modified Gram-Schmidt over the columns: the residue of each against those before it. Idle goes first.
    let rows: Vec<Vec<f64>> = loads.iter().map(|load| row(terms, load)).collect();
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let mut column: Vec<f64> = rows.iter().map(|row| row[index]).collect();
        let norm = |column: &[f64]| column.iter().map(|x| x * x).sum::<f64>().sqrt();
        let whole = norm(&column);
        for earlier in &basis {
            let along: f64 = column.iter().zip(earlier).map(|(a, b)| a * b).sum();
            column.iter_mut().zip(earlier).for_each(|(a, b)| *a -= along * b);
        }
        let left = norm(&column);
        if left < 0.02 * whole {
            return Some(*term);
        }
        column.iter_mut().for_each(|x| *x /= left);
        basis.push(column);
    }
    None
}

/// Coefficients of `terms`, none negative: coordinate descent on the normal equations, which are small and convex.
fn solve<'l>(terms: &[Term], loads: impl Iterator<Item = &'l Load>) -> Vec<f64> {
    let n = terms.len();
    let (mut normal, mut right) = (vec![0.0; n * n], vec![0.0; n]);
    for load in loads {
        let row = row(terms, load);
        for i in 0..n {
            right[i] += row[i];
            for j in 0..n {
                normal[i * n + j] += row[i] * row[j];
            }
        }
    }
    let mut x = vec![0.0; n];
    for _ in 0..20_000 {
        let mut moved: f64 = 0.0;
        for i in 0..n {
            let diagonal = normal[i * n + i];
            if diagonal <= 0.0 {
                continue;
            }
            let slope: f64 = (0..n).map(|j| normal[i * n + j] * x[j]).sum::<f64>() - right[i];
            let next = f64::max(0.0, x[i] - slope / diagonal);
            // In units of what the term contributes, since watts and joules a byte differ by ten powers of ten.
            moved = moved.max((next - x[i]).abs() * diagonal.sqrt());
            x[i] = next;
        }
        if moved < 1e-9 {
            break;
        }
    }
    x
}

/// For each load, its error when all loads of its name are left out.
fn held_out<'l>(terms: &[Term], loads: &'l [Load], names: &[&'l str]) -> Vec<(&'l str, f64)> {
    let mut errors = Vec::with_capacity(loads.len());
    for name in names {
        let rest = || loads.iter().filter(|load| load.name != **name);
        let known = |term: &Term| rest().any(|load| load.activity.amount(*term) > 0.0);
        let coefficients = solve(terms, rest());
        for load in loads.iter().filter(|load| load.name == **name) {
            // A load that alone has a term cannot be predicted without it; it says nothing of the others.
            if terms.iter().any(|term| load.activity.amount(*term) > 0.0 && !known(term)) {
                continue;
            }
            let predicted: f64 = row(terms, load).iter().zip(&coefficients).map(|(a, c)| a * c).sum();
            errors.push((*name, predicted - 1.0));
        }
    }
    errors
}

/// The half-width that covers 95 % of errors like these: the ceil(0.95 (n + 1))-th smallest, or, where there are too few
/// for that, the largest and half of it again.
fn conformal(sorted: &[f64]) -> f64 {
    let rank = (0.95 * (sorted.len() + 1) as f64).ceil() as usize;
    match sorted.get(rank.saturating_sub(1)) {
        Some(width) => *width,
        None => sorted.last().copied().unwrap_or(1.0) * 1.5,
    }
}

#[cfg(test)]
mod tests;
