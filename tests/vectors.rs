//! Attention over a page and the elementwise operations of every kernel set that this machine can run against the
//! scalar set, whose results are the definition (`tern_kernels::attention`, `tern_kernels::elementwise`), bit for bit.

use tern_kernels::attention::CELLS;
use tern_kernels::half::{f16_to_f32, f32_to_f16};
use tern_kernels::{Cached, Gate, KernelSet, SCALAR};
use tern_tests::fill::Random;
use tern_tests::sets;

/// Runs an operation of `set` and of the scalar set on equal copies of `y` and compares all of it, the guard included.
fn both(set: &KernelSet, what: (&str, u64, (usize, usize)), y: &[f32], run: &dyn Fn(&KernelSet, &mut [f32])) {
    let (mut found, mut expected) = (y.to_vec(), y.to_vec());
    run(set, &mut found);
    run(&SCALAR, &mut expected);
    // Equal to the bit; any NaN equals any other, since IEEE 754 leaves payloads open.
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    if let Some(at) = found.iter().zip(&expected).position(|(a, b)| !same(*a, *b)) {
        let (operation, seed, shape) = what;
        panic!(
            "{} {operation}, seed {seed}, shape {shape:?}: index {at} is {:e}, expected {:e}",
            set.name, found[at], expected[at]
        );
    }
}

#[test]
fn attention_over_a_page_keeps_its_order() {
    const GUARD: usize = 32;
    // Dimensions around every block of columns, groups around every group of queries.
    for dim in [1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 256] {
        for g in [1, 2, 3, 4, 5, 6, 7, 8, 9] {
            for seed in [5, 6] {
                let mut random = Random::new(seed << 40 | (g << 20 | dim) as u64);
                let mut value = || if seed == 6 { random.wild() } else { random.float() };
                let page: Vec<f32> = (0..dim * CELLS).map(|_| value()).collect();
                let halves: Vec<u16> = page.iter().map(|v| f32_to_f16(*v)).collect();
                let bytes: Vec<i8> = page.iter().map(|v| (*v * 37.0) as i8).collect();
                let queries: Vec<f32> = (0..g * dim).map(|_| value()).collect();
                let weights: Vec<f32> = (0..g * CELLS).map(|_| value()).collect();
                let carry: Vec<f32> = (0..g).map(|_| value()).collect();
                let fresh =
                    |len: usize| queries.iter().copied().cycle().take(len + GUARD).collect::<Vec<_>>();
                for set in sets::usable() {
                    let kinds = [
                        ("f32", Cached::F32(&page)),
                        ("f16", Cached::F16(&halves)),
                        ("i8", Cached::I8(&bytes)),
                    ];
                    for (name, keys) in kinds {
                        let what = (name, seed, (g, dim));
                        both(set, what, &fresh(g * CELLS), &|set, y| {
                            set.scores(keys, &queries, &mut y[..g * CELLS]);
                        });
                    }
                    for (cells, first) in [(0, 0), (1, 0), (2, 3), (5, 27), (CELLS, 0)] {
                        let kinds = [
                            ("mix of f32", Cached::F32(&page[..cells * dim])),
                            ("mix of f16", Cached::F16(&halves[..cells * dim])),
                            ("mix of i8", Cached::I8(&bytes[..cells * dim])),
                        ];
                        for (name, values) in kinds {
                            both(set, (name, seed, (cells, dim)), &fresh(g * dim), &|set, y| {
                                set.mix(values, &weights[first..], &carry, &mut y[..g * dim]);
                            });
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_running_softmax_is_the_same_in_every_set() {
    for g in [1, 2, 3, 4, 5, 8] {
        for seed in 0..40 {
            let mut random = Random::new(seed << 20 | g as u64);
            let cells = 1 + seed as usize % CELLS;
            let mut value = || if seed % 8 == 7 { random.wild() } else { 20.0 * random.float() };
            let mut state = vec![f32::NEG_INFINITY; g];
            state.resize(3 * g, 0.0);
            if seed % 3 > 0 {
                state.iter_mut().for_each(|v| *v = value());
            }
            let mut scores: Vec<f32> = (0..g * CELLS).map(|_| value()).collect();
            scores.chunks_exact_mut(CELLS).for_each(|page| page[cells..].fill(f32::NEG_INFINITY));
            scores.extend(&state);
            for set in sets::usable() {
                both(set, ("soften", seed, (g, cells)), &scores, &|set, y| {
                    let (scores, state) = y.split_at_mut(g * CELLS);
                    let (max, rest) = state.split_at_mut(g);
                    let (sum, carry) = rest.split_at_mut(g);
                    set.soften(scores, max, sum, carry);
                });
            }
        }
    }
}

#[test]
fn elementwise_operations_are_equal() {
    for n in (0..=100).chain([127, 128, 129, 255, 256, 640, 1000, 2560]) {
        for seed in [7, 8] {
            let mut random = Random::new(seed << 40 | n as u64);
            let mut value = || if seed == 8 { random.wild() } else { random.float() };
            let x: Vec<f32> = (0..n).map(|_| value()).collect();
            let z: Vec<f32> = (0..n).map(|_| value()).collect();
            let sums: Vec<i32> = x.iter().map(|v| (*v * 1e5) as i32).collect();
            let ups: Vec<i32> = z.iter().map(|v| (*v * 1e5) as i32).collect();
            let factors = [value(), value()];
            let halves: Vec<u16> = x.iter().map(|v| f32_to_f16(*v)).collect();
            let y: Vec<f32> = (0..n + 32).map(|_| value()).collect();
            for set in sets::usable() {
                let run = |name, run: &dyn Fn(&KernelSet, &mut [f32])| {
                    both(set, (name, seed, (1, n)), &y, &|set, y| run(set, &mut y[..n]));
                };
                run("scale_sums", &|set, y| set.scale_sums(&sums, factors[0], y));
                run("add_sums", &|set, y| set.add_sums(&sums, factors[0], y));
                run("add_groups", &|set, y| set.add_groups(&sums, &halves, factors[0], y));
                run("relu2_values", &|set, y| set.gate_values(Gate::Relu2, &x, &z, y));
                run("silu_values", &|set, y| set.gate_values(Gate::Silu, &x, &z, y));
                run("relu2", &|set, y| set.gate(Gate::Relu2, &sums, &ups, factors, y));
                run("silu", &|set, y| set.gate(Gate::Silu, &sums, &ups, factors, y));
                run("norm", &|set, y| set.norm(&x, factors[1], &z, y));
                run("blend", &|set, y| set.blend(y, factors[0], &z, factors[1]));
                run("narrow", &|set, y| {
                    let mut halves = vec![0; n];
                    set.narrow(&x, &mut halves);
                    y.iter_mut().zip(halves).for_each(|(y, half)| *y = f16_to_f32(half));
                });
                if n % 2 == 0 {
                    run("rotate", &|set, y| set.rotate(&x, &z, factors[0], y));
                }
            }
        }
    }
}
