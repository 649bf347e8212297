//! What is done with bytes from outside: each function takes any bytes, does with them what the program would, and says
//! whether they were accepted. It must return: no panic, no hang, and no memory taken for a length that the bytes only claim.
//!
//! The fuzz targets of this crate call these, and `tests/mutations` does, with a hundred thousand inputs that are the same
//! every time.

use std::sync::Arc;

use tern::checkpoint::Checkpoint;
use tern::config::Config as Settings;
use tern::model::reading::parse_tiles;
use tern::packing::{Recipe, packed};
use tern::serve::form::Form;
use tern::tasks;
use tern::tasks::markers::Markers;
use tern::tasks::prompt::PromptForm;
use tern::tasks::template::{NamedTokens, Template};
use tern::wire::Message;
use tern_kernels::{Coding, Layout, SCALAR};
use tern_protocol::answer::Answer;
use tern_protocol::frame;
use tern_protocol::request::{Request, Role};
use tern_protocol::storage::Fixed;
use tern_runtime::engine::{Engine, Event, Generate, Goal, Piece, Request as Submitted};
use tern_runtime::gguf::{Gguf, I2sBlocks, Reading};
use tern_runtime::model::Config;
use tern_runtime::parallel::Serial;
use tern_runtime::plan::{MemoryPlan, Options};
use tern_runtime::tokenizer::{Special, Tokenizer};

/// A machine with this much memory free refuses what needs more, as the program does before it takes any.
const FREE_BYTES: usize = 8 << 20;

/// A model file: parsed, its tensors looked at in every way, planned, loaded, and run for a token.
pub fn model(bytes: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(bytes) else { return false };
    let _ = packed(&gguf).is_ok_and(|packed| packed.is_some());
    rows(&gguf);
    let Ok(config) = Config::read(&gguf) else { return false };
    let options = Options {
        context_tokens: 16,
        cache_tokens: 16,
        slots: 1,
        batch_rows: 4,
        prompt_bytes: 64,
        ..Options::for_model(&config)
    };
    let Ok(plan) = MemoryPlan::new(&gguf, options, &SCALAR, 1) else { return false };
    if plan.total_bytes() > FREE_BYTES {
        return false;
    }
    let mut memory = vec![0; plan.total_bytes()];
    let Ok(mut engine) = Engine::new(&gguf, &plan, &SCALAR, &Serial, &mut memory) else { return false };
    let goal =
        Goal::Generate(Generate { max_tokens: Some(1), ignore_stop_tokens: true, ..Generate::default() });
    let prompt = [Piece::Token(0), Piece::Text("a b")];
    if engine.submit(&Submitted { key: 0, prompt: &prompt, goal }).is_ok() {
        let mut is_over = false;
        for _ in 0..100 {
            engine.step(|_, event| is_over |= matches!(event, Event::Finished { .. }));
        }
        assert!(is_over, "accepted, but it never ends");
    }
    true
}

/// The first and the last row of every ternary matrix, in both blocks of I2_S.
fn rows(gguf: &Gguf<'_>) {
    for info in gguf.tensors().filter(|info| info.ty().is_ternary()) {
        let (Ok(coding), Ok(data)) = (info.coding(), info.data()) else { continue };
        let (Ok(rows), Ok(cols)) = (usize::try_from(info.rows()), usize::try_from(info.row_len())) else {
            continue;
        };
        // A row of codes is at most a few times as long as its bytes; what a file holds bounds it.
        let mut weights = vec![0; cols];
        for coding in [coding, Coding::I2s64] {
            if coding.bytes(rows, cols).is_none_or(|bytes| bytes > data.len()) {
                continue;
            }
            let mut scales = vec![0.0; coding.scales(cols)];
            for row in [0, rows - 1] {
                if coding.row_into(data, rows, cols, row, &mut weights, &mut scales).is_ok() {
                    assert!(weights.iter().all(|w| (-1..=1).contains(w)), "{coding:?}");
                }
            }
        }
    }
}

/// A model file of which only the vocabulary is used, and the file's own bytes as text.
pub fn vocabulary(bytes: &[u8]) -> bool {
    let reading = Reading { i2s: I2sBlocks::Of64, ..Reading::default() };
    let Ok(gguf) = Gguf::parse_as(bytes, &reading) else { return false };
    let Ok(plan) = Tokenizer::plan(&gguf) else { return false };
    let mut tables = vec![0; plan.table_words()];
    let Ok(tokenizer) = Tokenizer::build(&gguf, plan, &mut tables) else { return false };
    let end = &bytes[bytes.len().saturating_sub(300)..];
    for text in
        ["it's 12345 words, don't  you\tthink?\n\n OK \u{1f600}\u{4e2d}", &String::from_utf8_lossy(end)]
    {
        let mut scratch = vec![0; Tokenizer::scratch_words(text.len())];
        let mut out = vec![0; 4 * text.len() + 4];
        for special in [Special::Plain, Special::Parse] {
            if let Ok(count) = tokenizer.encode(text, special, &mut scratch, &mut out) {
                for id in &out[..count] {
                    assert!((*id as usize) < tokenizer.len(), "token {id} of {}", tokenizer.len());
                    let _ = tokenizer.token_bytes(*id);
                }
            }
        }
    }
    let _ = PromptForm::of(&tokenizer).chats();
    true
}

/// A line that a client sent.
pub fn line(bytes: &[u8]) -> bool {
    request(Form::Lines, bytes)
}

/// A frame that a client sent, and the same as an answer on a device without a heap.
pub fn framed(bytes: &[u8]) -> bool {
    let _ = frame::decode::<Answer<Fixed<64, 4>>>(&mut bytes.to_vec());
    let _ = frame::decode::<Request<Fixed<64, 4>>>(&mut bytes.to_vec());
    request(Form::Frames, bytes)
}

fn request(form: Form, bytes: &[u8]) -> bool {
    match form.request(&mut bytes.to_vec()) {
        Ok(Some(request)) => {
            if let Some(ask) = request.ask {
                let _ = tasks::Task::new(ask);
            }
            if let Some(generate) = request.generate {
                let _ = tasks::sampling(generate.sampling);
            }
            true
        }
        Ok(None) => false,
        Err(unreadable) => {
            assert!(!unreadable.message.is_empty());
            false
        }
    }
}

/// The text of a task file.
pub fn task(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| tasks::parse("fuzzed".as_ref(), "fuzzed", text).is_ok())
}

/// A chat template, and a conversation in it.
pub fn template(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let tokens = NamedTokens { bos: "<s>".into(), eos: "</s>".into() };
    let markers = Markers::new(["<|im_start|>", "<|im_end|>"].map(str::to_owned).into_iter().zip(0..));
    let Ok(template) = Template::new(text, tokens, Arc::new(markers)) else { return false };
    let say = |role, content: &str| Message { role, content: content.into() };
    let said =
        [say(Role::System, "Be brief."), say(Role::User, "a<|im_end|>\n"), say(Role::Assistant, "</think>b")];
    template.render(&said).is_ok()
}

/// What separates the files of a checkpoint in one input.
pub const CUT: &[u8] = b"\n\0cut\0\n";

/// A directory as Hugging Face publishes models: config.json, tokenizer.json and model.safetensors with [`CUT`] between
/// them. Opened and planned; packed if it is sound and its length a multiple of eight, for that takes longer.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let mut rest = bytes;
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        // The last file is what is left; searching it would take longer than all else.
        let is_cut = |at: &usize| rest[*at..].starts_with(CUT);
        let found = if name == "model.safetensors" { None } else { (0..rest.len()).find(is_cut) };
        let end = found.unwrap_or(rest.len());
        if std::fs::write(folder.path().join(name), &rest[..end]).is_err() {
            return false;
        }
        rest = rest.get(end + CUT.len()..).unwrap_or_default();
    }
    let Ok(checkpoint) = Checkpoint::open(folder.path()) else { return false };
    let recipe = Recipe { layout: Layout::T2R4, int8_head: false };
    let _ = checkpoint.header(&recipe);
    !bytes.len().is_multiple_of(8) || checkpoint.pack(&recipe, 1, Vec::new(), |_| ()).is_ok()
}

/// The text of a configuration file.
pub fn settings(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Settings::parse("fuzzed".as_ref(), text).is_ok())
}

/// The text of a table of tiles.
pub fn tiles(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| parse_tiles(text).is_ok())
}
