#!/usr/bin/env -S python3 -B
"""The yardstick: what the project's kernels cost on ARM cores, without any. See README.md beside this file.

    yard.py                     the table, with others' figures and our targets
    yard.py --profile SET CPU   where the cycles of one set go on one core
    yard.py --check             fails if a kernel executes over 1 % more instructions than recorded in counts.toml
    yard.py --record            writes counts.toml anew

It needs cargo with the target aarch64-unknown-linux-musl, gcc and gcc-aarch64-linux-gnu, qemu-user, and for cycles
llvm-mca and llvm-objdump (19 or later models more cores); --check and --record need valgrind and no LLVM.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tomllib

import counts
from cores import CORES, mca_cycles, own_cycles, spent
from emulation import ARM, HERE, Tracer, YardError, build, find_program

COLS = 2560
DATA = ["random", "plus", "minus", "low", "alternating"]
# Rows of a measured product by tokens. Decode touches nothing twice, so few rows say all; kernels for many tokens build
# tables that many rows share, and 2560 are those of a 2B model.
DECODE_ROWS, PREFILL_ROWS = 320, 2560
# A profile leaves out what is met less often than this for 64 products.
SHOWN = 0.002
# The first-level caches of those cores, each once, as (sets, ways).
CACHES = list(dict.fromkeys(core.l1 for core in CORES.values()))
CACHE_NAMES = " / ".join(f"{sets * ways * 64 >> 10}K {ways}-way" for sets, ways in CACHES)


class Measured:
    """One set on one number of tokens: counts, and cycles for 64 products by core."""

    def __init__(self, tracer, name, tokens, cores):
        rows = DECODE_ROWS if tokens == 1 else PREFILL_ROWS
        trace = tracer.trace(name, rows, COLS, tokens, caches=CACHES)
        per_64 = 64 / (rows * COLS * tokens)
        self.name, self.tokens, self.layout = name, tokens, trace.facts["layout"]
        self.bits = 8 * int(trace.facts["weight_bytes"]) / (rows * COLS)
        self.insns = trace.insns * per_64
        self.misses = [trace.l1_misses[cache] * per_64 for cache in CACHES]
        self.cycles = {}
        for core in cores:
            own = own_cycles(core, trace)
            self.cycles[core.name] = (own and own * per_64, mca_cycles(core, trace, tracer.folder.name) * per_64)


def usable(tracer, core):
    """The sets that a core can run; a core that the emulator does not know is asked about through its like."""
    cpu = core.name if core.name in tracer.cpus else core.like
    if cpu not in tracer.cpus:
        raise YardError(f"{tracer.qemu} knows neither {core.name} nor {cpu}; a newer qemu-user does")
    return tracer.sets(cpu)


def check_exactness(tracer, names):
    """Every sum of every set on all data, for one token, an odd number and a full batch."""
    for name in names:
        for data in DATA:
            for rows, tokens in (320, 1), (97, 5), (64, 16), (32, 128):
                tracer.check("max", name, rows, COLS, tokens, data)


def pair(figures):
    if figures is None:
        return "-"
    return " / ".join("-" if figure is None else f"{figure:.2f}" for figure in figures)


def rows_of_table(measured, anchors, cores, tokens):
    for m in measured:
        if m.tokens == tokens:
            misses = " / ".join(f"{n:.2f}" for n in m.misses)
            yield [f"**{m.name}**", f"{m.bits:.2f}", f"{m.insns:.2f}", misses] + [
                pair(m.cycles.get(core.name)) for core in cores
            ]
    for anchor in anchors:
        if anchor["tokens"] == tokens:
            name = anchor["name"] + (" (prototype)" if anchor.get("prototype") else "")
            yield [name, f"{anchor['bits']:.2f}", anchor.get("insns", "-"), "-"] + [
                " / ".join(map(str, anchor["cycles"].get(core.name, "-"))) for core in cores
            ]


def print_table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def best(measured, target):
    """Of the sets that count for a target, the fastest on its core, or None."""
    fit = [
        m
        for m in measured
        if m.tokens == target["tokens"]
        and m.cycles.get(target["cpu"], (None,))[0] is not None
        and m.bits <= target.get("bits", 8)
        and m.layout.startswith(target.get("layout", ""))
    ]
    return min(fit, key=lambda m: m.cycles[target["cpu"]][0], default=None)


def print_targets(measured, targets, cores):
    rows = []
    for target in targets:
        if target["cpu"] not in [core.name for core in cores]:
            continue
        what = "decode" if target["tokens"] == 1 else f"{target['tokens']} tokens"
        if "layout" in target:
            what += ", lookup"
        elif "bits" in target:
            what += f", {target['bits']:.1f} bits"
        found, limit = best(measured, target), target["cycles"]
        if found is None:
            rows.append([target["cpu"], what, f"{limit}", "none", "-", "missed"])
            continue
        own, mca = found.cycles[target["cpu"]]
        verdict = "missed" if own > limit else "met" if mca <= limit else "met, not by llvm-mca"
        rows.append([target["cpu"], what, f"{limit}", found.name, pair((own, mca)), verdict])
    print_table(["core", "what", "target", "best set", "cycles", "verdict"], rows)


def table(tracer, options):
    with open(os.path.join(HERE, "anchors.toml"), "rb") as file:
        known = tomllib.load(file)
    cores = [CORES[name] for name in options.cpu or CORES]
    sets = {core.name: usable(tracer, core) for core in cores}
    names = [name for name in tracer.sets("max") if not name.startswith("scalar") and re.search(options.set, name)]
    print("# What the kernels cost\n\nPrinted by `benches/yard/yard.py`; `README.md` says what it means.")
    print(f"Cycles are for 64 products, own model / llvm-mca. {tool_versions(tracer)}.\n")
    check_exactness(tracer, names)
    print(f"Exact on {', '.join(DATA)} data with 1, 5, 16 and 128 tokens: {', '.join(names)}.\n")
    measured = []
    for tokens in options.tokens:
        for name in names:
            here = [core for core in cores if name in sets[core.name]]
            if here:
                measured.append(Measured(tracer, name, tokens, here))
        what = f"Decode, {DECODE_ROWS} rows" if tokens == 1 else f"{tokens} tokens, {PREFILL_ROWS} rows"
        print(f"## {what} of {COLS} columns\n")
        head = ["kernels", "bits", "insns/64", f"misses/64 of {CACHE_NAMES}"] + [core.name for core in cores]
        print_table(head, rows_of_table(measured, known["anchor"], cores, tokens))
    print("## Targets\n")
    print_targets(measured, known["target"], cores)
    print("## Preparing one token\n")
    rows = []
    for name in names:
        trace = tracer.trace(name, 32, COLS, 1, phase="prepare", texts=False)
        rows.append([name, f"{trace.insns / COLS:.2f}", trace.facts["prepared_bytes"]])
    print_table(["set", "instructions an activation", "bytes"], rows)


def tool_versions(tracer):
    mca = Tracer.output([find_program("llvm-mca", "llvm"), "--version"])
    emulator = Tracer.output([tracer.qemu, "--version"])
    rustc = Tracer.output(["rustc", "--version"])
    found = [re.search(r"version (\S+)", text).group(1) for text in (mca, emulator)]
    return f"LLVM {found[0]}, QEMU {found[1]}, rustc {rustc.split()[1]}"


def profile(tracer, options):
    """The hot instructions of a set in order of their addresses, with how often they run and what they cost."""
    name, cpu = options.profile
    core = CORES.get(cpu)
    if core is None or core.own is None:
        raise YardError(f"no model of {cpu!r}; there are {', '.join(c.name for c in CORES.values() if c.own)}")
    for tokens in options.tokens:
        rows = DECODE_ROWS if tokens == 1 else PREFILL_ROWS
        trace = tracer.trace(name, rows, COLS, tokens)
        per_64 = 64 / (rows * COLS * tokens)
        print(f"{name} on {cpu}, {tokens} tokens: {trace.insns * per_64:.2f} instructions and "
              f"{own_cycles(core, trace) * per_64:.2f} cycles for 64 products")
        print("kinds: " + ", ".join(f"{kind} {n * per_64:.2f}" for kind, n in trace.kinds().most_common()) + "\n")
        times = collections.Counter()
        for word, n in trace.block_counts.items():
            for address in trace.addresses(word):
                times[address] += n
        cycles = spent(core, trace)
        print(f"{'address':>8} {'runs/64':>8} {'cycles/64':>9}")
        shown = None
        for address in sorted(times):
            if max(times[address], cycles.get(address, 0)) * per_64 < SHOWN:
                continue
            if shown is not None and address != shown + 4:
                print("     ...")
            shown = address
            cost = cycles.get(address, 0) * per_64
            print(f"{address:8x} {times[address] * per_64:8.3f} {cost:9.3f}  {trace.texts[address]}")
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="print the table (this is the default)")
    what.add_argument("--profile", nargs=2, metavar=("SET", "CPU"), help="where the cycles of one set go")
    what.add_argument("--check", action="store_true", help="hold instruction counts against counts.toml")
    what.add_argument("--record", action="store_true", help="write counts.toml anew")
    parser.add_argument("--set", default="", metavar="REGEX", help="only sets whose names match")
    parser.add_argument("--cpu", action="append", choices=list(CORES), help="only this core; may be repeated")
    parser.add_argument("--tokens", type=int, nargs="+", help="numbers of tokens (table: 1 8 16 64 128; profile: 1)")
    parser.add_argument("--workers", type=int, default=4, help="cores that share a product in the table (4)")
    parser.add_argument("--program", help="an AArch64 harness that is built already")
    options = parser.parse_args()
    if not (options.check or options.record):
        os.environ["YARD_WORKERS"] = str(options.workers)  # the harness reads it; counts are always of four
    options.tokens = options.tokens or ([1] if options.profile else [1, 8, 16, 64, 128])
    try:
        if options.check or options.record:
            return counts.check(options.record, options.program)
        tracer = Tracer(options.program or build(ARM))
        profile(tracer, options) if options.profile else table(tracer, options)
        return 0
    except (YardError, OSError, subprocess.SubprocessError) as error:
        print(f"yard: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
