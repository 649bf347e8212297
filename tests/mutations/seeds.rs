//! Inputs to begin with: small, and every kind that the program reads.

use tern::packing::Recipe;
use tern::synth::{Shape, write_model};
use tern_kernels::Layout;
use tern_kernels::coding::TernaryBlock;
use tern_runtime::gguf::{Gguf, Header, TensorType};
use tern_tests::gguf_fields::fields;
use tern_tests::model::fixture;

use crate::mutate::Seed;
use crate::targets::CUT;

const JSON: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    "{\"a\":",
    ":",
    ",",
    "null",
    "true",
    "1e999",
    "-0",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "0.1",
    "\u{0}",
    "\u{fffd}",
    "\"stream\":",
    "\"schema\":{}",
    "\"max_tokens\":",
    " ",
];
const TOML: &[&str] = &[
    "\n",
    "[",
    "]",
    "[[",
    "[a.b]\n",
    "\"\"\"",
    "'''",
    "=",
    "{",
    "}",
    "1e999",
    "1979-05-27",
    "0x",
    "\"",
    "\\u0000",
    "a.",
    "kind = ",
    "\u{0}",
    "labels = [",
    "nan",
    "true",
];
const JINJA: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "'",
    "|",
    "messages",
    "[0]",
    "['content']",
    "|trim",
    "~",
    "*",
    "%",
    "{% endif %}",
    "{% for m in messages %}",
    "{% endfor %}",
    "range(99)",
    "{% if true %}",
    "loop.last",
    "{% set x = ",
    ".split('a')",
    "-%}",
];
const INI: &[&str] = &["[", "]", "\n", "=", "m = ", "bmm=0", "18446744073709551616", ";", "[a]\n"];

/// A GGUF file and where its numbers are.
fn gguf(bytes: Vec<u8>) -> Seed {
    let fields = fields(&bytes);
    let is_number = |name: &str| !name.ends_with(": text") && name != "magic";
    let numbers = fields.iter().filter(|field| is_number(&field.name)).map(|field| (field.at, field.bytes));
    let numbers: Vec<(usize, usize)> = numbers.filter(|(_, width)| matches!(width, 1 | 2 | 4 | 8)).collect();
    let head = fields.last().map_or(0, |field| field.at + field.bytes);
    Seed { bytes, numbers, head, words: &[] }
}

/// A model of one layer: 8 KB of codes, 70 KB of embedding, 5 KB of header.
fn smallest() -> Vec<u8> {
    let tiny = Shape::by_name("tiny").expect("a shape of this build");
    let shape =
        Shape { layers: 1, vocab: 272, context: 64, ffn: 128, heads: 2, kv_heads: 1, head_dim: 64, ..*tiny };
    write_model(&shape, 3, Vec::new(), |_| ()).expect("memory takes it")
}

/// The same model with other types for its matrices and its embedding; weights are whatever the bytes say.
fn retyped(file: &[u8], matrices: TensorType, embedding: TensorType) -> Vec<u8> {
    let gguf = Gguf::parse(file).expect("it is sound");
    let mut header = Header::new();
    for (key, value) in gguf.entries() {
        header.copy(key, &value);
    }
    for info in gguf.tensors() {
        let ty = match info.ty() {
            TensorType::I2S => matrices,
            TensorType::F16 => embedding,
            same => same,
        };
        header.tensor(info.name(), ty, info.dims()).expect("a shape that fits");
    }
    let mut out = header.begin(Vec::new()).expect("memory takes it");
    while let Some((name, left)) = out.current() {
        let bytes = match gguf.require(name).expect("one of its tensors") {
            info if info.ty() == TensorType::F32 => info.data().expect("floats").to_vec(),
            // Zeros in pairs of bits, and a small scale wherever one stands.
            _ => vec![0x15; left as usize],
        };
        out.write(&bytes).expect("memory takes it");
    }
    out.finish().expect("all is written")
}

/// Model files: as converters write them, of every type, and packed.
pub fn models() -> Vec<Seed> {
    use TensorType::{F16, I2S, I2s64, Q4_0, Q8_0, Tl1};
    let plain = smallest();
    let ternary = |block| TensorType::Ternary(block);
    let mut seeds: Vec<Seed> = [
        (I2S, Q8_0),
        (I2s64, Q4_0),
        (Tl1, ternary(TernaryBlock::Ptq1_0)),
        (ternary(TernaryBlock::Q2_0), ternary(TernaryBlock::Q2_0)),
        (ternary(TernaryBlock::Pq2_0), ternary(TernaryBlock::Pq2_0)),
        (ternary(TernaryBlock::Ptq1_0), F16),
        (ternary(TernaryBlock::Q1_0), ternary(TernaryBlock::Q1_0)),
    ]
    .into_iter()
    .map(|(matrices, embedding)| gguf(retyped(&plain, matrices, embedding)))
    .collect();
    let source = Gguf::parse(&plain).expect("it is sound");
    for (layout, int8_head) in [(Layout::T2R4, true), (Layout::T5R, false), (Layout::Tl1P32, true)] {
        let recipe = Recipe { layout, int8_head };
        seeds.push(gguf(recipe.write(&source, "smallest", 1, Vec::new(), |_| ()).expect("memory takes it")));
    }
    seeds.push(gguf(plain));
    seeds
}

/// Files whose vocabulary is read: the smallest model's, and a trained one of 4096 tokens without its model.
pub fn vocabularies() -> Vec<Seed> {
    let log = std::fs::read(fixture("oracle/gguf/log-vocab.gguf")).expect("the fixture");
    let small = |seed: u64| {
        let tiny = Shape::by_name("tiny").expect("a shape of this build");
        let shape = Shape { layers: 0, vocab: 290, hidden: 32, ..*tiny };
        gguf(write_model(&shape, seed, Vec::new(), |_| ()).expect("memory takes it"))
    };
    vec![small(1), small(2), small(3), small(4), small(5), small(6), small(7), gguf(log)]
}

/// Lines of clients, each kind of request.
pub fn lines() -> Vec<Seed> {
    [
        r#"{"id":"1","task":"log-severity","text":"disk full"}"#,
        r#"{"id":"a","ask":{"kind":"choose","labels":["usb","net"],"instructions":"Where?"},"text":"x","deadline_ms":500}"#,
        r#"{"id":"b","ask":{"kind":"score","min":0,"max":10,"template":"{text}","examples":[{"text":"smoke","answer":"9"}]},"text":"y"}"#,
        r#"{"id":"c","generate":{"prompt":"Once","sampling":{"temperature":0.5,"top_k":3,"seed":7,"stop":["."]}},"stream":true}"#,
        r#"{"id":"d","chat":{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi \u00e9\ud83d\ude00"}]}}"#,
        r#"{"id":"e","generate":{"prompt":"x","schema":{"type":"object","properties":{"a":{"type":"integer"}}}},"max_joules":0.5}"#,
        r#"{"id":"f","cancel":"e"}"#,
        r#"{"id":"g","status":true}"#,
    ]
    .map(|line| Seed::text(line, JSON))
    .into()
}

/// What frames hold: version and message, without checksum and without the stuffing of zeros.
pub fn frames() -> Vec<Seed> {
    let golden = include_str!("../../protocol/tests/golden.txt");
    let hex = |digits: &str| u8::from_str_radix(digits, 16).expect("hexadecimal digits");
    let frames =
        golden.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(|line| {
            let frame: Vec<u8> = line.split_whitespace().skip(1).map(hex).collect();
            let plain = unstuffed(&frame);
            let content = plain[..plain.len() - 4].to_vec();
            assert_eq!(framed(&content), frame, "{line}: framed as the protocol does");
            let numbers = (0..content.len()).map(|at| (at, 1)).collect();
            Seed { head: content.len(), bytes: content, numbers, words: &[] }
        });
    frames.collect()
}

/// A frame without its zeros' stuffing (COBS) and its end.
fn unstuffed(frame: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), &frame[..frame.len() - 1]);
    while let Some((&code, after)) = rest.split_first() {
        let (run, after) = after.split_at(usize::from(code) - 1);
        plain.extend(run);
        if code < 255 && !after.is_empty() {
            plain.push(0);
        }
        rest = after;
    }
    plain
}

/// `content` with its checksum (CRC-32), its zeros stuffed (COBS), and its end.
pub fn framed(content: &[u8]) -> Vec<u8> {
    let sum = !content.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    });
    let plain = [content, &sum.to_le_bytes()].concat();
    let mut frame = Vec::new();
    let runs: Vec<&[u8]> = plain.split(|byte| *byte == 0).collect();
    for run in runs {
        let mut rest = run;
        while rest.len() >= 254 {
            frame.push(255);
            frame.extend(&rest[..254]);
            rest = &rest[254..];
        }
        frame.push(rest.len() as u8 + 1);
        frame.extend(rest);
    }
    frame.push(0);
    frame
}

/// Task files: those that are built in, and one of every other kind.
pub fn tasks() -> Vec<Seed> {
    [
        include_str!("../../daemon/tasks/log-severity.toml"),
        include_str!("../../daemon/tasks/summarize.toml"),
        "kind = \"score\"\ninstructions = \"How bad?\"\nmin = 0\nmax = 10\n[[examples]]\ntext = \"smoke\"\nanswer = \"9\"\n",
        "kind = \"extract\"\ninstructions = \"x\"\nschema = { type = \"object\", properties = { a = { type = \"integer\" } } }\n",
    ]
    .map(|text| Seed::text(text, TOML))
    .into()
}

/// Directories of Hugging Face, each as one input.
pub fn checkpoints() -> Vec<Seed> {
    let seed = |name: &str, tokenizer: &str| {
        let read = |name: &str, file: &str| {
            std::fs::read(fixture(&format!("hf/{name}/{file}"))).expect("the fixture")
        };
        let weights = read(name, "model.safetensors");
        let header = weights.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
        let said = [read(name, "config.json"), read(tokenizer, "tokenizer.json")].join(CUT);
        let bytes = [&said[..], &weights].join(CUT);
        let weights_at = said.len() + CUT.len();
        Seed { bytes, numbers: Vec::new(), head: weights_at + 8 + header, words: JSON }
    };
    vec![seed("llama", "online"), seed("online", "online")]
}

/// Chat templates of the forms that models come with.
pub fn templates() -> Vec<Seed> {
    [
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}\
         {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "{{ bos_token }}{%- set ns = namespace(n=0) -%}{% for m in messages %}{% if m.role == 'user' and loop.first %}\
         {{ raise_exception('no') if false else m.content | trim }}{% else %}{% set ns.n = ns.n + 1 %}{{ m.content }}\
         {% endif %}{% endfor %}{{ eos_token }}",
    ]
    .map(|text| Seed::text(text, JINJA))
    .into()
}

/// Configuration files.
pub fn settings() -> Vec<Seed> {
    [
        "[model]\npath = \"m.gguf\"\nthreads = 2\nslots = 3\n[http]\nlisten = \"127.0.0.1:8080\"\n",
        "[socket]\npath = \"/run/t\"\n[mqtt]\nbroker = \"mqtt://h\"\n",
    ]
    .map(|text| Seed::text(text, TOML))
    .into()
}

/// Tables of tiles.
pub fn tiles() -> Vec<Seed> {
    let table = "[Kernels_0]\nm = 256\nk = 512\nbm = 128\nbk = 64\nbmm = 64\n[Kernels_1]\nm = 1\nk = 2\nbm = 3\nbk = 4\nbmm = 5\n";
    vec![Seed::text(table, INI)]
}
