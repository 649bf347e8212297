"""The gate: instructions that each kernel executes, held against `counts.toml`.

Under emulation a count is the same on every run and every machine, so 1 % is not noise but a change of the code or of
the compiler. AArch64 sets are counted by the tracer, x86-64 sets by callgrind, which has AVX2 and nothing above it.
"""

import os
import platform
import re
import subprocess
import tempfile
import tomllib

from emulation import ARM, HERE, Tracer, YardError, build, find_program

PATH = os.path.join(HERE, "counts.toml")
ALLOWED_GROWTH = 0.01
COLS = 2560
# (phase, rows, tokens): the shapes that a set is counted on.
WORK = [("multiply", 320, 1), ("multiply", 640, 16), ("multiply", 320, 128), ("prepare", 32, 1)]
# On this machine callgrind runs everything fifty times slower than it is, the packing and the checks too.
HOST_WORK = [("multiply", 320, 1), ("multiply", 64, 16), ("prepare", 32, 1)]
HEADER = """\
# Instructions of one product of each kernel set (multiply), and of preparing one token for it (prepare).
# Written by `benches/yard/yard.py --record`; `--check` and the part `counts` of `./test` hold the kernels to them.
# Key: phase, rows x columns x tokens.

"""


class Callgrind:
    """Counts the sets that valgrind's CPU has."""

    def __init__(self, program):
        self.program, self.valgrind = program, find_program("valgrind", "valgrind")

    def sets(self):
        command = [self.valgrind, "-q", "--tool=none", self.program, "list"]
        return [line.split()[0] for line in Tracer.output(command).splitlines()]

    def count(self, name, phase, rows, tokens):
        with tempfile.TemporaryDirectory(prefix="yard-") as folder:
            out = os.path.join(folder, "out")
            command = [self.valgrind, "--tool=callgrind", "--toggle-collect=yard_phase", f"--callgrind-out-file={out}"]
            Tracer.output([*command, self.program, "run", name, *map(str, (rows, COLS, tokens)), "random", phase])
            with open(out, encoding="utf-8") as file:
                found = re.search(r"^(?:totals|summary): (\d+)$", file.read(), re.M)
        if not found or int(found.group(1)) == 0:
            raise YardError(f"callgrind counted nothing in yard_phase of {self.program}")
        return int(found.group(1))


def count_all(program):
    """{set: {work: instructions}} of all sets that can be counted here, and the architectures that were."""
    found, architectures = {}, ["aarch64"]
    tracer = Tracer(program or build(ARM))
    for name in tracer.sets("max"):
        if name.startswith("aarch64"):
            found[name] = {
                f"{phase} {rows}x{COLS}x{tokens}": tracer.trace(name, rows, COLS, tokens, phase, texts=False).insns
                for phase, rows, tokens in WORK
            }
    if platform.machine() == "x86_64":
        architectures.append("x86_64")
        callgrind = Callgrind(build())
        for name in callgrind.sets():
            if name.startswith("x86_64"):
                found[name] = {
                    f"{phase} {rows}x{COLS}x{tokens}": callgrind.count(name, phase, rows, tokens)
                    for phase, rows, tokens in HOST_WORK
                }
        if not any(name.startswith("x86_64") for name in found):
            print("no x86-64 set runs under valgrind here: it offers AVX2 only where the machine has it")
            architectures.remove("x86_64")
    return found, architectures


def compiler():
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def write(found):
    with open(PATH, "w", encoding="ascii") as file:
        file.write(HEADER + f'rustc = "{compiler()}"\n')
        for name, works in found.items():
            file.write(f'\n["{name}"]\n' + "".join(f'"{work}" = {insns}\n' for work, insns in works.items()))


def check(record, program=None):
    """Compares, or with `record` writes, and prints every count; returns the exit status."""
    found, architectures = count_all(program)
    recorded = {}
    if os.path.exists(PATH):
        with open(PATH, "rb") as file:
            recorded = tomllib.load(file)
    recorded_with = recorded.pop("rustc", "none")
    wrong = []
    for name, works in found.items():
        for work, insns in works.items():
            old = recorded.get(name, {}).get(work)
            change = "new" if old is None else f"{100 * (insns / old - 1):+.2f} %"
            print(f"{name:32} {work:26} {insns:12} {change}")
            if old is None:
                wrong.append(f"{name}, {work}: {insns} instructions, none recorded")
            elif insns > old * (1 + ALLOWED_GROWTH):
                wrong.append(f"{name}, {work}: {insns} instructions, {old} recorded ({change})")
    for name in recorded:
        if name not in found and name.split("-")[0] in architectures:
            wrong.append(f"{name}: recorded, but not found here")
    if record:
        kept = {name: works for name, works in recorded.items() if name.split("-")[0] not in architectures}
        write(found | kept)
        print(f"recorded {len(found)} sets in {PATH}")
        return 0
    for line in wrong:
        print(f"FAILED {line}")
    if wrong:
        print("If that is meant: benches/yard/yard.py --record, and commit counts.toml with the reason.")
        if recorded_with != compiler():
            print(f"The counts were recorded with rustc {recorded_with}; this is {compiler()}.")
    return 1 if wrong else 0
