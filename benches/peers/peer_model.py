"""A model of Tern rewritten for a peer: the same weights in the ternary blocks of ggml, TQ1_0 and TQ2_0.

The peer's architecture `bitnet` takes the tensors under the names that they have. Matrices of I2_S become blocks with a
scale of 1, their own scale goes to a tensor `.scale` beside them; the embedding, which is the head too, and the norms
are copied as they are. Nothing of a model is held but one matrix at a time.
"""

import os
import struct

import numpy as np

F32, F16, Q6_K, TQ1_0, TQ2_0, I2_S = 0, 1, 14, 34, 35, 36
# Weights and bytes of a block, by type; of I2_S without the 32 bytes at the end of a tensor that hold its scale.
BLOCK = {F32: (1, 4), F16: (1, 2), Q6_K: (256, 210), TQ1_0: (256, 54), TQ2_0: (256, 66), I2_S: (128, 32)}
FORMS = {"TQ1_0": TQ1_0, "TQ2_0": TQ2_0}
# What the peer writes into `general.file_type` for those; it shows the number and decides nothing by it.
FILE_TYPES = {TQ1_0: 36, TQ2_0: 37}
# What the peer's graph knows of the metadata, after `bitnet.`.
SHAPE_KEYS = ["vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length",
              "rope.dimension_count", "attention.head_count", "attention.head_count_kv",
              "attention.layer_norm_rms_epsilon", "rope.freq_base"]
ALIGNMENT = 32
U32, ARRAY, STRING = 4, 9, 8
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class ModelError(Exception):
    """A model that cannot be rewritten, and why."""


class Source:
    """The head of a GGUF file: metadata as bytes, so that it can be copied, and where tensors lie."""

    def __init__(self, path):
        self.path, self.metadata, self.tensors = path, {}, {}
        self.file = open(path, "rb")
        if self.file.read(4) != b"GGUF":
            raise ModelError(f"{path} is no GGUF file: give the model that `tern synth` wrote")
        version, tensors, values = self._unpack("<IQQ")
        if version not in (2, 3):
            raise ModelError(f"{path} is GGUF of version {version}, not 2 or 3")
        for _ in range(values):
            key = self._string().decode()
            kind, = self._unpack("<I")
            start = self.file.tell()
            self._skip(kind)
            end = self.file.tell()
            self.file.seek(start)
            self.metadata[key] = (kind, self.file.read(end - start))
        for _ in range(tensors):
            name = self._string().decode()
            dimensions, = self._unpack("<I")
            shape = self._unpack(f"<{dimensions}Q")
            self.tensors[name] = (shape, *self._unpack("<IQ"))
        self.start = -(-self.file.tell() // ALIGNMENT) * ALIGNMENT
        self.architecture = self._text("general.architecture")
        if not self.architecture.startswith("bitnet"):
            raise ModelError(f"{path} is of architecture {self.architecture!r}; this rewrites bitnet-b1.58 only")
        if "general.alignment" in self.metadata:
            raise ModelError(f"{path} has an alignment of its own: give the model that `tern synth` wrote")

    def _unpack(self, form):
        data = self.file.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            raise ModelError(f"{self.path} ends at byte {self.file.tell()}, in the middle of its head")
        return struct.unpack(form, data)

    def _string(self):
        length, = self._unpack("<Q")
        return self.file.read(length)

    def _skip(self, kind):
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            element, count = self._unpack("<IQ")
            if element == STRING:
                for _ in range(count):
                    self._string()
            else:
                self.file.seek(count * VALUE_BYTES[element], os.SEEK_CUR)
        elif kind in VALUE_BYTES:
            self.file.seek(VALUE_BYTES[kind], os.SEEK_CUR)
        else:
            raise ModelError(f"{self.path} has a value of type {kind} in its metadata, which GGUF has not")

    def _text(self, key):
        kind, value = self.metadata.get(key, (STRING, struct.pack("<Q", 0)))
        return value[8:].decode() if kind == STRING else ""

    def bytes_of(self, name):
        """All bytes of a tensor as they are in the file."""
        shape, kind, offset = self.tensors[name]
        if kind not in BLOCK:
            raise ModelError(f"{name} in {self.path} is of type {kind}, which this does not read: give the model that "
                             "`tern synth` wrote, not one that `tern pack` made of it")
        self.file.seek(self.start + offset)
        size = tensor_bytes(shape, kind) + (32 if kind == I2_S else 0)
        data = self.file.read(size)
        if len(data) < size:
            raise ModelError(f"{name} has {len(data)} of its {size} bytes in {self.path}")
        return np.frombuffer(data, np.uint8)

    def ternary(self, name):
        """A matrix of I2_S as its weights plus one, row by row, and its scale."""
        data = self.bytes_of(name)
        codes, scale = data[:-32].reshape(-1, 1, 32), data[-32:-28].view(np.float32)
        shifts = np.array([6, 4, 2, 0], np.uint8).reshape(1, 4, 1)
        weights = (codes >> shifts & 3).reshape(-1)
        if weights.max() > 2:
            raise ModelError(f"{name} in {self.path} has codes of 3, so it is not I2_S as x86 lays it out")
        return weights, scale


def tensor_bytes(shape, kind):
    weights, size = BLOCK[kind]
    if shape[0] % weights:
        raise ModelError(f"rows of {shape[0]} weights do not divide into blocks of {weights}: take another shape")
    return int(np.prod(shape)) // weights * size


def base_3(trits):
    """Trits along the second axis, the first weighing most, as the byte that ggml multiplies them out of."""
    value = np.zeros((trits.shape[0], trits.shape[2]), np.uint16)
    for i in range(5):
        value = value * 3 + (trits[:, i] if i < trits.shape[1] else 0)
    return ((value * 256 + 242) // 243).astype(np.uint8)


def blocks_of(weights, kind):
    """Weights plus one in the blocks of a type, scales of 1 at their ends."""
    weights = weights.reshape(-1, 256)
    scale = np.broadcast_to(np.array([1], np.float16).view(np.uint8), (len(weights), 2))
    if kind == TQ2_0:
        codes = weights.reshape(-1, 2, 4, 32)
        packed = codes[:, :, 0] | codes[:, :, 1] << 2 | codes[:, :, 2] << 4 | codes[:, :, 3] << 6
        return np.concatenate([packed.reshape(-1, 64), scale], axis=1)
    parts = [weights[:, :160].reshape(-1, 5, 32), weights[:, 160:240].reshape(-1, 5, 16),
             weights[:, 240:].reshape(-1, 4, 4)]
    return np.concatenate([*map(base_3, parts), scale], axis=1)


def plan(source, kind):
    """The peer's tensors in order: name, shape, type, and where they come from."""
    tensors = []
    for name, (shape, found, _) in source.tensors.items():
        if found != I2_S:
            tensors.append((name, shape, found, name))
            continue
        tensors.append((name, shape, kind, name))
        tensors.append((name.removesuffix("weight") + "scale", (1,), F32, name))
    return tensors


def head(source, kind, tensors):
    """The metadata and the tensors' entries, padded to where data begins."""
    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def number(value):
        return U32, struct.pack("<I", value)

    values = {"general.architecture": (STRING, string("bitnet")), "general.file_type": number(FILE_TYPES[kind]),
              "general.quantization_version": number(2)}
    for key in SHAPE_KEYS:
        own = f"{source.architecture}.{key}"
        if own not in source.metadata:
            raise ModelError(f"{source.path} lacks {own}, which the peer needs")
        values[f"bitnet.{key}"] = source.metadata[own]
    values |= {key: value for key, value in source.metadata.items() if key.startswith("tokenizer.")}
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    out += [string(key) + struct.pack("<I", form) + value for key, (form, value) in values.items()]
    offset = 0
    for name, shape, form, _ in tensors:
        out.append(string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, form, offset))
        offset += -(-tensor_bytes(shape, form) // ALIGNMENT) * ALIGNMENT
    whole = b"".join(out)
    return whole + bytes(-len(whole) % ALIGNMENT)


def rewrite(model, kind, path):
    """Writes `model` with its matrices in blocks of `kind` to `path`."""
    source = Source(model)
    tensors = plan(source, kind)
    partial = f"{path}.partial"
    with open(partial, "wb") as out:
        out.write(head(source, kind, tensors))
        for name, shape, form, origin in tensors:
            if source.tensors[origin][1] != I2_S:
                data = source.bytes_of(origin)
            elif form == kind:
                weights, scale = source.ternary(origin)
                data = blocks_of(weights, kind)
            else:
                data = scale
            if data.nbytes != tensor_bytes(shape, form):
                raise ModelError(f"{name} came out as {data.nbytes} bytes, not {tensor_bytes(shape, form)}")
            out.write(data.tobytes() + bytes(-data.nbytes % ALIGNMENT))
    os.replace(partial, path)
