#!/usr/bin/env python3
"""Tern beside llama.cpp on this machine: the same weights, the same numbers of tokens and threads, one table of ratios.

    compare.py --tern target/release/tern --work /var/tmp/peers

The models are made once and kept in the folder of --work. See README.md beside this file for what differs between
the two.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True  # nothing is left beside the sources
try:
    import numpy as np

    import llama_peer
    import peer_model
except ImportError as error:
    sys.exit(f"compare: {error}: run it with the environment that README.md beside this file makes")

HERE = pathlib.Path(__file__).resolve().parent
SHAPE = "bitnet-2b4t"
TERN = "Tern"
PARTS = ["prompt", "generate"]


class CompareError(Exception):
    """What kept the comparison from being made."""


def output(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise CompareError(f"`{' '.join(map(str, command))}` ends with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def newer(path, *origins):
    return path.exists() and all(path.stat().st_mtime >= origin.stat().st_mtime for origin in origins)


def check_blocks(model, made, form):
    """Fails unless the peer's decoder finds in the first layer of its model what Tern's model has there."""
    original, rewritten = peer_model.Source(model), peer_model.Source(made)
    names = [name for name, (_, kind, _) in original.tensors.items() if kind == peer_model.I2_S]
    first = [name for name in names if name.startswith("blk.0.")]
    if not first:
        raise CompareError(f"{model} has no matrices of I2_S: give the model that `tern synth` wrote")
    for name in first:
        weights, scale = original.ternary(name)
        blocks = rewritten.bytes_of(name)
        found = np.ctypeslib.as_array(llama_peer.blocks_decoded(form, blocks.tobytes(), weights.size))
        own_scale = rewritten.bytes_of(name.removesuffix("weight") + "scale").view(np.float32)
        if not np.array_equal(found, weights.astype(np.float32) - 1) or own_scale != scale:
            raise CompareError(f"{name} in {made} is not what {model} has: peer_model.py and the peer do not agree")


def models(options):
    """Tern's model and the peer's by form, made where they are not there or older than what they are made from."""
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model
    if model is None:
        model = options.work / f"{SHAPE}.gguf"
        if not model.exists():
            print(f"writing {model}", file=sys.stderr)
            output([options.tern, "synth", "--shape", SHAPE, "--output", model])
    made = {}
    for form in options.forms:
        path = made[form] = options.work / f"{model.stem}-{form}.gguf"
        if not newer(path, model, HERE / "peer_model.py"):
            print(f"writing {path}", file=sys.stderr)
            peer_model.rewrite(model, peer_model.FORMS[form], path)
        check_blocks(model, path, form)
        if options.head == "own":
            path = made[form] = options.work / f"{model.stem}-{form}-own-head.gguf"
            if not newer(path, options.work / f"{model.stem}-{form}.gguf"):
                print(f"writing {path}", file=sys.stderr)
                llama_peer.quantize(options.work / f"{model.stem}-{form}.gguf", path,
                                    peer_model.FILE_TYPES[peer_model.FORMS[form]])
    return model, made


def tern_run(options, model, threads):
    """Tokens a second of Tern's two parts, and its whole report."""
    head = ["--head", "file"] if options.head == "f16" else []
    report = json.loads(output([options.tern, "bench", model, "--json", "--prompt", options.prompt, "--generate",
                                options.generate, "--repeat", 1, "--threads", threads, *head]))
    return {part: report[part]["tokens_per_second"]["values"][0] for part in PARTS}, report


def peer_run(options, model, threads):
    report = json.loads(output([sys.executable, HERE / "llama_peer.py", model, "--prompt", options.prompt,
                                "--generate", options.generate, "--threads", threads]))
    return {part: report[part]["tokens_per_second"][0] for part in PARTS}


def measure(options, model, made):
    """Tokens a second by threads, engine and part, a value for each round, and Tern's reports by threads.

    Engines take turns, and every other round in the opposite order, so that a machine that slows down or is shared
    treats all alike.
    """
    rates = {threads: {name: {part: [] for part in PARTS} for name in [TERN, *made]} for threads in options.threads}
    reports = {}
    for round_ in range(options.rounds):
        for threads in options.threads:
            order = [TERN, *made]
            for name in order if round_ % 2 == 0 else reversed(order):
                if name == TERN:
                    rate, reports[threads] = tern_run(options, model, threads)
                else:
                    rate = peer_run(options, made[name], threads)
                for part in PARTS:
                    rates[threads][name][part].append(rate[part])
                print(f"round {round_ + 1}, {threads} threads, {name}: "
                      + ", ".join(f"{part} {rate[part]:.2f}/s" for part in PARTS), file=sys.stderr)
    return rates, reports


def spread(values, digits):
    """The median, and between which values it is."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def print_report(options, model, made, rates, reports, loads):
    version, instructions = llama_peer.about()
    report = reports[options.threads[-1]]
    print(f"Machine: {report['cpu']}, {os.cpu_count()} cores, {platform.machine()}, {platform.system()} "
          f"{platform.release()}; load before and after {loads[0]:.2f} and {loads[1]:.2f}")
    print(f"Tern: {output([options.tern, '--version']).strip()}, {report['kernels']}, "
          f"{report['bytes_per_token'] / 1e6:.0f} MB of weights read a token")
    print(f"llama.cpp: llama-cpp-python {version}; {instructions}; "
          + ", ".join(f"{form} {path.stat().st_size / 1e6:.0f} MB" for form, path in made.items()))
    heads = {"own": "each with the head that it makes for itself", "f16": "heads of F16"}[options.head]
    print(f"Model: {model.name}, {heads}\n")
    print(f"Tokens a second, medians of {options.rounds} rounds that take turns (least to most); "
          "ratios are medians of the rounds' own.\n")
    rows = []
    for threads, engines in rates.items():
        for part, tokens in [("prompt", options.prompt), ("generate", options.generate)]:
            own = engines[TERN][part]
            ratios = [[a / b for a, b in zip(own, engines[form][part])] for form in made]
            rows.append([threads, f"{part} {tokens}", *(spread(engines[name][part], 2) for name in engines),
                         *(spread(ratio, 2) for ratio in ratios)])
    print_table(["threads", "part", TERN, *(f"llama.cpp {form}" for form in made),
                 *(f"Tern / {form}" for form in made)], rows)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tern", type=pathlib.Path, default=HERE.parents[1] / "target/release/tern",
                        help="Tern's program (target/release/tern)")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for models, 5 GB")
    parser.add_argument("--model", type=pathlib.Path, help=f"a model of `tern synth`; without it {SHAPE} is made")
    parser.add_argument("--forms", nargs="+", choices=list(peer_model.FORMS), default=list(peer_model.FORMS))
    parser.add_argument("--head", choices=["own", "f16"], default="own",
                        help="the head that each makes for itself, or the model's of F16 for both (own)")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=positive, default=5, help="times everything is measured (5)")
    parser.add_argument("--prompt", type=positive, default=128, metavar="TOKENS")
    parser.add_argument("--generate", type=positive, default=32, metavar="TOKENS")
    parser.add_argument("--make", action="store_true", help="make and check the models, measure nothing")
    options = parser.parse_args()
    try:
        llama_peer.about()
        model, made = models(options)
        if options.make:
            return 0
        tern_run(options, model, options.threads[0])  # packs the model, if that is to be done, and fills the page cache
        before = os.getloadavg()[0]
        rates, reports = measure(options, model, made)
        print_report(options, model, made, rates, reports, (before, os.getloadavg()[0]))
        return 0
    except (CompareError, llama_peer.PeerError, peer_model.ModelError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
