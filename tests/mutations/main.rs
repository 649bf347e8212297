//! A hundred thousand damaged inputs, the same every time, to everything that reads bytes from outside: no panic, no hang,
//! and no memory taken for a length that the bytes only claim. What is done with them is what the fuzz targets do
//! (`fuzz/src/targets.rs`); they go on from here for as long as somebody lets them.

mod guard;
mod kept;
mod mutate;
mod seeds;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mutate::{Seed, mutated};
use tern_tests::fill::Random;

/// Something that reads bytes.
struct Reader {
    /// That of its fuzz target.
    name: &'static str,
    read: fn(&[u8]) -> bool,
    seeds: Vec<Seed>,
    /// What is made of an input before it is read.
    wrap: fn(&mut Random, Vec<u8>) -> Vec<u8>,
    inputs: usize,
    /// The largest block of memory it may ask for.
    most_bytes: usize,
}

/// Inputs of all readers together are at least so many.
const LEAST_INPUTS: usize = 100_000;

fn readers() -> [Reader; 9] {
    let as_it_is = |_: &mut Random, bytes| bytes;
    // Most frames get a checksum that is right, or nothing behind it would ever be read.
    let framed = |random: &mut Random, bytes: Vec<u8>| {
        if random.below(8) == 0 { bytes } else { seeds::framed(&bytes) }
    };
    let reader = |name, read, seeds, inputs, most_bytes| Reader {
        name,
        read,
        seeds,
        wrap: as_it_is,
        inputs,
        most_bytes,
    };
    [
        // The arena of what is free on that machine, see `targets`.
        reader("model", targets::model, seeds::models(), 40_000, 9 << 20),
        // Tables of a vocabulary are a few words for each token that is in the file.
        reader("vocabulary", targets::vocabulary, seeds::vocabularies(), 20_000, 2 << 20),
        reader("line", targets::line, seeds::lines(), 30_000, 1 << 16),
        Reader { wrap: framed, ..reader("frame", targets::framed, seeds::frames(), 30_000, 1 << 16) },
        reader("checkpoint", targets::checkpoint, seeds::checkpoints(), 600, 8 << 20),
        reader("template", targets::template, seeds::templates(), 8_000, 4 << 20),
        reader("task", targets::task, seeds::tasks(), 12_000, 4 << 20),
        reader("settings", targets::settings, seeds::settings(), 8_000, 1 << 20),
        reader("tiles", targets::tiles, seeds::tiles(), 4_000, 1 << 16),
    ]
}

impl Reader {
    /// Input `n`: its own seed, so that it can be had again alone.
    fn input(&self, n: usize) -> Vec<u8> {
        let mut random = Random::new((n as u64) << 8 | self.name.len() as u64);
        let bytes = mutated(&mut random, &self.seeds);
        (self.wrap)(&mut random, bytes)
    }

    /// Writes the seeds where the fuzz target of this name finds them.
    fn keep_corpus(&self, folder: &Path) -> std::io::Result<()> {
        let folder = folder.join(self.name);
        std::fs::create_dir_all(&folder)?;
        for (n, seed) in self.seeds.iter().enumerate() {
            let bytes = (self.wrap)(&mut Random::new(1), seed.bytes.clone());
            std::fs::write(folder.join(format!("seed-{n:02}")), bytes)?;
        }
        for (n, input) in kept::inputs(self.name).into_iter().enumerate() {
            std::fs::write(folder.join(format!("kept-{n:04}")), input)?;
        }
        Ok(())
    }

    /// Reads `input`, called `name` in messages, and says whether it was accepted.
    fn check(&self, name: &str, input: &[u8]) -> bool {
        let read = || guard::largest_block(|| (self.read)(input));
        let (largest, is_accepted) = catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| panic!("{name} of {}, {} bytes", self.name, input.len()));
        assert!(
            largest <= self.most_bytes + 8 * input.len(),
            "{name} of {}: a block of {largest} bytes for {} bytes of input",
            self.name,
            input.len()
        );
        is_accepted
    }

    /// Reads every input and says how many were accepted.
    fn run(&self) -> usize {
        for (n, seed) in self.seeds.iter().enumerate() {
            let bytes = (self.wrap)(&mut Random::new(1), seed.bytes.clone());
            (self.read)(&bytes);
            assert!(!seed.bytes.is_empty(), "{} seed {n}", self.name);
        }
        for (n, input) in kept::inputs(self.name).into_iter().enumerate() {
            self.check(&format!("kept input {n}"), input);
        }
        let (next, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= self.inputs {
                    return;
                }
                let input = self.input(n);
                let is_accepted = self.check(&format!("input {n}"), &input);
                accepted.fetch_add(usize::from(is_accepted), Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        accepted.into_inner()
    }
}

#[test]
fn damaged_inputs_are_refused_or_read_and_nothing_else() {
    if let Some(found) = std::env::var_os("TERN_FUZZ_FOUND") {
        kept::keep(found.as_ref()).expect("a folder for each target");
    }
    let readers = readers();
    assert!(readers.iter().map(|reader| reader.inputs).sum::<usize>() >= LEAST_INPUTS);
    for reader in &readers {
        if let Some(folder) = std::env::var_os("TERN_FUZZ_CORPUS") {
            reader.keep_corpus(folder.as_ref()).expect("the corpus can be written");
        }
        let began = std::time::Instant::now();
        let accepted = reader.run();
        let (name, inputs) = (reader.name, reader.inputs);
        println!("{name}: {inputs} inputs, {accepted} accepted, {:.1} s", began.elapsed().as_secs_f64());
        // Damage that is always refused, or never, shows nothing.
        assert!(accepted > inputs / 100 && accepted < inputs, "{name}: {accepted} of {inputs} accepted");
    }
}
