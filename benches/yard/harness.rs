//! One product of one kernel set between two marks, for the yardstick (see `README.md` beside this file).
//!
//! ```text
//! yard list                                     the sets that this CPU can run, best first, the oracle last
//! yard run SET ROWS COLS TOKENS DATA PHASE      one product: PHASE (multiply or prepare) runs between the marks
//! ```
//!
//! Every sum is held against its definition, before the marks and after them, so that what was counted was right: the
//! program prints `EXACT`, or `WRONG` with the first wrong place and fails. It goes through [`KernelSet`] alone, so a
//! new set is measured as soon as it stands in its crate's `all()`.

#![deny(unsafe_code)]

use std::fmt;
use std::hint::black_box;
use std::ops::Range;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::LazyLock;

use tern_kernels::{KernelSet, SCALAR, pack};

/// Among how many workers the product is cut: a small board's four cores, or what `YARD_WORKERS` says.
static WORKERS: LazyLock<usize> =
    LazyLock::new(|| std::env::var("YARD_WORKERS").ok().and_then(|text| text.parse().ok()).unwrap_or(4));

/// Counting starts when this returns. The marks differ, so that no compiler folds them into one function, and do
/// something that it cannot see through, so that it leaves out none.
#[allow(unsafe_code, reason = "the tracer finds the mark by its name; nothing else has that name")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn yard_begin() {
    black_box(1u8);
}

/// Counting stops when this is entered.
#[allow(unsafe_code, reason = "the tracer finds the mark by its name; nothing else has that name")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn yard_end() {
    black_box(2u8);
}

/// What runs between the marks, in a function with a name: callgrind counts from its entry to its return.
#[allow(unsafe_code, reason = "callgrind finds the function by its name; nothing else has that name")]
#[unsafe(no_mangle)]
#[inline(never)]
fn yard_phase(product: &mut Product, phase: Phase) {
    yard_begin();
    match phase {
        Phase::Multiply => product.multiply(),
        Phase::Prepare => product.prepare(),
    }
    yard_end();
}

/// What is counted.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Multiply,
    Prepare,
}

impl FromStr for Phase {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "multiply" => Ok(Phase::Multiply),
            "prepare" => Ok(Phase::Prepare),
            _ => Err(format!("phase {text:?}; give multiply or prepare")),
        }
    }
}

/// Weights and activations: random ones, or those that drive accumulators to an end.
#[derive(Clone, Copy)]
enum Data {
    /// All weights equally likely, activations of the whole range of `i8`.
    Random,
    /// w = +1, a = 127: the largest sum of positive products.
    Plus,
    /// w = -1, a = -128: the largest sum of all.
    Minus,
    /// w = +1, a = -128: the smallest sum of all.
    Low,
    /// Runs of seven of w = +1, a = 127 and of w = -1, a = -128: extremes that meet every lane in turn.
    Alternating,
}

impl FromStr for Data {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Data::Random),
            "plus" => Ok(Data::Plus),
            "minus" => Ok(Data::Minus),
            "low" => Ok(Data::Low),
            "alternating" => Ok(Data::Alternating),
            _ => Err(format!("data {text:?}; give random, plus, minus, low or alternating")),
        }
    }
}

impl Data {
    fn weight(self, row: usize, col: usize) -> i8 {
        match self {
            Data::Random => (spread(row << 24 | col) % 3) as i8 - 1,
            Data::Plus | Data::Low => 1,
            Data::Minus => -1,
            Data::Alternating => 1 - 2 * (col / 7 % 2) as i8,
        }
    }

    fn activation(self, token: usize, col: usize) -> i8 {
        match self {
            Data::Random => spread(!(token << 24 | col)) as i8,
            Data::Plus => 127,
            Data::Minus | Data::Low => -128,
            Data::Alternating => [127, -128][col / 7 % 2],
        }
    }
}

/// A cheap generator of well-spread numbers (splitmix64, Steele et al. 2014).
fn spread(seed: usize) -> u64 {
    let z = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Room of a given length that starts at a cache line, so that counts do not hang on where the heap happens to lie.
struct Aligned<T> {
    room: Vec<T>,
    first: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn new(len: usize) -> Self {
        let room = vec![T::default(); len + 64 / size_of::<T>()];
        let first = room.as_ptr().align_offset(64);
        Aligned { room, first }
    }

    fn slice(&self) -> &[T] {
        &self.room[self.first..][..self.room.len() - 64 / size_of::<T>()]
    }

    fn slice_mut(&mut self) -> &mut [T] {
        let len = self.room.len() - 64 / size_of::<T>();
        &mut self.room[self.first..][..len]
    }
}

/// A matrix, some tokens, and room for what becomes of them.
struct Product {
    set: &'static KernelSet,
    rows: usize,
    cols: usize,
    tokens: usize,
    /// Plain weights `[rows, cols]` and activations `[tokens, cols]`, for the definition.
    plain: (Vec<i8>, Vec<i8>),
    packed: Aligned<u8>,
    prepared: Aligned<u8>,
    scratch: Aligned<u64>,
    sums: Aligned<i32>,
}

impl Product {
    fn new(set: &'static KernelSet, [rows, cols, tokens]: [usize; 3], data: Data) -> Result<Self, String> {
        let layout = set.layout;
        let bytes = layout.bytes(rows, cols).ok_or_else(|| {
            format!("{cols} columns; layout {} takes multiples of {}", layout.name(), layout.col_multiple())
        })?;
        let weights = (0..rows * cols).map(|i| data.weight(i / cols, i % cols)).collect::<Vec<_>>();
        let activations = (0..tokens * cols).map(|i| data.activation(i / cols, i % cols)).collect();
        let mut packed = Aligned::new(bytes);
        pack::pack(layout, &weights, rows, cols, packed.slice_mut());
        let prepared = Aligned::new(tokens * set.prepared_bytes(cols));
        let grain = set.grain(rows, cols, tokens, *WORKERS);
        let scratch = Aligned::new(set.scratch_words(grain.rows.min(rows), cols, grain.tokens.min(tokens)));
        let (plain, sums) = ((weights, activations), Aligned::new(tokens * rows));
        Ok(Product { set, rows, cols, tokens, plain, packed, prepared, scratch, sums })
    }

    fn prepare(&mut self) {
        let one = self.set.prepared_bytes(self.cols);
        let prepared = self.prepared.slice_mut().chunks_exact_mut(one);
        for (q, prepared) in self.plain.1.chunks_exact(self.cols).zip(prepared) {
            self.set.prepare(q, prepared);
        }
    }

    /// The product, cut as an engine with [`WORKERS`] workers cuts it: a call for each grain.
    fn multiply(&mut self) {
        let Product { set, rows, cols, tokens, .. } = *self;
        let (layout, token_bytes) = (set.layout, set.prepared_bytes(cols));
        let (packed, prepared) = (self.packed.slice(), self.prepared.slice());
        let mut rest = self.sums.slice_mut();
        for (token_part, row_part) in tiles(set, [rows, cols, tokens]) {
            let panels = row_part.start / layout.panel_rows()..row_part.end.div_ceil(layout.panel_rows());
            let weights =
                &packed[panels.start * layout.panel_bytes(cols)..panels.end * layout.panel_bytes(cols)];
            let prepared = &prepared[token_part.start * token_bytes..token_part.end * token_bytes];
            let (sums, after) = rest.split_at_mut(token_part.len() * row_part.len());
            let scratch = self.scratch.slice_mut();
            set.multiply(weights, row_part.len(), cols, prepared, token_part.len(), scratch, sums);
            rest = after;
        }
    }

    /// Every sum by its definition, in the order of `sums`: tile after tile, in each token after token.
    fn defined(&self) -> Vec<i32> {
        let (weights, activations) = (&self.plain.0, &self.plain.1);
        let row = |r: usize| &weights[r * self.cols..][..self.cols];
        let token = |t: usize| &activations[t * self.cols..][..self.cols];
        let sum = |r, t| row(r).iter().zip(token(t)).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum();
        let tile = |(tokens, rows): (Range<usize>, Range<usize>)| {
            tokens.flat_map(move |t| rows.clone().map(move |r| sum(r, t))).collect::<Vec<i32>>()
        };
        tiles(self.set, [self.rows, self.cols, self.tokens]).flat_map(tile).collect()
    }

    /// Nothing if every sum is what `expected` says, else the first that is not. Sums are then overwritten, so that
    /// the next product cannot pass by having done nothing.
    fn check(&mut self, expected: &[i32]) -> Result<(), String> {
        let wrong = self.sums.slice().iter().zip(expected).filter(|(sum, right)| sum != right).count();
        if let Some(at) = self.sums.slice().iter().zip(expected).position(|(sum, right)| sum != right) {
            let (row, token) = (at % self.rows, at / self.rows);
            let (found, right) = (self.sums.slice()[at], expected[at]);
            return Err(format!(
                "WRONG {wrong} sums, first row {row} of token {token}: {found}, not {right}"
            ));
        }
        self.sums.slice_mut().fill(i32::MIN);
        Ok(())
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Product { set, rows, cols, tokens, .. } = self;
        let (name, layout) = (set.name, set.layout.name());
        let (weights, prepared) = (self.packed.slice().len(), self.prepared.slice().len());
        write!(f, "set={name} layout={layout} rows={rows} cols={cols} tokens={tokens} ")?;
        write!(f, "weight_bytes={weights} prepared_bytes={prepared}")
    }
}

/// The tiles (tokens, rows) of a product, in the order in which they are computed.
fn tiles(
    set: &KernelSet,
    [rows, cols, tokens]: [usize; 3],
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let grain = set.grain(rows, cols, tokens, *WORKERS);
    (0..tokens).step_by(grain.tokens).flat_map(move |t| {
        let part = move |r: usize| (t..tokens.min(t + grain.tokens), r..rows.min(r + grain.rows));
        (0..rows).step_by(grain.rows).map(part)
    })
}

/// The sets of this machine, best first, the oracle last.
fn sets() -> impl Iterator<Item = &'static KernelSet> {
    tern_kernels_x86::all().chain(tern_kernels_neon::all()).chain([&SCALAR])
}

fn number(name: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=1 << 20).contains(&n) => Ok(n),
        _ => Err(format!("{name} {text:?}; give a number from 1 to {}", 1 << 20)),
    }
}

fn run(args: &[&str]) -> Result<String, String> {
    match args {
        ["list"] => {
            Ok(sets().map(|set| format!("{} {}", set.name, set.layout.name())).collect::<Vec<_>>().join("\n"))
        }
        ["run", name, rows, cols, tokens, data, phase] => {
            let set = sets().find(|set| set.name == *name).ok_or_else(|| {
                let names = sets().map(|set| set.name).collect::<Vec<_>>().join(", ");
                format!("no set {name:?} on this CPU; there are {names}")
            })?;
            let shape = [number("rows", rows)?, number("columns", cols)?, number("tokens", tokens)?];
            let phase = phase.parse()?;
            let mut product = Product::new(set, shape, data.parse()?)?;
            let expected = product.defined();
            product.prepare();
            product.multiply();
            product.check(&expected)?;
            if phase == Phase::Prepare {
                product.prepared.slice_mut().fill(0);
            }
            yard_phase(black_box(&mut product), phase);
            if phase == Phase::Prepare {
                product.multiply();
            }
            product.check(&expected)?;
            Ok(format!("{product} EXACT"))
        }
        _ => Err("give: list, or: run SET ROWS COLS TOKENS DATA PHASE".into()),
    }
}

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}
