"""The gate: instructions that each kernel executes, held against `counts.toml`.

Under emulation a count is the same on every run and every machine, so 1 % is not noise but a change of the code or of
the compiler. AArch64 sets are counted by the tracer, x86-64 sets by callgrind; what callgrind's CPU has not, which is
everything above AVX2, runs one instruction at a time on this machine's, if that has it.
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
# (phase, rows, columns, tokens): the shapes that a set is counted on.
WORK = [("multiply", 320, 2560, 1), ("multiply", 640, 2560, 16), ("multiply", 320, 2560, 128), ("prepare", 32, 2560, 1)]
# Callgrind runs all of the harness, packing and checks too, fifty times slower than it is.
HOST_WORK = [("multiply", 64, 2560, 1), ("multiply", 64, 2560, 16), ("prepare", 32, 2560, 1)]
# One instruction at a time takes up to 50 microseconds for each.
STEP_WORK = [("multiply", 64, 640, 1), ("multiply", 32, 640, 16), ("prepare", 32, 640, 1)]
HEADER = """\
# Instructions of one product of each kernel set (multiply), and of preparing one token for it (prepare).
# Written by `benches/yard/yard.py --record`; `--check` and the part `counts` of `./test` hold the kernels to them.
# Key: phase, rows x columns x tokens.

"""


def key(phase, rows, cols, tokens):
    return f"{phase} {rows}x{cols}x{tokens}"


class Callgrind:
    """Counts the sets that valgrind's CPU has."""

    def __init__(self, program):
        self.program, self.valgrind = program, find_program("valgrind", "valgrind")

    def sets(self):
        command = [self.valgrind, "-q", "--tool=none", self.program, "list"]
        return [line.split()[0] for line in Tracer.output(command).splitlines()]

    def count(self, name, phase, *shape):
        with tempfile.TemporaryDirectory(prefix="yard-") as folder:
            out = os.path.join(folder, "out")
            command = [self.valgrind, "--tool=callgrind", "--toggle-collect=yard_phase", f"--callgrind-out-file={out}"]
            Tracer.output([*command, self.program, "run", name, *map(str, shape), "random", phase])
            with open(out, encoding="utf-8") as file:
                found = re.search(r"^(?:totals|summary): (\d+)$", file.read(), re.M)
        if not found or int(found.group(1)) == 0:
            raise YardError(f"callgrind counted nothing in yard_phase of {self.program}")
        return int(found.group(1))


class Stepper:
    """Counts what this machine's own CPU has, where a process may trace another."""

    def __init__(self, program, folder):
        self.program, self.counter = program, os.path.join(folder, "step_count")
        subprocess.run(["gcc", "-O2", "-o", self.counter, os.path.join(HERE, "step_count.c")], check=True)
        symbols = Tracer.output([find_program("nm", "binutils"), program])
        marks = {name: address for address, name in re.findall(r"^(\w+) T (yard_begin|yard_end)$", symbols, re.M)}
        self.marks = [marks["yard_begin"], marks["yard_end"]]

    def sets(self):
        return [line.split()[0] for line in Tracer.output([self.program, "list"]).splitlines()]

    def count(self, name, phase, *shape):
        command = [self.counter, *self.marks, self.program, "run", name, *map(str, shape), "random", phase]
        return int(re.search(r"^insns (\d+)$", Tracer.output(command), re.M).group(1))


def count_here(found):
    """Adds to `found` the sets of this x86-64 machine."""
    program = build()
    with tempfile.TemporaryDirectory(prefix="yard-") as folder:
        for counter, works in (Callgrind(program), HOST_WORK), (Stepper(program, folder), STEP_WORK):
            for name in counter.sets():
                if name.startswith("x86_64") and name not in found:
                    found[name] = {key(*work): counter.count(name, *work) for work in works}


def count_all(program):
    """{set: {work: instructions}} of all sets that can be counted here."""
    found = {}
    tracer = Tracer(program or build(ARM))
    for name in tracer.sets("max"):
        if name.startswith("aarch64"):
            found[name] = {
                key(phase, *shape): tracer.trace(name, *shape, phase, texts=False).insns for phase, *shape in WORK
            }
    if platform.machine() == "x86_64":
        count_here(found)
    return found


def compiler():
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def write(found):
    with open(PATH, "w", encoding="ascii") as file:
        file.write(HEADER + f'rustc = "{compiler()}"\n')
        for name, works in found.items():
            file.write(f'\n["{name}"]\n' + "".join(f'"{work}" = {insns}\n' for work, insns in works.items()))


def check(record, program=None):
    """Compares, or with `record` writes, and prints every count; returns the exit status."""
    found = count_all(program)
    recorded = {}
    if os.path.exists(PATH):
        with open(PATH, "rb") as file:
            recorded = tomllib.load(file)
    recorded_with = recorded.pop("rustc", "none")
    # Sets of another kind of CPU than this one.
    elsewhere = {name: works for name, works in recorded.items() if name not in found and name.startswith("x86_64")}
    gone = sorted(recorded.keys() - found.keys() - elsewhere.keys())
    wrong = [f"{name}: recorded, but there is no such set" for name in gone]
    wrong += [f"{name}: a new set, not recorded yet" for name in sorted(found.keys() - recorded.keys())]
    for name, works in found.items():
        for work, insns in works.items():
            old = recorded.get(name, {}).get(work)
            change = "new" if old is None else f"{100 * (insns / old - 1):+.2f} %"
            print(f"{name:32} {work:26} {insns:12} {change}")
            if old is None:
                if name in recorded:
                    wrong.append(f"{name}, {work}: a new shape, not recorded yet")
            elif insns > old * (1 + ALLOWED_GROWTH):
                wrong.append(f"{name}, {work}: {insns} instructions, {old} recorded ({change})")
    for name in elsewhere:
        print(f"{name:32} not counted: this machine cannot run it")
    if record:
        write(found | elsewhere)
        print(f"recorded {len(found)} sets in {PATH}; kept {len(elsewhere)} that this machine cannot run")
        return 0
    for line in wrong:
        print(f"FAILED {line}")
    if wrong:
        print("If that is meant: benches/yard/yard.py --record, and commit counts.toml with the reason.")
        if recorded_with != compiler():
            print(f"The counts were recorded with rustc {recorded_with}; this is {compiler()}.")
    return 1 if wrong else 0
