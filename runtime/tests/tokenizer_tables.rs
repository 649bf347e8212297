//! Tokenizers built from files that are defective in known ways, wrong, or damaged anywhere.

use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header};
use tern_runtime::tokenizer::{Repair, Special, Tokenizer};

const TINY: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
const LOG: &[u8] = include_bytes!("../../tests/fixtures/oracle/gguf/log-vocab.gguf");

/// A tokenizer of the 256 bytes, a few merges and control tokens, with what a test wants changed.
#[derive(Clone)]
struct Recipe {
    architecture: &'static str,
    model: &'static str,
    pre: Option<&'static str>,
    tokens: Vec<(String, i32)>,
    merges: Vec<&'static str>,
    eos: &'static str,
    template: Option<&'static str>,
}

/// The spelling of a byte as the published encoder makes it: the printable ones, then the rest from U+0100 on.
fn spelled(byte: u8) -> char {
    let is_itself = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..);
    if is_itself(&byte) {
        char::from(byte)
    } else {
        let before = (0..byte).filter(|b| !is_itself(b)).count() as u32;
        char::from_u32(256 + before).unwrap()
    }
}

impl Recipe {
    fn sound() -> Self {
        let mut tokens: Vec<(String, i32)> = (0..=255).map(|b| (spelled(b).to_string(), 1)).collect();
        for text in ["th", "the", "\u{120}the"] {
            tokens.push((text.to_owned(), 1));
        }
        for text in ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eot"] {
            tokens.push((text.to_owned(), 3));
        }
        tokens.push(("<tool>".to_owned(), 4));
        Self {
            architecture: "bitnet-b1.58",
            model: "gpt2",
            pre: Some("llama-bpe"),
            tokens,
            merges: vec!["t h", "th e", "\u{120} the"],
            eos: "<|eot_id|>",
            template: None,
        }
    }

    fn id(&self, text: &str) -> u32 {
        self.tokens.iter().position(|t| t.0 == text).map_or(u32::MAX, |at| at as u32)
    }

    fn file(&self) -> Vec<u8> {
        let mut header = Header::new();
        header.str("general.architecture", self.architecture).str("tokenizer.ggml.model", self.model);
        if let Some(pre) = self.pre {
            header.str("tokenizer.ggml.pre", pre);
        }
        let (texts, types): (Vec<&str>, Vec<i32>) = self.tokens.iter().map(|t| (&t.0[..], t.1)).unzip();
        header.strings("tokenizer.ggml.tokens", &texts).i32s("tokenizer.ggml.token_type", &types);
        header.strings("tokenizer.ggml.merges", &self.merges);
        header.u32("tokenizer.ggml.bos_token_id", self.id("<|begin_of_text|>"));
        header.u32("tokenizer.ggml.eos_token_id", self.id(self.eos));
        header.bool("tokenizer.ggml.add_bos_token", true);
        if let Some(template) = self.template {
            header.str("tokenizer.chat_template", template);
        }
        header.begin(Vec::new()).unwrap().finish().unwrap()
    }
}

fn build<R>(file: &[u8], body: impl FnOnce(&Tokenizer<'_>) -> R) -> Result<R, LoadError> {
    let gguf = Gguf::parse(file)?;
    let plan = Tokenizer::plan(&gguf)?;
    let mut tables = vec![0; plan.table_words()];
    Tokenizer::build(&gguf, plan, &mut tables).map(|tokenizer| body(&tokenizer))
}

fn ids(tokenizer: &Tokenizer<'_>, text: &str, special: Special<'_>) -> Vec<u32> {
    let (mut scratch, mut out) = ([0; 1000], [0; 200]);
    let n = tokenizer.encode(text, special, &mut scratch, &mut out).unwrap();
    out[..n].to_vec()
}

#[test]
fn a_sound_file_needs_no_repair() {
    let recipe = Recipe::sound();
    build(&recipe.file(), |t| {
        assert!(t.repairs().is_empty());
        assert_eq!(t.len(), 264);
        let [bos, end, eot] =
            ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"].map(|text| recipe.id(text));
        assert_eq!((t.bos(), t.eos(), t.add_bos()), (Some(bos), Some(eot), true));
        assert_eq!(t.stop_tokens(), [eot, end]);
        assert_eq!((t.chat_template(), t.end_of_turn()), (None, Some(eot)));
        assert_eq!(t.longest_token_bytes(), "<|begin_of_text|>".len());
        assert_eq!(t.id_of("<|eot_id|>"), Some(eot));
        assert_eq!(t.id_of(" the"), Some(recipe.id("\u{120}the")));
        assert_eq!(t.id_of("there"), None);
        assert!(t.is_control(eot) && !t.is_control(recipe.id("<tool>")) && !t.is_control(9999));
        assert_eq!(t.token_bytes(eot).count(), 0);
        assert!(t.token_bytes(recipe.id("\u{120}the")).eq(*b" the"));
        assert!(t.token_bytes(recipe.id("<tool>")).eq(*b"<tool>"));
        assert_eq!(t.token_bytes(u32::MAX).count(), 0);
        assert_eq!(t.token_text(recipe.id("\u{120}the")), "\u{120}the");
    })
    .unwrap();
}

#[test]
fn special_tokens_are_the_longest_that_fit_and_only_where_asked() {
    let recipe = Recipe::sound();
    build(&recipe.file(), |t| {
        let [eot, short, tool, the] = ["<|eot_id|>", "<|eot", "<tool>", "the"].map(|text| recipe.id(text));
        assert_eq!(ids(t, "the<|eot_id|>the", Special::Parse), [the, eot, the]);
        assert_eq!(ids(t, "<|eotthe<tool>", Special::Parse), [short, the, tool]);
        for text in ["<|eot_id|>", "<tool>", "<|eot"] {
            assert!(ids(t, text, Special::Plain).iter().all(|&id| id < 256), "{text}");
        }
    })
    .unwrap();
}

#[test]
fn a_control_token_spelled_like_a_word_is_out_of_reach() {
    let mut recipe = Recipe::sound();
    recipe.tokens.push(("pad".to_owned(), 3));
    build(&recipe.file(), |t| {
        assert_eq!(ids(t, "pad", Special::Plain), [b'p', b'a', b'd'].map(u32::from));
        assert_eq!(ids(t, "pad", Special::Parse), [recipe.id("pad")]);
    })
    .unwrap();
}

#[test]
fn the_defects_of_the_published_file_are_repaired() {
    let recipe = Recipe {
        pre: None,
        eos: "<|end_of_text|>",
        template: Some("{{ 'Human: ' + m + '\n\nBITNETAssistant: ' + eos_token }}"),
        ..Recipe::sound()
    };
    build(&recipe.file(), |t| {
        let made: Vec<Repair> = t.repairs().iter().collect();
        let all = [Repair::MissingPretokenizer, Repair::PlaceholderTemplate, Repair::UndeclaredEndOfTurn];
        assert_eq!(made, all);
        assert!(t.chat_template().unwrap().ends_with("Assistant: {% endif %}"));
        assert_eq!(t.end_of_turn(), Some(recipe.id("<|eot_id|>")));
        assert_eq!(t.eos(), Some(recipe.id("<|end_of_text|>")));
        assert_eq!(t.stop_tokens(), [recipe.id("<|end_of_text|>"), recipe.id("<|eot_id|>")]);
        let the = recipe.id("the");
        assert_eq!(ids(t, "1234the", Special::Plain), [49, 50, 51, 52, the]);
    })
    .unwrap();
    // The same file of another architecture is not known to mean the same.
    let other = Recipe { architecture: "llama", ..recipe };
    let error = build(&other.file(), |_| ()).unwrap_err();
    assert!(error.to_string().starts_with("pre-tokenizer '(none)'"), "{error}");
}

#[test]
fn a_turn_ends_as_the_template_writes_it() {
    let of = |template: Option<&'static str>, eos: &'static str| {
        let mut recipe = Recipe { template, eos, ..Recipe::sound() };
        recipe.tokens.extend([("<|im_end|>".to_owned(), 4), ("</s>".to_owned(), 3)]);
        let end = build(&recipe.file(), |t| t.end_of_turn()).unwrap();
        recipe.tokens[end.unwrap() as usize].0.clone()
    };
    assert_eq!(of(None, "</s>"), "<|eot_id|>");
    assert_eq!(of(Some("{{ m }}<|im_end|>"), "</s>"), "<|im_end|>");
    assert_eq!(of(Some("{{ m }}{{ eos_token }}"), "</s>"), "</s>");
    assert_eq!(of(Some("<|eot_id|>"), "<|end_of_text|>"), "<|eot_id|>");
}

#[test]
fn user_defined_tokens_that_are_no_markers_are_text() {
    let mut recipe = Recipe::sound();
    recipe.tokens.extend(["    ", "\t\t", "7", "[INST]", "--"].map(|text| (text.to_owned(), 4)));
    build(&recipe.file(), |t| {
        let [four, tabs, seven, inst, dashes] = ["    ", "\t\t", "7", "[INST]", "--"]
            .map(|text| recipe.tokens.iter().rposition(|t| t.0 == text).unwrap() as u32);
        let space = recipe.id("\u{120}");
        assert_eq!(ids(t, "     the\t\t--", Special::Plain), [four, recipe.id("\u{120}the"), tabs, dashes]);
        assert_eq!(ids(t, "7 [INST]", Special::Plain)[..2], [seven, space]);
        assert!(!ids(t, "7 [INST]", Special::Plain).contains(&inst));
        let outside = Special::Outside(std::slice::from_ref(&(0..8)));
        assert_eq!(ids(t, "7 [INST][INST]7", outside)[..2], [seven, space]);
        assert_eq!(ids(t, "7 [INST][INST]7", outside)[8..], [inst, seven]);
    })
    .unwrap();
}

#[test]
fn tables_that_cannot_work_are_refused_with_the_reason() {
    type Change = fn(&mut Recipe);
    let cases: [(Change, &str); 10] = [
        (|r| r.model = "bert", "tokenizer model 'bert'"),
        (|r| r.pre = Some("tekken"), "pre-tokenizer 'tekken'; this build has llama-bpe, "),
        (|r| drop(r.tokens.remove(usize::from(b'q'))), "no token for byte 0x71"),
        (|r| r.tokens[256].1 = 3, "merge rule 0 't h' makes a token that is not in the vocabulary"),
        (|r| r.merges.push("zz e"), "merge rule 3 'zz e' names a token"),
        (|r| r.merges.push("th h"), "merge rule 3 'th h' makes a token"),
        (|r| r.merges.push("the"), "merge rule 3 'the' has no space"),
        (|r| r.eos = "not there", "'tokenizer.ggml.eos_token_id' is 4294967295, expected a token id"),
        (|r| r.tokens.truncate(200), "no token for byte 0xc8"),
        (
            |r| r.tokens.extend((0..17).map(|_| ("</s>".to_owned(), 3))),
            "17 stop tokens announced, at most 16",
        ),
    ];
    for (change, expected) in cases {
        let mut recipe = Recipe::sound();
        change(&mut recipe);
        let message = build(&recipe.file(), |_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let mut header = Header::new();
    header.str("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", &["a"]);
    header.i32s("tokenizer.ggml.token_type", &[1, 1]).strings("tokenizer.ggml.merges", &["a a"]);
    let message =
        build(&header.begin(Vec::new()).unwrap().finish().unwrap(), |_| ()).unwrap_err().to_string();
    assert_eq!(message, "key 'tokenizer.ggml.token_type' has 2 elements, expected 1");
    let message = build(&Header::new().begin(Vec::new()).unwrap().finish().unwrap(), |_| ()).unwrap_err();
    assert_eq!(message, LoadError::key_missing("tokenizer.ggml.model"));
}

#[test]
fn two_tokens_of_the_same_bytes_use_the_first() {
    let mut recipe = Recipe::sound();
    recipe.tokens.push(("the".to_owned(), 1));
    build(&recipe.file(), |t| assert_eq!(ids(t, "the", Special::Plain), [recipe.id("the")])).unwrap();
}

#[test]
fn memory_of_another_size_is_refused() {
    let (tiny, log) = (Gguf::parse(TINY).unwrap(), Gguf::parse(LOG).unwrap());
    let plan = Tokenizer::plan(&tiny).unwrap();
    let mut tables = vec![0; plan.table_words() - 1];
    let error = Tokenizer::build(&tiny, plan, &mut tables).unwrap_err();
    let (needed_words, given_words) = (plan.table_words(), plan.table_words() - 1);
    assert_eq!(error, LoadError::TableMemory { what: "the tokenizer", needed_words, given_words });
    // A plan of one file does not fit another.
    let mut tables = vec![0; 1 << 20];
    assert!(matches!(Tokenizer::build(&log, plan, &mut tables), Err(LoadError::TableMemory { .. })));
    // More memory than needed is fine.
    assert!(Tokenizer::build(&tiny, plan, &mut tables).is_ok());
}

/// What is built from a damaged file may encode nonsense, but it encodes, and its ids are tokens.
#[test]
fn damage_anywhere_is_refused_or_survived() {
    let sound = Recipe { template: Some("<|eot_id|>"), ..Recipe::sound() }.file();
    let (mut built, mut refused) = (0, 0);
    let mut file = sound.clone();
    for at in 0..sound.len() {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            let result = build(&file, |t| {
                for special in [Special::Plain, Special::Parse] {
                    let ids = ids(t, "the\u{4e2d} <|eot_id|>1234\n<tool>", special);
                    assert!(ids.iter().all(|&id| (id as usize) < t.len()));
                }
                assert!(t.stop_tokens().iter().all(|&id| (id as usize) < t.len()));
            });
            if result.is_ok() {
                built += 1
            } else {
                refused += 1
            }
            file[at] ^= 1 << bit;
        }
        // The last bytes are padding in front of no data.
        let is_padding = sound[at..].iter().all(|&b| b == 0);
        assert!(is_padding || build(&sound[..at], |_| ()).is_err(), "cut to {at} bytes");
    }
    assert!(built > 1000 && refused > 1000, "{built} built, {refused} refused");
}
