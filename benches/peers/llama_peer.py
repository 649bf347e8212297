#!/usr/bin/env python3
"""llama.cpp through llama-cpp-python: the speed of one model, as JSON.

    llama_peer.py MODEL --prompt 128 --generate 32 --threads 2

The two rates are those of llama-bench and of `tern bench`: a prompt in one call, and tokens one by one from an empty
context. Token ids are random, nothing is sampled and no text is made. A warm-up of each part is run first and not
counted.
"""

import argparse
import ctypes
import json
import math
import os
import random
import sys
import time


class PeerError(Exception):
    """What the peer could not do."""


def loaded():
    """The peer's library, quiet: it writes pages about a model to standard error."""
    try:
        import llama_cpp
    except ImportError as error:
        raise PeerError(f"{error}: `pip install -r benches/peers/requirements.txt`, see README.md there") from error
    return llama_cpp


def about():
    """Version, and the instructions that the peer was built for."""
    library = loaded()
    return library.__version__, library.llama_print_system_info().decode().strip(" |")


def blocks_decoded(form, blocks, weights):
    """The values of blocks of TQ1_0 or TQ2_0 by the decoder in the peer's library."""
    folder = os.path.join(os.path.dirname(loaded().__file__), "lib")
    names = [name for name in os.listdir(folder) if "ggml-base" in name]
    if not names:
        raise PeerError(f"no library of ggml-base in {folder}, so blocks cannot be held against its decoder")
    decode = getattr(ctypes.CDLL(os.path.join(folder, sorted(names)[0])), f"dequantize_row_{form.lower()}")
    decode.argtypes, decode.restype = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64], None
    values = (ctypes.c_float * weights)()
    decode(blocks, values, weights)
    return values


def quiet(library):
    """Has the library's warnings and errors kept in a list; callback and list have to live as long as it may speak."""
    complaints = []

    def on_log(level, text, _):
        if level >= 3:
            complaints.append(text.decode(errors="replace"))

    callback = library.llama_log_callback(on_log)
    library.llama_log_set(callback, ctypes.c_void_p(0))
    return callback, complaints


def quantize(source, target, file_type):
    """Has the peer's own quantizer do to a model what it does for a `general.file_type`, with one thread."""
    library = loaded()
    _log, complaints = quiet(library)
    settings = library.llama_model_quantize_default_params()
    settings.nthread, settings.ftype = 1, file_type
    partial = f"{target}.partial"
    status = library.llama_model_quantize(os.fsencode(source), os.fsencode(partial), ctypes.byref(settings))
    if status != 0:
        raise PeerError(f"the peer's quantizer answers {status} to {source}: {''.join(complaints).strip()}")
    os.replace(partial, target)


class Session:
    """One model with an empty context long enough for what is measured."""

    def __init__(self, path, threads, context_tokens):
        self.library = library = loaded()
        self.log, self.complaints = quiet(library)
        library.llama_backend_init()
        self.model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
        if not self.model:
            raise PeerError(f"the peer does not load {path}: {self._why()}")
        settings = library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = context_tokens
        settings.n_threads = settings.n_threads_batch = threads
        self.context = library.llama_init_from_model(self.model, settings)
        if not self.context:
            raise PeerError(f"the peer makes no context for {path}: {self._why()}")
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))
        self.random = random.Random(0)

    def _why(self):
        return "".join(self.complaints).strip() or "it does not say why"

    def _decode(self, count):
        ids = (self.library.llama_token * count)(*(self.random.randrange(self.vocabulary) for _ in range(count)))
        status = self.library.llama_decode(self.context, self.library.llama_batch_get_one(ids, count))
        if status != 0:
            raise PeerError(f"llama_decode of {count} tokens answers {status}")

    def _run(self, calls, tokens_a_call):
        """Tokens a second of some calls from an empty context."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        begin = time.perf_counter()
        for _ in range(calls):
            self._decode(tokens_a_call)
            self.library.llama_synchronize(self.context)
        return calls * tokens_a_call / (time.perf_counter() - begin)

    def prompt(self, tokens):
        return self._run(1, tokens)

    def generate(self, tokens):
        return self._run(tokens, 1)

    def check_logits(self):
        """Fails unless the last token's logits are numbers that differ: the time of a model that fails says nothing."""
        logits = self.library.llama_get_logits(self.context)[:self.vocabulary]
        if not all(map(math.isfinite, logits)) or max(logits) == min(logits):
            raise PeerError("the peer's logits are not numbers or all the same: it does not run this model")


def measure(path, prompt, generate, threads, repeats):
    session = Session(path, threads, max(prompt, generate))
    answer = {"model": path, "threads": threads}
    for name, part, tokens in [("prompt", session.prompt, prompt), ("generate", session.generate, generate)]:
        part(tokens)
        session.check_logits()
        answer[name] = {"tokens": tokens, "tokens_per_second": [part(tokens) for _ in range(repeats)]}
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file that the peer loads")
    parser.add_argument("--prompt", type=int, default=128, metavar="TOKENS")
    parser.add_argument("--generate", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="times each part is counted (1)")
    options = parser.parse_args()
    try:
        print(json.dumps(measure(options.model, options.prompt, options.generate, options.threads, options.repeat)))
        return 0
    except (PeerError, OSError) as error:
        print(f"llama_peer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
