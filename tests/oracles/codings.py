"""Golden bytes of ternary codings of other programs, encoded here from their published definitions.

  python tests/oracles/codings.py tests/fixtures/oracle

writes coding_vectors.json: for each coding a small matrix with its weights (a digit for two: 3 w0 + w1 + 4), its scales and
its bytes; and blocks of Q4_K with their values. Nothing here reads what Tern writes. Where the package gguf (made with 0.19.0)
can dequantise a type, the bytes are held against it first. Needs NumPy and gguf.
"""
import json, sys

import numpy as np
from gguf import GGMLQuantizationType, quants

RNG = np.random.default_rng(20261122)
RULE = "weights and scales by numpy.random.default_rng(20261122)"


def trits(rows, cols):
    return RNG.integers(-1, 2, (rows, cols)).astype(np.int64)


def sparse(rows, cols):
    """One zero among the weights 64 (g / 16) + g % 16 + 16 p of each group g of a block of 256."""
    w = RNG.choice([-1, 1], (rows, cols)).astype(np.int64).reshape(-1, 4, 4, 16)  # block, quarter, p, lane
    zero = RNG.integers(0, 4, (w.shape[0], 4, 16))
    w[np.arange(4)[None, None, :, None] == zero[:, :, None, :]] = 0
    return w.reshape(rows, cols)


def halves(scales):
    return scales.astype("<f2").view(np.uint8).reshape(-1, 2)


def base3(t, spans, tails):
    """Bytes of base-3 digits: for each span of `width` bytes, byte l holds weights start + l + width k, most significant
    first; the value v of five digits becomes ceil(256 v / 243). Tails hold four digits and a zero."""
    out = []
    for start, width, count in spans + tails:
        v = np.zeros((t.shape[0], width), np.int64)
        for k in range(5):
            digit = t[:, start + k * width : start + (k + 1) * width] + 1 if k < count else 0
            v = 3 * v + digit
        out.append((256 * v + 242) // 243)
    return np.concatenate(out, 1).astype(np.uint8)


def pairs_low_first(t):
    c = (t + 1).reshape(t.shape[0], -1, 4)
    return (c[..., 0] | c[..., 1] << 2 | c[..., 2] << 4 | c[..., 3] << 6).astype(np.uint8)


def tq1_0(t, d):
    return np.concatenate([base3(t, [(0, 32, 5), (160, 16, 5)], [(240, 4, 4)]), d], 1)


def tq2_0(t, d):
    c = (t + 1).reshape(-1, 2, 4, 32)
    return np.concatenate([(c[:, :, 0] | c[:, :, 1] << 2 | c[:, :, 2] << 4 | c[:, :, 3] << 6).astype(np.uint8).reshape(-1, 64), d], 1)


def q2_0(t, d):
    return np.concatenate([d, pairs_low_first(t)], 1)


def ptq1_0(t, d):
    return np.concatenate([base3(t, [(0, 16, 5), (80, 8, 5)], [(120, 2, 4)]), d], 1)


def q1_0(t, d):
    return np.concatenate([d, np.packbits(t > 0, axis=1, bitorder="little")], 1)


def stq1_0(t, d):
    out = np.zeros((t.shape[0], 42), np.uint8)
    for b, block in enumerate(t):
        for g in range(64):
            four = [block[g // 16 * 64 + g % 16 + 16 * p] for p in range(4)]
            zero = four.index(0)
            a, s, r = [w for p, w in enumerate(four) if p != zero]
            nibble = zero << 2 | (1 if s != a else 0) | (2 if r != a else 0)
            out[b, g // 2] |= nibble << 4 * (g % 2)
            out[b, 32 + g // 8] |= (1 if a < 0 else 0) << g % 8
    out[:, 40:] = d
    return out


def i2_s_64(w):
    c = (w + 1).reshape(-1, 4, 16)
    return (c[:, 0] << 6 | c[:, 1] << 4 | c[:, 2] << 2 | c[:, 3]).astype(np.uint8).reshape(-1)


def tl1(w, BM, BK, bm):
    """Walks the bytes in their order: tiles, strips, steps of 256 / bm columns, 16 rows, four columns."""
    M, K = w.shape
    out = []
    for m0 in range(0, M, BM):
        for k0 in range(0, K, BK):
            for r in range(m0, m0 + BM, bm):
                for c in range(k0, k0 + BK, 256 // bm):
                    for g in range(r, r + bm, 16):
                        for k in range(c, c + 256 // bm, 4):
                            for m in range(g, g + 16):
                                high = 3 * w[m, k] + w[m, k + 1] + 4
                                low = 3 * w[m, k + 2] + w[m, k + 3] + 4
                                out.append(high << 4 | low)
    return np.array(out, np.uint8)


LANES = [*range(0, 8), *range(16, 24), *range(8, 16), *range(24, 32)]  # the row of each byte of 32


def tl2(w, BM, BK):
    M, K = w.shape
    three = K // BK * BK
    nibbles, signs, pairs = [], [], []
    for m0 in range(0, M, BM):
        for k0 in range(0, three, BK):
            for r in range(m0, m0 + BM, 32):
                v = lambda m, t: 9 * w[m, k0 + 3 * t] + 3 * w[m, k0 + 3 * t + 1] + w[m, k0 + 3 * t + 2]
                for t in range(0, BK // 3, 2):
                    nibbles += [abs(v(r + lane, t)) << 4 | abs(v(r + lane, t + 1)) for lane in LANES]
                for t in range(0, BK // 3, 8):
                    for lane in range(16):
                        word = 0
                        for i in range(8):
                            word = word << 1 | (v(r + lane, t + i) < 0)
                            word = word << 1 | (v(r + lane + 16, t + i) < 0)
                        signs += [word & 255, word >> 8]
        for k0 in range(three, K, 32):
            for r in range(m0, m0 + BM, 32):
                v = lambda m, p: 3 * w[m, k0 + 2 * p] + w[m, k0 + 2 * p + 1] + 4
                for p in range(0, 16, 2):
                    pairs += [v(r + lane, p) << 4 | v(r + lane, p + 1) for lane in LANES]
    size = (K - 256) * M // 3 * 5 // 8 + 256 * M // 2 * 4 // 8
    size += -size % 32
    out = np.array(nibbles + signs + pairs, np.uint8)
    assert out.size <= size
    return np.concatenate([out, np.zeros(size - out.size, np.uint8)])


def main(folder):
    vectors = []

    def add(coding, w, scales, data, **more):
        text = "".join(str(3 * a + b + 4) for a, b in w.reshape(-1, 2))
        scales = [float(s) for s in np.asarray(scales).reshape(-1)]
        vectors.append(dict(coding=coding, rows=w.shape[0], cols=w.shape[1], **more, weights=text, scales=scales, hex=data.tobytes().hex()))

    blocks = [
        ("tq1_0", 256, tq1_0, trits, GGMLQuantizationType.TQ1_0),
        ("tq2_0", 256, tq2_0, trits, GGMLQuantizationType.TQ2_0),
        ("q2_0", 64, q2_0, trits, None),
        ("pq2_0", 128, q2_0, trits, None),
        ("ptq1_0", 128, ptq1_0, trits, None),
        ("stq1_0", 256, stq1_0, sparse, None),
        ("q1_0", 128, q1_0, lambda r, c: RNG.choice([-1, 1], (r, c)), None),
    ]
    for name, size, encode, weights, known in blocks:
        w = weights(2, 512)
        scales = np.exp2(RNG.uniform(-8, 0, w.size // size)).astype(np.float16)
        data = encode(w.reshape(-1, size), halves(scales))
        if known is not None:
            values = quants.dequantize(data, known).reshape(-1, size)
            assert (values == w.reshape(-1, size) * scales.astype(np.float32)[:, None]).all(), name
        add(name, w, scales, data)
    scale = lambda s: np.frombuffer(np.float32(s).tobytes(), np.uint8)
    w = trits(3, 192)
    add("i2_s_64", w, 0.625, np.concatenate([i2_s_64(w), scale(0.625)]))
    for tile, shape in [((64, 32, 32), (128, 64)), ((64, 32, 64), (64, 64)), ((128, 16, 64), (128, 32))]:
        w = trits(*shape)
        add("tl1", w, 0.75, np.concatenate([tl1(w, *tile), scale(0.75)]), tile=tile)
    for tile, shape in [((32, 96), (64, 320)), ((64, 96), (64, 256 + 32))]:
        w = trits(*shape)
        add("tl2", w, 1.25, np.concatenate([tl2(w, *tile), scale(1.25)]), tile=[*tile, 32])
    # Random blocks of Q4_K with finite scales, and what the package makes of them.
    data = RNG.integers(0, 256, (3, 144)).astype(np.uint8)
    data[:, :4] = RNG.uniform(-1, 1, (3, 2)).astype("<f2").view(np.uint8).reshape(3, 4)
    values = quants.dequantize(data, GGMLQuantizationType.Q4_K).astype("<f4")
    q4_k = dict(hex=data.tobytes().hex(), values=values.tobytes().hex())
    with open(f"{folder}/coding_vectors.json", "w") as out:
        lines = ",\n".join(json.dumps(v) for v in vectors)
        out.write(f'{{"rule": {json.dumps(RULE)}, "vectors": [\n{lines}\n], "q4_k": {json.dumps(q4_k)}}}\n')


main(sys.argv[1])
