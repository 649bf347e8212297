//! SentencePiece vocabularies: merging by score, bytes for what has no token, the space in front, and damage.

use tern_runtime::error::LoadError;
use tern_runtime::gguf::{Gguf, Header};
use tern_runtime::tokenizer::{Special, StreamDecoder, TokenKind, Tokenizer};

const SPACE: &str = "\u{2581}";

#[derive(Clone)]
struct Recipe {
    tokens: Vec<(String, i32, f32)>,
    space_prefix: Option<bool>,
    scores: bool,
}

impl Recipe {
    fn sound() -> Self {
        let mut tokens: Vec<(String, i32, f32)> =
            [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(text, ty)| (text.to_owned(), ty, 0.0)).into();
        tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
        for (text, score) in [
            ("ab", -1.0),
            ("bc", -0.5),
            ("abc", -2.0),
            ("aa", -3.0),
            ("aaaa", -4.0),
            ("\u{2581}a", -5.0),
            ("\u{2581}\u{2581}", -6.0),
            ("\u{e9}e", -7.0),
        ] {
            tokens.push((text.to_owned(), 1, score));
        }
        tokens.extend(
            [SPACE, "a", "b", "c", "e", "\u{e9}", "<", "s", ">", "<s"].map(|text| (text.to_owned(), 1, -1e3)),
        );
        tokens.push(("<tool>".to_owned(), 4, 0.0));
        tokens.push(("7".to_owned(), 4, 0.0));
        Self { tokens, space_prefix: None, scores: true }
    }

    fn id(&self, text: &str) -> u32 {
        self.tokens.iter().position(|token| token.0 == text).expect("a token") as u32
    }

    fn ids(&self, texts: &[&str]) -> Vec<u32> {
        texts.iter().map(|text| self.id(text)).collect()
    }

    fn file(&self) -> Vec<u8> {
        let mut header = Header::new();
        header.str("general.architecture", "llama").str("tokenizer.ggml.model", "llama");
        let texts: Vec<&str> = self.tokens.iter().map(|token| &*token.0).collect();
        header.strings("tokenizer.ggml.tokens", &texts);
        header.i32s("tokenizer.ggml.token_type", &self.tokens.iter().map(|t| t.1).collect::<Vec<_>>());
        if self.scores {
            header.f32s("tokenizer.ggml.scores", &self.tokens.iter().map(|t| t.2).collect::<Vec<_>>());
        }
        header.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
        if let Some(prefix) = self.space_prefix {
            header.bool("tokenizer.ggml.add_space_prefix", prefix);
        }
        header.begin(Vec::new()).unwrap().finish().unwrap()
    }
}

fn build<R>(file: &[u8], body: impl FnOnce(&Tokenizer<'_>) -> R) -> Result<R, LoadError> {
    let gguf = Gguf::parse(file)?;
    let plan = Tokenizer::plan(&gguf)?;
    // No more than planned is touched.
    let mut tables = vec![0; plan.table_words()];
    Tokenizer::build(&gguf, plan, &mut tables).map(|tokenizer| body(&tokenizer))
}

fn encode(tokenizer: &Tokenizer<'_>, text: &str, special: Special<'_>) -> Vec<u32> {
    let mut scratch = vec![0; Tokenizer::scratch_words(text.len())];
    let mut ids = vec![0; text.len() + 1];
    let n = tokenizer.encode(text, special, &mut scratch, &mut ids).unwrap();
    ids.truncate(n);
    ids
}

#[test]
fn pairs_merge_by_score_leftmost_first() {
    let recipe = Recipe::sound();
    build(&recipe.file(), |t| {
        // Each worked out by hand; a space stands in front of every text.
        for (text, expected) in [
            ("abc", &[SPACE, "abc"][..]),
            ("aab", &["\u{2581}a", "ab"]),
            ("aaaaa", &[SPACE, "aaaa", "a"]),
            ("\u{e9}e", &[SPACE, "\u{e9}e"]),
            ("  b", &["\u{2581}\u{2581}", SPACE, "b"]),
            ("\u{2581}b", &["\u{2581}\u{2581}", "b"]),
            ("\u{4e2d}\n", &[SPACE, "<0xE4>", "<0xB8>", "<0xAD>", "<0x0A>"]),
            ("", &[]),
        ] {
            assert_eq!(encode(t, text, Special::Plain), recipe.ids(expected), "{text:?}");
        }
        assert_eq!((t.bos(), t.add_bos(), t.eos(), t.end_of_turn()), (Some(1), true, Some(2), Some(2)));
        assert!(t.leads_with_space() && t.repairs().is_empty());
    })
    .unwrap();
    let bare = Recipe { space_prefix: Some(false), ..recipe.clone() };
    build(&bare.file(), |t| assert_eq!(encode(t, "abc", Special::Plain), recipe.ids(&["abc"]))).unwrap();
}

#[test]
fn specials_are_cut_out_and_start_afresh() {
    let recipe = Recipe::sound();
    build(&recipe.file(), |t| {
        let ids = recipe.ids(&["\u{2581}a", "</s>", SPACE, "bc", "<tool>", "\u{2581}a"]);
        assert_eq!(encode(t, "a</s>bc<tool>a", Special::Parse), ids);
        // Text never becomes a control token or a marker, though every part of them is a token.
        let ids = encode(t, "<s><tool>7", Special::Plain);
        assert_eq!(ids[..3], recipe.ids(&[SPACE, "<s", ">"]));
        assert!(ids.iter().all(|id| !t.is_control(*id) && *id != recipe.id("<tool>")));
        assert_eq!(ids.last(), Some(&recipe.id("7")));
        assert_eq!(t.token_kind(recipe.id("7")), TokenKind::UserDefined);
        assert_eq!(t.id_of("<tool>"), Some(recipe.id("<tool>")));
        // What goes on behind text has no space in front.
        let (mut scratch, mut out) = ([0; 64], [0; 8]);
        let n = t.encode_after(true, "abc", Special::Plain, &mut scratch, &mut out).unwrap();
        assert_eq!(out[..n], recipe.ids(&["abc"]));
    })
    .unwrap();
}

#[test]
fn text_comes_back_as_it_streams() {
    build(&Recipe::sound().file(), |t| {
        for text in ["abc ab", " abc", "\u{4e2d}\u{6587} \u{e9}e", "a\u{1f321}", "x"] {
            let (mut back, mut decoder) = (String::new(), t.decoder());
            let mut held = 0;
            for id in encode(t, text, Special::Plain) {
                decoder.push(t.token_bytes(id), &mut back).unwrap();
                assert!(text.starts_with(&back), "{text:?}: {back:?}");
                held = held.max(decoder.held_bytes());
            }
            decoder.finish(&mut back).unwrap();
            assert_eq!(back, text);
            assert_eq!(held > 0, !text.is_ascii() && text != "\u{e9}e");
        }
        // In the middle of a text the space is one.
        let mut back = String::new();
        StreamDecoder::new().push(t.token_bytes(t.id_of(" a").unwrap()), &mut back).unwrap();
        assert_eq!(back, " a");
    })
    .unwrap();
}

/// Tens of millions of steps if each merge looked at all pairs; this is over in a moment.
#[test]
fn long_texts_of_one_letter_are_harmless() {
    let recipe = Recipe::sound();
    build(&recipe.file(), |t| {
        let ids = encode(t, &"a".repeat(400_000), Special::Plain);
        assert_eq!(ids.len(), 100_001);
        assert!(ids[1..].iter().all(|id| *id == recipe.id("aaaa")));
    })
    .unwrap();
}

#[test]
fn tables_that_cannot_work_are_refused_with_the_reason() {
    type Change = fn(&mut Recipe);
    let cases: [(Change, &str); 5] = [
        (|r| r.scores = false, "'tokenizer.ggml.scores'"),
        (|r| r.tokens[263].2 = f32::NAN, "'tokenizer.ggml.scores' holds a value that is not a usable number"),
        (|r| r.tokens[5].2 = f32::NEG_INFINITY, "'tokenizer.ggml.scores' holds a value"),
        (|r| r.tokens[3 + 0x41].0 = "<0x4G>".into(), "no token for byte 0x41"),
        (|r| r.tokens[3 + 0x41].1 = 1, "no token for byte 0x41"),
    ];
    for (change, expected) in cases {
        let mut recipe = Recipe::sound();
        change(&mut recipe);
        let message = build(&recipe.file(), |_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
    let mut header = Header::new();
    header.str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", &["a"]);
    header.i32s("tokenizer.ggml.token_type", &[1]).f32s("tokenizer.ggml.scores", &[1.0, 2.0]);
    let file = header.begin(Vec::new()).unwrap().finish().unwrap();
    let message = build(&file, |_| ()).unwrap_err().to_string();
    assert_eq!(message, "key 'tokenizer.ggml.scores' has 2 elements, expected 1");
}

/// What is built from a damaged file may encode nonsense, but it encodes, and its ids are tokens.
#[test]
fn damage_anywhere_is_refused_or_survived() {
    let sound = Recipe::sound().file();
    let (mut built, mut refused) = (0, 0);
    let mut file = sound.clone();
    for at in 0..sound.len() {
        let flip = 1 << (at % 8);
        file[at] ^= flip;
        let result = build(&file, |t| {
            for special in [Special::Plain, Special::Parse] {
                let ids = encode(t, "abc\u{4e2d} aaaaa</s>\u{2581}<tool>7", special);
                assert!(ids.iter().all(|&id| (id as usize) < t.len()));
            }
        });
        *(if result.is_ok() { &mut built } else { &mut refused }) += 1;
        file[at] ^= flip;
    }
    assert!(built > 1000 && refused > 1000, "{built} built, {refused} refused");
}
