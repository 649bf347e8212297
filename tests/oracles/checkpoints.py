"""Small checkpoints as Hugging Face publishes them, with logits by transformers and token ids by tokenizers.

  python tests/oracles/checkpoints.py tests/fixtures/hf [NAME ...]

writes NAME/{config.json, model*.safetensors*, tokenizer.json, ...}, NAME/input_ids_margin.npy, NAME/logits_margin.npy and
NAME/vectors.json (texts and their ids) for

  online    BitNetForCausalLM with bf16 masters that are quantised each time the model runs, as bitnet-b1.58-2B-4T-bf16
  llama     LlamaForCausalLM with packed weights and one over their scale, as Falcon3-1.58bit and Llama3-8B-1.58
  onebit    BitnetForCausalLM, the first code of 1bitLLM: its names, f16 masters, SiLU, a SentencePiece vocabulary; two shards

Masters are quantised by transformers' own WeightQuant in the type of the checkpoint; what comes out is packed, and the
logits are those of transformers on that in binary32: the graph without the rounding of bf16. It is asserted that a mean
taken in binary64 gives the same trits as torch's, and said how many weights lie so near to one half that it might not.

Needs torch, transformers, accelerate, safetensors, tokenizers and NumPy (made with torch 2.15.0, transformers 5.23.0 and
tokenizers 0.23.3 on one CPU thread, eager attention). Weights are random and texts made up: all of it is free of any
licence.
"""
import json, os, random, sys, tempfile

import variants
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, BitNetConfig, LlamaConfig
from transformers.integrations.bitnet import WeightQuant, pack_weights

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
TOKENS = 24
SHAPE = dict(num_attention_heads=4, num_key_value_heads=2, hidden_size=128, max_position_embeddings=256, rms_norm_eps=1e-5,
             rope_theta=10000.0, bos_token_id=0, eos_token_id=1)
WORDS = ("the pump valve sensor is open closed hot cold at degrees door window gate level tank water pressure high low "
         "warning error motor started stopped eth0 link up down disk full read write retry timeout user login failed "
         "temperature above below threshold battery charging Pumpe Ventil geöffnet Straße capteur température élevée "
         "насос включён клапан закрыт 水 温度 高い バルブ 펌프 열림 حرارة صمام").split()


def texts(count, seed):
    """Made-up lines: words, numbers, punctuation and what lies between, in many scripts."""
    source = random.Random(seed)
    odd = ["", " ", "  ", "\t", "\n", "\r\n", "\n\n", "'s", "'LL", "don't", "...", "!?", "{}", "#1", "—", "€", "²", "½", "e",
           "ß", "İ", "ſ", "\u00a0", "\u200b", "\u3000", "👍", "👩‍🔧", "𝔘", "Ⅷ", "٣", "हिन्दी", "ไทย", "한국어", "中文字"]
    lines = []
    for _ in range(count):
        parts = []
        for _ in range(source.randrange(1, 9)):
            kind = source.random()
            if kind < 0.55:
                word = source.choice(WORDS)
                parts.append(source.choice([word, word.capitalize(), word.upper()]))
            elif kind < 0.7:
                parts.append(str(source.randrange(10 ** source.randrange(1, 8))))
            else:
                parts.append(source.choice(odd))
            parts.append(source.choice([" ", " ", " ", "", ", ", ": ", "-", "\n"]))
        lines.append("".join(parts))
    return lines


def byte_level(pattern, ignore_merges, nfc, specials, vocab):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab - len(specials), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts(2000, 3), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return tokenizer


def sentence(vocab):
    """A vocabulary as SentencePiece makes one, the way transformers writes it: every pair that makes a token has a rule."""
    start = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(texts(2000, 3), trainers.BpeTrainer(vocab_size=400, show_progress=False,
                                                                    limit_alphabet=90))
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    pieces = [piece for piece, _ in pieces if piece not in start]
    # Merged pieces first, single characters last, as in a SentencePiece model.
    pieces = [p for p in pieces if len(p) > 1][: vocab - len(start) - sum(len(p) == 1 for p in pieces)] + [
        p for p in pieces if len(p) == 1]
    ids = {piece: at for at, piece in enumerate(start + pieces)}
    merges = []
    for piece in (p for p in pieces if len(p) > 1):
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in start[:3]])
    return tokenizer


def begins_with(tokenizer, text):
    at = tokenizer.token_to_id(text)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{text} $A", special_tokens=[(text, at)])
    return tokenizer


def masters(tensors, dtype, generator):
    """Replaces trits and scales by floats that are quantised to (nearly) them, and says what transformers makes of those."""
    near = differ = 0
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        trits = torch.tensor(variants.unpack_hf(tensors[name].numpy())).float()
        scale = tensors.pop(name + "_scale")
        noise = lambda: torch.rand(trits.shape, generator=generator)
        weights = trits * scale * (1 + 0.5 * noise()) + (trits == 0) * scale * 0.6 * (noise() - 0.5)
        weights = weights.to(dtype)
        quantised = WeightQuant.apply(weights)
        wide = weights.double()
        s = np.float32(1) / np.maximum(np.float32(wide.abs().mean()), np.float32(1e-5))
        scaled = weights.float() * torch.tensor(s)
        differ += int((scaled.round().clamp(-1, 1) != quantised.sign().float()).sum())
        near += int(((scaled.abs() - 0.5).abs() < 2 ** -21).sum())
        tensors[name] = weights
        yield name, quantised.sign().float(), quantised.abs().max().float()
    print(f"  trits that a mean in binary64 changes: {differ}; weights within 2^-21 of one half: {near}")
    assert differ == 0


def fixture(out, name, config, arch, seed, dtype, tokenizer, more):
    folder = f"{out}/{name}"
    os.makedirs(folder, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    variants.VOCAB = config.vocab_size
    with tempfile.TemporaryDirectory() as plain:
        variants.checkpoint(plain, config, arch, seed)
        described = json.load(open(f"{plain}/config.json"))
        tensors = load_file(f"{plain}/model.safetensors")
        for key, tensor in tensors.items():
            if tensor.dtype == torch.float32:
                tensors[key] = tensor.to(dtype)
        same = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
        if name == "llama":
            described["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": None}
            for key in [key for key in tensors if key.endswith("_scale")]:
                tensors[key] = (1 / tensors[key].float()).to(dtype)
                same[key] = 1 / tensors[key].float()
        else:
            for key, trits, scale in masters(tensors, dtype, generator):
                same[key], same[key + "_scale"] = pack_weights(trits.clone()), scale.reshape(1)
            described["quantization_config"]["quantization_mode"] = "online"
        save_file({k: v.contiguous() for k, v in same.items()}, f"{plain}/model.safetensors", metadata={"format": "pt"})
        described["dtype"] = described["torch_dtype"] = str(dtype).split(".")[1]
        if name == "onebit":
            rename = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
            for old, new in rename.items():
                tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
            del described["quantization_config"], described["dtype"]
            described.update(architectures=["BitnetForCausalLM"], model_type="llama", weight_bits=1, input_bits=8)
        described = {key: value for key, value in described.items() if key in (
            "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "hidden_act", "max_position_embeddings", "rms_norm_eps",
            "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id", "quantization_config", "torch_dtype",
            "dtype", "weight_bits", "input_bits", "attention_bias", "mlp_bias")}
        json.dump(described, open(f"{folder}/config.json", "w"), indent=1)
        shards = [tensors] if name != "onebit" else [
            {key: tensor for key, tensor in tensors.items() if ("mlp" in key) == second} for second in (False, True)]
        if len(shards) == 1:
            save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})
        else:
            files = [f"model-{at + 1:05}-of-{len(shards):05}.safetensors" for at in range(len(shards))]
            for file, shard in zip(files, shards):
                save_file({k: v.contiguous() for k, v in shard.items()}, f"{folder}/{file}", metadata={"format": "pt"})
            index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                     "weight_map": {key: file for file, shard in zip(files, shards) for key in sorted(shard)}}
            json.dump(index, open(f"{folder}/model.safetensors.index.json", "w"), indent=1)
        # What transformers itself reads: the checkpoint where it computes in binary32 anyway, else its quantised weights.
        read = folder if name == "llama" else plain
        model = AutoModelForCausalLM.from_pretrained(read, dtype=torch.float32, attn_implementation="eager").eval()
        reference = variants.Reference(plain, model.model.rotary_emb)
        ids, margin = variants.margin_prompt(reference, TOKENS)
        expected = variants.logits(model, ids)
        print(f"{name}: {type(model.model.layers[0].mlp.up_proj).__name__}, {len(ids)} ids, margin {margin:.1e}, NumPy "
              f"differs by {np.abs(reference.forward(ids) - expected).max():.1e}, logits up to {np.abs(expected).max():.1f}")
        np.save(f"{folder}/input_ids_margin.npy", ids[None].astype(np.int32))
        np.save(f"{folder}/logits_margin.npy", expected)
    tokenizer.save(f"{folder}/tokenizer.json", pretty=False)
    for file, content in more.items():
        open(f"{folder}/{file}", "w").write(content if isinstance(content, str) else json.dumps(content, indent=1))
    again = Tokenizer.from_file(f"{folder}/tokenizer.json")
    lines = [line for line in texts(170, 4) if "\u2581" not in line]
    vectors = [{"text": text, "ids": again.encode(text, add_special_tokens=False).ids} for text in lines]
    json.dump(vectors, open(f"{folder}/vectors.json", "w"), ensure_ascii=False)


def main():
    out, *wanted = sys.argv[1:]
    torch.manual_seed(1234), torch.set_num_threads(1), torch.use_deterministic_algorithms(True)
    config = lambda kind, vocab, **more: kind(**{**SHAPE, "vocab_size": vocab, **more})
    template = ("{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}<|eot_id|>"
                "{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}")
    fixtures = {
        "online": lambda: (
            config(BitNetConfig, 384, intermediate_size=128, num_hidden_layers=1, hidden_act="relu2",
                   tie_word_embeddings=True, rope_theta=500000.0), "bitnet", 21, torch.bfloat16,
            begins_with(byte_level(LLAMA3, True, False, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], 384),
                        "<|begin_of_text|>"),
            {"tokenizer_config.json": {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|end_of_text|>"}},
             "generation_config.json": {"eos_token_id": [382, 383]}, "chat_template.jinja": template}),
        "llama": lambda: (
            config(LlamaConfig, 384, intermediate_size=256, num_hidden_layers=2, hidden_act="silu",
                   tie_word_embeddings=False), "llama", 22, torch.bfloat16,
            byte_level(QWEN2, False, True, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 380),
            {"tokenizer_config.json": {"bos_token": None, "eos_token": "<|im_end|>", "add_bos_token": False}}),
        "onebit": lambda: (
            config(BitNetConfig, 480, intermediate_size=128, num_hidden_layers=1, hidden_act="silu",
                   tie_word_embeddings=True), "bitnet", 23, torch.float16, begins_with(sentence(478), "<s>"),
            {"special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"}}),
    }
    for name, make in fixtures.items():
        if not wanted or name in wanted:
            config_, arch, seed, dtype, tokenizer, more = make()
            fixture(out, name, config_, arch, seed, dtype, tokenizer, more)


main()
