//! The check of `tern doctor MODEL`: the bundled model reads text, and copies of it that are read wrongly do not.

use std::path::Path;

use tern::random::Random;
use tern::sanity::{self, Sanity};
use tern_runtime::gguf::{Gguf, TensorType};
use tern_runtime::map::MappedFile;
use tern_tests::binary::{run, tern};
use tern_tests::model::{BUNDLED, Setup, bundled, with_options};
use tern_tests::sets;

/// Where the ternary tensors and the embedding lie in the file: name, first byte, bytes, whether it is ternary.
fn tensors() -> Vec<(String, usize, usize, bool)> {
    let map = MappedFile::open(bundled(BUNDLED)).expect("the bundled model");
    let gguf = Gguf::parse(map.bytes()).expect("it is sound");
    let facts = |info: &tern_runtime::gguf::TensorInfo<'_>| {
        let at = (gguf.data_at_bytes() + info.offset_bytes()) as usize;
        let bytes = info.nbytes().expect("a known type") as usize;
        (info.name().to_owned(), at, bytes, info.ty() == TensorType::I2S)
    };
    gguf.tensors()
        .map(|info| facts(&info))
        .filter(|(name, .., ternary)| *ternary || name == "token_embd.weight")
        .collect()
}

/// Bytes behind the codes of an I2_S tensor, the scale first.
const TAIL: usize = 32;

/// A copy of the model in `folder`, every ternary tensor whose name `wanted` likes changed: its codes, and its scale.
fn damaged(
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
    mut change: impl FnMut(&mut [u8], &mut [u8]),
) -> std::path::PathBuf {
    let mut bytes = std::fs::read(bundled(BUNDLED)).expect("the bundled model");
    for (_, at, len, _) in tensors().into_iter().filter(|(name, .., ternary)| *ternary && wanted(name)) {
        let (codes, tail) = bytes[at..at + len].split_at_mut(len - TAIL);
        change(codes, &mut tail[..4]);
    }
    let path = folder.join("damaged.gguf");
    std::fs::write(&path, bytes).expect("written");
    path
}

fn examine(path: &Path) -> Sanity {
    let set = sets::for_models()[0];
    with_options(
        path,
        Setup { set, slots: 2, ..Setup::default() },
        |options| options.context_tokens = 129,
        |engine| sanity::examine(engine, |_| ()).expect("it can be read"),
    )
}

/// The weights of `codes` in the order of blocks of 64, as BitNet's own tools write them on ARM.
fn in_blocks_of_64(codes: &mut [u8]) {
    for block in codes.chunks_exact_mut(32) {
        let weight = |k: usize| block[k % 32] >> (6 - 2 * (k / 32)) & 3;
        let weights: Vec<u8> = (0..128).map(weight).collect();
        for (byte, to) in block.iter_mut().enumerate() {
            let first = byte / 16 * 64 + byte % 16;
            *to = (0..4).fold(0, |to, place| to << 2 | weights[first + 16 * place]);
        }
    }
}

/// A tenth of the scale.
fn tenth(_: &mut [u8], scale: &mut [u8]) {
    let value = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
    scale.copy_from_slice(&(0.1 * value).to_le_bytes());
}

#[test]
fn the_bundled_model_reads_and_its_damaged_copies_do_not() {
    let sound = examine(&bundled(BUNDLED));
    println!("as it is: {}", sound.line());
    assert!(sound.sound && sound.perplexity < 300.0 && sound.shuffled_perplexity > 1000.0, "{sound:?}");
    assert!(sound.complaint("").is_none() && sound.tokens > 100 && sound.bytes > 400, "{sound:?}");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let all = |_: &str| true;
    let mut random = Random::new(9);
    let mut noise = |codes: &mut [u8], _: &mut [u8]| {
        codes.iter_mut().for_each(|byte| *byte = (0..4).fold(0, |to, _| to << 2 | random.below(3) as u8));
    };
    let random_matrix = |name: &str| name == "blk.0.attn_q.weight";
    type Damage<'a> = (&'a str, Box<dyn FnOnce() -> std::path::PathBuf + 'a>);
    let shuffled = || {
        let (_, at, len, _) = tensors().into_iter().find(|(.., ternary)| !ternary).expect("an embedding");
        let mut bytes = std::fs::read(bundled(BUNDLED)).expect("the bundled model");
        let row = len / sound.vocabulary;
        let rows: Vec<u8> = bytes[at..at + len].chunks_exact(row).rev().flatten().copied().collect();
        bytes[at..at + len].copy_from_slice(&rows);
        let path = folder.join("shuffled.gguf");
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let damages: [Damage<'_>; 5] = [
        ("blocks of 64", Box::new(|| damaged(folder, all, |codes, _| in_blocks_of_64(codes)))),
        ("a tenth of every scale", Box::new(|| damaged(folder, all, tenth))),
        ("random codes in one matrix", Box::new(|| damaged(folder, random_matrix, &mut noise))),
        (
            "infinite activations",
            Box::new(|| damaged(folder, all, |_, scale| scale.copy_from_slice(&f32::MAX.to_le_bytes()))),
        ),
        ("another vocabulary", Box::new(shuffled)),
    ];
    for (what, damage) in damages {
        let found = examine(&damage());
        println!("{what}: {}", found.line());
        assert!(!found.sound, "{what}: {found:?}");
        let complaint = found.complaint("try this").expect("it is wrong");
        assert!(complaint.contains("noise") && complaint.ends_with("try this"), "{complaint}");
    }
}

#[test]
fn doctor_fails_a_model_that_talks_noise_and_says_what_to_try() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = damaged(folder.path(), |_| true, tenth);
    let ended = run(tern(["doctor", model.to_str().expect("a UTF-8 path")]), "");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for told in ["NOISE: perplexity", "wrong: '", "guessing", "--i2s-blocks 64", "tern models"] {
        assert!(ended.stdout.contains(told), "{told}: {}", ended.stdout);
    }
}
