//! What a model file does not say about itself: the blocks of I2_S, and the tiles of TL1 and TL2 from a file beside it.
//!
//! Tiles come from the `kernel_config.ini` of the bitnet.cpp build that converted the model. It is looked for as
//! `MODEL.tiles.ini` for `MODEL.gguf`, then under its own name in the same folder:
//!
//! ```text
//! [Kernels_0]
//! m = 2560
//! k = 6912
//! bm = 160
//! bk = 64
//! bmm = 32
//! ```

use std::fs;
use std::path::Path;

use tern_kernels::coding::TileShape;
use tern_runtime::gguf::{Gguf, I2sBlocks, Reading, TensorType, Tiles};

use super::OpenError;
use super::blocks::{CONCLUSIVE, evidence};

/// More than any table of tiles has.
const FILE_BYTES: u64 = 1 << 16;

/// Blocks of I2_S on a command line.
///
/// # Errors
/// If there are no such blocks.
pub fn parse_i2s_blocks(text: &str) -> Result<I2sBlocks, String> {
    match text {
        "128" => Ok(I2sBlocks::Of128),
        "64" => Ok(I2sBlocks::Of64),
        _ => Err("give 128 or 64".into()),
    }
}

/// Parses the model file `bytes` of `path`, with `blocks` of I2_S if somebody said so, and with its tiles from beside it.
///
/// # Errors
/// If it is no model, or a table of tiles cannot be read.
pub fn parse<'a>(
    path: &Path,
    bytes: &'a [u8],
    blocks: Option<I2sBlocks>,
) -> Result<(Gguf<'a>, Reading), OpenError> {
    let unusable = |error| OpenError::Model { path: path.to_owned(), error };
    let mut reading = Reading { i2s: blocks.unwrap_or_default(), ..Reading::default() };
    let mut gguf = Gguf::parse_as(bytes, &reading).map_err(unusable)?;
    let has_tiles = gguf.tensors().any(|info| matches!(info.ty(), TensorType::Tl1 | TensorType::Tl2));
    if has_tiles && let Some(tiles) = tiles_beside(path)? {
        reading.tiles = tiles;
        gguf = Gguf::parse_as(bytes, &reading).map_err(unusable)?;
    }
    Ok((gguf, reading))
}

/// Asks the weights of I2_S matrices which blocks they lie in, see [`blocks`](super::blocks).
///
/// # Errors
/// If they say that blocks are the other ones than they were read in, and nobody said in `blocks` which they are.
pub fn check_blocks(path: &Path, gguf: &Gguf<'_>, blocks: Option<I2sBlocks>) -> Result<(), OpenError> {
    let Some(evidence) = evidence(gguf) else { return Ok(()) };
    match blocks {
        None if evidence < -CONCLUSIVE => {
            return Err(OpenError::Blocks { path: path.to_owned(), standard_errors: -evidence });
        }
        Some(I2sBlocks::Of128) if evidence < -CONCLUSIVE => {
            log::warn!("the weights of '{}' look like I2_S in blocks of 64", path.display());
        }
        Some(I2sBlocks::Of64) if evidence > CONCLUSIVE => {
            log::warn!("the weights of '{}' look like I2_S in blocks of 128", path.display());
        }
        _ => {}
    }
    Ok(())
}

/// What tells a copy of a file that was read so from others; empty for the usual reading.
pub fn note(reading: &Reading) -> String {
    if *reading == Reading::default() { String::new() } else { format!(", read as {reading:?}") }
}

/// The table of tiles beside `path`, if there is one.
fn tiles_beside(path: &Path) -> Result<Option<Tiles>, OpenError> {
    for beside in [path.with_extension("tiles.ini"), path.with_file_name("kernel_config.ini")] {
        let problem = |line, message: String| OpenError::Tiles { path: beside.clone(), line, message };
        match fs::metadata(&beside) {
            Ok(found) if found.len() > FILE_BYTES => {
                return Err(problem(1, format!("{} bytes are no table of tiles", found.len())));
            }
            Ok(_) => {}
            Err(_) => continue,
        }
        let text = fs::read_to_string(&beside).map_err(|error| problem(1, error.to_string()))?;
        return parse_tiles(&text).map(Some).map_err(|(line, message)| problem(line, message));
    }
    Ok(None)
}

/// Reads the text of a `kernel_config.ini`.
///
/// # Errors
/// What is wrong, and in which line, counted from 1.
pub fn parse_tiles(text: &str) -> Result<Tiles, (usize, String)> {
    const KEYS: [&str; 5] = ["m", "k", "bm", "bk", "bmm"];
    let (mut tiles, mut entry, mut began) = (Tiles::default(), [None; KEYS.len()], 0);
    let mut finish = |entry: [Option<usize>; KEYS.len()], line: usize| {
        let [Some(rows), Some(cols), Some(tile_rows), Some(tile_cols), Some(strip)] = entry else {
            let missing = KEYS.iter().zip(entry).find(|(_, value)| value.is_none());
            let (key, _) = missing.expect("one is missing");
            return Err((line, format!("the section has no '{key}'")));
        };
        let tile = TileShape { rows: tile_rows, cols: tile_cols, strip };
        tiles.add(rows, cols, tile).map_err(|_| (line, "there are too many sections".to_owned()))
    };
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') && line.ends_with(']') {
            if began > 0 {
                finish(entry, began)?;
            }
            (entry, began) = ([None; KEYS.len()], number);
            continue;
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| (number, "expected 'key = number'".to_owned()))?;
        if began == 0 {
            return Err((number, "expected a section such as [Kernels_0] first".to_owned()));
        }
        if let Some(at) = KEYS.iter().position(|known| key.trim().eq_ignore_ascii_case(known)) {
            let value = value.trim();
            let parsed = value.parse().ok().filter(|n: &usize| *n > 0);
            entry[at] = Some(parsed.ok_or_else(|| (number, format!("'{value}' is no number above 0")))?);
        }
    }
    if began == 0 {
        return Err((1, "there is no section such as [Kernels_0]".to_owned()));
    }
    finish(entry, began)?;
    Ok(tiles)
}

#[cfg(test)]
mod tests {
    use super::super::blocks::tests::{in_blocks_of_64, open};
    use super::*;

    const INI: &str = "# of a build\n[Kernels_0]\nm = 256\nK = 512\nbm = 128\nbk = 64\nbmm = 64\nother = x\n\n\
                       [Kernels_1]\nm = 512\nk = 256\nbm = 128\nbk = 64\nbmm = 32\n";

    #[test]
    fn a_kernel_config_is_read() {
        let tiles = parse_tiles(INI).expect("it is sound");
        assert_eq!(tiles.of(256, 512), Some(TileShape { rows: 128, cols: 64, strip: 64 }));
        assert_eq!(tiles.of(512, 256), Some(TileShape { rows: 128, cols: 64, strip: 32 }));
        assert_eq!(tiles.of(256, 256), None);
    }

    #[test]
    fn what_is_wrong_with_a_kernel_config_is_said_with_its_line() {
        let cases = [
            ("", 1, "no section"),
            ("m = 1\n", 1, "section"),
            ("[a]\nm = 1\n", 1, "no 'k'"),
            ("[a]\nm = x\n", 2, "'x'"),
            ("[a]\nm = 0\n", 2, "'0'"),
            ("[a]\nwords\n", 2, "key = number"),
        ];
        for (text, line, word) in cases {
            let (at, message) = parse_tiles(text).expect_err(text);
            assert!(at == line && message.contains(word), "{text:?}: {at}: {message}");
        }
        let many = "[a]\nm=1\nk=1\nbm=1\nbk=1\nbmm=1\n".repeat(17);
        assert!(parse_tiles(&many).is_err_and(|(_, message)| message.contains("too many")));
    }

    #[test]
    fn tiles_are_found_beside_the_model() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let model = folder.path().join("m.gguf");
        let map = open("tests/fixtures/oracle/gguf/tiny-tl1.gguf");
        let of_tl1 = |model: &Path| {
            let (gguf, reading) = parse(model, map.bytes(), None)?;
            let found = gguf.tensors().find(|info| info.ty() == TensorType::Tl1).expect("a matrix");
            Ok::<_, OpenError>((found.coding().is_ok(), note(&reading)))
        };
        assert_eq!(of_tl1(&model).expect("a model all the same"), (false, String::new()));
        let all = [(256, 256), (128, 256), (512, 256), (256, 512)]
            .map(|(m, k)| format!("[Kernels]\nm = {m}\nk = {k}\nbm = 128\nbk = 64\nbmm = 64\n"));
        fs::write(folder.path().join("kernel_config.ini"), all.concat()).expect("a place for it");
        let (is_known, note) = of_tl1(&model).expect("a model");
        assert!(is_known && note.contains("64"), "{note}");
        // The model's own table comes first.
        fs::write(model.with_extension("tiles.ini"), "[a]\nm = x\n").expect("a place for it");
        let error = of_tl1(&model).expect_err("a table that is none").to_string();
        assert!(error.contains("m.tiles.ini") && error.contains(":2:"), "{error}");
    }

    #[test]
    fn blocks_of_64_are_noticed_and_read_when_asked_for() {
        let path = Path::new("m.gguf");
        let bytes = in_blocks_of_64("models/tern-log-i2_s.gguf");
        let checked = |blocks| {
            let (gguf, reading) = parse(path, &bytes, blocks)?;
            check_blocks(path, &gguf, blocks).map(|()| (gguf, reading))
        };
        let error = checked(None).expect_err("the other blocks").to_string();
        assert!(error.contains("--i2s-blocks 64") && error.contains("m.gguf"), "{error}");
        let (gguf, reading) = checked(Some(I2sBlocks::Of64)).expect("it was asked for");
        assert!(gguf.tensors().any(|info| info.ty() == TensorType::I2s64));
        assert!(note(&reading).contains("64"));
        assert!(checked(Some(I2sBlocks::Of128)).is_ok(), "who insists gets it");
        let map = open("models/tern-log-i2_s.gguf");
        let (gguf, reading) = parse(path, map.bytes(), None).expect("as published");
        assert!(check_blocks(path, &gguf, None).is_ok() && note(&reading).is_empty());
    }
}
