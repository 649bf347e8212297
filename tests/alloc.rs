//! After start-up a request allocates nothing in the runtime: counted by the allocator itself.
//!
//! One test in a binary of its own, so that no other test allocates while it counts.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use tern_runtime::constraint::{Constraint, Progress};
use tern_runtime::engine::{Engine, Event, Generate, Goal, Piece, Request};
use tern_runtime::kv_cache::KvType;
use tern_runtime::sampler::Sampling;
use tern_tests::model::{BUNDLED, Setup, bundled, with_engine};
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

/// Every third token may follow in the request that is generated under rules.
struct EveryThird;

/// Bits 0, 3, 6 and so on, over three words.
static THIRDS: [u32; 126] = {
    let mut words = [0; 126];
    let mut token = 0;
    while token < words.len() * 32 {
        words[token / 32] |= 1 << (token % 32);
        token += 3;
    }
    words
};

impl Constraint for EveryThird {
    fn constrains(&self, key: u64) -> bool {
        key == RULED
    }

    fn allows(&mut self, _: u64, token: u32) -> bool {
        token.is_multiple_of(3) && (token as usize) < THIRDS.len() * 32
    }

    fn allowed(&mut self, _: u64) -> &[u32] {
        &THIRDS
    }

    fn may_end(&mut self, _: u64) -> bool {
        false
    }

    fn take(&mut self, _: u64, _: u32) -> Progress {
        Progress::Open
    }
}

/// The key of requests under rules.
const RULED: u64 = 7;

/// Submits one request and steps it to its end; returns the number of events.
fn serve(engine: &mut Engine<'_>, key: u64, prompt: &[Piece<'_>], goal: Goal<'_>) -> usize {
    engine.submit(&Request { key, prompt, goal }).expect("a good request");
    let mut seen = 0;
    while engine.live() > 0 {
        engine.step_under(&mut EveryThird, |_, event| seen += usize::from(!matches!(event, Event::Text(""))));
    }
    seen
}

#[test]
fn requests_allocate_nothing() {
    let setup = Setup { set: sets::usable()[0], workers: 2, kv: KvType::F16, ..Setup::default() };
    with_engine(&bundled(BUNDLED), setup, |engine| {
        let prompt =
            [Piece::Token(0), Piece::Text("User: How severe is this log line?\nusb 1-1: device not found")];
        let sampling =
            Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, min_p: 0.01, ..Sampling::default() };
        let sampling = Sampling { repetition_penalty: 1.1, ..sampling };
        let generate = Goal::Generate(Generate {
            sampling,
            max_tokens: Some(40),
            stops: &["never", "\n\n"],
            ignore_stop_tokens: true,
            ..Generate::default()
        });
        let choose = Goal::Choose { labels: &["critical", "error", "warning", "warm", "info"] };
        let weighed = Goal::Generate(Generate {
            max_tokens: Some(20),
            ignore_stop_tokens: true,
            logprobs: Some(20),
            ..Generate::default()
        });
        let mut events = 0;
        for (name, key, goal) in [
            ("generate", 1, generate),
            ("generate under rules", RULED, generate),
            ("log probabilities", RULED, weighed),
            ("choose", 1, choose),
            ("logits", 1, Goal::Logits),
        ] {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..3 {
                events += serve(engine, key, &prompt, goal);
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
