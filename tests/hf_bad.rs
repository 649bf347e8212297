//! Directories that are no model, or not the model they say they are: each is refused with what was found and what would
//! be understood, and no length is believed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tern::checkpoint::Checkpoint;
use tern_tests::fill::Random;
use tern_tests::model::fixture;

/// A copy of a fixture to be changed.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn of(name: &str) -> Copy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for entry in fs::read_dir(fixture(&format!("hf/{name}"))).expect("the fixture").flatten() {
            let file = entry.file_name();
            if !text(Path::new(&file)).ends_with(".npy") && file != "vectors.json" {
                fs::copy(entry.path(), folder.path().join(file)).expect("room");
            }
        }
        Copy { folder }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    /// Changes a JSON file.
    fn json(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(file);
        let mut value = serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("JSON");
        change(&mut value);
        fs::write(path, value.to_string()).expect("room");
    }

    /// Changes the header and the data of a safetensors file.
    fn weights(&self, file: &str, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let path = self.path(file);
        let bytes = fs::read(&path).expect("it is there");
        let (length, rest) = bytes.split_first_chunk().expect("eight bytes");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let (mut header, mut data) = (serde_json::from_slice(header).expect("JSON"), data.to_vec());
        change(&mut header, &mut data);
        let header = header.to_string();
        let all = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(path, all).expect("room");
    }

    /// What opening and packing it says.
    fn refusal(&self) -> String {
        let recipe = tern::packing::Recipe { layout: tern_kernels::Layout::T2R4, int8_head: true };
        let checkpoint = match Checkpoint::open(self.folder.path()) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return error.to_string(),
        };
        match checkpoint.pack(&recipe, 1, Vec::new(), |_| ()) {
            Ok(_) => "it was taken".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// The entry of a tensor, named by how its name ends.
fn entry<'a>(header: &'a mut Value, ending: &str) -> &'a mut Value {
    let tensors = header.as_object_mut().expect("an object");
    tensors.iter_mut().find(|(name, _)| name.ends_with(ending)).expect("a tensor").1
}

#[test]
fn sound_copies_are_taken() {
    for name in ["online", "llama", "onebit"] {
        assert_eq!(Copy::of(name).refusal(), "it was taken", "{name}");
    }
}

#[test]
fn settings_that_say_something_else_are_shown() {
    let cases: [(&str, Value, &str); 21] = [
        ("architectures", json!(["GemmaForCausalLM"]), "GemmaForCausalLM"),
        ("architectures", Value::Null, "BitNetForCausalLM"),
        ("hidden_act", json!("gelu"), "relu2 or silu"),
        ("attention_bias", json!(true), "no biases"),
        ("quantization_config", Value::Null, "nothing says how the weights of this model become ternary"),
        ("quantization_config", json!({"quant_method": "gptq"}), "\"gptq\"; understood is bitnet"),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "linear_class": "x"}),
            "autobitlinear or bitlinear",
        ),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "later"}),
            "offline or online",
        ),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "modules_to_not_convert": ["lm_head", "layers.0"]}),
            "all layers ternary",
        ),
        ("quantization_config", json!({"quant_method": "bitnet", "use_rms_norm": true}), "norms inside"),
        // The packed form of weights that are floats.
        (
            "quantization_config",
            json!({"quant_method": "bitnet"}),
            "packed trits, weight = trit / weight_scale",
        ),
        ("hidden_size", json!(-128), "a whole number above 0"),
        ("hidden_size", json!(1u64 << 40), "a whole number above 0"),
        ("hidden_size", json!(256), "[384, 256] is expected"),
        ("num_key_value_heads", json!(3), "divides num_attention_heads"),
        ("num_hidden_layers", json!(2), "model.layers.1."),
        ("num_hidden_layers", json!(4_000_000_000u64), "model.layers.1."),
        ("vocab_size", json!(100), "below vocab_size"),
        ("rms_norm_eps", json!(0), "a number above 0"),
        (
            "rope_parameters",
            json!({"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}),
            "linear, yarn, llama3",
        ),
        ("tie_word_embeddings", json!(false), "lm_head.weight"),
    ];
    for (key, value, word) in cases {
        let copy = Copy::of("online");
        copy.json("config.json", |config| config[key] = value.clone());
        let refusal = copy.refusal();
        assert!(refusal.contains(word), "{key} = {value}: {refusal}");
    }
    let copy = Copy::of("onebit");
    copy.json("config.json", |config| config["weight_bits"] = 4.into());
    assert!(copy.refusal().contains("weight_bits = 4"), "{}", copy.refusal());
}

/// A change to a safetensors file.
type Change = fn(&mut Value, &mut Vec<u8>);

#[test]
fn weights_that_contradict_their_header_are_refused() {
    let cases: [(&str, Change, &str); 14] = [
        (
            "llama",
            |header, _| entry(header, "q_proj.weight")["data_offsets"][1] = (1u64 << 60).into(),
            "cut off",
        ),
        (
            "llama",
            |header, _| entry(header, "q_proj.weight")["data_offsets"] = json!([8, 4]),
            "takes bytes 8 to 4",
        ),
        (
            "llama",
            |header, _| entry(header, "q_proj.weight")["shape"] = json!([1u64 << 63, 4, 2]),
            "and takes",
        ),
        ("llama", |header, _| entry(header, "q_proj.weight")["shape"] = json!([128, 32]), "U8 [32, 128]"),
        ("llama", |header, _| entry(header, "q_proj.weight")["dtype"] = "F8_E4M3".into(), "F8_E4M3"),
        ("llama", |header, _| entry(header, "q_proj.weight")["dtype"] = 7.into(), "is not the JSON"),
        (
            "llama",
            |header, _| {
                let begin = entry(header, "k_proj.weight")["data_offsets"][0].clone();
                let bytes = 32 * 128;
                let end = begin.as_u64().unwrap_or(0) + bytes;
                entry(header, "q_proj.weight")["data_offsets"] = json!([begin, end]);
            },
            "it begins at",
        ),
        (
            "llama",
            |header, _| {
                header.as_object_mut().expect("an object").remove("model.layers.1.mlp.up_proj.weight_scale");
            },
            "a gap",
        ),
        ("llama", |_, data| data.truncate(1000), "cut off"),
        ("llama", |_, data| data.extend([0; 64]), "its tensors"),
        (
            "llama",
            |header, data| {
                let at = entry(header, "q_proj.weight")["data_offsets"][0].as_u64().unwrap_or(0) as usize;
                data[at + 5] |= 0x30;
            },
            "a code of 3",
        ),
        (
            "llama",
            |header, data| {
                let at =
                    entry(header, "q_proj.weight_scale")["data_offsets"][0].as_u64().unwrap_or(0) as usize;
                data[at..at + 2].fill(0);
            },
            "not finite",
        ),
        (
            "online",
            |header, data| {
                let at = entry(header, "down_proj.weight")["data_offsets"][0].as_u64().unwrap_or(0) as usize;
                data[at..at + 2].copy_from_slice(&0x7f80u16.to_le_bytes());
            },
            "finite",
        ),
        (
            "online",
            |header, _| {
                let header = header.as_object_mut().expect("an object");
                let taken = header.remove("model.norm.weight").expect("a tensor");
                header.insert("model.layers.0.mlp.gate_proj.bias".into(), taken);
            },
            "model.norm.weight",
        ),
    ];
    for (name, change, word) in cases {
        let copy = Copy::of(name);
        copy.weights("model.safetensors", change);
        let refusal = copy.refusal();
        assert!(refusal.contains(word), "{word}: {refusal}");
    }
    let copy = Copy::of("llama");
    copy.weights("model.safetensors", |header, data| {
        let end = data.len();
        data.extend([0; 4]);
        let entry = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
        header.as_object_mut().expect("an object").insert("model.layers.0.mlp.gate_proj.bias".into(), entry);
    });
    assert!(copy.refusal().contains("has no such tensor"), "{}", copy.refusal());
}

#[test]
fn headers_shards_and_missing_files_are_named() {
    let check = |copy: &Copy, word: &str| {
        let refusal = copy.refusal();
        assert!(refusal.contains(word), "{word}: {refusal}");
    };
    for (bytes, word) in [
        (&b"GGUF"[..], "4 bytes"),
        (&[0xff; 64][..], "its header would have"),
        (
            &[&(100_000_001u64).to_le_bytes()[..], &[b' '; 100]].concat(),
            "its header would have 100000001 bytes",
        ),
        (&[&2u64.to_le_bytes()[..], b"[]"].concat(), "a tensor under each name"),
        (&[&2u64.to_le_bytes()[..], b"{}"].concat(), "model.embed_tokens.weight"),
    ] {
        let copy = Copy::of("online");
        fs::write(copy.path("model.safetensors"), bytes).expect("room");
        check(&copy, word);
    }
    let second = "model-00002-of-00002.safetensors";
    for (change, word) in [
        (json!({"model.norm.weight": "../../etc/passwd"}), "the name of a file beside it"),
        (json!({"model.norm.weight": second}), "is not in"),
        (json!({"model.other.weight": second}), "model.other.weight"),
        (json!({"model.norm.weight": "model-3.safetensors"}), "model-3.safetensors"),
    ] {
        let copy = Copy::of("onebit");
        copy.json("model.safetensors.index.json", |index| {
            for (key, file) in change.as_object().expect("an object") {
                index["weight_map"][key] = file.clone();
            }
        });
        check(&copy, word);
    }
    let copy = Copy::of("onebit");
    fs::copy(copy.path("model-00001-of-00002.safetensors"), copy.path(second)).expect("room");
    check(&copy, "as well");
    for (file, word) in [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("model.safetensors", "no model.safetensors.index.json"),
    ] {
        let copy = Copy::of("online");
        fs::remove_file(copy.path(file)).expect("it was there");
        check(&copy, word);
    }
    let copy = Copy::of("online");
    fs::write(copy.path("config.json"), "{\"architectures\": [").expect("room");
    check(&copy, "is not the JSON");
}

/// A change to tokenizer.json.
type Edit = fn(&mut Value);

#[test]
fn tokenizers_that_are_not_known_exactly_are_shown() {
    let cases: [(&str, Edit, &str); 12] = [
        ("online", |file| file["model"] = json!({"type": "Unigram", "vocab": [["a", -1.0]]}), "Unigram"),
        ("online", |file| file["pre_tokenizer"] = json!({"type": "Whitespace"}), "Whitespace"),
        (
            "online",
            |file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\d".into(),
            "\\\\d",
        ),
        ("online", |file| file["normalizer"] = json!({"type": "Lowercase"}), "Lowercase"),
        ("online", |file| file["normalizer"] = json!({"type": "NFC"}), "and NFC"),
        ("online", |file| file["model"]["dropout"] = 0.1.into(), "dropout"),
        ("online", |file| file["model"]["end_of_word_suffix"] = "</w>".into(), "end_of_word_suffix"),
        (
            "online",
            |file| {
                file["post_processor"]["single"] = json!([{"Sequence": {"id": "A"}}, {"SpecialToken":
            {"id": "<|end_of_text|>", "type_id": 0}}])
            },
            "the begin token and a text",
        ),
        ("online", |file| file["added_tokens"][0]["id"] = 4_000_000_000u32.into(), "ids up to 4000000000"),
        ("online", |file| file["added_tokens"][0]["content"] = "<|eot_id|>".into(), "bos_token"),
        ("online", |file| file["added_tokens"][0]["id"] = 5.into(), "one text an id"),
        ("onebit", |file| file["normalizer"] = Value::Null, "spelled as U+2581"),
    ];
    for (name, change, word) in cases {
        let copy = Copy::of(name);
        copy.json("tokenizer.json", change);
        let refusal = copy.refusal();
        assert!(refusal.contains(word), "{word}: {refusal}");
    }
}

#[test]
fn changed_bytes_give_an_error_or_a_model_and_nothing_else() {
    let mut random = Random::new(20_261_122);
    let mut below = |end: usize| random.below(end);
    for name in ["online", "llama", "onebit"] {
        for file in ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"] {
            let copy = Copy::of(name);
            let Ok(good) = fs::read(copy.path(file)) else { continue };
            // Of weights the header: anything is good data.
            let reach = if file == "model.safetensors" { 2000.min(good.len()) } else { good.len() };
            for _ in 0..40 {
                let mut bytes = good.clone();
                for _ in 0..1 + below(3) {
                    let at = below(reach);
                    match below(4) {
                        0 => bytes[at] ^= 1 << below(8),
                        1 => bytes[at] = b"0129-\"{}[],:"[below(12)],
                        2 => drop(bytes.remove(at)),
                        _ => bytes.insert(at, b'9'),
                    }
                }
                fs::write(copy.path(file), &bytes).expect("room");
                // Whatever it is, it ends and says something.
                assert!(!copy.refusal().is_empty());
            }
        }
    }
}
