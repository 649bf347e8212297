"""A checkpoint of BitNet b1.58 2B4T's shape as Hugging Face publishes them, with random weights, to measure packing.

  python tests/oracles/large_checkpoint.py FOLDER [--masters]

writes config.json, tokenizer.json (128,256 made-up tokens) and model.safetensors: packed weights (1.18 GB), or bf16 masters
that are all zero (4.8 GB, a hole in the file where the system has such). Needs NumPy.
"""
import json, os, struct, sys

import numpy as np

HIDDEN, FFN, VOCAB, LAYERS, KV = 2560, 6912, 128256, 30, 640
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
           r"\s+(?!\S)|\s+")


def config(mode):
    return {
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 20, "num_key_value_heads": 5, "vocab_size": VOCAB,
        "max_position_embeddings": 4096, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "relu2",
        "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": 128001, "dtype": "bfloat16",
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": mode}}


def tokenizer():
    """All texts of one byte, then of two, then of three, each by one rule; 256 special tokens at the end."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(0x100, 0x200))
    tokens = [chr(byte) if byte in plain else chr(next(rest)) for byte in range(256)]
    merges = []
    for n in range(VOCAB - 512):
        merges.append([tokens[n // 256], tokens[n % 256]])
        tokens.append("".join(merges[-1]))
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    special = [{"id": VOCAB - 256 + n, "content": f"<|special_{n}|>", "special": True} for n in range(256)]
    return {
        "version": "1.0", "added_tokens": special, "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, as_bytes]},
        "model": {"type": "BPE", "vocab": {text: at for at, text in enumerate(tokens)}, "merges": merges,
                  "ignore_merges": True}}


def shapes(masters):
    yield "model.embed_tokens.weight", "BF16", (VOCAB, HIDDEN)
    yield "model.norm.weight", "BF16", (HIDDEN,)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name, size in (("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN),
                           ("self_attn.attn_sub_norm", HIDDEN), ("mlp.ffn_sub_norm", FFN)):
            yield f"{at}{name}.weight", "BF16", (size,)
        for name, rows, cols in (("self_attn.q_proj", HIDDEN, HIDDEN), ("self_attn.k_proj", KV, HIDDEN),
                                 ("self_attn.v_proj", KV, HIDDEN), ("self_attn.o_proj", HIDDEN, HIDDEN),
                                 ("mlp.gate_proj", FFN, HIDDEN), ("mlp.up_proj", FFN, HIDDEN),
                                 ("mlp.down_proj", HIDDEN, FFN)):
            yield f"{at}{name}.weight", *(("BF16", (rows, cols)) if masters else ("U8", (rows // 4, cols)))
            if not masters:
                yield f"{at}{name}.weight_scale", "BF16", (1,)


def main():
    out, masters = sys.argv[1], "--masters" in sys.argv
    os.makedirs(out, exist_ok=True)
    json.dump(config("online" if masters else "offline"), open(f"{out}/config.json", "w"))
    json.dump(tokenizer(), open(f"{out}/tokenizer.json", "w"), ensure_ascii=False)
    header, at = {}, 0
    for name, dtype, shape in shapes(masters):
        size = int(np.prod(shape)) * (1 if dtype == "U8" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    random = np.random.default_rng(1)
    codes = np.array([a | b << 2 | c << 4 | d << 6 for a in range(3) for b in range(3) for c in range(3) for d in range(3)],
                     np.uint8)
    bf16 = lambda values: (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2")
    with open(f"{out}/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + at)
        for name, dtype, shape in shapes(masters):
            size = int(np.prod(shape))
            if masters and name.endswith("_proj.weight"):
                file.seek(2 * size, os.SEEK_CUR)
            elif dtype == "U8":
                file.write(codes[random.integers(0, 81, size, np.uint8)].tobytes())
            elif len(shape) == 1:
                file.write(bf16(np.full(size, 0.03 if name.endswith("scale") else 1)).tobytes())
            else:
                for first in range(0, size, 1 << 22):
                    count = min(1 << 22, size - first)
                    file.write(bf16(random.standard_normal(count, np.float32) * np.float32(0.04)).tobytes())


main()
