"""What a harness executes under emulation: counts, the blocks in order, and each instruction in a form to model.

`Tracer` builds the qemu plugin and runs programs with it; `Trace` is what came back; `parse` reads one line of a
disassembly into an `Instruction`, with the class and the registers that `cores.py` needs.
"""

import array
import collections
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


class YardError(Exception):
    """Something that a user can put right: what was found, what was expected, what to do."""


def find_program(name, package):
    """The path of `name`, or of its newest form with a version at its end (`llvm-mca-19`)."""
    versions = []
    for folder in os.get_exec_path():
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        for entry in entries:
            match = re.fullmatch(re.escape(name) + r"-(\d+)", entry)
            if match:
                versions.append((int(match.group(1)), os.path.join(folder, entry)))
    found = max(versions)[1] if versions else shutil.which(name)
    if not found:
        raise YardError(f"no {name} on the path; as root: apt-get install {package}")
    return found


# ---- instructions ----

REGISTER = re.compile(r"\b([xwvqdshb])(\d+)\b|\b(sp|wsp|xzr|wzr)\b")
FULL_VECTOR = re.compile(r"\.(16b|8h|4s|2d)\b|\bq\d+\b")
BRANCHES = {"b", "bl", "ret", "br", "blr", "cbz", "cbnz", "tbz", "tbnz"}
# Instructions that read what they write.
READ_MODIFY_WRITE = set(
    "mla mls smlal smlal2 umlal umlal2 smlsl smlsl2 umlsl umlsl2 sdot udot usdot smmla ummla usmmla sadalp uadalp "
    "bit bif bsl tbx sli sri usra ssra fmla fmls ins movk bfi bfxil saba uaba sabal sabal2 uabal uabal2".split()
)
# Classes of vector instructions; what is in none is `valu`, plain integer arithmetic and logic.
VECTOR_CLASSES = {
    name: kind
    for kind, names in {
        "mul": "mul mla mls smull smull2 umull umull2 smlal smlal2 umlal umlal2 smlsl smlsl2 umlsl umlsl2 "
        "sqdmulh sqrdmulh pmul",
        "dot": "sdot udot usdot",
        "mmla": "smmla ummla usmmla",
        "shift": "ushr sshr shl sli sri ushll sshll ushll2 sshll2 sxtl sxtl2 uxtl uxtl2 shrn shrn2 rshrn xtn xtn2",
        "sacc": "usra ssra sadalp uadalp saba uaba sabal sabal2 uabal uabal2",
        "tbl": "tbl tbx",
        "zip": "zip1 zip2 uzp1 uzp2",
        "bit": "bit bif bsl",
        "redu": "addv saddlv uaddlv smaxv sminv umaxv uminv",
    }.items()
    for name in names.split()
}
VECTOR_KINDS = set(VECTOR_CLASSES.values()) | {"valu", "fp"}


@dataclasses.dataclass(slots=True)
class Instruction:
    """One instruction: `kind` is its class, `reads` begins with the accumulator where `accumulates`."""

    text: str
    name: str
    kind: str = "int"
    writes: list = dataclasses.field(default_factory=list)
    reads: list = dataclasses.field(default_factory=list)
    full: bool = False  # works on 128-bit registers
    count: int = 0  # registers of a load or store, table registers of a tbl
    accumulates: bool = False
    moves_base: str = ""  # the address register that a load or store updates


def parse(text):
    """The instruction of a line of llvm-objdump, without its address."""
    mnemonic, _, operands = text.partition(" ")
    name = mnemonic.split(".")[0]
    registers = [
        m.group(3) or ("v" if m.group(1) in "vqdshb" else "x") + m.group(2) for m in REGISTER.finditer(operands)
    ]
    insn = Instruction(text, name, full=bool(FULL_VECTOR.search(text)))
    base = re.search(r"\[(x\d+|sp)", operands)
    if base and ("]!" in operands or "]," in operands):
        insn.moves_base = base.group(1)
    if name in BRANCHES:
        insn.kind, insn.reads = "br", registers
    elif name.startswith("prfm"):
        insn.kind, insn.reads = "prfm", registers
    elif name in ("nop", "hint", "bti"):
        insn.kind = "nop"
    elif name.startswith("ld"):
        parse_load(insn, operands, registers)
    elif name.startswith("st"):
        insn.kind = "stv" if registers and registers[0][0] == "v" else "stx"
        insn.reads, insn.count = registers, 2 if name in ("stp", "stnp") else 1
    elif name in ("cmp", "cmn", "tst", "ccmp"):
        insn.reads = registers
    elif any(r[0] == "v" for r in registers):
        parse_vector(insn, operands, registers)
    else:
        insn.kind = "imul" if name in ("mul", "madd", "msub", "smaddl", "umaddl", "smull", "umull") else "int"
        insn.writes = registers[:1]
        insn.reads = registers if name in READ_MODIFY_WRITE else registers[1:]
    return insn


def parse_load(insn, operands, registers):
    structure = re.match(r"ld[1-4]", insn.name)
    count = 2 if insn.name in ("ldp", "ldnp", "ldpsw") else 1
    if structure:
        count = sum(r[0] == "v" for r in registers)
    insn.writes, insn.reads, insn.count = registers[:count], registers[count:], count
    insn.kind = "ldv" if registers and registers[0][0] == "v" else "ldx"
    if structure and re.search(r"\}\s*\[\d+\]", operands):
        insn.reads, insn.full = insn.reads + insn.writes, False


def parse_vector(insn, operands, registers):
    name = insn.name
    insn.writes, insn.reads = registers[:1], registers[1:]
    if name in READ_MODIFY_WRITE or (name == "mov" and re.match(r"v\d+\.[bhsd]\[", operands)):
        insn.reads, insn.accumulates = registers, True
    if name in ("tbl", "tbx"):
        insn.count = max(1, len(registers) - 2)
    to_vector, from_vector = registers[0][0] == "v", registers[-1][0] == "v"
    if name in ("mov", "ins", "dup") and to_vector and not from_vector:
        insn.kind = "insx"
    elif name in ("fmov", "umov", "smov") or not to_vector:
        insn.kind = "v2x"
    elif name[0] == "f" or name in ("scvtf", "ucvtf"):
        insn.kind = "fp"
    else:
        insn.kind = VECTOR_CLASSES.get(name, "valu")


def disassemble(program):
    """The text of every instruction by its address relative to yard_begin, and the tool that was asked."""
    objdump = find_program("llvm-objdump", "llvm")
    command = [objdump, "-d", "--no-show-raw-insn", "--mattr=+dotprod,+i8mm,+fullfp16", program]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"^([0-9a-f]+) <yard_begin>:", listing, re.M)
    if not found:
        raise YardError(f"{program} has no symbol yard_begin; build it with the release profile, which keeps symbols")
    origin, texts = int(found.group(1), 16), {}
    for line in listing.splitlines():
        match = re.match(r"\s*([0-9a-f]+):\s+(.*)$", line)
        if match:
            text = re.split(r"//|<", match.group(2))[0]
            texts[int(match.group(1), 16) - origin] = " ".join(text.split())
    return texts


# ---- traces ----


class Trace:
    """What ran between the marks: `insns`, `load_bytes`, `store_bytes`, `l1_misses[(sets, ways)]`, `facts` as the
    harness printed them, and the blocks in order."""

    def __init__(self, facts, stats, blocks, texts):
        self.facts, self.blocks, self.texts = facts, blocks, texts
        self.l1_misses = {}
        for line in stats.splitlines():
            name, *numbers = line.split()
            if name == "l1":
                self.l1_misses[int(numbers[0]), int(numbers[1])] = int(numbers[3])
            else:
                setattr(self, name, int(numbers[0]))
        if not self.insns:
            raise YardError("nothing ran between yard_begin and yard_end: were the marks optimised away?")
        if self.lost_blocks:
            raise YardError(f"{self.lost_blocks} blocks did not fit into the trace; take fewer rows or tokens")

    @functools.cached_property
    def block_counts(self):
        """How often each block (address, instructions) ran."""
        return collections.Counter(self.blocks)

    def instruction(self, address):
        found = PARSED.get((id(self.texts), address))
        if found is None:
            if address not in self.texts:
                raise YardError(f"no instruction at yard_begin{address:+#x}: is the program the one that was traced?")
            found = PARSED[id(self.texts), address] = parse(self.texts[address])
        return found

    def addresses(self, word):
        first, count = word >> 16, word & 0xFFFF
        first -= (first >> 47) << 48  # code may lie before yard_begin
        return range(first, first + 4 * count, 4)

    def kinds(self):
        """How many instructions of each kind ran."""
        mix = collections.Counter()
        for word, times in self.block_counts.items():
            for address in self.addresses(word):
                mix[self.instruction(address).kind] += times
        return mix

    def windows(self, count, length):
        """`count` pieces of about `length` addresses each, one from each equal part of the trace and at no fixed place
        in it (else a loop could be met at the same point each time); the whole trace if that is not longer."""
        if self.insns <= 2 * count * length:
            return [[address for word in self.blocks for address in self.addresses(word)]]
        part = self.insns / count
        starts = [int(part * i + (part - length) * (i * 0.6180339887 % 1)) for i in range(count)]
        pieces, piece, at, next_start = [], None, 0, 0
        for word in self.blocks:
            size = word & 0xFFFF
            at += size
            if piece is None and next_start < count and at > starts[next_start]:
                piece, next_start = [], next_start + 1
            if piece is not None:
                piece.extend(self.addresses(word))
                if len(piece) >= length:
                    pieces.append(piece)
                    piece = None
        return pieces


PARSED = {}


class Tracer:
    """Runs a harness for AArch64 under the dynamic qemu-user; the static one loads no plugins."""

    def __init__(self, program):
        self.program = program
        self.qemu = find_program("qemu-aarch64", "qemu-user")
        self.folder = tempfile.TemporaryDirectory(prefix="yard-")
        version = self.output([self.qemu, "--version"])
        major, minor = map(int, re.search(r"version (\d+)\.(\d+)", version).groups())
        self.plugin = os.path.join(self.folder.name, "trace.so")
        api = 1 if (major, minor) < (8, 2) else 2
        source = os.path.join(HERE, "trace_plugin.c")
        flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DPLUGIN_API={api}"]
        subprocess.run(["gcc", *flags, "-o", self.plugin, source], check=True)
        # That answer comes with an exit status of 1.
        known = subprocess.run([self.qemu, "-cpu", "help"], capture_output=True, text=True).stdout
        self.cpus = set(re.findall(r"^\s+(\S+)$", known, re.M))

    @staticmethod
    def output(command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise YardError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    @functools.cached_property
    def texts(self):
        return disassemble(self.program)

    def sets(self, cpu):
        """The sets that `cpu` can run, best first, by layout."""
        lines = self.output([self.qemu, "-cpu", cpu, self.program, "list"]).splitlines()
        return dict(line.split() for line in lines)

    def check(self, cpu, kernels, rows, cols, tokens, data):
        """Holds every sum of one product against its definition, without tracing."""
        shape = map(str, (rows, cols, tokens))
        self.output([self.qemu, "-cpu", cpu, self.program, "run", kernels, *shape, data, "multiply"])

    def trace(self, kernels, rows, cols, tokens, phase="multiply", caches=(), texts=True):
        """The trace of one product; `texts=False` counts alone and needs no LLVM."""
        blocks_path, stats_path = (os.path.join(self.folder.name, name) for name in ("blocks", "stats"))
        plugin = f"{self.plugin},trace={blocks_path},stats={stats_path}"
        plugin += "".join(f",l1={sets}x{ways}" for sets, ways in caches)
        # The most capable CPU: the set is named, so it runs the same code as on its own core.
        command = [self.qemu, "-cpu", "max", "-plugin", plugin, self.program, "run", kernels]
        line = self.output([*command, *map(str, (rows, cols, tokens)), "random", phase])
        facts = dict(item.split("=") for item in line.split() if "=" in item)
        blocks = array.array("Q")
        with open(blocks_path, "rb") as file:
            blocks.frombytes(file.read())
        if sys.byteorder != "little":
            blocks.byteswap()
        with open(stats_path, encoding="ascii") as file:
            return Trace(facts, file.read(), blocks, self.texts if texts else {})


# ---- the harness ----

ARM = "aarch64-unknown-linux-musl"


def build(target=None):
    """Builds the harness for `target`, or for this machine, with the profile that is shipped; returns its path."""
    environment = dict(os.environ)
    # As `./test` has them; what a user has set stands.
    environment.setdefault("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "aarch64-linux-gnu-gcc")
    environment.setdefault("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "-C target-feature=+crt-static")
    command = ["cargo", "build", "--release", "--package", "tern-yard", "--message-format=json-render-diagnostics"]
    command += ["--target", target] if target else []
    done = subprocess.run(command, env=environment, cwd=HERE, stdout=subprocess.PIPE, text=True)
    programs = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    programs = [program for program in programs if program]
    if done.returncode != 0 or not programs:
        raise YardError("the harness could not be built; see above")
    return programs[-1]
