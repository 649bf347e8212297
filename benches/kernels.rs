//! Every kernel set of this machine on the shapes of a 2B model, one thread.
//!
//! Ids are `kernel-name/operation/shape`; throughput is in bytes of packed weights, so that it stands beside the
//! read bandwidth of the machine, which `bandwidth/read` measures over the same amount of memory. Decode
//! (1 token) walks through several copies of the matrix, larger together than a last-level cache, as a model with
//! many layers does; prefill (8 tokens) is bound by arithmetic and uses the same walk. Each operation is checked once
//! against the scalar oracle before it is timed. Products of matrices with a scale for each group of columns are in
//! `kernel-name/groups`, beside those of the same matrix with one scale, which is what groups cost.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tern_kernels::{GroupedTile, KernelSet, Layout, SCALAR, pack};

/// Weights that are walked through before one is met again: beyond the last-level cache of a small machine.
const COLD_BYTES: usize = 96 << 20;

/// (rows, cols) of the ternary matrices of BitNet b1.58 2B4T, but for its small ones.
const SHAPES: [(usize, usize); 3] = [(2560, 2560), (6912, 2560), (2560, 6912)];

/// A quarter of the LM head of that model: (rows, cols) in binary16.
const HEAD: (usize, usize) = (32000, 2560);

/// All usable sets, best first, and the oracle last.
fn sets() -> Vec<&'static KernelSet> {
    tern_kernels_x86::all().chain(tern_kernels_neon::all()).chain([&SCALAR]).collect()
}

/// A cheap generator of well-spread numbers (splitmix64, Steele et al. 2014).
fn spread(seed: usize) -> u64 {
    let z = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn weight(row: usize, col: usize) -> i8 {
    (spread(row << 24 | col) % 3) as i8 - 1
}

/// Tokens prepared for `set`, all with activations of full range.
fn prepared(set: &KernelSet, cols: usize, tokens: usize) -> Vec<u8> {
    let mut prepared = vec![0; tokens * set.prepared_bytes(cols)];
    for (t, p) in prepared.chunks_exact_mut(set.prepared_bytes(cols)).enumerate() {
        let q: Vec<i8> = (0..cols).map(|c| spread(t << 32 | c) as i8).collect();
        set.prepare(&q, p);
    }
    prepared
}

/// The product of one matrix with some tokens, by `set`.
fn product(set: &KernelSet, packed: &[u8], (rows, cols): (usize, usize), tokens: usize) -> Vec<i32> {
    let mut sums = vec![0; tokens * rows];
    let mut scratch = vec![0; set.scratch_words(rows, cols, tokens)];
    set.multiply(packed, rows, cols, &prepared(set, cols, tokens), tokens, &mut scratch, &mut sums);
    sums
}

fn ternary(c: &mut Criterion) {
    for (rows, cols) in SHAPES {
        let mut reference = vec![0; SCALAR.layout.bytes(rows, cols).expect("a shape of whole blocks")];
        pack::pack_with(SCALAR.layout, rows, cols, &mut reference, weight);
        for set in sets() {
            let mut packed = vec![0; set.layout.bytes(rows, cols).expect("a shape of whole blocks")];
            pack::repack(SCALAR.layout, &reference, set.layout, rows, cols, &mut packed);
            assert_eq!(
                product(set, &packed, (rows, cols), 3),
                product(&SCALAR, &reference, (rows, cols), 3),
                "{} differs from the oracle on {rows} x {cols}",
                set.name
            );
            let matrices = packed.repeat(COLD_BYTES.div_ceil(packed.len()));
            let mut group = c.benchmark_group(format!("{}/multiply", set.name));
            group.throughput(Throughput::Bytes(packed.len() as u64));
            for tokens in [1, 8] {
                let activations = prepared(set, cols, tokens);
                let mut sums = vec![0; tokens * rows];
                let mut scratch = vec![0; set.scratch_words(rows, cols, tokens)];
                let mut cold = matrices.chunks_exact(packed.len()).cycle();
                group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols}x{tokens}")), |b| {
                    b.iter(|| {
                        let weights = cold.next().expect("a cycle does not end");
                        set.multiply(weights, rows, cols, &activations, tokens, &mut scratch, &mut sums);
                        black_box(sums.last());
                    });
                });
            }
            group.finish();
        }
    }
}

/// A matrix that lies as one for each `group` of its columns, with their scales, as `docs/layouts.md` has it.
struct Grouped {
    codes: Vec<u8>,
    scales: Vec<u16>,
    group: usize,
}

impl Grouped {
    fn new(set: &KernelSet, (rows, cols): (usize, usize), group: usize) -> Self {
        let each = set.layout.bytes(rows, group).expect("a group that the layout takes");
        let mut codes = vec![0; cols / group * each];
        for (at, codes) in codes.chunks_exact_mut(each).enumerate() {
            pack::pack_with(set.layout, rows, group, codes, |row, col| weight(row, at * group + col));
        }
        // Binary16 between a half and one.
        let scales = (0..cols / group * rows).map(|i| spread(i) as u16 & 0x3ff | 0x3800).collect();
        Grouped { codes, scales, group }
    }

    /// The product with one prepared token, `[groups]` of them.
    fn multiply(&self, set: &KernelSet, codes: &[u8], prepared: &[u8], room: &mut Room, values: &mut [f32]) {
        let (rows, groups) = (values.len(), self.scales.len() / values.len());
        let tile = GroupedTile {
            weights: codes,
            weights_stride: codes.len() / groups,
            scales: &self.scales,
            scales_stride: rows,
            rows,
            cols: self.group,
            groups,
            prepared,
            prepared_stride: prepared.len() / groups,
            tokens: 1,
            digits: 1,
            factors: &room.factors[..groups],
        };
        set.multiply_groups(tile, &mut room.scratch, &mut room.sums, values);
    }
}

struct Room {
    factors: Vec<f32>,
    sums: Vec<i32>,
    scratch: Vec<u64>,
}

/// What a scale for each 64 or 128 columns costs beside one for the whole matrix, with one token.
fn groups(c: &mut Criterion) {
    let (rows, cols) = SHAPES[1];
    let takers = |group: usize| {
        let usual = [Layout::T5R, Layout::T2R4];
        sets().into_iter().filter(move |set| usual.contains(&set.layout) && set.layout.takes_groups(group))
    };
    for group in [64, 128, cols] {
        let mut expected: Option<Vec<f32>> = None;
        for set in takers(group) {
            let matrix = Grouped::new(set, (rows, cols), group);
            let activations: Vec<u8> = (0..cols / group)
                .flat_map(|at| {
                    let q: Vec<i8> = (0..group).map(|col| spread(at * group + col) as i8).collect();
                    let mut place = vec![0; set.prepared_bytes(group)];
                    set.prepare(&q, &mut place);
                    place
                })
                .collect();
            let words = set.grouped_scratch_words(rows, group, 1);
            let (factors, sums) = (vec![0.5; cols / group], vec![0; set.grouped_sums(rows, group, 1)]);
            let mut room = Room { factors, sums, scratch: vec![0; words] };
            let mut values = vec![0.0; rows];
            matrix.multiply(set, &matrix.codes, &activations, &mut room, &mut values);
            let expected = expected.get_or_insert_with(|| values.clone());
            assert!(*expected == values, "{} differs from another set in groups of {group}", set.name);
            let cold = matrix.codes.repeat(COLD_BYTES.div_ceil(matrix.codes.len()));
            let mut cold = cold.chunks_exact(matrix.codes.len()).cycle();
            let mut timed = c.benchmark_group(format!("{}/groups", set.name));
            timed.throughput(Throughput::Bytes(matrix.codes.len() as u64));
            timed.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols} of {group}")), |b| {
                b.iter(|| {
                    let codes = cold.next().expect("a cycle does not end");
                    matrix.multiply(set, codes, &activations, &mut room, &mut values);
                    black_box(values.last());
                });
            });
            timed.finish();
        }
    }
}

fn head(c: &mut Criterion) {
    let (rows, cols) = HEAD;
    // Binary16 between 0.5 and 2 of either sign.
    let matrix: Vec<u16> = (0..rows * cols).map(|i| spread(i) as u16 & 0x87ff | 0x3800).collect();
    let x: Vec<f32> = (0..cols).map(|i| spread(i) as i32 as f32 / 2.0f32.powi(31)).collect();
    let mut expected = vec![0.0; rows];
    SCALAR.matvec_f16(&matrix, &x, &mut expected);
    for set in sets() {
        let mut logits = vec![0.0; rows];
        set.matvec_f16(&matrix, &x, &mut logits);
        assert_eq!(logits, expected, "{} differs from the oracle on the head", set.name);
        let mut group = c.benchmark_group(format!("{}/matvec_f16", set.name));
        group.throughput(Throughput::Bytes(2 * matrix.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols}")), |b| {
            b.iter(|| {
                set.matvec_f16(&matrix, &x, &mut logits);
                black_box(logits.last());
            });
        });
        group.finish();
    }
}

/// One attention head over 1,024 cached positions, and what surrounds a layer.
fn floats(c: &mut Criterion) {
    let (positions, width) = (1024, 128);
    let keys: Vec<u16> = (0..positions * width).map(|i| spread(i) as u16 & 0x87ff | 0x3800).collect();
    let scores: Vec<f32> = (0..positions).map(|i| spread(i) as i32 as f32 / 2.0f32.powi(28)).collect();
    let x: Vec<f32> = (0..6912).map(|i| spread(i) as i32 as f32 / 2.0f32.powi(31)).collect();
    for set in sets() {
        let mut group = c.benchmark_group(format!("{}/floats", set.name));
        let mut room = scores.clone();
        group.throughput(Throughput::Bytes(2 * keys.len() as u64));
        group.bench_function("matvec_f16 1024x128", |b| {
            b.iter(|| set.matvec_f16(&keys, &x[..width], black_box(&mut room)));
        });
        let mut mixture = vec![0.0; width];
        group.bench_function("mix_f16 1024x128", |b| {
            b.iter(|| set.mix_f16(&keys, &scores, black_box(&mut mixture)));
        });
        group.throughput(Throughput::Elements(positions as u64));
        group.bench_function("exp_sum 1024", |b| {
            b.iter(|| {
                room.copy_from_slice(&scores);
                set.exp_sum(&mut room)
            });
        });
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function("absmax 6912", |b| b.iter(|| set.absmax(black_box(&x))));
        group.bench_function("sum_squares 6912", |b| b.iter(|| set.sum_squares(black_box(&x))));
        let mut q = vec![0; x.len()];
        group.bench_function("quantize 6912", |b| b.iter(|| set.quantize(&x, 127.0, black_box(&mut q))));
        group.finish();
    }
}

/// What one thread reads from memory at best, for comparison: sums of words over [`COLD_BYTES`].
fn bandwidth(c: &mut Criterion) {
    let words: Vec<u64> = (0..COLD_BYTES / 8).map(spread).collect();
    let mut group = c.benchmark_group("bandwidth");
    group.throughput(Throughput::Bytes(COLD_BYTES as u64));
    group.bench_function("read", |b| {
        b.iter(|| black_box(&words).iter().fold(0u64, |sum, w| sum.wrapping_add(*w)));
    });
    group.finish();
}

/// What one thread multiplies at best, for comparison: `vpdpbusd` on registers alone, in products of two bytes.
#[cfg(target_arch = "x86_64")]
fn peak(c: &mut Criterion) {
    use std::arch::x86_64::*;

    /// As many sums as hide the latency of the instruction, with room for what is multiplied.
    const SUMS: usize = 24;
    const TURNS: usize = 10_000;

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn wide(code: i8, q: i8) -> i32 {
        let (codes, q) = (_mm512_set1_epi8(code), _mm512_set1_epi8(q));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, codes, q);
            }
        }
        let mut total = sums[0];
        for sum in &sums[1..] {
            total = _mm512_add_epi32(total, *sum);
        }
        _mm512_reduce_add_epi32(total)
    }

    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")) {
        return;
    }
    let mut group = c.benchmark_group("peak");
    group.throughput(Throughput::Elements((64 * SUMS * TURNS) as u64));
    // SAFETY: the features were asked for above.
    group.bench_function("dpbusd", |b| b.iter(|| unsafe { wide(black_box(1), black_box(3)) }));
    group.finish();
}

#[cfg(not(target_arch = "x86_64"))]
fn peak(_: &mut Criterion) {}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2))
        .warm_up_time(std::time::Duration::from_millis(500));
    targets = bandwidth, peak, ternary, groups, head, floats
}
criterion_main!(benches);
