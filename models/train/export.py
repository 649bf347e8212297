"""Writes a checkpoint as an I2_S GGUF of architecture bitnet-b1.58.

usage: export.py --checkpoint FILE --tokenizer tokenizer.json --name NAME --out FILE.gguf [--temperature T]
"""

import argparse
import json

import numpy as np
import torch
from tokenizers import Tokenizer

import choices
import gguf
import render
import warm_start
from model import Model, Shape, ternary

ARCHITECTURE = "bitnet-b1.58"
FILE_TYPE_I2_S = 40
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}")
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FLOAT_NOISE, SETTLED_DRAWS = 4e-6, 48  # relative, of sums in another order, amply; how many moves are tried
MOST_MOVES = 200
SETTLED = 1e-3  # largest difference of a logit; a rounding that falls the other way makes some hundredths
NORMS = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm")


def load(checkpoint, matmul=torch.float32):
    """The model of a checkpoint that train.py wrote, with its embedding rounded to F16 as in the file; or of a file."""
    if checkpoint.endswith(".gguf"):
        model = Model(Shape(**warm_start.shape_of(checkpoint)), matmul)
        warm_start.load_into(model, checkpoint)
        return model
    saved = torch.load(checkpoint)
    model = Model(Shape(**saved["shape"]), matmul)
    model.load_state_dict({name: of for name, of in saved["state"].items() if not name.startswith("auxiliary.")})
    with torch.no_grad():
        model.token_embd.copy_(model.token_embd.half().float())
    return model


def heads_of(tokenizer, questions):
    """The tokens before the text, for each question."""
    first = tokenizer.token_to_id("<|begin_of_text|>")
    return [[first] + tokenizer.encode(choices.HEAD.format(instructions=question), add_special_tokens=False).ids
            for question in questions]


def first_unsettled(model, ids):
    """The first place whose logits do not stay as they are when the tokens' embedding moves by a few float32 steps."""

    def logits():
        return model.logits(model.hidden(torch.tensor([ids])))

    tokens, generator, before = sorted(set(ids)), torch.Generator().manual_seed(0), logits()
    rows, largest = model.token_embd[tokens].clone(), torch.zeros(len(ids))
    for _ in range(SETTLED_DRAWS):
        model.token_embd[tokens] = rows * (1 + FLOAT_NOISE * torch.randn(rows.shape, generator=generator))
        largest = torch.maximum(largest, (logits() - before).abs().amax(-1))
    model.token_embd[tokens] = rows
    return next((place for place, difference in enumerate(largest) if difference >= SETTLED), None)


def settle(model, heads):
    """Moves embeddings of tokens by a thousandth until all that questions begin with is settled; says how it went.

    A value on an int8 rounding boundary falls either way with the order of a sum. In the tokens before a text that would
    part two right programs in all that they compute of any text.
    """
    original, generator = model.token_embd.clone(), torch.Generator().manual_seed(0)
    for moves in range(MOST_MOVES):
        places = ((ids, first_unsettled(model, ids)) for ids in heads)
        token = next((ids[place] for ids, place in places if place is not None), None)
        if token is None:
            return f"{moves} moves of tokens until the questions were settled"
        moved = original[token] * (1 + 1e-3 * torch.randn(original.shape[1], generator=generator))
        model.token_embd[token] = moved.half().float()
    model.token_embd.copy_(original)
    return (f"a question on a rounding boundary, which {MOST_MOVES} moves did not mend: "
            "other programs may differ by a tenth in every logit")


def model_entries(shape, name):
    key = ARCHITECTURE
    return [
        gguf.entry("general.architecture", gguf.STRING, ARCHITECTURE),
        gguf.entry("general.name", gguf.STRING, name),
        gguf.entry("general.license", gguf.STRING, "MIT"),
        gguf.entry("general.file_type", gguf.U32, FILE_TYPE_I2_S),
        gguf.entry(f"{key}.vocab_size", gguf.U32, shape.vocab),
        gguf.entry(f"{key}.context_length", gguf.U32, shape.context),
        gguf.entry(f"{key}.embedding_length", gguf.U32, shape.hidden),
        gguf.entry(f"{key}.block_count", gguf.U32, shape.layers),
        gguf.entry(f"{key}.feed_forward_length", gguf.U32, shape.ffn),
        gguf.entry(f"{key}.rope.dimension_count", gguf.U32, shape.head_dim),
        gguf.entry(f"{key}.attention.head_count", gguf.U32, shape.heads),
        gguf.entry(f"{key}.attention.head_count_kv", gguf.U32, shape.kv_heads),
        gguf.entry(f"{key}.attention.layer_norm_rms_epsilon", gguf.F32, shape.norm_eps),
        gguf.entry(f"{key}.rope.freq_base", gguf.F32, shape.rope_theta),
    ]


def tokenizer_entries(tokenizer):
    """Of a `tokenizers.Tokenizer`: tokens, merges and special tokens."""
    tokenizer = json.loads(tokenizer.to_str())
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = {**{index: token for token, index in tokenizer["model"]["vocab"].items()}, **special}
    tokens = [vocabulary[index] for index in range(len(vocabulary))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    kinds = [TOKEN_CONTROL if index in special else TOKEN_NORMAL for index in range(len(tokens))]
    return [
        gguf.entry("tokenizer.ggml.model", gguf.STRING, "gpt2"),
        gguf.entry("tokenizer.ggml.pre", gguf.STRING, "llama-bpe"),
        gguf.entry("tokenizer.ggml.tokens", gguf.STRING, tokens),
        gguf.entry("tokenizer.ggml.token_type", gguf.I32, kinds),
        gguf.entry("tokenizer.ggml.merges", gguf.STRING, merges),
        gguf.entry("tokenizer.ggml.bos_token_id", gguf.U32, tokens.index("<|begin_of_text|>")),
        gguf.entry("tokenizer.ggml.eos_token_id", gguf.U32, tokens.index("<|eot_id|>")),
        gguf.entry("tokenizer.ggml.add_bos_token", gguf.BOOL, True),
        gguf.entry("tokenizer.chat_template", gguf.STRING, CHAT_TEMPLATE),
    ]


def tensors(model):
    """(name, shape, type, bytes) of each tensor: embedding F16, norms F32, matrices I2_S."""

    def f32(name, weight):
        return name, tuple(weight.shape), gguf.TENSOR_F32, weight.numpy().astype("<f4").tobytes()

    embedding = model.token_embd.numpy()
    rows = [("token_embd.weight", embedding.shape, gguf.TENSOR_F16, embedding.astype("<f2").tobytes())]
    for index, layer in enumerate(model.blk):
        rows += [f32(f"blk.{index}.{name}.weight", getattr(layer, name)) for name in NORMS]
        for name in MATRICES:
            codes, scale = ternary(getattr(layer, name))
            data = gguf.i2_s(np.rint(codes.numpy()).astype(np.int8), float(scale))
            rows.append((f"blk.{index}.{name}.weight", tuple(codes.shape), gguf.TENSOR_I2_S, data))
    return rows + [f32("output_norm.weight", model.output_norm)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--name", required=True, help="general.name of the file")
    parser.add_argument("--out", required=True)
    parser.add_argument("--temperature", type=float, default=1.0, help="what calibrate.py printed")
    args = parser.parse_args()
    with torch.no_grad():
        model = load(args.checkpoint)
        model.output_norm.div_(args.temperature)  # so every logit is
        tokenizer = Tokenizer.from_file(args.tokenizer)
        outcome = settle(model, heads_of(tokenizer, render.QUESTIONS.values()))
        entries = model_entries(model.shape, args.name) + tokenizer_entries(tokenizer)
        size = gguf.write(args.out, entries, tensors(model))
    print(f"{args.out}: {size} bytes, {outcome}")


if __name__ == "__main__":
    main()
