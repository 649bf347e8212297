//! `/metrics`: what the daemon counts, in the text form of Prometheus.
//!
//! Base units, counters that end in `_total`, and no label whose values clients choose. What is not known has no line.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde_json::json;
use tern_boards::energy::Faults;

use crate::prometheus::{Page, names, of_tasks};
use crate::serve::counters::{BUCKETS_MS, Ending, Way};
use crate::serve::service::Service;

/// The type of the response.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page.
pub fn render(service: &Service) -> String {
    let state = &service.state;
    let counters = &state.counters;
    let mut page = Page::default();
    let facts = &state.facts;
    page.family("tern_build_info", "gauge", "What runs; always 1.");
    let build = [("version", env!("CARGO_PKG_VERSION")), ("model", &facts.model), ("kernels", facts.kernels)];
    page.sample("tern_build_info", &build, 1);
    page.gauge("tern_threads", "Worker threads of the engine.", facts.threads);
    page.gauge("tern_slots", "Requests that can run at once.", facts.slots);
    page.gauge("tern_requests_queued", "Requests that wait for the engine.", service.queue.len());
    page.gauge("tern_requests_live", "Requests that the engine works on.", state.live());

    let name = "tern_requests_total";
    page.family(name, "counter", "Requests by the way they came and how they ended.");
    for way in Way::ALL {
        for ending in Ending::ALL {
            let labels = [("transport", way.name()), ("ending", ending.name())];
            page.sample(name, &labels, counters.ended(way, ending));
        }
    }
    let name = "tern_tokens_total";
    page.family(name, "counter", "Tokens of answered requests: read of prompts, and generated.");
    let tokens = state.tokens();
    page.sample(name, &[("phase", "prefill")], tokens.prompt);
    page.sample(name, &[("phase", "decode")], tokens.generated);
    let name = "tern_cached_tokens_total";
    page.family(name, "counter", "Of the prompts' tokens, those that were kept and not computed again.");
    page.sample(name, &[], tokens.cached.unwrap_or(0));

    let name = "tern_draft_tokens_total";
    page.family(name, "counter", "Tokens tried ahead in answered requests, by what came of them.");
    let (drafted, accepted) = (tokens.drafted.unwrap_or(0), tokens.accepted.unwrap_or(0));
    page.sample(name, &[("outcome", "accepted")], accepted);
    page.sample(name, &[("outcome", "rejected")], drafted.saturating_sub(accepted));

    let name = "tern_request_duration_seconds";
    page.family(name, "histogram", "Time of answered requests from their coming to their answer.");
    for way in Way::ALL {
        let histogram = counters.durations(way);
        let transport = ("transport", way.name());
        let bucket = format!("{name}_bucket");
        for (ms, count) in BUCKETS_MS.iter().zip(histogram.at_most) {
            let end = (*ms as f64 / 1e3).to_string();
            page.sample(&bucket, &[transport, ("le", &end)], count);
        }
        page.sample(&bucket, &[transport, ("le", "+Inf")], histogram.count);
        page.sample(&format!("{name}_sum"), &[transport], histogram.sum_s);
        page.sample(&format!("{name}_count"), &[transport], histogram.count);
    }
    energy(&mut page, service);
    pacing(&mut page, service);
    if let Ok(began) = state.began_at().duration_since(UNIX_EPOCH) {
        let help = "When the daemon started, in seconds since 1970.";
        page.gauge("process_start_time_seconds", help, began.as_secs_f64());
    }
    page.text()
}

fn energy(page: &mut Page, service: &Service) {
    let energy = service.state.energy();
    {
        let book = service.state.daybook.open();
        let meter = book.meter().map(names);
        let labels = meter.as_ref().map(|(scope, method)| [("scope", &**scope), ("method", &**method)]);
        let joules = labels.as_ref().map(|labels| (&labels[..], book.process()));
        of_tasks(page, book.process(), joules.as_slice());
    }
    let Some(energy) = energy else { return };
    // The names of the wire.
    let (scope, method) = (json!(energy.scope), json!(energy.method));
    let labels =
        [("scope", scope.as_str().unwrap_or_default()), ("method", method.as_str().unwrap_or_default())];
    let name = "tern_energy_joules_total";
    page.family(name, "counter", "Joules that the meter counted, by where they went.");
    for (part, uj) in [
        ("requests", energy.totals.requests_uj),
        ("idle", energy.totals.idle_uj),
        ("unattributed", energy.totals.unattributed_uj),
    ] {
        page.sample(name, &[("part", part), labels[0], labels[1]], uj as f64 * 1e-6);
    }
    let name = "tern_meter_faults_total";
    page.family(
        name,
        "counter",
        "Readings of the power meter that were no good, by what was wrong with them.",
    );
    let Faults { gaps, backwards, failed, rejected, frozen } = energy.faults;
    for (kind, count) in [
        ("gap", gaps),
        ("backwards", backwards),
        ("failed", failed),
        ("rejected", rejected),
        ("frozen", frozen),
    ] {
        page.sample(name, &[("kind", kind)], count);
    }
    let help = "Things to look after at the power meter now: two meters that disagree. The log says which.";
    page.gauge("tern_meter_warnings", help, energy.warnings.len());
    if let Some(watts) = energy.idle_watts {
        page.family("tern_idle_power_watts", "gauge", "Power of the idle system.");
        page.sample("tern_idle_power_watts", &labels, watts);
    }
}

fn pacing(page: &mut Page, service: &Service) {
    let Some((pacing, zones)) = service.state.pacing() else { return };
    let name = "tern_paced_seconds_total";
    page.family(
        name,
        "counter",
        "Time in which the engine held still to keep its power budget or to stay cool.",
    );
    page.sample(name, &[], pacing.paced_s);
    for (name, help, value) in [
        ("tern_power_budget_watts", "What the machine may draw on average.", pacing.power_budget_w),
        (
            "tern_power_mean_watts",
            "What it drew on average over the last window of the budget.",
            pacing.mean_w,
        ),
        ("tern_temperature_limit_celsius", "What its temperature is kept below.", pacing.temperature_limit_c),
    ] {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    }
    if let Some(throttled) = pacing.throttled {
        page.gauge("tern_throttled", "Whether firmware or kernel slow the machine now.", u8::from(throttled));
        let name = "tern_throttled_times_total";
        page.family(name, "counter", "How often they began to.");
        page.sample(name, &[], pacing.throttled_times);
    }
    // Several zones may bear one name; the warmest of them stands for all.
    let mut warmest: BTreeMap<&str, f64> = BTreeMap::new();
    for (zone, celsius) in &zones {
        let highest = warmest.entry(zone).or_insert(*celsius);
        *highest = highest.max(*celsius);
    }
    if !warmest.is_empty() {
        let name = "tern_temperature_celsius";
        page.family(name, "gauge", "Temperature by thermal zone.");
        for (zone, celsius) in warmest {
            page.sample(name, &[("zone", zone)], celsius);
        }
    }
}
