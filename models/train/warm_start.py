"""Turns an I2_S GGUF of export.py's kind back into weights that training can go on from.

A ternary file no longer holds the weights it was rounded from. They are drawn anew from a normal distribution, each
from the part of it that rounds to the code in the file, so that the first forward pass gives what the file gives.
"""

import struct

import numpy as np
import torch

import gguf

FORMATS = {gguf.U32: "<I", gguf.F32: "<f", gguf.BOOL: "<?", gguf.I32: "<i"}
# Of a normal distribution: half the mean magnitude (the boundary between codes 0 and 1), in standard deviations.
BOUNDARY = 0.5 * (2 / np.pi) ** 0.5


class Reader:
    """The metadata `entries` and the tensors of a trusted file: our own, not input."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        self.at = 4
        _, tensors, entries = self.take("<IQQ")
        self.entries = {}
        for _ in range(entries):
            key = self.text()
            self.entries[key] = self.value(self.take("<I")[0])
        self.tensors = {}
        for _ in range(tensors):
            name, (rank,) = self.text(), self.take("<I")
            sizes = self.take(f"<{rank}Q")
            self.tensors[name] = (tuple(reversed(sizes)), *self.take("<IQ"))
        self.payload = self.at + -self.at % gguf.ALIGNMENT

    def take(self, form):
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def text(self):
        (size,) = self.take("<Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind):
        if kind == gguf.STRING:
            return self.text()
        if kind == gguf.ARRAY:
            item, count = self.take("<IQ")
            return [self.value(item) for _ in range(count)]
        return self.take(FORMATS[kind])[0]

    def array(self, name, form, count):
        _, _, offset = self.tensors[name]
        return np.frombuffer(self.data, form, count, self.payload + offset)


def latent(codes, scale, rng):
    """Weights [out, in] that round to `codes` and whose mean magnitude is `scale`."""
    draws = np.abs(rng.standard_normal(codes.size * 4))
    large, small = draws[draws > BOUNDARY * 1.02], draws[draws < BOUNDARY * 0.98]
    magnitudes = np.where(codes != 0, np.resize(large, codes.shape), np.resize(small, codes.shape))
    signs = np.where(codes != 0, codes, rng.choice((-1, 1), codes.shape))
    weights = signs * magnitudes
    # The share of zeros in the file is not the normal distribution's: stretch the large ones until the mean fits.
    for _ in range(20):
        mean = np.abs(weights).mean()
        outside = (codes != 0) & (np.abs(weights) < 0.51 * mean)
        weights = np.where(outside, signs * 0.51 * mean, weights)
        weights = np.where((codes == 0) & (np.abs(weights) > 0.49 * mean), signs * 0.49 * mean, weights)
    return weights * (scale / np.abs(weights).mean())


def load_into(model, path, embedding_for=lambda rows: rows):
    """Fills the model's parameters from the file; the shapes must be the model's, but for layers the file has not.

    `embedding_for` makes the model's embedding of the file's.
    """
    reader, rng = Reader(path), np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        tensor = f"{name}.weight"
        if tensor not in reader.tensors:
            continue
        shape, kind, _ = reader.tensors[tensor]
        count = int(np.prod(shape))
        if kind == gguf.TENSOR_I2_S:
            packed = reader.array(tensor, np.uint8, count // 4).reshape(-1, 1, gguf.I2_S_BLOCK // 4)
            codes = ((packed >> np.array([6, 4, 2, 0])[None, :, None]) & 3).astype(np.int8).reshape(shape) - 1
            scale = reader.array(tensor, "<f4", count // 16 + 1)[-1]
            values = latent(codes, scale, rng)
        else:
            values = reader.array(tensor, "<f2" if kind == gguf.TENSOR_F16 else "<f4", count).reshape(shape)
        values = torch.from_numpy(values.astype(np.float32))
        values = embedding_for(values) if name == "token_embd" else values
        if values.shape != parameter.shape:
            raise ValueError(f"{path}: {tensor} is {shape}, the model wants {tuple(parameter.shape)}")
        with torch.no_grad():
            parameter.copy_(values)


def shape_of(path):
    """The sizes of the file's model that may differ between models of this recipe."""
    tensors = Reader(path).tensors
    layers = sum(name.endswith(".attn_norm.weight") for name in tensors)
    return {"vocab": tensors["token_embd.weight"][0][0], "layers": layers}
