"""Small random weight-only models, several scales in each matrix, with logits by Hugging Face transformers.

  python tests/oracles/groups.py tests/fixtures/oracle

writes groups/NAME.gguf, groups/NAME_ids.npy, groups/NAME_logits.npy and groups/NAME.json (see directory.py) for models whose
linear layers and embeddings are trits times a scale of binary16, computed in binary32 from the dequantised weights:

  q2_0    a scale for every 64 columns of a row (type 42)
  pq2_0   a scale for every 128 columns of a row (type 42 too, as files of its makers had it first)
  tq2_0   a scale for every half of a matrix, as training on two machines leaves them: by rows, but by columns for the
          output of attention and the second half of a feed-forward block (type 35, blocks of 256), as TriLM
  bonsai  Qwen3ForCausalLM with a scale for every 128 columns, wide heads, norms on heads, YaRN: as Ternary-Bonsai
  bitcpm  the same scales in bfloat16, what MiniCPM multiplies with (by GraniteForCausalLM), longrope: as BitCPM4

The first three are LlamaForCausalLM.

Needs torch, transformers and NumPy (made with torch 2.15.0 and transformers 5.23.0 on one CPU thread, eager attention).
Weights are random: they are free of any licence.
"""
import json, os, struct, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig, Qwen3Config

import directory
from variants import (GGUF_NAMES, VOCAB, head_dim, key, lengths_and_multipliers, permuted, scaling_keys, scaling_tensors,
                      text)


def half(x):
    return np.asarray(x, np.float32).astype("<f2")


def q2_0(trits, scales, cols):
    """Scale, then bit pairs in their order, the first in the lowest bits."""
    codes = (trits.reshape(-1, cols // 4, 4) + 1).astype(np.uint8)
    packed = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    return np.concatenate([half(scales).reshape(-1, 1).view(np.uint8), packed], 1).tobytes()


def tq2_0(trits, scales, _):
    """Byte l of half h holds weights 128 h + l + 32 k, the first in the lowest bits; then the scale."""
    codes = (trits.reshape(-1, 2, 4, 32) + 1).astype(np.uint8)
    packed = codes[:, :, 0] | codes[:, :, 1] << 2 | codes[:, :, 2] << 4 | codes[:, :, 3] << 6
    return np.concatenate([packed.reshape(-1, 64), half(scales).reshape(-1, 1).view(np.uint8)], 1).tobytes()


def bf16(x):
    """Cut to a number of bfloat16, which binary16 holds where it is no smaller than 2^-17."""
    return (np.asarray(x, np.float32).view(np.uint32) & 0xffff0000).view(np.float32)


def grouped(rng, name, shape, cols, shards, dtype):
    """Trits and a scale of binary16 for every `cols` columns of a row, or for every half of the matrix."""
    rows, width = shape
    trits = rng.choice([-1, 0, 1], shape, p=[0.29, 0.42, 0.29])
    scales = np.zeros((rows, width // cols), np.float32)
    if shards and name != "token_embd":
        first, second = half(rng.uniform(0.03, 0.06)), half(rng.uniform(0.07, 0.12))
        by_cols = name in ("attn_output", "ffn_down")
        scales[:] = first
        if by_cols:
            scales[:, scales.shape[1] // 2:] = second
        else:
            scales[rows // 2:] = second
    else:
        scales[:] = half(rng.uniform(0.03, 0.12, scales.shape))
    if dtype == "BF16":
        scales = bf16(scales)
    return trits, scales


def make(out, name, arch, config, coding, seed, tokens=24, dtype="F16", shards=False):
    rng = np.random.default_rng(seed)
    number, encode, cols = coding
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    state, entries, held = model.state_dict(), [], {}
    described = config.to_dict()
    described["architectures"] = [type(model).__name__]
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

    def matrix(theirs, ours):
        weight = state[theirs + ".weight"]
        trits, scales = grouped(rng, ours.split(".")[-1], tuple(weight.shape), cols, shards, dtype)
        weight.copy_(torch.tensor(trits * np.repeat(scales, cols, 1), dtype=torch.float32))
        held[theirs + ".weight"] = (dtype, weight.numpy().copy())
        if arch != "qwen3" and ours.endswith(("attn_q", "attn_k")):
            count = heads if ours.endswith("q") else kv_heads
            trits, scales = permuted(trits, count), permuted(scales, count)
        entries.append((ours + ".weight", trits.shape, number, encode(trits, scales, cols)))

    def norm(theirs, ours):
        weight = state[theirs + ".weight"]
        weight.copy_(torch.tensor(1 + 0.2 * rng.standard_normal(len(weight)), dtype=torch.float32))
        held[theirs + ".weight"] = ("F32", weight.numpy().copy())
        entries.append((ours + ".weight", (len(weight),), 0, weight.numpy().astype("<f4").tobytes()))

    with torch.no_grad():
        matrix("model.embed_tokens", "token_embd")
        for layer in range(config.num_hidden_layers):
            for theirs, ours in GGUF_NAMES.items():
                at = f"model.layers.{layer}.{theirs}"
                if at + ".weight" in state:
                    (norm if "norm" in theirs else matrix)(at, f"blk.{layer}.{ours}")
        norm("model.norm", "output_norm")
        model.load_state_dict(state)
        model.tie_weights()
        ids = rng.integers(2, VOCAB, tokens)
        logits = model(torch.tensor(ids[None]), use_cache=False).logits[0].numpy()
    print(f"{name}: logits up to {np.abs(logits).max():.1f}, standard deviation {logits.std():.2f}")
    np.save(f"{out}/groups/{name}_ids.npy", ids[None].astype(np.int32))
    np.save(f"{out}/groups/{name}_logits.npy", logits)
    rope, pairs = config.rope_parameters, head_dim(described) // 2
    plain = 1 / np.float32(rope["rope_theta"]) ** (np.arange(pairs, dtype=np.float32) / np.float32(pairs))
    for tensor, values, _ in scaling_tensors(described, plain, model.model.rotary_emb.inv_freq.numpy()):
        entries.append((tensor, values.shape, 0, values.tobytes()))
    write(f"{out}/groups/{name}.gguf", arch, described, entries, f"{out}/tokenizer/tokenizer.json")
    torch_dtype = {"F16": "float16", "BF16": "bfloat16"}[dtype]
    directory.describe(f"{out}/groups/{name}.json", directory.published(arch, described, torch_dtype), held)


def write(path, arch, config, entries, tokenizer):
    vocabulary = json.load(open(tokenizer))
    tokens = [word for word, _ in sorted(vocabulary["model"]["vocab"].items(), key=lambda item: item[1])]
    special = {added["id"]: added["content"] for added in vocabulary["added_tokens"]}
    for at, word in special.items():
        tokens[at:at + 1] = [word]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["model"]["merges"]]
    keys = [
        key("general.architecture", "str", arch), key("general.name", "str", "tiny-groups-oracle"),
        key("general.alignment", "u32", 32), key(f"{arch}.vocab_size", "u32", VOCAB),
        key(f"{arch}.context_length", "u32", config["max_position_embeddings"]),
        key(f"{arch}.embedding_length", "u32", config["hidden_size"]),
        key(f"{arch}.block_count", "u32", config["num_hidden_layers"]),
        key(f"{arch}.feed_forward_length", "u32", config["intermediate_size"]),
        key(f"{arch}.rope.dimension_count", "u32", head_dim(config)),
        key(f"{arch}.attention.head_count", "u32", config["num_attention_heads"]),
        key(f"{arch}.attention.head_count_kv", "u32", config["num_key_value_heads"]),
        key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]),
        key(f"{arch}.rope.freq_base", "f32", config["rope_parameters"]["rope_theta"]),
        key("tokenizer.ggml.model", "str", "gpt2"), key("tokenizer.ggml.pre", "str", "llama-bpe"),
        key("tokenizer.ggml.tokens", "[str]", tokens),
        key("tokenizer.ggml.token_type", "[i32]", [3 if at in special else 1 for at in range(len(tokens))]),
        key("tokenizer.ggml.merges", "[str]", merges), key("tokenizer.ggml.add_bos_token", "bool", True),
        key("tokenizer.ggml.bos_token_id", "u32", tokens.index("<|bos|>")),
        key("tokenizer.ggml.eos_token_id", "u32", tokens.index("<|eos|>")),
    ]
    keys += scaling_keys(arch, config, key) + lengths_and_multipliers(arch, config)
    infos, data = b"", b""
    for name, shape, number, held in entries:
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos += struct.pack("<IQ", number, len(data))
        data += held + bytes(-len(held) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys)) + b"".join(keys) + infos
    open(path, "wb").write(head + bytes(-len(head) % 32) + data)


def main():
    out = sys.argv[1]
    torch.manual_seed(1234), torch.set_num_threads(1), torch.use_deterministic_algorithms(True)
    os.makedirs(f"{out}/groups", exist_ok=True)
    shape = dict(vocab_size=VOCAB, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5,
                 tie_word_embeddings=True, bos_token_id=0, eos_token_id=1)
    plain = dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    llama = lambda **more: LlamaConfig(**{**shape, **plain, **more})
    make(out, "q2_0", "llama", llama(), (42, q2_0, 64), 21)
    make(out, "pq2_0", "llama", llama(), (42, q2_0, 128), 22)
    make(out, "tq2_0", "llama", llama(hidden_size=256, num_key_value_heads=4), (35, tq2_0, 256), 23, shards=True)
    yarn = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
    bonsai = Qwen3Config(**{**shape, "num_hidden_layers": 1}, head_dim=64, rope_parameters=yarn)
    make(out, "bonsai", "qwen3", bonsai, (42, q2_0, 128), 24, tokens=12)
    factors = 1 + np.arange(16) / 16
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64,
                "short_factor": factors.tolist(), "long_factor": (2 * factors).tolist()}
    bitcpm = GraniteConfig(
        **shape, embedding_multiplier=12.0, residual_multiplier=1.4 / 2 ** 0.5, logits_scaling=4.0,
        attention_multiplier=32 ** -0.5, rope_parameters=longrope)
    make(out, "bitcpm", "minicpm", bitcpm, (42, q2_0, 128), 25, tokens=12, dtype="BF16")


if __name__ == "__main__":
    main()
