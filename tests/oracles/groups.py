"""Small random weight-only models, several scales in each matrix, with logits by Hugging Face transformers.

  python tests/oracles/groups.py tests/fixtures/oracle

writes groups/NAME.gguf, groups/NAME_ids.npy and groups/NAME_logits.npy for three LlamaForCausalLM whose linear layers and
embeddings are trits times a scale of binary16, computed in binary32 from the dequantised weights:

  q2_0    a scale for every 64 columns of a row (type 42)
  pq2_0   a scale for every 128 columns of a row (type 42 too, as files of its makers had it first)
  tq2_0   a scale for every half of a matrix, as training on two machines leaves them: by rows, but by columns for the
          output of attention and the second half of a feed-forward block (type 35, blocks of 256)

Needs torch, transformers and NumPy (made with torch 2.15.0 and transformers 5.23.0 on one CPU thread, eager attention).
Weights are random: they are free of any licence.
"""
import json, os, struct, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from variants import GGUF_NAMES, VOCAB, key, permuted, text

HEADS, LAYERS, TOKENS = 4, 2, 24


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


def grouped(rng, name, shape, cols, shards):
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
    return trits, scales


def make(out, name, number, encode, cols, hidden, ffn, shards, seed):
    rng = np.random.default_rng(seed)
    kv_heads = 2 if hidden == 128 else 4
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=kv_heads, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, attn_implementation="eager")
    model = LlamaForCausalLM(config).eval()
    state, entries = model.state_dict(), []

    def matrix(theirs, ours):
        weight = state[theirs + ".weight"]
        trits, scales = grouped(rng, ours.split(".")[-1], tuple(weight.shape), cols, shards)
        weight.copy_(torch.tensor(trits * np.repeat(scales, cols, 1), dtype=torch.float32))
        if ours.endswith(("attn_q", "attn_k")):
            heads = HEADS if ours.endswith("q") else kv_heads
            trits, scales = permuted(trits, heads), permuted(scales, heads)
        entries.append((ours + ".weight", trits.shape, number, encode(trits, scales, cols)))

    def norm(theirs, ours):
        weight = state[theirs + ".weight"]
        weight.copy_(torch.tensor(1 + 0.2 * rng.standard_normal(hidden), dtype=torch.float32))
        entries.append((ours + ".weight", (hidden,), 0, weight.numpy().astype("<f4").tobytes()))

    with torch.no_grad():
        matrix("model.embed_tokens", "token_embd")
        for layer in range(LAYERS):
            for theirs, ours in GGUF_NAMES.items():
                at = f"model.layers.{layer}.{theirs}"
                if at + ".weight" in state:
                    (norm if "norm" in theirs else matrix)(at, f"blk.{layer}.{ours}")
        norm("model.norm", "output_norm")
        model.load_state_dict(state)
        model.tie_weights()
        ids = rng.integers(2, VOCAB, TOKENS)
        logits = model(torch.tensor(ids[None]), use_cache=False).logits[0].numpy()
    print(f"{name}: logits up to {np.abs(logits).max():.1f}, standard deviation {logits.std():.2f}")
    np.save(f"{out}/groups/{name}_ids.npy", ids[None].astype(np.int32))
    np.save(f"{out}/groups/{name}_logits.npy", logits)
    write(f"{out}/groups/{name}.gguf", config, kv_heads, entries, f"{out}/tokenizer/tokenizer.json")


def write(path, config, kv_heads, entries, tokenizer):
    vocabulary = json.load(open(tokenizer))
    tokens = [word for word, _ in sorted(vocabulary["model"]["vocab"].items(), key=lambda item: item[1])]
    special = {added["id"]: added["content"] for added in vocabulary["added_tokens"]}
    for at, word in special.items():
        tokens[at:at + 1] = [word]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["model"]["merges"]]
    keys = [
        key("general.architecture", "str", "llama"), key("general.name", "str", "tiny-groups-oracle"),
        key("general.alignment", "u32", 32), key("llama.vocab_size", "u32", VOCAB), key("llama.context_length", "u32", 256),
        key("llama.embedding_length", "u32", config.hidden_size), key("llama.block_count", "u32", LAYERS),
        key("llama.feed_forward_length", "u32", config.intermediate_size),
        key("llama.rope.dimension_count", "u32", config.hidden_size // HEADS),
        key("llama.attention.head_count", "u32", HEADS), key("llama.attention.head_count_kv", "u32", kv_heads),
        key("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5), key("llama.rope.freq_base", "f32", 10000.0),
        key("tokenizer.ggml.model", "str", "gpt2"), key("tokenizer.ggml.pre", "str", "llama-bpe"),
        key("tokenizer.ggml.tokens", "[str]", tokens),
        key("tokenizer.ggml.token_type", "[i32]", [3 if at in special else 1 for at in range(len(tokens))]),
        key("tokenizer.ggml.merges", "[str]", merges), key("tokenizer.ggml.add_bos_token", "bool", True),
        key("tokenizer.ggml.bos_token_id", "u32", tokens.index("<|bos|>")),
        key("tokenizer.ggml.eos_token_id", "u32", tokens.index("<|eos|>")),
    ]
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
    make(out, "q2_0", 42, q2_0, 64, 128, 256, False, 21)
    make(out, "pq2_0", 42, q2_0, 128, 128, 256, False, 22)
    make(out, "tq2_0", 35, tq2_0, 256, 256, 256, True, 23)


if __name__ == "__main__":
    main()
