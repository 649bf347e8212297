//! Proves the kernels on the machine at hand: every usable set must return what the scalar definition returns, to the
//! bit, on random and on extreme inputs.
//!
//! The test suite does this at length on the machines it runs on; this is the part that takes a second and that an
//! operator can run on theirs, where a fault of the hardware or an emulator would otherwise become wrong answers.

use serde::Serialize;
use tern_boards::kernel_sets;
use tern_kernels::half::f32_to_f16;
use tern_kernels::reference::scalar;
use tern_kernels::{GroupedTile, KernelSet, SCALAR, pack};

use crate::random::Random;

/// What came of proving one set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The set.
    pub kernels: &'static str,
    /// Comparisons that were made.
    pub comparisons: usize,
    /// The first difference, in words; `None` if there was none.
    pub failure: Option<String>,
}

/// Rows and columns of the ternary products: small ones, tails of rows, and the lengths of real models.
const SHAPES: [(usize, usize); 7] =
    [(1, 128), (33, 256), (67, 640), (65, 1152), (40, 2560), (5, 6912), (2, 16_384)];

/// Tokens of one product: alone, a block of the kernels, and one more.
const TOKENS: [usize; 3] = [1, 4, 5];

/// Lengths of float vectors, with tails around sixteen lanes.
const LENGTHS: [usize; 9] = [1, 15, 16, 17, 64, 100, 129, 640, 2560];

/// What a product is filled with.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Constant(i8, i8),
    /// Signs that change together from column to column, so that all products add up.
    Alternating,
    /// Runs of eight extremes, so that partial sums swing as far as they can.
    Swinging,
    Random(u64),
}

const FILLS: [Fill; 8] = [
    Fill::Constant(-1, -128),
    Fill::Constant(-1, -127),
    Fill::Constant(1, 127),
    Fill::Constant(1, -128),
    Fill::Alternating,
    Fill::Swinging,
    Fill::Random(1),
    Fill::Random(2),
];

impl Fill {
    /// The weight and the activation of column `col`.
    fn pair(self, col: usize, random: &mut Random) -> (i8, i8) {
        match self {
            Fill::Constant(weight, activation) => (weight, activation),
            Fill::Alternating => (1 - 2 * (col % 2) as i8, [127, -128][col % 2]),
            Fill::Swinging => (1, [127, -128][col / 8 % 2]),
            Fill::Random(_) => (random.below(3) as i8 - 1, random.bits() as u8 as i8),
        }
    }
}

/// Proves every set that this machine can run, best first.
pub fn prove_all() -> Vec<Proof> {
    kernel_sets().map(prove).collect()
}

/// Proves one set.
pub fn prove(set: &KernelSet) -> Proof {
    let mut proof = Proof { kernels: set.name, comparisons: 0, failure: None };
    if let Err(failure) = products(set, &mut proof.comparisons)
        .and_then(|()| groups(set, &mut proof.comparisons))
        .and_then(|()| floats(set, &mut proof.comparisons))
    {
        proof.failure = Some(failure);
    }
    proof
}

/// Ternary products against the plain sum over unpacked numbers, which no kernel has a part in.
fn products(set: &KernelSet, comparisons: &mut usize) -> Result<(), String> {
    for (rows, cols) in SHAPES {
        for fill in FILLS {
            let mut random = Random::new(if let Fill::Random(seed) = fill { seed } else { 0 });
            let weights: Vec<i8> = (0..rows * cols).map(|i| fill.pair(i % cols, &mut random).0).collect();
            let most = TOKENS[TOKENS.len() - 1];
            let activations: Vec<i8> = (0..most * cols).map(|i| fill.pair(i % cols, &mut random).1).collect();
            let bytes = set.layout.bytes(rows, cols).ok_or("the layout has no size for a legal shape")?;
            let mut packed = vec![0; bytes];
            pack::pack(set.layout, &weights, rows, cols, &mut packed);
            let stride = set.prepared_bytes(cols);
            let mut prepared = vec![0; most * stride];
            for (q, prepared) in activations.chunks_exact(cols).zip(prepared.chunks_exact_mut(stride)) {
                set.prepare(q, prepared);
            }
            for tokens in TOKENS {
                let mut sums = vec![0i32; tokens * rows];
                let mut scratch = vec![0; set.scratch_words(rows, cols, tokens)];
                let prepared = &prepared[..tokens * stride];
                set.multiply(&packed, rows, cols, prepared, tokens, &mut scratch, &mut sums);
                for (at, found) in sums.iter().enumerate() {
                    let (token, row) = (at / rows, at % rows);
                    let weights = &weights[row * cols..(row + 1) * cols];
                    let q = &activations[token * cols..(token + 1) * cols];
                    let expected: i32 =
                        weights.iter().zip(q).map(|(w, q)| i32::from(*w) * i32::from(*q)).sum();
                    if *found != expected {
                        return Err(format!(
                            "product {rows} x {cols} of {tokens} tokens with {fill:?}: row {row} of token {token} is \
                             {found}, must be {expected}"
                        ));
                    }
                }
                *comparisons += 1;
            }
        }
    }
    Ok(())
}

/// Products in groups of columns against the scalar set for the same layout, which takes one group after another.
fn groups(set: &KernelSet, comparisons: &mut usize) -> Result<(), String> {
    const ROWS: usize = 53;
    const GROUPS: usize = 3;
    for (cols, tokens) in [(64, 1), (64, 9), (128, 1), (128, 5), (256, 2)] {
        if !set.layout.takes_groups(cols) {
            continue;
        }
        let mut random = Random::new(cols as u64);
        let bytes = set.layout.bytes(ROWS, cols).ok_or("the layout has no size for a legal shape")?;
        let mut packed = vec![0; GROUPS * bytes];
        for packed in packed.chunks_exact_mut(bytes) {
            let weights: Vec<i8> = (0..ROWS * cols).map(|_| random.below(3) as i8 - 1).collect();
            pack::pack(set.layout, &weights, ROWS, cols, packed);
        }
        let scales: Vec<u16> = (0..GROUPS * ROWS).map(|_| 0x2800 + random.below(0x1000) as u16).collect();
        let factors: Vec<f32> = (0..tokens * GROUPS).map(|_| 1.0 + random.below(1000) as f32).collect();
        let activations: Vec<i8> = (0..GROUPS * tokens * cols).map(|_| random.bits() as u8 as i8).collect();
        let run = |set: &KernelSet| {
            let stride = set.prepared_bytes(cols);
            let mut prepared = vec![0; GROUPS * tokens * stride];
            for (q, prepared) in activations.chunks_exact(cols).zip(prepared.chunks_exact_mut(stride)) {
                set.prepare(q, prepared);
            }
            let tile = GroupedTile {
                weights: &packed,
                weights_stride: bytes,
                scales: &scales,
                scales_stride: ROWS,
                rows: ROWS,
                cols,
                groups: GROUPS,
                prepared: &prepared,
                prepared_stride: tokens * stride,
                tokens,
                digits: 1,
                factors: &factors,
            };
            let mut scratch = vec![0; set.grouped_scratch_words(ROWS, cols, tokens)];
            let mut sums = vec![0; set.grouped_sums(ROWS, cols, tokens)];
            let mut values = vec![0.0f32; tokens * ROWS];
            set.multiply_groups(tile, &mut scratch, &mut sums, &mut values);
            values
        };
        for (at, (found, expected)) in run(set).iter().zip(run(scalar(set.layout))).enumerate() {
            if found.to_bits() != expected.to_bits() {
                return Err(format!(
                    "product in groups of {cols} columns of {tokens} tokens: row {} of token {} is {found:e}, must be \
                     {expected:e}",
                    at % ROWS,
                    at / ROWS
                ));
            }
        }
        *comparisons += 1;
    }
    Ok(())
}

/// Float operations against the scalar set, whose order of additions is the definition.
fn floats(set: &KernelSet, comparisons: &mut usize) -> Result<(), String> {
    for k in LENGTHS {
        for extreme in [false, true] {
            let mut random = Random::new(k as u64);
            let mut value = || {
                let value = random.signed_unit();
                if extreme { value * EXTREMES[random.below(EXTREMES.len() as u32) as usize] } else { value }
            };
            let rows = 3;
            let matrix: Vec<f32> = (0..rows * k).map(|_| value()).collect();
            let halves: Vec<u16> = matrix.iter().map(|value| f32_to_f16(*value)).collect();
            let (x, p): (Vec<f32>, Vec<f32>) =
                ((0..k).map(|_| value()).collect(), (0..rows).map(|_| value()).collect());
            let run = |set: &KernelSet| -> Vec<(&'static str, Vec<f32>)> {
                let vector = |len: usize, run: &dyn Fn(&mut [f32])| {
                    let mut out = vec![0.5; len];
                    run(&mut out);
                    out
                };
                let quantized = |scale: f32| {
                    let mut q = vec![0i8; k];
                    set.quantize(&x, scale, &mut q);
                    q.into_iter().map(f32::from).collect::<Vec<f32>>()
                };
                let mut terms = x.clone();
                let sum = set.exp_sum(&mut terms);
                terms.push(sum);
                vec![
                    ("absmax", vec![set.absmax(&x)]),
                    ("sum of squares", vec![set.sum_squares(&x)]),
                    ("quantize", quantized(127.0)),
                    ("quantize with a large scale", quantized(127.0 / 1e-5)),
                    ("exponentials", terms),
                    ("matrix product", vector(rows, &|y| set.matvec_f32(&matrix, &x, y))),
                    ("half matrix product", vector(rows, &|y| set.matvec_f16(&halves, &x, y))),
                    ("mixture", vector(k, &|y| set.mix_f32(&matrix, &p, y))),
                    ("half mixture", vector(k, &|y| set.mix_f16(&halves, &p, y))),
                ]
            };
            for ((name, found), (_, expected)) in run(set).into_iter().zip(run(&SCALAR)) {
                // Equal to the bit; of NaN, IEEE 754 leaves the bits open.
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                if let Some(at) = found.iter().zip(&expected).position(|pair| !same(pair)) {
                    let (found, expected) = (found[at], expected[at]);
                    return Err(format!(
                        "{name} of {k} values: number {at} is {found:e}, must be {expected:e}"
                    ));
                }
                *comparisons += 1;
            }
        }
    }
    Ok(())
}

/// Factors that bring values to where arithmetic has rules of its own.
const EXTREMES: [f32; 6] = [0.0, 1e-38, 1e-42, 1e30, 3e38, 1.0];

#[cfg(test)]
mod tests {
    use super::*;
    use tern_kernels::reference::{LANE_OPS, PLAIN_OPS, SCALARS};
    use tern_kernels::{Layout, TernaryOps, VectorOps};

    #[test]
    fn every_set_of_this_machine_is_proven() {
        let proofs = prove_all();
        let names: Vec<&str> = proofs.iter().map(|proof| proof.kernels).collect();
        assert!(names.ends_with(&SCALARS.map(|set| set.name)), "{names:?}");
        for proof in proofs {
            assert_eq!(proof.failure, None, "{}", proof.kernels);
            assert!(proof.comparisons > 300, "{}: {}", proof.kernels, proof.comparisons);
        }
    }

    #[test]
    fn a_set_with_a_fault_is_found_out() {
        // Saturates at 16 bits, as careless kernels do; wrong only where sums are large.
        static SATURATING: KernelSet = KernelSet::new(
            "saturating",
            Layout::T2B128,
            TernaryOps {
                multiply: |tile, scratch, sums| {
                    (PLAIN_OPS.multiply)(tile, scratch, sums);
                    sums.iter_mut().for_each(|sum| *sum = (*sum).clamp(-32_768, 32_767));
                },
                ..PLAIN_OPS
            },
            LANE_OPS,
        );
        let proof = prove(&SATURATING);
        assert!(proof.failure.as_deref().is_some_and(|text| text.contains("must be")), "{proof:?}");
        static IMPRECISE: KernelSet = KernelSet::new(
            "imprecise",
            Layout::T2B128,
            PLAIN_OPS,
            VectorOps { sum_squares: |x| x.iter().rev().map(|x| x * x).sum(), ..LANE_OPS },
        );
        let proof = prove(&IMPRECISE);
        assert!(proof.failure.as_deref().is_some_and(|text| text.contains("sum of squares")), "{proof:?}");
    }
}
