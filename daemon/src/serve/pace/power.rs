//! A budget of watts: how long to hold still after a step of the engine.
//!
//! ```text
//! mean   = energy of the last window / window
//! pace   = budget + EAGER x (budget - mean)         watts that a step and the pause behind it may draw together
//! go     when  energy since the step began <= pace x time since then
//!        and   the window that ends with the next step, if that is like the last, stays within budget x CEILING
//! ```
//!
//! So a daemon that had little to do answers at full speed until its mean nears the budget, and one that always has work
//! settles at the budget, in short pauses. Nothing is assumed of the machine: what it drew decides, pauses included. Energy
//! before the first reading counts as if the budget had been drawn, so that a restart is no way round it.

use std::collections::VecDeque;
use std::time::Duration;

/// How much faster than the budget a rested machine may go.
const EAGER: f64 = 8.0;
/// No window may draw more than this times the budget, as far as the next step can be foreseen.
const CEILING: f64 = 1.02;
/// Readings kept of a window.
const KEPT: u32 = 240;
/// How fast the largest step is forgotten, by step.
const FADE: f64 = 0.98;
/// With a budget below idle power: pauses, in steps, so that one twentieth of the time is left to work.
const SLOWEST: u32 = 19;

/// A reading of the meter.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: Duration,
    uj: u64,
}

/// The last step of the engine.
#[derive(Clone, Copy, Debug)]
struct Step {
    began: Duration,
    took: Duration,
    /// What the meter showed when it began, if that is known.
    began_uj: Option<u64>,
}

/// Keeps the mean power of every window within a budget.
#[derive(Debug)]
pub struct PowerPace {
    budget_w: f64,
    window: Duration,
    /// Oldest first; the first is the last one outside of the window, if there is one.
    points: VecDeque<Point>,
    step: Option<Step>,
    /// What a step took of late at most: seconds and joules.
    largest: (f64, f64),
    /// The meter did not answer lately.
    is_blind: bool,
    /// Pauses by steps of late, for when the meter fails.
    pause_by_step: f64,
}

impl PowerPace {
    /// Keeps `budget_w` in every `window`.
    pub fn new(budget_w: f64, window: Duration) -> Self {
        PowerPace {
            budget_w,
            window,
            points: VecDeque::new(),
            step: None,
            largest: (0.0, 0.0),
            is_blind: false,
            pause_by_step: 0.0,
        }
    }

    /// The budget, in watts.
    pub fn budget_w(&self) -> f64 {
        self.budget_w
    }

    /// The window.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// What the meter shows, in microjoules since any zero; `None` if it cannot be read.
    pub fn reading(&mut self, now: Duration, uj: Option<u64>) {
        self.is_blind = uj.is_none();
        let Some(uj) = uj else { return };
        let point = Point { at: now, uj };
        match self.points.back() {
            Some(last) if last.uj > uj || last.at >= now => return,
            // Close readings replace each other, but never the one that others are measured from.
            Some(last)
                if self.points.len() >= 2
                    && now - self.points[self.points.len() - 2].at < self.window / KEPT
                    && last.at < now =>
            {
                self.points.pop_back();
            }
            _ => {}
        }
        self.points.push_back(point);
        let begin = now.saturating_sub(self.window);
        while self.points.len() > 2 && self.points[1].at <= begin {
            self.points.pop_front();
        }
    }

    /// A step of the engine went from `began`, where the meter showed `began_uj`, until `now`, of which there was a reading.
    pub fn step(&mut self, began: Duration, began_uj: Option<u64>, now: Duration) {
        let took = now.saturating_sub(began);
        if let Some(last) = self.step.filter(|_| !self.is_blind) {
            let pause = began.saturating_sub(last.began + last.took).as_secs_f64();
            let ratio = (pause / last.took.as_secs_f64().max(1e-6)).min(f64::from(SLOWEST));
            self.pause_by_step += (ratio - self.pause_by_step) / 8.0;
        }
        if let Some((uj, end)) = began_uj.zip(self.points.back()).filter(|_| !self.is_blind) {
            let joules = end.uj.saturating_sub(uj) as f64 * 1e-6;
            let (seconds, before) = (took.as_secs_f64(), self.largest);
            self.largest = (seconds.max(FADE * before.0), joules.max(FADE * before.1));
        }
        self.step = Some(Step { began, took, began_uj });
    }

    /// Joules between `now - window` and the last reading.
    fn drawn_j(&self, now: Duration) -> f64 {
        let Some((first, last)) = self.points.front().zip(self.points.back()) else {
            return self.budget_w * self.window.as_secs_f64();
        };
        let Some(begin) = now.checked_sub(self.window).filter(|begin| *begin >= first.at) else {
            // What came before the first reading.
            let unknown = self.window.saturating_sub(now.saturating_sub(first.at));
            return self.budget_w * unknown.as_secs_f64() + (last.uj - first.uj) as f64 * 1e-6;
        };
        let behind = self.points.iter().position(|point| point.at > begin);
        let Some(behind) = behind.filter(|behind| *behind > 0) else { return 0.0 };
        let (before, after) = (self.points[behind - 1], self.points[behind]);
        let part = (begin - before.at).as_secs_f64() / (after.at - before.at).as_secs_f64();
        let at_begin = before.uj as f64 + part * (after.uj - before.uj) as f64;
        (last.uj as f64 - at_begin) * 1e-6
    }

    /// Mean power of the last window; before there was one, as if the budget had been drawn.
    pub fn mean_w(&self, now: Duration) -> f64 {
        self.drawn_j(now) / self.window.as_secs_f64()
    }

    /// How long to hold still from `now` before the next step, as far as can be said; none if it may begin. Ask again after
    /// the next reading. `idle_w` is what the machine draws at rest, where that is known.
    pub fn pause(&self, now: Duration, idle_w: Option<f64>) -> Option<Duration> {
        let Step { began, took, began_uj } = self.step?;
        let since = now.saturating_sub(began);
        let rested = since.saturating_sub(took);
        let left = |pause: Duration| pause.checked_sub(rested).filter(|left| !left.is_zero());
        if self.is_blind {
            return left(took.mul_f64(self.pause_by_step));
        }
        // Even a budget that cannot be kept, or a step larger than a window allows, must not stop the work for good.
        if rested >= self.window {
            return None;
        }
        if idle_w.is_some_and(|idle_w| idle_w >= self.budget_w) {
            return left((took * SLOWEST).min(self.window));
        }
        let last = self.points.back()?;
        let pace_w = self.budget_w + EAGER * (self.budget_w - self.mean_w(now));
        let idle_w = idle_w.unwrap_or(self.budget_w / 2.0);
        let over_j = began_uj.map_or(0.0, |began_uj| {
            last.uj.saturating_sub(began_uj) as f64 * 1e-6 - pace_w * since.as_secs_f64()
        });
        let (largest_s, largest_j) = self.largest;
        let next = now + Duration::from_secs_f64(largest_s);
        let room_j = CEILING * self.budget_w * self.window.as_secs_f64();
        let window_over_j = self.drawn_j(next) + largest_j - room_j;
        if over_j <= 0.0 && window_over_j <= 0.0 {
            return None;
        }
        let wait_s = (over_j / (pace_w - idle_w).max(1e-3)).max(window_over_j / self.budget_w);
        Some(Duration::from_secs_f64(wait_s.clamp(1e-3, self.window.as_secs_f64())))
    }
}
