//! One model in the encodings of other programs: the same logits from each.
//!
//! The scales of the tiny model are exact in binary16, so not a bit may differ. TL2, which is for x86, is written here by an
//! encoder that `tests/codings.rs` holds to the bytes of the reference converter; the others are fixtures.

use std::fs;
use std::path::{Path, PathBuf};

use tern::model::{EngineChoice, ModelChoice, OpenError, with_engine};
use tern_kernels::coding::TileShape;
use tern_runtime::gguf::{Gguf, Header, I2sBlocks, TensorType};
use tern_runtime::map::MappedFile;
use tern_runtime::model::Rows;
use tern_runtime::model::ternary::is_matrix;
use tern_tests::model::{fixture, logits};
use tern_tests::{npy, tl2};

/// Tiles of the matrices of `tiny-tl1.gguf`.
const TL1_TILES: [((usize, usize), TileShape); 4] = [
    tile(256, 256, 128, 64, 64),
    tile(128, 256, 128, 64, 64),
    tile(512, 256, 128, 64, 64),
    tile(256, 512, 128, 64, 64),
];

/// Others for each shape, of which two leave pairs in one strip and two in several.
const TL2_TILES: [((usize, usize), TileShape); 4] = [
    tile(256, 256, 128, 96, 32),
    tile(128, 256, 32, 192, 32),
    tile(512, 256, 256, 96, 32),
    tile(256, 512, 64, 240, 32),
];

const fn tile(
    rows: usize,
    cols: usize,
    tile_rows: usize,
    tile_cols: usize,
    strip: usize,
) -> ((usize, usize), TileShape) {
    ((rows, cols), TileShape { rows: tile_rows, cols: tile_cols, strip })
}

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

/// `source` with its matrices in TL2, which no fixture is in.
fn in_tl2(source: &Gguf<'_>) -> Vec<u8> {
    let mut header = Header::new();
    for (key, value) in source.entries() {
        header.copy(key, &value);
    }
    for info in source.tensors() {
        let ty = if is_matrix(&info) { TensorType::Tl2 } else { info.ty() };
        header.tensor(info.name(), ty, info.dims()).expect("a good tensor");
    }
    let mut data = header.begin(Vec::new()).expect("memory");
    for info in source.tensors() {
        if !is_matrix(&info) {
            data.write(info.data().expect("sound")).expect("memory");
            continue;
        }
        let rows = Rows::new(source, &info, None).expect("a sound matrix");
        let (height, cols) = rows.shape();
        let (mut weights, mut scale) = (vec![0; height * cols], [0.0]);
        for (row, weights) in weights.chunks_exact_mut(cols).enumerate() {
            rows.read(row, weights, &mut scale).expect("a sound matrix");
        }
        let (_, tile) = TL2_TILES.into_iter().find(|(shape, _)| *shape == (height, cols)).expect("its shape");
        data.write(&tl2::encode(&weights, (height, cols), tile, scale[0])).expect("memory");
    }
    data.finish().expect("whole")
}

/// The model as `tiny-NAME.gguf` in `folder`, and the tiles of TL1 and TL2 beside it.
fn placed(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("tiny-{name}.gguf"));
    if name == "tl2" {
        let file = MappedFile::open(fixture("oracle/gguf/tiny-i2_s.gguf")).expect("the fixture");
        let gguf = Gguf::parse(file.bytes()).expect("a good file");
        fs::write(&path, in_tl2(&gguf)).expect("room for a model");
    } else {
        fs::copy(fixture(&format!("oracle/gguf/tiny-{name}.gguf")), &path).expect("room for a copy");
    }
    let tiles = match name {
        "tl1" => &TL1_TILES,
        "tl2" => &TL2_TILES,
        _ => return path,
    };
    let table = tiles.map(|((m, k), TileShape { rows, cols, strip })| {
        format!("[Kernels_{m}_{k}]\nm = {m}\nk = {k}\nbm = {rows}\nbk = {cols}\nbmm = {strip}\n\n")
    });
    fs::write(path.with_extension("tiles.ini"), table.concat()).expect("room for a table");
    path
}

const ENCODINGS: [(&str, Option<I2sBlocks>); 5] = [
    ("tq1_0", None),
    ("tq2_0", None),
    ("tl1", None),
    ("tl2", None),
    ("i2_s_arm64blk", Some(I2sBlocks::Of64)),
];

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
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["tl1", "tl2"] {
        let path = placed(folder.path(), name);
        fs::remove_file(path.with_extension("tiles.ini")).expect("it was there");
        let error = opened(&path, None).expect_err("no tiles").to_string();
        assert!(error.contains("kernel_config.ini") && error.contains("tiles.ini"), "{error}");
    }
}
