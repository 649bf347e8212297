"""Logits of a checkpoint by Hugging Face transformers (float32, eager), as an oracle for the runtime.

usage: reference.py --checkpoint FILE [--tokenizer FILE] --prompts FILE.jsonl --eval FILE [FILE ...] --out FOLDER
                    [--tern PROGRAM]

Each line of the prompts file is {"prompts": [...]}, of which the first that will do is taken. Writes ref<n>_ids.npy
(int32 [tokens], BOS first) and ref<n>_logits.npy (float32 [tokens, vocab]). A value that lies on an int8 rounding
boundary may fall either way with sums in another order, which moves a logit by up to about 0.1. A prompt will do where
that does not happen between the library and the runtime, or without --tern the trainer's own forward pass: what is left
is float noise. If it happens in all prompts of a line, something else is wrong.

answers.jsonl has what evaluate.py computes for the first rows of each evaluation file: the row's question, labels and
text, how many tokens the prompt has, and the probability of each label, or without labels the greedy answer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the library compiles its helpers otherwise
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitNetConfig
from transformers.integrations.bitnet import pack_weights

import evaluate
import figures
import render
from export import load
from model import ternary
from tokenizer import load as load_tokenizer

NOISE = 1e-4  # largest difference of a logit from sums in another order; a rounding that falls the other way is more
ROWS = 8  # of each evaluation file, in answers.jsonl

PROJECTIONS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMS = {
    "input_layernorm": "attn_norm", "self_attn.attn_sub_norm": "attn_sub_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def save_as_hugging_face(model, folder):
    """Writes config.json and model.safetensors in the packed layout of the library's offline mode."""
    tensors = {"model.embed_tokens.weight": model.token_embd, "model.norm.weight": model.output_norm}
    for index, layer in enumerate(model.blk):
        prefix = f"model.layers.{index}."
        for theirs, ours in NORMS.items():
            tensors[f"{prefix}{theirs}.weight"] = getattr(layer, ours)
        for theirs, ours in PROJECTIONS.items():
            codes, scale = ternary(getattr(layer, ours))
            tensors[f"{prefix}{theirs}.weight"] = pack_weights(codes.round())
            tensors[f"{prefix}{theirs}.weight_scale"] = scale.reshape(1)
    shape = model.shape
    config = BitNetConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, hidden_act="relu2",
        max_position_embeddings=shape.context, rms_norm_eps=shape.norm_eps, rope_theta=shape.rope_theta,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=2).to_dict()
    config["architectures"] = ["BitNetForCausalLM"]
    config["dtype"] = config["torch_dtype"] = "float32"
    config["quantization_config"] = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
        "modules_to_not_convert": ["lm_head"]}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file, default=str)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})


def logits_of_tern(program, model, ids, folder):
    np.save(f"{folder}/ids.npy", ids.numpy().astype(np.int32))
    subprocess.run([program, "logits", model, "--ids", f"{folder}/ids.npy", "--out", f"{folder}/logits.npy"], check=True)
    return torch.from_numpy(np.load(f"{folder}/logits.npy"))


def answers(scorer, path):
    """What the model says to the first rows of an evaluation file, as evaluate.py asks it."""
    name = os.path.basename(path).removesuffix(".jsonl")
    for row in figures.read(path, ROWS):
        question = row.get("instructions", render.QUESTIONS.get(name))
        prompt = evaluate.prompt_of(row, question)
        answer = {"instructions": question, "text": row["text"], "prompt_tokens": 1 + len(scorer.ids(prompt))}
        if "labels" in row:
            (shares,) = scorer.label_shares(prompt, row["labels"])
            yield answer | {"labels": row["labels"], "shares": [round(float(share), 6) for share in shares]}
        else:
            yield answer | {"summary": scorer.greedy(prompt)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="of train.py, or a GGUF of export.py")
    parser.add_argument("--tokenizer", help="tokenizer.json, for a checkpoint; a GGUF has its own")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--eval", required=True, nargs="+", help="evaluation files")
    parser.add_argument("--out", required=True)
    parser.add_argument("--tern", help="the program, whose logits are to agree; the checkpoint is a GGUF then")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(args.tokenizer or args.checkpoint), load(args.checkpoint)
    with open(args.prompts) as file:
        prompts = [json.loads(line)["prompts"] for line in file]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_as_hugging_face(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

        for index, candidates in enumerate(prompts):
            for place, prompt in enumerate(candidates):
                ids = torch.tensor([[0] + tokenizer.encode(prompt, add_special_tokens=False).ids])
                logits = theirs(ids, use_cache=False).logits[0].float()
                ours = model.logits(model.hidden(ids))
                if args.tern:
                    ours = logits_of_tern(args.tern, args.checkpoint, ids[0], folder)
                difference = float((ours - logits).abs().max())
                print(f"prompt {index}.{place}: {ids.shape[1]} tokens, largest difference {difference:.2e}")
                if difference < NOISE:
                    break
            else:
                sys.exit(f"prompt {index}: all of its {len(candidates)} texts meet a rounding boundary; give it more")
            np.save(f"{args.out}/ref{index}_ids.npy", ids[0].numpy().astype(np.int32))
            np.save(f"{args.out}/ref{index}_logits.npy", logits.numpy())
        scorer = evaluate.Scorer(model, tokenizer)
        with open(f"{args.out}/answers.jsonl", "w") as file:
            for path in sorted(args.eval):
                file.writelines(json.dumps(answer) + "\n" for answer in answers(scorer, path))


if __name__ == "__main__":
    main()
