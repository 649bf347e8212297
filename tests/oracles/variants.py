"""Small random models of the architectures beside bitnet-b1.58, with logits by Hugging Face transformers.

  python tests/oracles/variants.py tests/fixtures/oracle

writes NAME/tiny-i2_s.gguf, NAME/input_ids_margin.npy and NAME/logits_margin.npy for

  llama        LlamaForCausalLM with ternary linear layers: no sub-norms, SiLU, a head of its own
  bitnet_silu  BitNetForCausalLM with SiLU, as the models of 1bitLLM

Needs torch, transformers, accelerate, safetensors and NumPy (made with torch 2.15.0 and transformers 5.23.0 on one CPU
thread, eager attention).
Weights are random: they are free of any licence.
"""
import json, os, struct, sys, tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # what transformers would compile runs eagerly
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitNetConfig, LlamaConfig
from transformers.integrations.bitnet import pack_weights

from bitnet_numpy import BitNet, act_quant, f32, load_safetensors, unpack_hf

HIDDEN, FFN, VOCAB, LAYERS, HEADS, KV_HEADS, THETA = 256, 512, 512, 2, 4, 2, 500000.0
HEAD_DIM = HIDDEN // HEADS
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN),
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def checkpoint(folder, config, sub_norms, seed):
    """Writes a checkpoint whose linear layers hold random trits, one positive scale each."""
    generator = torch.Generator().manual_seed(seed)
    bf16 = lambda x: x.to(torch.bfloat16).to(torch.float32)  # every value is one of bfloat16 too
    norm = lambda n: bf16(1 + 0.2 * torch.randn(n, generator=generator))
    tensors = {"model.embed_tokens.weight": bf16(torch.randn(VOCAB, HIDDEN, generator=generator) * 0.125)}
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = bf16(torch.randn(VOCAB, HIDDEN, generator=generator) * 0.125)
    tensors["model.norm.weight"] = norm(HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = norm(HIDDEN)
        tensors[at + "post_attention_layernorm.weight"] = norm(HIDDEN)
        if sub_norms:
            tensors[at + "self_attn.attn_sub_norm.weight"] = norm(HIDDEN)
            tensors[at + "mlp.ffn_sub_norm.weight"] = norm(FFN)
        for name, shape in LINEAR.items():
            u = torch.rand(*shape, generator=generator)
            trits = torch.where(u < 0.29, -1, torch.where(u < 0.71, 0, 1)).float()
            tensors[at + name + ".weight"] = pack_weights(trits)
            tensors[at + name + ".weight_scale"] = bf16(torch.rand(1, generator=generator) * 0.08 + 0.04)
    described = config.to_dict()
    described["quantization_config"] = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
        "modules_to_not_convert": ["lm_head"]}
    described["architectures"] = [type(config).__name__.replace("Config", "ForCausalLM")]
    described["dtype"] = described["torch_dtype"] = "float32"
    json.dump(described, open(f"{folder}/config.json", "w"), default=str)
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})


class Reference(BitNet):
    """The NumPy graph without the norms that a checkpoint does not have, to find prompts far from rounding boundaries."""

    def norm(self, x, name):
        return super().norm(x, name) if name + ".weight" in self.t else x


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(ids).reshape(1, -1)), use_cache=False).logits[0].numpy()


def margin_prompt(reference, tokens=48, margin=1.5e-4):
    """Ids with which no activation comes nearer to a rounding boundary of int8 than `margin` steps, found one by one:
    a token changes nothing in front of it."""
    random, ids = np.random.default_rng(5), []
    while len(ids) < tokens:
        candidate = ids + [int(random.integers(2, VOCAB))]
        reference.margin = 1.0
        reference.forward(np.array(candidate))
        if reference.margin > margin:
            ids = candidate
    reference.forward(np.array(ids))
    return np.array(ids), reference.margin


def i2s(trits, scale):
    """BitNet's blocks of 128 weights: byte l of a block has weights l, l + 32, l + 64 and l + 96, the first in its top bits."""
    codes = (trits.reshape(-1, 4, 32) + 1).astype(np.uint8)
    packed = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
    return packed.tobytes() + struct.pack("<f28x", scale)


def permuted(weight, heads):
    """Rows as GGUF files of llama have them: values that turn together are neighbours."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name, kind, value):
    """One key of GGUF; `kind` is its type, in brackets for an array."""
    ids = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "str": (8, None)}
    plain = kind.strip("[]")
    number, form = ids[plain]
    one = text if form is None else lambda item: struct.pack(form, item)
    if kind == plain:
        return text(name) + struct.pack("<I", number) + one(value)
    return text(name) + struct.pack("<IIQ", 9, number, len(value)) + b"".join(map(one, value))


def gguf(path, arch, config, tensors, tokenizer):
    """Writes the checkpoint `tensors` as GGUF with I2_S matrices."""
    vocabulary = json.load(open(tokenizer))
    tokens = [word for word, _ in sorted(vocabulary["model"]["vocab"].items(), key=lambda item: item[1])]
    special = {added["id"]: added["content"] for added in vocabulary["added_tokens"]}
    for at, word in special.items():
        tokens[at:at + 1] = [word]
    by_name = {word: at for at, word in special.items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["model"]["merges"]]
    keys = [
        key("general.architecture", "str", arch), key("general.name", "str", f"tiny-{arch}-oracle"),
        key("general.alignment", "u32", 32),
        key(f"{arch}.vocab_size", "u32", VOCAB), key(f"{arch}.context_length", "u32", 256),
        key(f"{arch}.embedding_length", "u32", HIDDEN), key(f"{arch}.block_count", "u32", LAYERS),
        key(f"{arch}.feed_forward_length", "u32", FFN), key(f"{arch}.rope.dimension_count", "u32", HEAD_DIM),
        key(f"{arch}.attention.head_count", "u32", HEADS), key(f"{arch}.attention.head_count_kv", "u32", KV_HEADS),
        key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]),
        key(f"{arch}.rope.freq_base", "f32", THETA),
        key("tokenizer.ggml.model", "str", "gpt2"), key("tokenizer.ggml.pre", "str", "llama-bpe"),
        key("tokenizer.ggml.tokens", "[str]", tokens),
        key("tokenizer.ggml.token_type", "[i32]", [3 if at in special else 1 for at in range(len(tokens))]),
        key("tokenizer.ggml.merges", "[str]", merges),
        key("tokenizer.ggml.bos_token_id", "u32", by_name["<|bos|>"]),
        key("tokenizer.ggml.eos_token_id", "u32", by_name["<|eos|>"]), key("tokenizer.ggml.add_bos_token", "bool", True),
    ]
    halves = lambda name: (name + ".weight", tensors[f"{hf_name(name)}.weight"].astype("<f2"), 1)
    hf_name = {"token_embd": "model.embed_tokens", "output": "lm_head"}.get
    entries = [halves("token_embd")] + ([halves("output")] if "lm_head.weight" in tensors else [])
    for layer in range(LAYERS):
        for theirs, ours in GGUF_NAMES.items():
            at, name = f"model.layers.{layer}.{theirs}", f"blk.{layer}.{ours}.weight"
            if at + ".weight" not in tensors:
                continue
            if theirs not in LINEAR:
                entries.append((name, tensors[at + ".weight"].astype("<f4"), 0))
                continue
            trits, scale = unpack_hf(tensors[at + ".weight"]), f32(tensors[at + ".weight_scale"][0])
            if arch == "llama" and ours in ("attn_q", "attn_k"):
                trits = permuted(trits, HEADS if ours == "attn_q" else KV_HEADS)
            entries.append((name, (trits.shape, i2s(trits, scale)), 36))
    entries.append(("output_norm.weight", tensors["model.norm.weight"].astype("<f4"), 0))
    infos, data = b"", b""
    for name, held, number in entries:
        shape, held = held if isinstance(held, tuple) else (held.shape, held.tobytes())
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos += struct.pack("<IQ", number, len(data))
        data += held + bytes(-len(held) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys)) + b"".join(keys) + infos
    open(path, "wb").write(head + bytes(-len(head) % 32) + data)


def main():
    out = sys.argv[1]
    torch.manual_seed(1234), torch.set_num_threads(1), torch.use_deterministic_algorithms(True)
    shape = dict(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=THETA,
        bos_token_id=0, eos_token_id=1)
    variants = [
        ("llama", "llama", LlamaConfig(**shape, tie_word_embeddings=False), False, 11),
        ("bitnet_silu", "bitnet", BitNetConfig(**shape, tie_word_embeddings=True), True, 12),
    ]
    for name, arch, config, sub_norms, seed in variants:
        os.makedirs(f"{out}/{name}", exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint(folder, config, sub_norms, seed)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            reference = Reference(folder, "int")
            ids, margin = margin_prompt(reference)
            expected = logits(model, ids)
            print(f"{name}: {type(model.model.layers[0].mlp.up_proj).__name__}, {len(ids)} ids, margin {margin:.1e}, "
                  f"NumPy differs by {np.abs(reference.forward(ids) - expected).max():.1e}")
            np.save(f"{out}/{name}/input_ids_margin.npy", ids[None].astype(np.int32))
            np.save(f"{out}/{name}/logits_margin.npy", expected)
            tokenizer = f"{out}/tokenizer/tokenizer.json"
            tensors = load_safetensors(f"{folder}/model.safetensors")
            gguf(f"{out}/{name}/tiny-i2_s.gguf", arch, json.load(open(f"{folder}/config.json")), tensors, tokenizer)


main()
