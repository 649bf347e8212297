"""Cycles that a trace would take on a core: our own issue and port models, and llvm-mca.

Neither has met hardware. Both assume that loads hit the first-level cache and branches are predicted; `README.md` says
how far to trust them. The figures' sources:

[qsdr]   Cortex-A53 NEON timings measured by D. Estevez, github.com/daniestevez/qsdr
[gcc53]  GCC, config/arm/cortex-a53.md
[ncnn]   ncnn wiki, notes on Cortex-A53 and A55 pairing, and ONNX Runtime's comments in its A55 kernels
[m55]    LLVM, AArch64SchedA55.td, latencies
[g57]    Arm Cortex-A57 Software Optimization Guide (UAN 0015B); that of the A72 leaves TBL blank
[g72]    Arm Cortex-A72 Software Optimization Guide (UAN 0016A)
[g76]    Arm Cortex-A76 and Neoverse N1 Software Optimization Guides
[slothy] the A55 model of SLOTHY (IACR ePrint 2022/1303)
[guess]  nobody says; the likeliest by the neighbours
"""

import collections
import dataclasses
import os
import re
import subprocess

from emulation import VECTOR_KINDS, YardError, find_program


@dataclasses.dataclass(frozen=True)
class Core:
    """A core: its first-level data cache as (sets of 64-byte lines, ways), the CPU of llvm-mca that is modelled like
    it (in LLVM 19 `cortex-a72` and `cortex-a76` are the A57's model), and our own model, if there is one."""

    name: str
    l1: tuple
    mca: str
    own: object = None
    # An emulated CPU with the same features, for emulators that do not know this one.
    like: str = ""


# ---- in order: Cortex-A53 and A55 ----

IN_ORDER_KINDS = {"insx": "ins", "int": "int", "br": "br", "ldx": "ldx", "prfm": "prfm", "stx": "stx", "imul": "imul",
                  "v2x": "single", "stv": "stv"}


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Two instructions a cycle at most, in order, where the second may follow the first.

    `latency` by kind; `pairs` by the issue kind of the second instruction: those of a first one that it may join. Issue
    kinds: q and d are vector operations on 128 and 64 bits, ldd a 64-bit vector load, ins a move from a core register,
    single goes alone. A 128-bit load takes two cycles for each register, alone [qsdr]. Accumulators are forwarded, so
    a multiply-accumulate chain runs at one a cycle [qsdr, m55].
    """

    latency: dict
    pairs: dict

    def run(self, insns):
        """Yields after each instruction the cycle in which another could issue."""
        ready, writer = collections.defaultdict(int), {}
        cycle, slots, first, busy = 0, 0, None, 0
        for insn in insns:
            kind = insn.kind
            if kind == "nop":
                yield max(cycle, busy)
                continue
            operands = 0
            for place, register in enumerate(insn.reads):
                at = ready[register]
                if insn.accumulates and place == 0 and kind in ("mul", "dot", "sacc") and writer.get(register) == kind:
                    at -= self.latency[kind] - 1
                operands = max(operands, at)
            if max(operands, busy) > cycle:
                cycle, slots = max(operands, busy), 0
            issue = self.issue_kind(insn)
            if slots == 2 or (slots == 1 and first not in self.pairs[issue]):
                cycle, slots = cycle + 1, 0
            if slots == 0:
                first = issue
            slots += 1
            occupied = self.results(insn, kind, cycle, ready, writer)
            if occupied:
                busy, slots = cycle + occupied, 2
            if insn.moves_base:
                ready[insn.moves_base] = cycle + 1
            yield max(cycle, busy)

    @staticmethod
    def issue_kind(insn):
        if insn.kind in VECTOR_KINDS:
            return "q" if insn.full else "d"
        if insn.kind == "ldv":
            return "ldd" if not insn.full and insn.count == 1 else "ldq"
        return IN_ORDER_KINDS[insn.kind]

    def results(self, insn, kind, cycle, ready, writer):
        """Notes when the results are there; returns the cycles for which nothing else issues, or 0."""
        if kind == "ldv":
            each = 2 if insn.full else 1
            for place, register in enumerate(insn.writes):
                ready[register], writer[register] = cycle + (4 if insn.full else 3) + each * place, kind
            occupied = each * max(1, insn.count)
            return occupied if occupied > 1 else 0
        if kind == "ldx":
            for register in insn.writes:
                ready[register] = cycle + 3
            return 2 if insn.count == 2 else 0
        if kind in ("stv", "stx"):
            if insn.full or insn.count == 2:
                return 2 if insn.full and insn.count == 2 else 1
            return 0
        if kind in ("int", "imul"):
            for register in insn.writes:
                ready[register] = cycle + (1 if kind == "int" else 3)
            return 0
        if kind in ("br", "prfm"):
            return 0
        if kind not in self.latency:
            raise YardError(f"{insn.text}: this core has no such instruction")
        for register in insn.writes:
            ready[register], writer[register] = cycle + self.latency[kind], kind
        if kind == "tbl" and insn.count > 1:  # one cycle a table register [slothy]; for the A53 [guess]
            ready[insn.writes[0]] += insn.count - 1
            return insn.count
        return 0


ALL_FIRST = {"q", "d", "ins", "int", "imul", "br", "ldx", "ldd", "ldq", "prfm", "stx", "stv"}
# [qsdr, gcc53, ncnn]: a 128-bit operation has to come first; a 64-bit load pairs with 64-bit operations only.
PAIRS_A53 = {
    "q": set(),
    "d": {"d", "int", "ldd", "imul", "br", "ins", "ldx"},
    "ins": {"ins", "ldd", "int", "imul", "d"},
    "ldd": {"d", "ins", "int", "imul"},
    "ldq": set(),
    "ldx": {"q", "d", "int", "imul", "ins", "br"},
    "stx": {"q", "d", "int", "imul", "ins"},
    "stv": {"int", "imul"},
    "prfm": {"q", "d", "int", "imul", "ins"},
    "int": ALL_FIRST,
    "imul": {"q", "int", "imul"},
    "br": ALL_FIRST,
    "single": set(),
}
# [ncnn]: on the A55 a 128-bit operation also goes beside a 64-bit load, a move or core instructions.
PAIRS_A55 = PAIRS_A53 | {
    "q": {"int", "imul", "br", "prfm", "ldx", "ldd"},
    "ins": PAIRS_A53["ins"] | {"q"},
    "ldd": PAIRS_A53["ldd"] | {"q"},
}
# [qsdr, gcc53]; insx and v2x [gcc53].
LATENCY_A53 = {"valu": 4, "mul": 4, "shift": 4, "sacc": 4, "tbl": 4, "zip": 4, "bit": 4, "redu": 5, "fp": 4, "insx": 2,
               "v2x": 5}
# [m55].
LATENCY_A55 = {"valu": 2, "mul": 4, "dot": 4, "shift": 2, "sacc": 4, "tbl": 4, "zip": 4, "bit": 4, "redu": 4, "fp": 4,
               "insx": 4, "v2x": 4}


# ---- out of order: Cortex-A72 and A76 ----

V = ("V0", "V1")


@dataclasses.dataclass(frozen=True)
class OutOfOrder:
    """Micro-operations go in order into a window of `window`, `width` a cycle, and each takes the first free cycle of
    the ports that can do it, once its operands are there. `ops(insn)` is ([(ports, cycles)], latency, forwarding), where
    forwarding is the latency of an accumulator from the same kind of operation, 0 where it is the common one."""

    width: int
    window: int
    ops: object
    integer: tuple

    def run(self, insns):
        """Yields after each instruction the cycle in which all results so far are there."""
        taken, floor = collections.defaultdict(set), collections.defaultdict(int)
        ready, writer = collections.defaultdict(int), {}
        window = collections.deque()
        dispatch, dispatched, last = 0, 0, 0

        def first_free(ports, at):
            best = None
            for port in ports:
                cycle = max(at, floor[port])
                while cycle in taken[port]:
                    cycle += 1
                if best is None or cycle < best[0]:
                    best = (cycle, port)
            taken[best[1]].add(best[0])
            return best[0]

        for index, insn in enumerate(insns):
            if insn.kind == "nop":
                yield last
                continue
            uses, latency, forwarding = self.ops(insn)
            if insn.moves_base:
                uses = uses + [(self.integer, 1)]
            micro = sum(cycles for _, cycles in uses)
            for _ in range(micro):
                if dispatched >= self.width:
                    dispatch, dispatched = dispatch + 1, 0
                dispatched += 1
            while len(window) >= self.window:
                retired = window.popleft()
                if retired > dispatch:
                    dispatch, dispatched = retired, micro
            start = dispatch + 1
            for place, register in enumerate(insn.reads):
                at = ready[register]
                if insn.accumulates and place == 0 and forwarding and writer.get(register) == insn.kind:
                    at += forwarding - latency
                start = max(start, at)
            end = start
            for ports, cycles in uses:
                for _ in range(cycles):
                    end = max(end, first_free(ports, start))
            for register in insn.writes:
                ready[register], writer[register] = end + latency, insn.kind
            if insn.moves_base:
                ready[insn.moves_base] = start + 1
            last = max(last, end + latency)
            window.extend([last] * micro)  # results leave in order
            if index % 4096 == 4095:
                for port in taken:
                    taken[port] = {cycle for cycle in taken[port] if cycle >= dispatch - 300}
                    floor[port] = max(floor[port], dispatch - 300)
            yield last


def shifted_operand(insn):
    return insn.name in ("add", "sub", "and", "orr", "eor") and (
        "lsl" in insn.text or "uxt" in insn.text or ("lsr" in insn.text and len(insn.reads) > 1)
    )


def ops_a72(insn):
    """[g72]; where it is blank, as the A57 [g57]: TBL takes 2N + 1 micro-operations in its 128-bit form, ZIP 3."""
    kind, count, full = insn.kind, max(1, insn.count), insn.full
    if kind == "mul":
        if insn.name in ("mul", "mla", "mls") and full:
            return [(("V0",), 2)], 5, 2
        return [(("V0",), 1)], 4, 1
    if kind == "tbl":
        return [(V, 2 * count + 1 if full else count)], 3 * count + (3 if full else 0), 0
    fixed = {
        "shift": ([(("V1",), 1)], 3, 0),
        "sacc": ([(("V1",), 1)], 4, 1),
        "zip": ([(V, 3 if full else 1)], 6 if full else 3, 0),
        "bit": ([(V, 2 if full else 1)], 3, 0),
        "redu": ([(("V1",), 2)], 6, 0),
        "fp": ([(V, 1)], 4, 0),
        "valu": ([(V, 1)], 3, 0),
        "br": ([(("B",), 1)], 1, 0),
        "int": ([(("I0", "I1"), 1)], 1, 0),
        "imul": ([(("M",), 1)], 3, 0),
        "prfm": ([(("L0",), 1)], 1, 0),
        "ldx": ([(("L0",), 1)], 4, 0),
        "ldv": ([(("L0",), count)], 5 if count <= 2 else 6, 0),
        "stv": ([(("S",), (2 if full else 1) * count)], 1, 0),
        "stx": ([(("S",), count)], 1, 0),
        "v2x": ([(("L0",), 1)], 5, 0),
        "insx": ([(("L0",), 1), (V, 1)], 8, 0),
    }
    if kind == "int" and shifted_operand(insn):
        return [(("M",), 1)], 2, 0
    if kind not in fixed:
        raise YardError(f"{insn.text}: this core has no such instruction")
    return fixed[kind]


def ops_a76(insn):
    """[g76]."""
    kind, count, full = insn.kind, max(1, insn.count), insn.full
    if kind == "mul":
        if insn.name in ("mul", "mla", "mls") and full:
            return [(("V0",), 2)], 5, 2
        return [(("V0",), 1)], 4, 1
    if kind == "tbl":
        return ([(V, 1)], 2, 0) if count <= 2 else ([(V, 3)], 4, 0)
    loads = ("L0", "L1")
    fixed = {
        "dot": ([(V, 1)], 3, 1),
        "shift": ([(("V1",), 1)], 2, 0),
        "sacc": ([(("V1",), 1)], 4, 1),
        "redu": ([(("V1",), 2)], 5, 0),
        "fp": ([(V, 1)], 4, 2 if insn.name == "fmla" else 0),
        "valu": ([(V, 1)], 2, 0),
        "zip": ([(V, 1)], 2, 0),
        "bit": ([(V, 1)], 2, 0),
        "br": ([(("B",), 1)], 1, 0),
        "int": ([(("I0", "I1", "I2"), 1)], 1, 0),
        "imul": ([(("M",), 1)], 3, 0),
        "prfm": ([(loads, 1)], 1, 0),
        "ldx": ([(loads, 1)], 4, 0),
        "ldv": ([(loads, count)], 5 if count <= 2 else 6, 0),
        "stv": ([(("S",), count)], 1, 0),
        "stx": ([(("S",), count)], 1, 0),
        "v2x": ([(("V1",), 1)], 3, 0),
        "insx": ([(("M",), 1), (V, 1)], 5, 0),
    }
    if kind == "int" and shifted_operand(insn):
        return [(("M",), 1)], 2, 0
    if kind not in fixed:
        raise YardError(f"{insn.text}: this core has no such instruction")
    return fixed[kind]


CORES = {
    core.name: core
    for core in [
        Core("cortex-a53", (128, 4), "cortex-a53", InOrder(LATENCY_A53, PAIRS_A53)),
        Core("cortex-a55", (128, 4), "cortex-a55", InOrder(LATENCY_A55, PAIRS_A55), like="cortex-a76"),
        Core("cortex-a72", (256, 2), "cortex-a57", OutOfOrder(3, 128, ops_a72, ("I0", "I1"))),
        Core("cortex-a76", (256, 4), "neoverse-n1", OutOfOrder(4, 128, ops_a76, ("I0", "I1", "I2"))),
        # With i8mm; llvm-mca alone.
        Core("cortex-a710", (256, 4), "neoverse-n2", like="max"),
    ]
}


# ---- predictions ----

# Many short windows, because a kernel has phases (building tables, then using them) that all have to be met in their
# proportion; the first instructions of each fill the pipeline and are not counted.
WINDOWS, WINDOW_INSNS, WARM_INSNS = 48, 1500, 500


def own_cycles(core, trace):
    """Cycles of the whole trace by the core's own model, from windows of it; None where there is no model."""
    if core.own is None:
        return None
    cycles = insns = 0
    for window in trace.windows(WINDOWS, WINDOW_INSNS):
        warm = min(WARM_INSNS, len(window) // 3)
        after = list(core.own.run(trace.instruction(address) for address in window))
        cycles += after[-1] - after[warm - 1]
        insns += len(window) - warm
    return cycles / insns * trace.insns


def spent(core, trace):
    """Cycles of the whole trace by address: by how much each instruction moved the end."""
    found, insns = collections.Counter(), 0
    for window in trace.windows(WINDOWS, WINDOW_INSNS):
        after = list(core.own.run(trace.instruction(address) for address in window))
        for address, cycle, before in zip(window, after, [0, *after]):
            found[address] += cycle - before
        insns += len(window)
    return {address: cycles * trace.insns / insns for address, cycles in found.items()}


# Not modelled by llvm-mca, which follows no control flow: calls are left out, other branches take a slot.
LEFT_OUT = {"bl", "ret", "br", "blr", "adrp", "adr", "bti", "hint"}


def mca_cycles(core, trace, folder):
    """Cycles of the whole trace by llvm-mca, from the same windows."""
    lines, insns = [], 0
    for number, window in enumerate(trace.windows(WINDOWS, WINDOW_INSNS)):
        found = [trace.instruction(address) for address in window]
        texts = ["nop" if i.kind == "br" else i.text for i in found if i.name not in LEFT_OUT]
        warm = min(WARM_INSNS, len(window) // 3)
        for name, part in ("warm", texts[:warm]), ("all", texts):
            lines += [f"# LLVM-MCA-BEGIN {name}{number}", *part, f"# LLVM-MCA-END {name}{number}"]
        insns += len(texts) - warm
    path = os.path.join(folder, "windows.s")
    with open(path, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    command = [find_program("llvm-mca", "llvm"), "-mtriple=aarch64-linux-gnu", f"-mcpu={core.mca}", "-iterations=1"]
    command += ["-mattr=+dotprod,+fullfp16,+i8mm", "-resource-pressure=0", "-instruction-info=0", path]
    done = subprocess.run(command, capture_output=True, text=True)
    cycles = {
        region: int(total)
        for region, total in re.findall(r"Code Region - (\S+)$.*?^Total Cycles:\s+(\d+)$", done.stdout, re.M | re.S)
    }
    if done.returncode != 0 or not cycles:
        raise YardError(f"llvm-mca for {core.mca}: {done.stderr.strip()[:400]}")
    total = sum(c if region.startswith("all") else -c for region, c in cycles.items())
    return total / insns * trace.insns
