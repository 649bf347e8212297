"""Small random models of the architectures beside bitnet-b1.58, with logits by Hugging Face transformers.

  python tests/oracles/variants.py tests/fixtures/oracle [NAME ...]

writes NAME/tiny-i2_s.gguf, NAME/input_ids_margin.npy, NAME/logits_margin.npy and, of those that makers publish as floats,
NAME/directory.json (see directory.py) for

  llama        LlamaForCausalLM with ternary linear layers: no sub-norms, SiLU, a head of its own
  bitnet_silu  BitNetForCausalLM with SiLU, as the models of 1bitLLM
  qwen3        Qwen3ForCausalLM: norms on heads, which are wider than hidden / heads; tied; YaRN, as Ternary-Bonsai-8B
  minicpm      the three multipliers of MiniCPM, which GraniteForCausalLM has too; longrope, as BitCPM4
  trilm        LlamaForCausalLM as TriLM: every query head with a key head of its own; the factors of Llama 3.1

With --peer FOLDER it writes FOLDER/NAME.gguf too, the same weights in F16 for llama.cpp (see peer.py).
Needs torch, transformers, accelerate, safetensors and NumPy (made with torch 2.15.0 and transformers 5.23.0 on one CPU
thread, eager attention).
Weights are random: they are free of any licence.
"""
import functools, json, os, struct, sys, tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # what transformers would compile runs eagerly
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitNetConfig, GraniteConfig, LlamaConfig, Qwen3Config
from transformers.integrations.bitnet import pack_weights

import directory
from bitnet_numpy import BitNet, act_quant, f32, load_safetensors, unpack_hf

VOCAB = 512


def linear(c):
    """Rows and columns of the linear layers of a model with config `c`."""
    q, kv = c["num_attention_heads"] * head_dim(c), c["num_key_value_heads"] * head_dim(c)
    hidden, ffn = c["hidden_size"], c["intermediate_size"]
    return {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }


def head_dim(c):
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}


def checkpoint(folder, config, arch, seed):
    """Writes a checkpoint whose linear layers hold random trits, one positive scale each."""
    generator = torch.Generator().manual_seed(seed)
    described = config.to_dict()
    hidden, ffn = described["hidden_size"], described["intermediate_size"]
    bf16 = lambda x: x.to(torch.bfloat16).to(torch.float32)  # every value is one of bfloat16 too
    norm = lambda n: bf16(1 + 0.2 * torch.randn(n, generator=generator))
    tensors = {"model.embed_tokens.weight": bf16(torch.randn(VOCAB, hidden, generator=generator) * 0.125)}
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = bf16(torch.randn(VOCAB, hidden, generator=generator) * 0.125)
    tensors["model.norm.weight"] = norm(hidden)
    for layer in range(described["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = norm(hidden)
        tensors[at + "post_attention_layernorm.weight"] = norm(hidden)
        if arch == "bitnet":
            tensors[at + "self_attn.attn_sub_norm.weight"] = norm(hidden)
            tensors[at + "mlp.ffn_sub_norm.weight"] = norm(ffn)
        if arch == "qwen3":
            tensors[at + "self_attn.q_norm.weight"] = norm(head_dim(described))
            tensors[at + "self_attn.k_norm.weight"] = norm(head_dim(described))
        for name, shape in linear(described).items():
            u = torch.rand(*shape, generator=generator)
            trits = torch.where(u < 0.29, -1, torch.where(u < 0.71, 0, 1)).float()
            tensors[at + name + ".weight"] = pack_weights(trits)
            tensors[at + name + ".weight_scale"] = bf16(torch.rand(1, generator=generator) * 0.08 + 0.04)
    described["quantization_config"] = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
        "modules_to_not_convert": ["lm_head"]}
    described["architectures"] = [type(config).__name__.replace("Config", "ForCausalLM")]
    described["dtype"] = described["torch_dtype"] = "float32"
    json.dump(described, open(f"{folder}/config.json", "w"), default=str)
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})


class Reference(BitNet):
    """The NumPy graph with what these models have and without what they have not, to find prompts far from rounding
    boundaries. Only the frequencies and the growth of the rotary angles are taken from transformers."""

    def __init__(self, folder, rotary):
        super().__init__(folder, "int")
        self.frequencies, self.growth = rotary.inv_freq.numpy(), f32(rotary.attention_scaling)
        multiply = lambda key: f32(self.c.get(key) or 1)
        self.residual, self.logits = multiply("residual_multiplier"), multiply("logits_scaling")
        embedding = self.t["model.embed_tokens.weight"]
        self.t.setdefault("lm_head.weight", embedding)
        self.t["model.embed_tokens.weight"] = embedding * multiply("embedding_multiplier")

    def norm(self, x, name):
        return super().norm(x, name) if name + ".weight" in self.t else x

    def lin(self, name, x):
        self.last = name
        y = super().lin(name, x)
        return y * self.residual if name.endswith(("o_proj", "down_proj")) else y

    def rope(self, x, pos):
        x = self.norm(x, self.last.replace("_proj", "_norm"))
        angles = pos[:, None].astype(f32) * self.frequencies[None]
        cos, sin = np.cos(angles)[:, None] * self.growth, np.sin(angles)[:, None] * self.growth
        x1, x2 = np.split(x, 2, axis=-1)
        return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)

    def forward(self, ids):
        return super().forward(ids) / self.logits


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


def scaling_keys(arch, config, key):
    """Keys and tensors of scaled rotary angles, as converters write them."""
    rope = config["rope_parameters"]
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3"):
        return []
    keys = [key(f"{arch}.rope.scaling.type", "str", kind),
            key(f"{arch}.rope.scaling.original_context_length", "u32", rope["original_max_position_embeddings"])]
    if kind == "yarn":
        keys.append(key(f"{arch}.rope.scaling.factor", "f32", rope["factor"]))
    longer = config["max_position_embeddings"] / rope["original_max_position_embeddings"]
    if kind == "longrope" and longer > 1:
        growth = (1 + np.log(longer) / np.log(rope["original_max_position_embeddings"])) ** 0.5
        keys.append(key(f"{arch}.rope.scaling.attn_factor", "f32", growth))
    return keys


def scaling_tensors(config, plain, scaled):
    """Factors by which frequencies are divided; those of llama3 are found by dividing."""
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "llama3":
        return [("rope_freqs.weight", (plain / scaled).astype("<f4"), 0)]
    if rope.get("rope_type") == "longrope":
        return [(f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], "<f4"), 0) for kind in ("short", "long")]
    return []


def lengths_and_multipliers(arch, config):
    """Keys of heads that are as wide as they like, and of what MiniCPM multiplies with."""
    if arch == "qwen3":
        return [key(f"{arch}.attention.{kind}_length", "u32", head_dim(config)) for kind in ("key", "value")]
    if arch == "minicpm":
        return [key(f"{arch}.{name}_scale", "f32", config[theirs]) for name, theirs in (
            ("embedding", "embedding_multiplier"), ("residual", "residual_multiplier"), ("logit", "logits_scaling"))]
    return []


def gguf(path, arch, config, tensors, tokenizer, rotary, as_f16=False):
    """Writes the checkpoint `tensors` as GGUF with I2_S matrices, or with the same weights in F16."""
    vocabulary = json.load(open(tokenizer))
    tokens = [word for word, _ in sorted(vocabulary["model"]["vocab"].items(), key=lambda item: item[1])]
    special = {added["id"]: added["content"] for added in vocabulary["added_tokens"]}
    for at, word in special.items():
        tokens[at:at + 1] = [word]
    by_name = {word: at for at, word in special.items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["model"]["merges"]]
    heads, kv_heads, layers = config["num_attention_heads"], config["num_key_value_heads"], config["num_hidden_layers"]
    keys = [
        key("general.architecture", "str", arch), key("general.name", "str", f"tiny-{arch}-oracle"),
        key("general.alignment", "u32", 32),
        key(f"{arch}.vocab_size", "u32", VOCAB), key(f"{arch}.context_length", "u32", 256),
        key(f"{arch}.embedding_length", "u32", config["hidden_size"]), key(f"{arch}.block_count", "u32", layers),
        key(f"{arch}.feed_forward_length", "u32", config["intermediate_size"]),
        key(f"{arch}.rope.dimension_count", "u32", head_dim(config)),
        key(f"{arch}.attention.head_count", "u32", heads), key(f"{arch}.attention.head_count_kv", "u32", kv_heads),
        key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]),
        key(f"{arch}.rope.freq_base", "f32", config["rope_parameters"]["rope_theta"]),
        key("tokenizer.ggml.model", "str", "gpt2"), key("tokenizer.ggml.pre", "str", "llama-bpe"),
        key("tokenizer.ggml.tokens", "[str]", tokens),
        key("tokenizer.ggml.token_type", "[i32]", [3 if at in special else 1 for at in range(len(tokens))]),
        key("tokenizer.ggml.merges", "[str]", merges),
        key("tokenizer.ggml.bos_token_id", "u32", by_name["<|bos|>"]),
        key("tokenizer.ggml.eos_token_id", "u32", by_name["<|eos|>"]), key("tokenizer.ggml.add_bos_token", "bool", True),
    ]
    keys += scaling_keys(arch, config, key) + lengths_and_multipliers(arch, config)
    halves = lambda name: (name + ".weight", tensors[f"{hf_name(name)}.weight"].astype("<f2"), 1)
    hf_name = {"token_embd": "model.embed_tokens", "output": "lm_head"}.get
    entries = [halves("token_embd")] + ([halves("output")] if "lm_head.weight" in tensors else [])
    for layer in range(layers):
        for theirs, ours in GGUF_NAMES.items():
            at, name = f"model.layers.{layer}.{theirs}", f"blk.{layer}.{ours}.weight"
            if at + ".weight" not in tensors:
                continue
            if theirs not in linear(config):
                entries.append((name, tensors[at + ".weight"].astype("<f4"), 0))
                continue
            trits, scale = unpack_hf(tensors[at + ".weight"]), f32(tensors[at + ".weight_scale"][0])
            if arch in ("llama", "minicpm") and ours in ("attn_q", "attn_k"):
                trits = permuted(trits, heads if ours == "attn_q" else kv_heads)
            if as_f16:
                entries.append((name, (trits * scale).astype("<f2"), 1))
            else:
                entries.append((name, (trits.shape, i2s(trits, scale)), 36))
    theta, half = config["rope_parameters"]["rope_theta"], head_dim(config) // 2
    plain = 1 / f32(theta) ** (np.arange(half, dtype=f32) / f32(half))
    entries += scaling_tensors(config, plain, rotary.inv_freq.numpy())
    entries.append(("output_norm.weight", tensors["model.norm.weight"].astype("<f4"), 0))
    infos, data = b"", b""
    for name, held, number in entries:
        shape, held = held if isinstance(held, tuple) else (held.shape, held.tobytes())
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos += struct.pack("<IQ", number, len(data))
        data += held + bytes(-len(held) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys)) + b"".join(keys) + infos
    open(path, "wb").write(head + bytes(-len(head) % 32) + data)


def unpacked(path, arch, config, tensors):
    """Describes the directory in which the checkpoint `tensors` would be published as floats: ternary ones in bfloat16,
    embeddings in binary16 as the GGUF has them, norms in binary32."""
    held = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale"):
            continue
        if name + "_scale" in tensors:
            held[name] = ("BF16", unpack_hf(tensor) * f32(tensors[name + "_scale"][0]))
        else:
            held[name] = ("F16" if name in ("model.embed_tokens.weight", "lm_head.weight") else "F32", tensor)
    directory.describe(path, directory.published(arch, config, "bfloat16"), held)


def models():
    """Name, architecture, configuration, seed and tokens of each."""
    shape = dict(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=500000.0,
        bos_token_id=0, eos_token_id=1)
    small = {**shape, "hidden_size": 128, "intermediate_size": 256}
    small.pop("rope_theta")
    rope = lambda kind, **more: {"rope_type": kind, "rope_theta": 1e6, "original_max_position_embeddings": 64, **more}
    pairs = np.arange(16)
    return [
        ("llama", "llama", LlamaConfig(**shape, tie_word_embeddings=False), 11, 48),
        ("bitnet_silu", "bitnet", BitNetConfig(**shape, tie_word_embeddings=True), 12, 48),
        ("qwen3", "qwen3", Qwen3Config(**small, head_dim=64, tie_word_embeddings=True,
                                       rope_parameters=rope("yarn", factor=4.0)), 13, 24),
        ("minicpm", "minicpm", GraniteConfig(
            **{**small, "num_key_value_heads": 4}, tie_word_embeddings=False, embedding_multiplier=12.0,
            residual_multiplier=1.4 / 2 ** 0.5, logits_scaling=4.0, attention_multiplier=32 ** -0.5,
            rope_parameters=rope("longrope", original_max_position_embeddings=256, rope_theta=1e4,
                                 short_factor=(1 + pairs / 16).tolist(), long_factor=(2 + pairs).tolist())), 14, 24),
        ("trilm", "llama", LlamaConfig(
            **{**small, "num_key_value_heads": 4}, tie_word_embeddings=False,
            rope_parameters=rope("llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)), 15, 24),
    ]


def main():
    out, *wanted = sys.argv[1:]
    peer = wanted[wanted.index("--peer") + 1] if "--peer" in wanted else None
    wanted = [name for name in wanted if name not in ("--peer", peer)]
    torch.manual_seed(1234), torch.set_num_threads(1), torch.use_deterministic_algorithms(True)
    for name, arch, config, seed, tokens in models():
        if wanted and name not in wanted:
            continue
        os.makedirs(f"{out}/{name}", exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint(folder, config, arch, seed)
            tensors = load_safetensors(f"{folder}/model.safetensors")
            described = json.load(open(f"{folder}/config.json"))
            if arch != "bitnet":
                unpacked(f"{out}/{name}/directory.json", arch, described, tensors)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            rotary = model.model.rotary_emb
            reference = Reference(folder, rotary)
            ids, margin = margin_prompt(reference, tokens)
            expected = logits(model, ids)
            print(f"{name}: {type(model.model.layers[0].mlp.up_proj).__name__}, {len(ids)} ids, margin {margin:.1e}, "
                  f"NumPy differs by {np.abs(reference.forward(ids) - expected).max():.1e}, "
                  f"logits up to {np.abs(expected).max():.1f}")
            np.save(f"{out}/{name}/input_ids_margin.npy", ids[None].astype(np.int32))
            np.save(f"{out}/{name}/logits_margin.npy", expected)
            tokenizer = f"{out}/tokenizer/tokenizer.json"
            gguf(f"{out}/{name}/tiny-i2_s.gguf", arch, described, tensors, tokenizer, rotary)
            if peer:
                gguf(f"{peer}/{name}.gguf", arch, described, tensors, tokenizer, rotary, as_f16=True)


if __name__ == "__main__":
    main()
