//! What the daemon knows of itself, for `status` answers.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tern_boards::energy::{Faults, Totals};
use tern_protocol::answer::{EnergyTotals, Method, Pacing, Scope, State as Readiness, Tokens};
use tern_runtime::engine::Usage;

use super::counters::{Counters, Ending, Way};
use super::queue::Queue;
use super::report;
use super::spending::Budgets;
use crate::daybook::Daybook;
use crate::tasks::TaskSet;
use crate::wire::{Heap, Status};

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Name of the model.
    pub model: String,
    /// Name of the kernel set.
    pub kernels: &'static str,
    /// Worker threads.
    pub threads: usize,
    /// Requests that run at once.
    pub slots: usize,
    /// What joules that requests name come to.
    pub budgets: Budgets,
}

/// Counters, written by the engine's thread and by clients' threads.
#[derive(Debug)]
pub struct State {
    /// What does not change.
    pub facts: Facts,
    began: Instant,
    began_at: SystemTime,
    /// Requests by way and ending.
    pub counters: Counters,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    drafted_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    live: AtomicU64,
    /// Mean time of a request in the engine, in microseconds, recent ones weighing more.
    service_us: AtomicU64,
    energy: Mutex<Option<Energy>>,
    /// Time in which the engine held still, in microseconds.
    paced_us: AtomicU64,
    pacing: Mutex<Option<(Pacing, Zones)>>,
    /// Where the energy went by hour and task.
    pub daybook: Daybook,
}

impl AsRef<Daybook> for State {
    fn as_ref(&self) -> &Daybook {
        &self.daybook
    }
}

/// Temperatures by zone, in degrees Celsius.
pub type Zones = Vec<(String, f64)>;

/// Where the energy went, by a meter.
#[derive(Clone, Debug)]
pub struct Energy {
    /// Sums.
    pub totals: Totals,
    /// Power of the idle system.
    pub idle_watts: Option<f64>,
    /// How the joules are obtained.
    pub method: Method,
    /// What they cover.
    pub scope: Scope,
    /// Chip, counter zone or table row behind them.
    pub source: String,
    /// What went wrong with the meter so far.
    pub faults: Faults,
    /// What an operator should know of it now.
    pub warnings: Vec<String>,
}

impl State {
    /// A daemon that starts now.
    pub fn new(facts: Facts) -> Self {
        State {
            facts,
            began: Instant::now(),
            began_at: SystemTime::now(),
            counters: Counters::default(),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            drafted_tokens: AtomicU64::new(0),
            accepted_tokens: AtomicU64::new(0),
            live: AtomicU64::new(0),
            service_us: AtomicU64::new(0),
            energy: Mutex::new(None),
            daybook: Daybook::default(),
            paced_us: AtomicU64::new(0),
            pacing: Mutex::new(None),
        }
    }

    /// Counts a request that ended.
    pub fn count(&self, way: Way, ending: Ending) {
        self.counters.count(way, ending);
    }

    /// Counts the work of an answered request.
    pub fn count_work(&self, counted: &Usage, service: Duration) {
        for (counter, tokens) in [
            (&self.prompt_tokens, counted.prompt_tokens),
            (&self.generated_tokens, counted.generated_tokens),
            (&self.cached_tokens, counted.cached_tokens),
            (&self.drafted_tokens, counted.drafted_tokens),
            (&self.accepted_tokens, counted.accepted_tokens),
        ] {
            counter.fetch_add(tokens as u64, Ordering::Relaxed);
        }
        let service_us = service.as_micros() as u64;
        // Only the engine's thread writes this.
        let mean_us = self.service_us.load(Ordering::Relaxed);
        let mean_us = if mean_us == 0 { service_us } else { (mean_us * 7 + service_us) / 8 };
        self.service_us.store(mean_us, Ordering::Relaxed);
    }

    /// Says how many requests the engine works on.
    pub fn set_live(&self, live: usize) {
        self.live.store(live as u64, Ordering::Relaxed);
    }

    /// Says where the energy went.
    pub fn set_energy(&self, ledger: &tern_boards::energy::Ledger) {
        let energy = ledger.totals().zip(ledger.meter()).map(|(totals, meter)| Energy {
            totals,
            idle_watts: ledger.idle_watts(),
            method: report::method(meter.method()),
            scope: report::scope(meter.scope()),
            source: meter.source().to_owned(),
            faults: meter.faults(),
            warnings: meter.warnings(),
        });
        *self.energy.lock().unwrap_or_else(PoisonError::into_inner) = energy;
    }

    /// Where the energy went so far; `None` without a meter.
    pub fn energy(&self) -> Option<Energy> {
        self.energy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a time in which the engine held still.
    pub fn count_pause(&self, pause: Duration) {
        self.paced_us.fetch_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says what holds the engine back, and how warm it is.
    pub fn set_pacing(&self, pacing: Pacing, zones: Zones) {
        *self.pacing.lock().unwrap_or_else(PoisonError::into_inner) = Some((pacing, zones));
    }

    /// What holds the engine back, and how warm it is; `None` before the engine first looked.
    pub fn pacing(&self) -> Option<(Pacing, Zones)> {
        let mut pacing = self.pacing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((pacing, _)) = &mut pacing {
            pacing.paced_s = report::thousandths(self.paced_us.load(Ordering::Relaxed) as f64 * 1e-6);
        }
        pacing
    }

    /// Tokens so far.
    pub fn tokens(&self) -> Tokens {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tokens {
            prompt: load(&self.prompt_tokens),
            generated: load(&self.generated_tokens),
            cached: Some(load(&self.cached_tokens)),
            drafted: Some(load(&self.drafted_tokens)),
            accepted: Some(load(&self.accepted_tokens)),
        }
    }

    /// Requests that the engine works on.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Time since the daemon started.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// When the daemon started.
    pub fn began_at(&self) -> SystemTime {
        self.began_at
    }

    /// When a refused client may find room again: after about a quarter of those `waiting` went through, so that not
    /// everybody comes back for the first free place.
    pub fn retry_after_ms(&self, waiting: usize) -> u32 {
        let service_us = self.service_us.load(Ordering::Relaxed).max(10_000);
        let leaving = (waiting as u64 / 4).max(1);
        let wait_us = service_us.saturating_mul(leaving) / self.facts.slots as u64;
        u32::try_from(wait_us / 1000).unwrap_or(u32::MAX).clamp(10, 60_000)
    }

    /// The answer to the status request `id`.
    pub fn status(&self, id: String, queue: &Queue, tasks: &TaskSet) -> Status {
        let joules = |uj: u64| uj as f64 * 1e-6;
        let energy = self.energy();
        Status {
            id,
            state: if queue.stop_by().is_some() { Readiness::Stopping } else { Readiness::Ready },
            model: self.facts.model.clone(),
            kernels: self.facts.kernels.to_owned(),
            threads: self.facts.threads as u32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queue: queue.len() as u32,
            live: self.live() as u32,
            requests: self.counters.requests(),
            tokens: self.tokens(),
            uptime_s: report::thousandths(self.uptime().as_secs_f64()),
            tasks: tasks.names().map(str::to_owned).collect(),
            energy: energy.map(|energy| EnergyTotals::<Heap> {
                counter_joules: joules(energy.totals.counter_uj),
                requests_joules: joules(energy.totals.requests_uj),
                idle_joules: joules(energy.totals.idle_uj),
                unattributed_joules: joules(energy.totals.unattributed_uj),
                idle_watts: energy.idle_watts,
                method: energy.method,
                source: energy.source,
            }),
            pacing: self.pacing().map(|(pacing, _)| pacing),
        }
    }
}
