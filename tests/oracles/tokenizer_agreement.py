#!/usr/bin/env python3
"""Tokenizers of each family, trained on made-up text, and what Hugging Face `tokenizers` and llama.cpp make of a corpus.

  python tests/oracles/tokenizer_agreement.py tests/fixtures/tokenizers FOLDER

writes FIXTURES/agreement.json: for each family the vocabulary, and for every block of 100 strings a digest of their ids
by Hugging Face. tests/tokenizers.rs makes the same 12,000 strings from FIXTURES/corpus.json and compares. FOLDER gets
vocabulary-only GGUF files and the corpus with its ids, for the comparison with llama.cpp:

  python tests/oracles/tokenizer_agreement.py --llama FOLDER

Made with tokenizers 0.23.3 and llama-cpp-python 0.3.36. All text is our own or runs through code charts, so the
vocabularies are free of any licence.
"""
import json, os, struct, sys

STRINGS, BLOCK, TRAINING, VOCABULARY = 12_000, 100, 5_000, 1_024
MASK = (1 << 64) - 1

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CONTROL, USER = ["<s>", "</s>", "<|end|>"], ["    ", "\t\t", "7"]


class Random:
    """The generator of tests/tokenizers.rs: a linear congruence modulo 2^64, upper half."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 33) % n


def strings(corpus, count):
    parts, spaces, ranges, symbols = (corpus[key] for key in ("parts", "spaces", "ranges", "symbols"))
    for index in range(count):
        random, text = Random(index), ""
        random.below(2)
        for _ in range(1 + random.below(9)):
            kind = random.below(12)
            if kind < 5:
                text += parts[random.below(len(parts))] + " " * (kind < 3)
            elif kind < 7:
                low, high = ranges[random.below(len(ranges))]
                for _ in range(1 + random.below(6)):
                    text += chr(low + random.below(high - low + 1))
            elif kind < 9:
                text += spaces[random.below(len(spaces))]
            elif kind == 9:
                for _ in range(1 + random.below(7)):
                    text += chr(48 + random.below(10))
            elif kind == 10:
                for _ in range(1 + random.below(4)):
                    text += symbols[random.below(len(symbols))]
            else:
                text += CONTROL[random.below(len(CONTROL))]
        yield text


def fnv(data, digest=0xCBF29CE484222325):
    for byte in data:
        digest = ((digest ^ byte) * 0x100000001B3) & MASK
    return digest


def digests(rows):
    """One digest for each block of rows of bytes, each row with its length in front."""
    found = []
    for at in range(0, len(rows), BLOCK):
        digest = fnv(b"")
        for row in rows[at : at + BLOCK]:
            digest = fnv(struct.pack("<I", len(row)) + row, digest)
        found.append(f"{digest:016x}")
    return found


def ids_bytes(ids):
    return struct.pack(f"<{len(ids)}I", *ids)


def train(pre_tokenizer, texts, **options):
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE(**{k: v for k, v in options.items() if k == "unk_token"}))
    tokenizer.pre_tokenizer = pre_tokenizer
    options.pop("unk_token", None)
    trainer = trainers.BpeTrainer(vocab_size=options.pop("size", VOCABULARY), show_progress=False, min_frequency=3, **options)
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    return tokens, [tuple(rule) for rule in state["merges"]]


def byte_level(texts, pattern):
    from tokenizers import Regex, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = level
    if pattern is not None:
        parts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), level]
        split = pre_tokenizers.Sequence(parts)
    tokens, merges = train(split, texts, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return split, tokens, merges


def families(corpus):
    """Name, tokenizer of Hugging Face, and the tables of each family."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    texts = [text for text in strings(corpus, TRAINING)]
    for marker in CONTROL:
        texts = [text.replace(marker, "") for text in texts]

    def finish(tokenizer, tokens, merges, user):
        added = [AddedToken(text, special=True, normalized=False) for text in CONTROL if text not in tokens]
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in user])
        types = [1] * len(tokens) + [3] * len(added)
        tokens = tokens + [token.content for token in added]
        for text in user:  # one that was there before keeps its number
            if text not in tokens:
                tokens, types = tokens + [text], types + [0]
            types[tokens.index(text)] = 4
        assert all(tokenizer.token_to_id(token) == id for id, token in enumerate(tokens))
        return tokenizer, tokens, types, merges

    for name, pattern, whole, nfc, user, llama_pre in [
        ("llama-bpe", LLAMA3, True, False, [], "llama-bpe"),
        ("qwen2", QWEN2, False, True, [], "qwen2"),
        ("gpt-2", None, False, False, [], "gpt-2"),
        ("gpt-neox", None, False, True, USER, "olmo"),
    ]:
        split, tokens, merges = byte_level(texts, pattern)
        model = models.BPE(dict(zip(tokens, range(len(tokens)))), merges, ignore_merges=whole)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = split
        if nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer, tokens, types, merges = finish(tokenizer, tokens, merges, user)
        yield {"name": name, "model": "gpt2", "pre": name, "llama_pre": llama_pre, "nfc": nfc}, tokenizer, tokens, types, merges

    first = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    spaced = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokens, merges = train(spaced, texts, unk_token="<unk>", special_tokens=first, limit_alphabet=500, size=VOCABULARY + 512)
    model = models.BPE(dict(zip(tokens, range(len(tokens)))), merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer, tokens, types, merges = finish(tokenizer, tokens, merges, ["    "])
    types[:3], types[3:259] = [2, 3, 3], [6] * 256
    yield {"name": "spm", "model": "llama", "nfc": False}, tokenizer, tokens, types, merges


def scores(tokens, merges):
    """As SentencePiece numbers them: the earlier a merge, the higher."""
    found = {}
    for rank, (left, right) in enumerate(merges):
        found.setdefault(left + right, float(-rank))
    return [found.get(token, -1e6) for token in tokens]


def gguf(path, family, tokens, types, merges):
    """A file of metadata alone, for llama.cpp."""
    pack_text = lambda text: struct.pack("<Q", len(text.encode())) + text.encode()
    keys = []
    text = lambda key, value: keys.append(pack_text(key) + struct.pack("<I", 8) + pack_text(value))
    array = lambda key, kind, items: keys.append(
        pack_text(key) + struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items))
    flag = lambda key, value: keys.append(pack_text(key) + struct.pack("<IB", 7, value))
    number = lambda key, value: keys.append(pack_text(key) + struct.pack("<II", 4, value))
    text("general.architecture", "llama")
    text("tokenizer.ggml.model", family["model"])
    if family["model"] == "gpt2":
        text("tokenizer.ggml.pre", family["llama_pre"])
        array("tokenizer.ggml.merges", 8, [pack_text(f"{left} {right}") for left, right in merges])
    else:
        array("tokenizer.ggml.scores", 6, [struct.pack("<f", score) for score in scores(tokens, merges)])
    array("tokenizer.ggml.tokens", 8, [pack_text(token) for token in tokens])
    array("tokenizer.ggml.token_type", 5, [struct.pack("<i", kind) for kind in types])
    number("tokenizer.ggml.bos_token_id", tokens.index("<s>"))
    number("tokenizer.ggml.eos_token_id", tokens.index("</s>"))
    flag("tokenizer.ggml.add_bos_token", 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys)
    open(path, "wb").write(header + bytes(-len(header) % 32))


def make(fixtures, folder):
    import tokenizers

    corpus = json.load(open(os.path.join(fixtures, "corpus.json")))
    os.makedirs(folder, exist_ok=True)
    texts = list(strings(corpus, STRINGS))
    json.dump(texts, open(os.path.join(folder, "corpus.json"), "w"))
    out = {"tokenizers": tokenizers.__version__, "texts": digests([text.encode() for text in texts]), "families": []}
    for family, tokenizer, tokens, types, merges in families(corpus):
        name = family["name"]
        gguf(os.path.join(folder, f"{name}.gguf"), family, tokens, types, merges)
        row = dict(family)
        for mode, as_text in [("special", False), ("plain", True)]:
            tokenizer.encode_special_tokens = as_text
            ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
            json.dump(ids, open(os.path.join(folder, f"{name}-{mode}.json"), "w"))
            row[mode] = digests([ids_bytes(row) for row in ids])
        number = dict(zip(tokens, range(len(tokens))))
        merged = {left + right for left, right in merges}
        # What merging makes can be made again from the rules, so only the rest of the tokens is kept.
        row["tokens"] = [None if token in merged else token for token in tokens]
        row["merges"] = [[number[left], number[right], number[left + right]] for left, right in merges]
        row["types"] = types
        row.pop("llama_pre", None)
        out["families"].append(row)
        print(name, len(tokens), "tokens,", len(merges), "merges,", sum(map(len, ids)), "ids")
    json.dump(out, open(os.path.join(fixtures, "agreement.json"), "w"), ensure_ascii=False, separators=(",", ":"))


def compare(folder):
    """Counts the strings that llama.cpp gives the same ids."""
    import unicodedata

    import llama_cpp

    texts = json.load(open(os.path.join(folder, "corpus.json")))
    print(f"llama-cpp-python {llama_cpp.__version__}, {len(texts)} strings")
    for name in ["llama-bpe", "qwen2", "gpt-2", "gpt-neox", "spm"]:
        model = llama_cpp.Llama(os.path.join(folder, f"{name}.gguf"), vocab_only=True, verbose=False)
        for mode in ["special", "plain"]:
            expected = json.load(open(os.path.join(folder, f"{name}-{mode}.json")))
            ids = lambda text: model.tokenize(text.encode(), add_bos=False, special=mode == "special")
            same = [ids(text) == row for text, row in zip(texts, expected)]
            differ = [index for index, is_same in enumerate(same) if not is_same]
            line = f"{name:10} {mode:8} {sum(same)} agree"
            if differ:
                nfc = lambda text: unicodedata.normalize("NFC", text)
                left = [index for index in differ if ids(nfc(texts[index])) != expected[index]]
                line += f", {len(differ) - len(left)} more once the text is in NFC, {len(left)} do not"
                for index in left[:3]:
                    line += f"\n    {texts[index]!r}\n      HF    {expected[index]}\n      llama {ids(texts[index])}"
            print(line, flush=True)


if __name__ == "__main__":
    compare(sys.argv[2]) if sys.argv[1] == "--llama" else make(*sys.argv[1:])
