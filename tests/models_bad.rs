//! Model files that are cut, flipped or lying, through the same door as every model: an error or a model that works,
//! never a panic, an abort or a hang.
//!
//! The file is a small synthetic one. Its header is walked by a reader of the tests' own, so that every field of it can
//! be named, cut through and replaced by lies.

use std::path::{Path, PathBuf};

use tern::inspect::Description;
use tern::model::{EngineChoice, ModelChoice, OpenError, with_engine};
use tern::synth::{Shape, header, write_model};
use tern_runtime::engine::{Event, Generate, Goal, Piece, Request};
use tern_runtime::gguf::Gguf;
use tern_runtime::sampler::Sampling;
use tern_tests::binary::{run, tern};
use tern_tests::fill::Random;
use tern_tests::gguf_fields::fields;

/// A sound model of one layer.
fn sound() -> Vec<u8> {
    let tiny = Shape::by_name("tiny").expect("a shape of this build");
    let shape = Shape { layers: 1, vocab: 320, context: 64, ..*tiny };
    write_model(&shape, 3, Vec::new(), |_| ()).expect("memory takes it")
}

/// A file to break, over and over.
struct Victim {
    _folder: tempfile::TempDir,
    path: PathBuf,
    tried: usize,
    accepted: usize,
}

impl Victim {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("victim.gguf");
        Victim { _folder: folder, path, tried: 0, accepted: 0 }
    }

    /// Writes `bytes` as a new file and opens it with everything that opens models. Whatever is accepted must also
    /// run: a token is generated and a decision made.
    fn open(&mut self, bytes: &[u8], what: &str) -> Result<(), OpenError> {
        // A new file each time: one that is mapped is never written in place.
        let _ = std::fs::remove_file(&self.path);
        std::fs::write(&self.path, bytes).expect("a temporary file");
        self.tried += 1;
        let inspected = inspect(&self.path, bytes);
        let engine = EngineChoice {
            threads: Some(1),
            slots: Some(2),
            context_tokens: Some(16),
            ..EngineChoice::default()
        };
        let choice = ModelChoice { path: Some(self.path.clone()), engine };
        let opened = with_engine(&choice, |engine, _| {
            let goal = Goal::Generate(Generate {
                sampling: Sampling::default(),
                max_tokens: Some(2),
                ignore_stop_tokens: true,
                ..Generate::default()
            });
            let prompt = [Piece::Token(0), Piece::Text("a b")];
            engine
                .submit(&Request { key: 0, prompt: &prompt, goal })
                .map_err(|refusal| refusal.to_string())?;
            let labels = Goal::Choose { labels: &["yes", "no"] };
            // A file that lost its stop tokens cannot score labels; that is a refusal, not a fault.
            let _ = engine.submit(&Request { key: 1, prompt: &prompt, goal: labels });
            let mut finished = 0;
            for _ in 0..100 {
                engine.step(|_, event| finished += usize::from(matches!(event, Event::Finished { .. })));
            }
            if engine.live() == 0 && finished > 0 { Ok(()) } else { Err("it never ends".to_owned()) }
        });
        match opened {
            Ok(Ok(())) => {
                self.accepted += 1;
                assert_eq!(inspected, Ok(true), "{what}: it runs, so inspect must call it supported");
                Ok(())
            }
            Ok(Err(problem)) => panic!("{what}: accepted, but {problem}"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.len() > 20 && !message.contains('\n'), "{what}: {message}");
                assert!(message.contains("victim.gguf"), "{what}: the file is not named in {message}");
                assert!(message.chars().all(|c| !c.is_control()), "{what}: {message:?}");
                Err(error)
            }
        }
    }
}

/// What `tern inspect` thinks: whether the model is supported, or why it is none at all.
fn inspect(path: &Path, bytes: &[u8]) -> Result<bool, String> {
    let gguf = Gguf::parse(bytes).map_err(|error| error.to_string())?;
    let engine = EngineChoice { threads: Some(1), ..EngineChoice::default() };
    let description = Description::new(path, &gguf, &engine, true).map_err(|error| error.to_string())?;
    assert!(!serde_json::to_string(&description).expect("it is plain data").is_empty());
    Ok(description.supported)
}

#[test]
fn a_sound_model_is_accepted_and_its_header_has_all_kinds_of_fields() {
    let file = sound();
    assert!(Victim::new().open(&file, "as written").is_ok());
    let fields = fields(&file);
    let has = |word: &str| fields.iter().any(|field| field.name.contains(word));
    for word in
        ["magic", "tokens: count", "token_type[2]", "merges[0]: text", "rank", "dimension 1", "offset"]
    {
        assert!(has(word), "no field {word}");
    }
    assert!(fields.len() > 200, "{} fields", fields.len());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = sound();
    let mut victim = Victim::new();
    let mut cuts: Vec<(usize, String)> = Vec::new();
    for field in fields(&file) {
        cuts.push((field.at, format!("cut before {}", field.name)));
        cuts.push((field.at + field.bytes / 2, format!("cut inside {}", field.name)));
    }
    let data = Gguf::parse(&file).expect("it is sound").data_at_bytes() as usize;
    for at in [data - 1, data, data + 1, (data + file.len()) / 2, file.len() - 33] {
        cuts.push((at, format!("cut at byte {at} of {}", file.len())));
    }
    for (at, what) in &cuts {
        // A cut inside a field of one byte is a cut before it.
        let error = victim.open(&file[..*at], what).expect_err(what);
        assert!(matches!(error, OpenError::File(_) | OpenError::Model { .. }), "{what}: {error}");
    }
    assert_eq!((victim.accepted, victim.tried), (0, cuts.len()));
}

#[test]
fn a_flipped_bit_in_any_field_is_refused_or_harmless() {
    let file = sound();
    let (mut victim, mut random) = (Victim::new(), Random::new(11));
    for field in fields(&file) {
        for byte in field.at..field.at + field.bytes.min(16) {
            // Every bit of a number's lowest and highest byte, one of the others.
            let all = field.bytes <= 8 && (byte == field.at || byte + 1 == field.at + field.bytes);
            let bits = if all {
                0..8
            } else {
                let bit = random.below(8);
                bit..bit + 1
            };
            for bit in bits {
                let mut flipped = file.clone();
                flipped[byte] ^= 1 << bit;
                let _ =
                    victim.open(&flipped, &format!("{}: bit {bit} of byte {}", field.name, byte - field.at));
            }
        }
    }
    assert!(
        victim.tried > 2000 && victim.accepted < victim.tried / 2,
        "{} of {}",
        victim.accepted,
        victim.tried
    );
}

#[test]
fn a_lie_in_any_number_is_refused_or_harmless() {
    let file = sound();
    let mut victim = Victim::new();
    for field in fields(&file).iter().filter(|field| matches!(field.bytes, 1 | 2 | 4 | 8)) {
        let mut value = [0; 8];
        value[..field.bytes].copy_from_slice(&file[field.at..field.at + field.bytes]);
        let value = u64::from_le_bytes(value);
        let lies = [
            0,
            1,
            value.wrapping_add(1),
            value.wrapping_sub(1),
            value.wrapping_mul(2),
            1 << 20,
            (1 << 31) - 1,
            1 << 31,
            u64::from(u32::MAX),
            1 << 61,
            i64::MAX as u64,
            u64::MAX - 31,
            u64::MAX,
        ];
        for lie in lies {
            let mut lying = file.clone();
            lying[field.at..field.at + field.bytes].copy_from_slice(&lie.to_le_bytes()[..field.bytes]);
            if lying == file {
                continue;
            }
            let what = format!("{} is {lie} instead of {value}", field.name);
            let opened = victim.open(&lying, &what);
            let name = &field.name;
            let counts = [": length", ": count", ": rank", "number of keys", "number of tensors", "magic"];
            if counts.iter().any(|end| name.ends_with(end)) || name.contains(": dimension ") {
                assert!(opened.is_err(), "{what}: accepted");
            }
        }
    }
    assert!(
        victim.tried > 2000 && victim.accepted < victim.tried / 2,
        "{} of {}",
        victim.accepted,
        victim.tried
    );
}

#[test]
fn weights_that_no_model_has_are_refused() {
    let file = sound();
    let gguf = Gguf::parse(&file).expect("it is sound");
    let mut victim = Victim::new();
    for tensor in gguf.tensors() {
        let at = (gguf.data_at_bytes() + tensor.offset_bytes()) as usize;
        let mut broken = file.clone();
        let what = tensor.name();
        match tensor.ty().name() {
            // The code 3 stands for no weight.
            "I2_S" => broken[at + 7] = 0b11,
            "F32" => broken[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes()),
            _ => continue,
        }
        let error = victim.open(&broken, what).expect_err(what).to_string();
        assert!(error.contains(what), "{what} is not named in {error}");
        if tensor.ty().name() == "I2_S" {
            let scale = at + tensor.elements() as usize / 4;
            let mut broken = file.clone();
            broken[scale..scale + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            let error = victim.open(&broken, what).expect_err(what).to_string();
            assert!(error.contains(what), "{what} is not named in {error}");
        }
    }
    assert_eq!(victim.accepted, 0);
    assert!(victim.tried > 15, "{} tensors were broken", victim.tried);
}

/// A file whose header is that of a model no machine of today holds; it takes no room on the disk.
fn enormous(folder: &Path) -> PathBuf {
    let tiny = Shape::by_name("tiny").expect("a shape of this build");
    let shape =
        Shape { hidden: 32_768, ffn: 65_280, layers: 128, heads: 256, kv_heads: 256, head_dim: 128, ..*tiny };
    let header = header(&shape, 0).expect("a legal shape");
    let bytes = header.file_bytes();
    assert!(bytes > 300_000_000_000, "{bytes}");
    let path = folder.join("enormous.gguf");
    let file = std::fs::File::create(&path).expect("a temporary file");
    drop(header.begin(&file).expect("a small header"));
    file.set_len(bytes).expect("a file with a hole");
    path
}

#[test]
fn a_model_too_large_for_memory_is_refused_before_anything_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = enormous(folder.path());
    // Kernels that read the file as it is, so that nothing is tried and nothing packed.
    let engine = EngineChoice { kernels: Some("scalar-t2i8".into()), ..EngineChoice::default() };
    let choice = ModelChoice { path: Some(path.clone()), engine };
    let error = with_engine(&choice, |_, _| ()).expect_err("no machine has this much memory");
    let OpenError::Memory { streamed_bytes, available_bytes, .. } = error else { panic!("{error}") };
    assert!(streamed_bytes > available_bytes);
    let ended = run(tern(["bench", path.to_str().expect("UTF-8")]), "");
    assert_eq!(ended.code, Some(66), "{ended:?}");
    for word in ["enormous.gguf", "MiB are free", "with one request of 256 tokens", "tern models --board"] {
        assert!(ended.stderr.contains(word), "{word} is missing in {ended:?}");
    }
}

#[test]
fn the_program_says_in_one_line_what_is_wrong_with_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = sound();
    let half = file.len() / 2;
    let mut version = file.clone();
    version[4] = 9;
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty.gguf", b"", "empty"),
        ("page.gguf", b"<!DOCTYPE html><html>not found</html>", "not a GGUF"),
        ("half.gguf", &file[..half], "half.gguf"),
        ("magic.gguf", b"GGUF", "version"),
        ("version.gguf", &version, "version 9"),
        ("zeros.gguf", &[0; 4096], "not a GGUF"),
    ];
    for (name, bytes, word) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        let path = path.to_str().expect("UTF-8");
        let logits = ["logits", path, "--ids", "/dev/null", "--out", "/dev/null"];
        assert_eq!(run(tern(logits), "").code, Some(64), "unusable ids come first");
        for command in [["inspect", path], ["bench", path]] {
            let ended = run(tern(command), "");
            assert_eq!(ended.code, Some(66), "{name}: {ended:?}");
            assert_eq!(ended.stdout, "", "{name}");
            assert_eq!(ended.stderr.lines().count(), 1, "{name}: {ended:?}");
            assert!(ended.stderr.starts_with("tern: ") && ended.stderr.contains(word), "{name}: {ended:?}");
        }
    }
}
