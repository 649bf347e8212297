"""A GGUF v3 writer for what export.py needs: strings, numbers, arrays, and F32, F16 and I2_S tensors."""

import struct

import numpy as np

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # metadata value types
TENSOR_F32, TENSOR_F16, TENSOR_I2_S = 0, 1, 36
ALIGNMENT = 32
I2_S_BLOCK = 128  # weights


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    if kind == STRING:
        return string(value)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?", I32: "<i"}[kind], value)


def entry(key, kind, value):
    """One metadata entry; a list becomes an array of `kind`."""
    if isinstance(value, list):
        head = struct.pack("<IIQ", ARRAY, kind, len(value))
        return string(key) + head + b"".join(scalar(kind, item) for item in value)
    return string(key) + struct.pack("<I", kind) + scalar(kind, value)


def i2_s(codes, scale):
    """codes [out, in] in {-1, 0, 1} and their scale, as I2_S bytes.

    A block of 128 weights takes 32 bytes: byte j holds weights j, 32+j, 64+j and 96+j, the first in its top two
    bits, each as code + 1. The scale follows all blocks as an F32 in a field of 32 bytes.
    """
    if codes.size % I2_S_BLOCK:
        raise ValueError(f"I2_S wants a multiple of {I2_S_BLOCK} weights, found shape {codes.shape}")
    fields = (codes.reshape(-1, 4, I2_S_BLOCK // 4) + 1).astype(np.uint8)
    packed = fields[:, 0] << 6 | fields[:, 1] << 4 | fields[:, 2] << 2 | fields[:, 3]
    return packed.tobytes() + struct.pack("<f", scale).ljust(32, b"\0")


def write(path, entries, tensors):
    """Writes entries (bytes from `entry`) and tensors (name, shape as [out, in], type, bytes); returns the size."""
    infos, payload, offset = b"", [], 0
    for name, shape, kind, data in tensors:
        sizes = tuple(reversed(shape))
        infos += string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        infos += struct.pack("<IQ", kind, offset)
        padded = data + b"\0" * (-len(data) % ALIGNMENT)
        payload.append(padded)
        offset += len(padded)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + infos
    whole = head + b"\0" * (-len(head) % ALIGNMENT) + b"".join(payload)
    with open(path, "wb") as file:
        file.write(whole)
    return len(whole)
