//! `/metrics`: what the daemon counts, in the text form of Prometheus.
//!
//! Base units, counters that end in `_total`, and no label whose values clients choose. What is not known has no line.

use std::time::UNIX_EPOCH;

use serde_json::json;

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
        let labels: Vec<(&str, &str)> =
            meter.iter().flat_map(|(scope, method)| [("scope", &**scope), ("method", &**method)]).collect();
        of_tasks(page, &[(&labels, book.process())]);
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
    if let Some(watts) = energy.idle_watts {
        page.family("tern_idle_power_watts", "gauge", "Power of the idle system.");
        page.sample("tern_idle_power_watts", &labels, watts);
    }
}
