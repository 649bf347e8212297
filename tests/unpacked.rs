//! Directories of floats that are ternary already, as weight-only models are published: the same bits as a GGUF of the same
//! weights gives, and the logits of transformers.
//!
//! Each directory is written here from a GGUF of the fixtures, under the names and in the row order of transformers, with the
//! config.json of its makers' kind. What it then holds is compared with sums over what transformers computed with
//! (`tests/oracles/directory.py`).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tern::checkpoint::Checkpoint;
use tern::packing::{Output, PackError, Recipe};
use tern_kernels::Layout;
use tern_kernels::half::f32_to_f16;
use tern_runtime::activations::Activations;
use tern_runtime::gguf::{Gguf, TensorInfo};
use tern_runtime::map::MappedFile;
use tern_runtime::model::{Config, Dense, Rows, grouping};
use tern_tests::model::{Setup, fixture, logits, with_options};
use tern_tests::{npy, sets};

/// A model of the fixtures.
struct Oracle {
    /// Its GGUF.
    gguf: PathBuf,
    /// config.json, and type and sum of each tensor.
    said: Value,
    ids: Vec<u32>,
    vocab: usize,
    logits: Vec<f32>,
}

impl Oracle {
    /// With scales of groups and float activations (`tests/oracles/groups.py`).
    fn of_groups(name: &str) -> Self {
        let at = |end: &str| fixture(&format!("oracle/groups/{name}{end}"));
        Oracle::new([at(".gguf"), at(".json"), at("_ids.npy"), at("_logits.npy")])
    }

    /// With one scale a matrix, and ids on which int8 activations have a margin (`tests/oracles/variants.py`).
    fn of_margins(name: &str) -> Self {
        let at = |file: &str| fixture(&format!("oracle/{name}/{file}"));
        let ids = at("input_ids_margin.npy");
        Oracle::new([at("tiny-i2_s.gguf"), at("directory.json"), ids, at("logits_margin.npy")])
    }

    fn new([gguf, said, ids, logits]: [PathBuf; 4]) -> Self {
        let said = fs::read(said).expect("the fixture");
        let said = serde_json::from_slice(&said).expect("JSON");
        let (vocab, logits) = npy::floats(&logits);
        Oracle { gguf, said, ids: npy::ids(&ids), vocab, logits }
    }

    /// Writes its directory into `folder`.
    fn directory(&self, folder: &Path, name: &str) -> PathBuf {
        let place = folder.join(name);
        fs::create_dir(&place).expect("a new folder");
        fs::write(place.join("config.json"), self.said["config"].to_string()).expect("room");
        fs::copy(fixture("oracle/tokenizer/tokenizer.json"), place.join("tokenizer.json")).expect("room");
        let map = MappedFile::open(&self.gguf).expect("the fixture");
        let gguf = Gguf::parse(map.bytes()).expect("a good file");
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, said) in self.said["tensors"].as_object().expect("tensors") {
            let dtype = said[0].as_str().expect("a type");
            let (shape, values) = tensor(&gguf, name);
            let bytes: Vec<u8> = match dtype {
                "F32" => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                "F16" => values.iter().flat_map(|value| f32_to_f16(*value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            };
            assert_eq!(said[1], crc32(&bytes), "{name} is what transformers computed with");
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            data.extend(bytes);
        }
        let header = Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(place.join("model.safetensors"), file).expect("room");
        place
    }
}

/// CRC-32 as zlib computes it.
fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }))
        .collect();
    !bytes.iter().fold(!0, |sum, byte| sum >> 8 ^ table[usize::from(sum as u8 ^ byte)])
}

/// Shape and values of the tensor that transformers calls `name`.
fn tensor(gguf: &Gguf<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let place = name.strip_suffix(".weight").expect("weights only");
    let (layer, part) = match place.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (format!("blk.{layer}."), part),
        None => (String::new(), place),
    };
    let ours = match part {
        "model.embed_tokens" => "token_embd",
        "lm_head" => "output",
        "model.norm" => "output_norm",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => panic!("{other}"),
    };
    let info = gguf.require(&format!("{layer}{ours}.weight")).expect("the same model");
    let (rows, cols) = (info.rows() as usize, info.row_len() as usize);
    let values = if layer.is_empty() || ours.ends_with("norm") {
        let dense = Dense::load(&info, cols, rows).expect("floats or blocks");
        let mut values = vec![0.0; rows * cols];
        values.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| dense.row_into(row, out));
        values
    } else {
        matrix(gguf, &info, matches!(ours, "attn_q" | "attn_k"))
    };
    (if ours.ends_with("norm") { vec![cols] } else { vec![rows, cols] }, values)
}

/// A ternary matrix as floats, its rows in the order of transformers.
fn matrix(gguf: &Gguf<'_>, info: &TensorInfo<'_>, has_heads: bool) -> Vec<f32> {
    let rows = Rows::new(gguf, info, grouping(gguf).expect("a good file")).expect("a ternary matrix");
    let (height, cols) = rows.shape();
    let (mut trits, mut scales) = (vec![0i8; cols], vec![0f32; rows.scales()]);
    let is_permuted = has_heads && matches!(gguf.architecture(), Ok("llama" | "minicpm"));
    let head = Config::read(gguf).expect("a good file").head_dim;
    let mut values = vec![0.0; height * cols];
    for row in 0..height {
        rows.read(row, &mut trits, &mut scales).expect("a ternary matrix");
        let at = row % head;
        let place = if is_permuted { row - at + at % 2 * (head / 2) + at / 2 } else { row };
        let width = cols / scales.len();
        for (col, (value, trit)) in values[place * cols..][..cols].iter_mut().zip(&trits).enumerate() {
            *value = f32::from(*trit) * scales[col / width];
        }
    }
    values
}

/// Packs the directory `model` as a user's command does, compares every weight, and writes it to `output`; its group.
fn packed(model: &Path, output: &Path) -> Option<usize> {
    let checkpoint = Checkpoint::open(model).unwrap_or_else(|error| panic!("{error}"));
    let recipe = Recipe { layout: Layout::T2R4, int8_head: false };
    let bytes = checkpoint.pack(&recipe, 2, Vec::new(), |_| ()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(bytes.len() as u64, checkpoint.header(&recipe).expect("it fits").file_bytes());
    let _ = fs::remove_file(output);
    fs::write(output, bytes).expect("room");
    let map = MappedFile::open(output).expect("just written");
    let gguf = Gguf::parse(map.bytes()).expect("what we write");
    let verified = checkpoint.verify(&recipe, &gguf, 2, |_| ());
    assert!(verified.expect("the same").weights > 90_000);
    assert_eq!(grouping(&gguf).expect("what we write"), checkpoint.group());
    checkpoint.group()
}

/// An output of which an earlier attempt has written the first tensors.
struct Rest {
    done: usize,
    bytes: Vec<u8>,
}

impl Write for Rest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Rest {
    fn tensors_done(&self) -> usize {
        self.done
    }
}

#[test]
fn a_run_is_gone_on_with_from_any_tensor_scales_among_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = Oracle::of_groups("bonsai").directory(folder.path(), "bonsai");
    let checkpoint = Checkpoint::open(&model).expect("as it was written");
    let recipe = Recipe { layout: Layout::T5R, int8_head: true };
    let whole = checkpoint.pack(&recipe, 2, Vec::new(), |_| ()).expect("memory");
    let header = checkpoint.header(&recipe).expect("it fits");
    // An embedding, five norms, seven matrices with their scales, three planes of the head.
    for done in 1..23 {
        let rest = Rest { done, bytes: Vec::new() };
        let rest = checkpoint.pack(&recipe, 1, rest, |_| ()).expect("memory").bytes;
        assert!(whole[header.tensor_at_bytes(done) as usize..] == rest, "from tensor {done}");
    }
}

/// Logits of `ids` by the model in `path`.
fn logits_of(path: &Path, activations: Activations, ids: &[u32]) -> Vec<f32> {
    let set = |options: &mut tern_runtime::plan::Options| options.activations = Some(activations);
    // Kernels whose layout takes any group.
    let kernels = sets::usable().into_iter().find(|set| set.layout == Layout::T2R4).expect("a scalar one");
    with_options(path, Setup { set: kernels, ..Setup::default() }, set, |engine| logits(engine, ids))
}

/// The largest difference of two logits, and how many rows have another token at their top.
fn compare(found: &[f32], oracle: &Oracle) -> (f32, usize) {
    assert_eq!(found.len(), oracle.logits.len(), "logits of every position");
    let largest = found.iter().zip(&oracle.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let top = |row: &[f32]| (0..oracle.vocab).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let rows = found.chunks(oracle.vocab).zip(oracle.logits.chunks(oracle.vocab));
    (largest, rows.filter(|(a, b)| top(a) != top(b)).count())
}

#[test]
fn scales_of_groups_come_out_of_a_directory_as_of_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("packed.gguf");
    for (name, group) in [("q2_0", 64), ("pq2_0", 128), ("tq2_0", 256), ("bonsai", 128), ("bitcpm", 128)] {
        let oracle = Oracle::of_groups(name);
        let model = oracle.directory(folder.path(), name);
        assert_eq!(packed(&model, &output), Some(group), "{name}");
        for activations in Activations::ALL {
            let found = logits_of(&output, activations, &oracle.ids);
            let of_file = logits_of(&oracle.gguf, activations, &oracle.ids);
            let (largest, flips) = compare(&found, &oracle);
            println!("{name}, {activations:?}: largest difference {largest:.2e}, {flips} flips");
            assert!(found == of_file, "{name}: the bits of the GGUF, {activations:?}");
            assert!(activations == Activations::Int8 || largest < 1e-4 && flips == 0, "{name}: {largest}");
        }
    }
}

#[test]
fn one_scale_a_matrix_and_scaled_angles_agree_with_transformers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("packed.gguf");
    for name in ["llama", "qwen3", "minicpm", "trilm"] {
        let oracle = Oracle::of_margins(name);
        let model = oracle.directory(folder.path(), name);
        assert_eq!(packed(&model, &output), None, "{name}");
        let found = logits_of(&output, Activations::Int8, &oracle.ids);
        let (largest, flips) = compare(&found, &oracle);
        println!("{name}: largest difference {largest:.2e}");
        assert!(largest <= 2e-5 && flips == 0, "{name}: {largest} {flips}");
        // The factors of Llama 3.1 in that file were found by dividing in f32, so their last bits may be others.
        let of_file = logits_of(&oracle.gguf, Activations::Int8, &oracle.ids);
        assert!(name == "trilm" || found == of_file, "{name}: the bits of the GGUF");
    }
}

/// What opening the model of `oracle` says when its config.json was changed.
fn refusal(oracle: &Oracle, folder: &Path, change: impl Fn(&mut Value)) -> String {
    let mut config = oracle.said["config"].clone();
    change(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).expect("room");
    Checkpoint::open(folder).map(|_| ()).expect_err("this must be refused").to_string()
}

#[test]
fn what_is_ambiguous_or_not_done_is_refused_with_what_was_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let oracle = Oracle::of_groups("bitcpm");
    let model = oracle.directory(folder.path(), "bitcpm");
    for (key, value, expected) in [
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}), "rope_type = \"dynamic\""),
        ("scale_depth", Value::Null, "scale_depth = null"),
        ("sparse_config", json!({"topk": 64}), "sparse_config = {\"topk\":64}"),
        ("architectures", json!(["MiniCPM3ForCausalLM"]), "MiniCPM3ForCausalLM"),
        ("layer_types", json!(["sliding_attention"]), "full_attention"),
        ("tie_word_embeddings", json!(false), "lm_head.weight"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quant_method = \"gptq\""),
        // Its weights stay those of 2 layers, which are too few.
        ("num_hidden_layers", json!(3), "model.layers.2"),
    ] {
        let message = refusal(&oracle, &model, |config| config[key] = value.clone());
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn floats_that_are_not_ternary_are_refused_wherever_they_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let oracle = Oracle::of_groups("bonsai");
    let model = oracle.directory(folder.path(), "bonsai");
    let (path, output) = (model.join("model.safetensors"), folder.path().join("out.gguf"));
    let whole = fs::read(&path).expect("just written");
    let checkpoint = Checkpoint::open(&model).expect("as it was written");
    let name = "model.layers.0.mlp.down_proj.weight";
    let found = checkpoint.tensors.get(name).expect("it is there");
    assert_eq!(found.shape, [128, 256]);
    let header = u64::from_le_bytes(*whole.first_chunk().expect("a length")) as usize;
    let described: Value = serde_json::from_slice(&whole[8..8 + header]).expect("JSON");
    let begin = described[name]["data_offsets"][0].as_u64().expect("an offset") as usize;
    let recipe = Recipe { layout: Layout::T2R4, int8_head: false };
    // Half of one in the first row is seen when the directory is opened; in a row that is not looked at, when it is packed.
    for (row, col) in [(0, 0), (3, 200)] {
        let mut changed = whole.clone();
        let at = 8 + header + begin + 2 * (row * 256 + col);
        changed[at..at + 2].copy_from_slice(&f32_to_f16(0.5).to_le_bytes());
        fs::write(&path, changed).expect("room");
        let result = Checkpoint::open(&model).map_err(PackError::from);
        assert_eq!(result.is_err(), row == 0, "row {row}");
        let error = result
            .and_then(|checkpoint| checkpoint.pack(&recipe, 2, Vec::new(), |_| ()))
            .expect_err("not ternary")
            .to_string();
        assert!(error.contains(name) && error.contains(&format!("row {row} ")), "{error}");
        assert!(error.contains("5e-1") && error.contains("quantization_config"), "{error}");
    }
    assert!(!output.exists());
}
