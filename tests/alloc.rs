//! After start-up a request allocates nothing in the runtime: counted by the allocator itself.
//!
//! One test in a binary of its own, so that no other test allocates while it counts.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use tern_runtime::engine::{Engine, Event, Goal, Piece, Request};
use tern_runtime::kv_cache::KvType;
use tern_runtime::sampler::Sampling;
use tern_tests::model::{Setup, bundled, with_engine};
use tern_tests::sets;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Submits one request and steps it to its end; returns the number of events.
fn serve(engine: &mut Engine<'_>, prompt: &[Piece<'_>], goal: Goal<'_>) -> usize {
    engine.submit(&Request { key: 1, prompt, goal }).expect("a good request");
    let mut seen = 0;
    while engine.live() > 0 {
        engine.step(|_, event| seen += usize::from(!matches!(event, Event::Text(""))));
    }
    seen
}

#[test]
fn requests_allocate_nothing() {
    let setup = Setup { set: sets::usable()[0], workers: 2, kv: KvType::F16, ..Setup::default() };
    with_engine(&bundled("tern-log-4m-i2_s.gguf"), setup, |engine| {
        let prompt =
            [Piece::Token(0), Piece::Text("User: How severe is this log line?\nusb 1-1: device not found")];
        let sampling =
            Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.01, ..Sampling::default() };
        let sampling = Sampling { repetition_penalty: 1.1, ..sampling };
        let generate = Goal::Generate {
            sampling,
            max_tokens: Some(40),
            stops: &["never", "\n\n"],
            ignore_stop_tokens: true,
        };
        let choose = Goal::Choose { labels: &["critical", "error", "warning", "warm", "info"] };
        let mut events = 0;
        for (name, goal) in [("generate", generate), ("choose", choose), ("logits", Goal::Logits)] {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..3 {
                events += serve(engine, &prompt, goal);
            }
            let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
            println!("{name}: {allocations} allocations in 3 requests");
            assert_eq!(allocations, 0, "{name}");
        }
        assert!(events > 100, "the requests did something: {events} events");
    });
    // The counter counts.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before);
}
