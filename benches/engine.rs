//! The engine on the bundled model: prompt tokens, generated tokens and decisions a second.
//!
//! `cargo bench --bench engine`. Ids are `kernel-name/what`; throughput counts tokens, or decisions. Each case checks
//! once that it does what it says.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tern_runtime::engine::{Engine, Goal, Piece};
use tern_runtime::kv_cache::KvType;
use tern_tests::model::{BUNDLED, Setup, bundled, greedy, run, tokens, with_engine};
use tern_tests::sets;

/// Prompt tokens that are read in one pass.
const PROMPT: usize = 64;
/// Tokens generated from an empty context.
const GENERATED: usize = 32;

/// A decision of the kind the bundled model was trained for.
fn decide(engine: &mut Engine<'_>, requests: usize) -> f32 {
    let prompt = vec![
        Piece::Token(0),
        Piece::Text("User: How severe is this log line?\nusb 1-1: device not accepting address 7, error -71"),
        Piece::Token(2),
        Piece::Text("Assistant: "),
    ];
    let labels = ["critical", "error", "warning", "info"];
    let requests = vec![(prompt, Goal::Choose { labels: &labels }); requests];
    run(engine, &requests)[0].probabilities.iter().sum()
}

fn engine(c: &mut Criterion) {
    let set = sets::usable()[0];
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    let setup = Setup { set, workers, kv: KvType::F16, ..Setup::default() };
    with_engine(&bundled(BUNDLED), setup, |engine| {
        engine.keep_prefixes(false);
        let mut group = c.benchmark_group(set.name);
        let prompt = tokens(&(0..PROMPT as u32).map(|i| 10 + 37 * i % 4000).collect::<Vec<_>>());
        let read = |engine: &mut Engine<'_>| run(engine, &[(prompt.clone(), greedy(1))]).remove(0).ids.len();
        assert_eq!(read(engine), 1);
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function(format!("prompt-{PROMPT}"), |b| b.iter(|| read(engine)));

        let write =
            |engine: &mut Engine<'_>| run(engine, &[(tokens(&[0]), greedy(GENERATED))]).remove(0).ids.len();
        assert_eq!(write(engine), GENERATED);
        group.throughput(Throughput::Elements(GENERATED as u64));
        group.bench_function(format!("generate-{GENERATED}"), |b| b.iter(|| write(engine)));

        assert!((decide(engine, 1) - 1.0).abs() < 1e-5, "probabilities add up to 1");
        for requests in [1, 16] {
            group.throughput(Throughput::Elements(requests as u64));
            group.bench_function(format!("decide-{requests}"), |b| b.iter(|| decide(engine, requests)));
        }
        engine.keep_prefixes(true);
        group.bench_function("decide-16-kept", |b| b.iter(|| decide(engine, 16)));
        group.finish();
    });
}

criterion_group!(benches, engine);
criterion_main!(benches);
