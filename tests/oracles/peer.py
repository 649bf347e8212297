"""Logits of llama.cpp for the models of variants.py, beside those of transformers.

  python tests/oracles/variants.py tests/fixtures/oracle --peer FOLDER
  python tests/oracles/peer.py FOLDER tests/fixtures/oracle

llama.cpp multiplies F16 weights with float activations, the oracle ternary weights with int8 ones: their logits differ
by the loss of int8. What the comparison shows is the graph and its keys: which rows are permuted, where norms stand, what
divides a frequency, which way a multiplier goes. Needs llama-cpp-python 0.3.36 and NumPy.
"""
import sys
import numpy as np
from llama_cpp import Llama

folder, fixtures = sys.argv[1:]
for name in ("llama", "bitnet_silu", "qwen3", "minicpm", "trilm"):
    ids = np.load(f"{fixtures}/{name}/input_ids_margin.npy").reshape(-1)
    expected = np.load(f"{fixtures}/{name}/logits_margin.npy")
    model = Llama(f"{folder}/{name}.gguf", n_ctx=256, n_batch=256, n_threads=1, logits_all=True, verbose=False)
    model.eval(ids.tolist())
    found = np.array(model.scores[:len(ids)])
    error = np.abs(found - expected)
    softmax = lambda x: np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    p, q = softmax(expected.astype(np.float64)), softmax(found.astype(np.float64))
    print(f"{name}: top-1 {(found.argmax(-1) == expected.argmax(-1)).sum()} of {len(ids)}, logits of deviation "
          f"{expected.std():.2f} differ by {np.median(error):.1e} (median) and {error.max():.1e} (most), "
          f"KL {np.mean((p * np.log(p / q)).sum(-1)):.1e}")
