"""What a directory of floats holds: its config.json as makers publish it, and a sum over every tensor.

The tensors themselves are those of a GGUF in the fixtures, and `tests/unpacked.rs` writes them out of it under the names and
in the row order of transformers. The sums (CRC-32 of the bytes in the type of the directory) are taken here of what
transformers computed with, so the test cannot be wrong in the same way as what it tests.
"""
import json, zlib

import numpy as np

# What is published of a configuration; the rest is the same for every model.
KEYS = (
    "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id", "attention_bias", "mlp_bias", "layer_types",
    "use_sliding_window", "sliding_window")


def published(arch, config, dtype):
    """config.json of a model, from what transformers describes it as."""
    said = {key: value for key, value in config.items() if key in KEYS}
    said["torch_dtype"] = dtype
    if arch == "llama":
        return said
    # As files of transformers 4 have it, which these models were published with.
    rope = dict(said.pop("rope_parameters"))
    said["rope_theta"] = rope.pop("rope_theta")
    said["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    if arch == "minicpm":
        # What GraniteForCausalLM computes under the names of MiniCPM's own code.
        layers, hidden = said["num_hidden_layers"], said["hidden_size"]
        said.update(
            architectures=["MiniCPMForCausalLM"], model_type="minicpm", scale_emb=config["embedding_multiplier"],
            scale_depth=round(config["residual_multiplier"] * layers ** 0.5, 9),
            dim_model_base=hidden / config["logits_scaling"])
        if said["tie_word_embeddings"]:
            del said["tie_word_embeddings"]
    return said


def in_type(dtype, values):
    """The bytes of `values`, which the type must hold."""
    wide = np.ascontiguousarray(values, "<f4")
    if dtype == "F32":
        return wide.tobytes()
    if dtype == "F16":
        return wide.astype("<f2").tobytes()
    assert not (wide.view("<u4") & 0xffff).any(), "a number that bfloat16 does not hold"
    return (wide.view("<u4") >> 16).astype("<u2").tobytes()


def describe(path, config, tensors):
    """Writes `path`; `tensors` has a type and values under each name."""
    sums = {name: [dtype, zlib.crc32(in_type(dtype, values))] for name, (dtype, values) in sorted(tensors.items())}
    json.dump({"config": config, "tensors": sums}, open(path, "w"), indent=1)
    open(path, "a").write("\n")
