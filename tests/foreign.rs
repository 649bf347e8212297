//! One model in the encodings of other programs: the same logits from each.
//!
//! The scales of the tiny model are exact in binary16, so not a bit may differ.

use std::fs;
use std::path::{Path, PathBuf};

use tern::model::{EngineChoice, ModelChoice, OpenError, with_engine};
use tern_runtime::gguf::I2sBlocks;
use tern_tests::model::{fixture, logits};
use tern_tests::npy;

fn opened(path: &Path, blocks: Option<I2sBlocks>) -> Result<Vec<f32>, OpenError> {
    let engine = EngineChoice {
        threads: Some(1),
        context_tokens: Some(48),
        slots: Some(1),
        no_pack: true,
        i2s_blocks: blocks,
        ..EngineChoice::default()
    };
    let ids = npy::ids(&fixture("oracle/input_ids.npy"));
    with_engine(&ModelChoice { path: Some(path.to_owned()), engine }, |engine, _| logits(engine, &ids))
}

/// The fixture `tiny-NAME.gguf` in `folder`, and the tiles of TL1 beside it.
fn placed(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("tiny-{name}.gguf"));
    fs::copy(fixture(&format!("oracle/gguf/tiny-{name}.gguf")), &path).expect("room for a copy");
    if name == "tl1" {
        let section = |(rows, cols)| {
            format!("[Kernels_{rows}_{cols}]\nm = {rows}\nk = {cols}\nbm = 128\nbk = 64\nbmm = 64\n\n")
        };
        let table = [(256, 256), (128, 256), (512, 256), (256, 512)].map(section);
        fs::write(path.with_extension("tiles.ini"), table.concat()).expect("room for a table");
    }
    path
}

const ENCODINGS: [(&str, Option<I2sBlocks>); 4] =
    [("tq1_0", None), ("tq2_0", None), ("tl1", None), ("i2_s_arm64blk", Some(I2sBlocks::Of64))];

#[test]
fn every_encoding_gives_the_logits_of_i2_s() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let expected = opened(&fixture("oracle/gguf/tiny-i2_s.gguf"), None).expect("the fixture opens");
    for (name, blocks) in ENCODINGS {
        let path = placed(folder.path(), name);
        let found = opened(&path, blocks).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == expected, "{name}: other logits");
    }
    // Nothing in a file of random weights tells its blocks, and in the wrong ones it is another model.
    let wrong = opened(&folder.path().join("tiny-i2_s_arm64blk.gguf"), None).expect("no sign of it");
    assert!(wrong != expected);
}

#[test]
fn tiles_that_are_not_there_are_asked_for() {
    let error = opened(&fixture("oracle/gguf/tiny-tl1.gguf"), None).expect_err("no tiles").to_string();
    assert!(error.contains("kernel_config.ini") && error.contains("tiles.ini"), "{error}");
}
