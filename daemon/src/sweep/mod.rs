//! How many threads, at which clock, make a token with the fewest joules: measured, round after round.
//!
//! "Race to idle" says that a board should finish fast and rest; "crawl" that slow cores at a low voltage do the same work
//! for less. Which holds depends on how much the board draws at rest, on its voltages and on whether memory or arithmetic
//! binds, so it is measured with the user's own model.
//!
//! Settings take turns, so that warmth and drift touch all of them alike, and two settings are compared round by round: the
//! meter's own gain touches both and cancels, which it would not in two intervals side by side.
//!
//! * [`run`](mod@run) - the rounds, on any machine; [`live`] - this one
//! * [`compare`] - what can be told apart
//! * [`report`] - the table and the answer

pub mod compare;
pub mod live;
pub mod report;
pub mod run;

/// One way to run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// Worker threads.
    pub threads: usize,
    /// The clock all cores are held at, megahertz; `None` leaves it to the governor.
    pub mhz: Option<u32>,
}

/// What was done and counted in one round of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// How long it took.
    pub seconds: f64,
    /// What the meter counted meanwhile.
    pub joules: f64,
}

impl Round {
    /// Joules a token.
    pub fn joules_per_token(&self) -> f64 {
        self.joules / self.tokens as f64
    }
}

/// All rounds of a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The setting.
    pub setting: Setting,
    /// Its rounds, in their order.
    pub rounds: Vec<Round>,
}

impl Measured {
    /// Tokens a second over all rounds.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens() / self.seconds()
    }

    /// Mean watts over all rounds.
    pub fn watts(&self) -> f64 {
        self.joules() / self.seconds()
    }

    /// Joules a token over all rounds.
    pub fn joules_per_token(&self) -> f64 {
        self.joules() / self.tokens()
    }

    /// Joules a token that the board would not have drawn at rest.
    pub fn joules_above(&self, idle_w: f64) -> f64 {
        (self.joules() - idle_w * self.seconds()) / self.tokens()
    }

    fn tokens(&self) -> f64 {
        self.rounds.iter().map(|round| round.tokens as f64).sum()
    }

    fn seconds(&self) -> f64 {
        self.rounds.iter().map(|round| round.seconds).sum()
    }

    fn joules(&self) -> f64 {
        self.rounds.iter().map(|round| round.joules).sum()
    }
}
