//! Every kernel set that this machine can run against the definition of every operation, bit for bit.
//!
//! Integer sums are compared with the plain triple loop over unpacked numbers, float results with the scalar set, whose
//! order of additions is the definition (`tern_kernels::lanes`). `TERN_EXPECT_SETS`, a list of names separated by
//! commas, makes the suite fail where one of them cannot run, so that an emulated CPU cannot pass by skipping.

use std::io::Write;
use tern_kernels::blocks::Blocks;
use tern_kernels::coding::TernaryBlock;
use tern_kernels::half::f32_to_f16;
use tern_kernels::layout::MAX_COLS;
use tern_kernels::planes::nibble_at;
use tern_kernels::{KernelSet, Layout, Nibbles, SCALAR, five};
use tern_tests::fill::{Fill, Random};
use tern_tests::grouped::{GroupedProduct, Shape};
use tern_tests::product::Product;
use tern_tests::sets;

/// Token counts around every block that a kernel may form.
const TOKENS: [usize; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17];

/// Sets whose layout takes this many columns.
fn sets_for(cols: usize) -> Vec<&'static KernelSet> {
    sets::usable().into_iter().filter(|set| cols.is_multiple_of(set.layout.col_multiple())).collect()
}

#[test]
fn the_expected_sets_run_here() {
    let report = sets::report().iter().fold(String::new(), |text, line| text + "kernel set " + line + "\n");
    // Straight to the stream: the harness hides what `println` writes in a test that passes.
    std::io::stderr().write_all(report.as_bytes()).expect("standard error takes a few lines");
    let expected = std::env::var("TERN_EXPECT_SETS").unwrap_or_default();
    let missing = sets::missing(&expected);
    assert!(missing.is_empty(), "TERN_EXPECT_SETS names sets that cannot run here: {missing:?}\n{report}");
}

#[test]
fn every_number_of_rows_and_tokens() {
    for rows in 0..=70 {
        let product = Product::new(Fill::Random { seed: 100 + rows as u64 }, rows, 256, 17);
        for set in sets_for(256) {
            TOKENS.iter().for_each(|tokens| product.check(set, *tokens, 0));
        }
    }
}

#[test]
fn every_number_of_columns() {
    for blocks in [0, 1, 2, 3, 4, 5, 7, 8, 13, 15, 16, 20, 54] {
        for rows in [1, 2, 3, 4, 5, 33, 64, 65] {
            let product = Product::new(Fill::Prime, rows, 128 * blocks, 5);
            for set in sets_for(128 * blocks) {
                [1, 4, 5].iter().for_each(|tokens| product.check(set, *tokens, 0));
            }
        }
    }
}

#[test]
fn columns_that_are_no_multiple_of_a_block() {
    // Ends of a step of 16, of a strip of 240 and of a chunk of 960 columns in the lookup kernel, and around them.
    let ends = [4, 8, 12, 16, 20, 28, 60, 64, 68, 236, 240, 244, 252, 480, 956, 960, 964, 1200, 1916, 1924];
    for cols in ends {
        for rows in [1, 32, 33, 64, 65] {
            for fill in [Fill::Random { seed: 7 }, Fill::Swinging] {
                let product = Product::new(fill, rows, cols, 3);
                sets_for(cols).into_iter().for_each(|set| product.check(set, 3, 0));
            }
        }
    }
}

#[test]
fn many_tokens_share_tables_and_strips() {
    // Around groups of 8 tokens and passes of 64; rows from where tables are taken; columns around their blocks of 80.
    for (rows, cols) in [(64, 80), (70, 16), (130, 96), (149, 256), (81, 1280)] {
        for fill in [Fill::Random { seed: 11 }, Fill::Swinging] {
            let product = Product::new(fill, rows, cols, 73);
            for set in sets_for(cols) {
                [8, 15, 17, 33, 73].iter().for_each(|tokens| product.check(set, *tokens, 3));
            }
        }
    }
}

#[test]
fn extreme_numbers_do_not_overflow() {
    for fill in Fill::ALL {
        let product = Product::new(fill, 96, 2560, 16);
        sets_for(2560).into_iter().for_each(|set| product.check(set, 16, 0));
        for (rows, cols) in [(1, 128), (5, 2560), (33, 2560), (65, 1152), (4, 6912), (2, 16384)] {
            let product = Product::new(fill, rows, cols, 5);
            for set in sets_for(cols) {
                [1, 5].iter().for_each(|tokens| product.check(set, *tokens, 0));
            }
        }
    }
}

#[test]
fn the_longest_row_does_not_overflow() {
    // Constant weights are a constant byte in each layout, which saves packing 2^27 of them.
    for (weight, activation) in [(-1i8, -128i8), (-1, 127), (1, -128), (1, 127)] {
        for set in sets::usable() {
            let byte = match set.layout {
                Layout::T2B128 => (weight + 1) as u8 * 0x55,
                Layout::Tl1P32 => (weight + 1) as u8 * 0x44,
                Layout::T2R4 if weight > 0 => 0b01_10_10_10,
                Layout::T2R4 => 0b11_00_00_00,
                Layout::T5R | Layout::T5C => five::encode([weight; 5]),
                other => panic!("say what constant weights look like in {}", other.name()),
            };
            let weights = vec![byte; set.layout.bytes(1, MAX_COLS).expect("the longest row is legal")];
            let mut prepared = vec![0; set.prepared_bytes(MAX_COLS)];
            set.prepare(&vec![activation; MAX_COLS], &mut prepared);
            let mut sums = [0];
            let mut scratch = vec![0; set.scratch_words(1, MAX_COLS, 1)];
            set.multiply(&weights, 1, MAX_COLS, &prepared, 1, &mut scratch, &mut sums);
            let expected = i32::from(weight) * i32::from(activation) * MAX_COLS as i32;
            assert_eq!(sums[0], expected, "{} with {weight} x {activation}", set.name);
        }
    }
}

#[test]
fn buffers_at_every_alignment() {
    for (rows, cols, tokens) in [(37, 384, 5), (1, 128, 1), (64, 256, 4)] {
        let product = Product::new(Fill::Random { seed: 3 }, rows, cols, tokens);
        for set in sets_for(cols) {
            (0..16).for_each(|offset| product.check(set, tokens, offset));
        }
    }
}

/// Checks a product in groups with every set that takes them, from the first row and, cut as tasks are, from a later panel.
fn check_groups(fill: Fill, shape: Shape) {
    let product = GroupedProduct::new(fill, shape);
    for set in sets::usable().into_iter().filter(|set| set.layout.takes_groups(shape.cols)) {
        product.check(set, 0);
        let panel = set.layout.panel_rows();
        if shape.rows > 2 * panel {
            product.check(set, panel.next_multiple_of(2 * panel));
        }
    }
}

#[test]
fn groups_of_every_width_around_panels_and_tokens() {
    // Widths that are usual, of odd numbers of steps, and wider than is done in one pass.
    for (at, cols) in [64, 128, 256, 80, 112, 384, 640].into_iter().enumerate() {
        for (more, rows) in [1, 9, 15, 16, 21, 31, 33, 64, 83].into_iter().enumerate() {
            let tokens = [1, 2, 3, 4, 5, 7, 8, 17][(at + more) % 8];
            let digits = [1, 3][(at + more / 2) % 2];
            let shape = Shape { rows, cols, groups: 1 + (at + more) % 3, tokens, digits };
            check_groups(Fill::Random { seed: 21 }, shape);
        }
    }
}

#[test]
fn groups_with_every_number_of_tokens() {
    for tokens in 0..=14 {
        let shape = Shape { rows: 50, cols: 64, groups: 3, tokens, digits: 1 };
        check_groups(Fill::Prime, shape);
        check_groups(Fill::Random { seed: tokens as u64 }, Shape { digits: 3, cols: 128, ..shape });
    }
}

#[test]
fn extreme_numbers_in_groups_do_not_overflow() {
    for fill in Fill::ALL {
        for (cols, tokens) in [(64, 1), (256, 5), (512, 33)] {
            check_groups(fill, Shape { rows: 41, cols, groups: 2, tokens, digits: 1 });
        }
    }
}

/// Equal to the bit; any NaN equals any other, since IEEE 754 leaves payloads open.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Fails with the first difference between what `set` and the scalar set returned.
fn assert_same(
    set: &KernelSet,
    operation: &str,
    seed: u64,
    shape: (usize, usize),
    found: &[f32],
    expected: &[f32],
) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| !same(*a, *b)) {
        panic!(
            "{} {operation}, seed {seed}, {} x {}: index {at} is {:e} ({:08x}), expected {:e} ({:08x})",
            set.name,
            shape.0,
            shape.1,
            found[at],
            found[at].to_bits(),
            expected[at],
            expected[at].to_bits()
        );
    }
}

/// Lengths of float vectors: every tail, and the rows of real models.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=100).chain([127, 128, 129, 255, 256, 640, 1000, 2560])
}

#[test]
fn reductions_keep_the_order_of_lanes() {
    for k in lengths() {
        for seed in 0..4 {
            let mut random = Random::new(seed << 32 | k as u64);
            let wild = seed == 3;
            let mut x: Vec<f32> =
                (0..k + 3).map(|_| if wild { random.wild() } else { random.float() }).collect();
            // Unaligned by one element, so that no kernel can rely on more than a float's own alignment.
            let x = &mut x[1..1 + k];
            for set in sets::usable() {
                assert_same(set, "absmax", seed, (1, k), &[set.absmax(x)], &[SCALAR.absmax(x)]);
                assert_same(
                    set,
                    "sum_squares",
                    seed,
                    (1, k),
                    &[set.sum_squares(x)],
                    &[SCALAR.sum_squares(x)],
                );
                let (mut found, mut expected) = (x.to_vec(), x.to_vec());
                let (sum, expected_sum) = (set.exp_sum(&mut found), SCALAR.exp_sum(&mut expected));
                assert_same(set, "exp_sum's terms", seed, (1, k), &found, &expected);
                assert_same(set, "exp_sum", seed, (1, k), &[sum], &[expected_sum]);
            }
        }
    }
}

#[test]
fn exponentials_of_the_whole_range() {
    // Scores far apart: the largest, then everything down to where the exponential ends.
    for set in sets::usable() {
        let mut found: Vec<f32> = (0..4003).map(|i| -(i as f32) * 0.025).collect();
        let mut expected = found.clone();
        let (sum, expected_sum) = (set.exp_sum(&mut found), SCALAR.exp_sum(&mut expected));
        assert_same(set, "exp_sum's terms", 0, (1, 4003), &found, &expected);
        assert_same(set, "exp_sum", 0, (1, 4003), &[sum], &[expected_sum]);
    }
}

#[test]
fn quantised_values_are_equal() {
    for k in lengths() {
        for (seed, scale) in [(0, 31.75), (1, 127.0 / 1e-5), (2, 0.3), (3, 1.0)] {
            let mut random = Random::new(seed << 32 | k as u64);
            let mut value = |i: usize| match seed {
                // Halves, so that every second value is a tie.
                3 => (i as f32 - 40.0) * 0.5,
                _ => random.wild(),
            };
            let x: Vec<f32> = (0..k).map(&mut value).collect();
            for set in sets::usable() {
                let (mut found, mut expected) = (vec![55i8; k + 32], vec![55i8; k + 32]);
                set.quantize(&x, scale, &mut found[..k]);
                SCALAR.quantize(&x, scale, &mut expected[..k]);
                let first = found.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(first, None, "{} quantize, seed {seed}, length {k}: first difference", set.name);
            }
        }
    }
}

#[test]
fn matrix_products_and_mixtures_keep_the_order_of_lanes() {
    for k in lengths().filter(|k| *k > 0) {
        for n in [0, 1, 2, 3, 4, 5, 7, 9] {
            for seed in [5, 6] {
                let mut random = Random::new(seed << 40 | (n << 20 | k) as u64);
                let mut value = || if seed == 6 { random.wild() } else { random.float() };
                let rows: Vec<f32> = (0..n * k).map(|_| value()).collect();
                let halves: Vec<u16> = rows.iter().map(|v| f32_to_f16(*v)).collect();
                let x: Vec<f32> = (0..k).map(|_| value()).collect();
                let p: Vec<f32> = (0..n).map(|_| value()).collect();
                for set in sets::usable() {
                    let both = |operation: &str, length: usize, run: &dyn Fn(&KernelSet, &mut [f32])| {
                        // A guard of 32 values behind the output is compared along with it.
                        let fresh = || x.iter().copied().cycle().take(length + 32).collect::<Vec<f32>>();
                        let (mut found, mut expected) = (fresh(), fresh());
                        run(set, &mut found[..length]);
                        run(&SCALAR, &mut expected[..length]);
                        assert_same(set, operation, seed, (n, k), &found, &expected);
                    };
                    both("matvec_f32", n, &|set, y| set.matvec_f32(&rows, &x, y));
                    both("matvec_f16", n, &|set, y| set.matvec_f16(&halves, &x, y));
                    both("mix_f32", k, &|set, y| set.mix_f32(&rows, &p, y));
                    both("mix_f16", k, &|set, y| set.mix_f16(&halves, &p, y));
                }
            }
        }
    }
}

#[test]
fn every_binary16_converts_alike() {
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    for set in sets::usable() {
        // Sixteen columns take the vector path, one column the tail.
        for k in [16, 1] {
            let (mut found, mut expected) = (vec![0.0f32; k], vec![0.0f32; k]);
            for row in halves.chunks_exact(k) {
                found.fill(0.0);
                expected.fill(0.0);
                set.mix_f16(row, &[1.0], &mut found);
                SCALAR.mix_f16(row, &[1.0], &mut expected);
                assert_same(set, "mix_f16", u64::from(row[0]), (1, k), &found, &expected);
            }
        }
    }
}

/// Rows and columns of planes, tokens and the space between them: every tile and its edges, one long row.
const PLANES: [(usize, usize, usize); 9] = [
    (0, 128, 1),
    (1, 128, 1),
    (3, 256, 2),
    (7, 384, 9),
    (13, 2560, 8),
    (64, 640, 17),
    (2, 8192, 3),
    (5, 0, 2),
    (70, 128, 5),
];

#[test]
fn nibbles_of_a_plane_times_int8() {
    for (rows, cols, tokens) in PLANES {
        for seed in 0..4 {
            let mut random = Random::new(seed << 32 | cols as u64);
            let mut byte = |extreme: u8| if seed == 3 { extreme } else { random.bits() as u8 };
            let plane: Vec<u8> = (0..rows * cols / 2).map(|_| byte(0xff)).collect();
            // Off every alignment, and further apart than they are long.
            let stride = cols + 16 * (seed as usize % 3);
            let x: Vec<i8> = (0..tokens * stride + 1).map(|_| byte(0x80) as i8).collect();
            let nibbles = Nibbles { plane: &plane, rows, cols, x: &x[1..], tokens, stride };
            let mut expected = vec![7; tokens * rows];
            for (at, sum) in expected.iter_mut().enumerate() {
                let (row, x) = (nibbles.row(at % rows), nibbles.token(at / rows));
                *sum = (0..cols).map(|c| i32::from(nibble_at(row, c)) * i32::from(x[c])).sum();
            }
            for set in sets::usable() {
                let mut found = vec![9; tokens * rows];
                set.nibble_dots(nibbles, &mut found);
                assert!(
                    found == expected,
                    "{} plane, seed {seed}, {rows} x {cols}, {tokens} tokens",
                    set.name
                );
            }
        }
    }
}

#[test]
fn the_longest_row_of_a_plane_does_not_overflow() {
    for x in [-128i8, 127] {
        let (plane, x) = (vec![0xff; MAX_COLS / 2], vec![x; MAX_COLS]);
        for set in sets::usable() {
            let mut sum = [0];
            let nibbles =
                Nibbles { plane: &plane, rows: 1, cols: MAX_COLS, x: &x, tokens: 1, stride: MAX_COLS };
            set.nibble_dots(nibbles, &mut sum);
            assert_eq!(sum[0], 15 * i32::from(x[0]) * MAX_COLS as i32, "{}", set.name);
        }
    }
}

#[test]
fn blocks_of_other_types_are_widened_alike() {
    let plain = [Blocks::Bf16, Blocks::Q8_0, Blocks::Q4_0, Blocks::Q6K, Blocks::Q4K];
    for blocks in plain.into_iter().chain(TernaryBlock::ALL.map(Blocks::Ternary)) {
        for count in [0, 1, 2, 3, 20] {
            let mut random = Random::new(count as u64);
            let bytes: Vec<u8> = (0..count * blocks.bytes()).map(|_| random.bits() as u8).collect();
            let mut expected = vec![0.0; count * blocks.values()];
            SCALAR.widen(blocks, &bytes, &mut expected);
            for set in sets::usable() {
                let mut found = vec![1.0; expected.len()];
                set.widen(blocks, &bytes, &mut found);
                assert_same(set, "widen", count as u64, (count, blocks.values()), &found, &expected);
            }
        }
    }
}
