"""The bitnet-b1.58 forward pass with quantisation in the loop.

Weights are ternary by absmean (one scale a tensor), activations int8 by absmax (one scale a token), both with
straight-through gradients. The codes are exact in bfloat16, so with `matmul=torch.bfloat16` only the rounding of
products' sums is coarser than at inference; `matmul=torch.float32` is the reference.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


# At first a layer adds about as much to the residual stream as the embedding holds, so that the token is not drowned.
EMBEDDING_STD = 0.08
SMALL_GAIN = 0.1


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes in elements. hidden and ffn are multiples of 128, the block of the I2_S layout."""

    hidden: int = 256
    ffn: int = 768
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 4096
    context: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


def ternary(weight):
    """Codes in {-1, 0, 1} and the scale that multiplies them: the mean magnitude."""
    scale = weight.detach().abs().mean().clamp(min=1e-5)
    scaled = weight / scale
    return scaled + (scaled.detach().round().clamp(-1, 1) - scaled.detach()), scale


def int8_codes(x):
    """Codes in [-128, 127] and, per token, the factor that leads back: max|x| / 127."""
    step = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
    scaled = x / step
    return scaled + (scaled.detach().round().clamp(-128, 127) - scaled.detach()), step


def norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def bit_linear(x, weights, matmul):
    """x [tokens, in] times each of `weights` [out, in]; one quantisation and one product for all of them."""
    codes, step = int8_codes(x)
    pairs = [ternary(weight) for weight in weights]
    matrix = torch.cat([codes_of for codes_of, _ in pairs]).to(matmul)
    scales = torch.cat([scale.expand(len(weight)) for (_, scale), weight in zip(pairs, weights)])
    product = F.linear(codes.to(matmul), matrix).float() * (scales * step)
    return product.split([len(weight) for weight in weights], -1)


def rotate(x, cos, sin):
    """RoPE of x [tokens, heads, head_dim], pairing element j with j + head_dim / 2."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def causal(length):
    """The usual mask [length, length], added to the scores: minus infinity above the diagonal."""
    return torch.full((length, length), float("-inf")).triu(1)


def attention(q, k, v, mask):
    """Grouped attention of q [batch, heads, length, head_dim] over k and v [batch, kv_heads, keys, head_dim].

    The mask is [length, keys]. Written out instead of called, because compiled it is several times faster on a CPU than the library's kernel
    at the short lengths of this data.
    """
    batch, heads, length, head_dim = q.shape
    kv_heads, keys = k.shape[1:3]
    group = heads // kv_heads
    q = q.reshape(batch, kv_heads, group * length, head_dim)
    scores = torch.matmul(q, k.transpose(-1, -2)).view(batch, kv_heads, group, length, keys)
    shares = (scores.float() * head_dim**-0.5 + mask).softmax(-1).to(q.dtype)
    mixed = torch.matmul(shares.view(batch, kv_heads, group * length, keys), v)
    return mixed.view(batch, heads, length, head_dim)


def rows_of(x, batch):
    """x [batch * length, heads, head_dim] as [batch, heads, length, head_dim]."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


def tokens_of(x):
    """x [batch, heads, length, head_dim] as [batch * length, heads * head_dim]."""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], -1)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

        def matrix(rows, columns, gain=1.0):
            return nn.Parameter(torch.randn(rows, columns) * gain * columns**-0.5)

        self.attn_norm = nn.Parameter(torch.ones(shape.hidden))
        self.attn_q = matrix(queries, shape.hidden)
        self.attn_k = matrix(keys, shape.hidden)
        self.attn_v = matrix(keys, shape.hidden)
        self.attn_sub_norm = nn.Parameter(torch.ones(queries))
        self.attn_output = matrix(shape.hidden, queries, SMALL_GAIN)
        self.ffn_norm = nn.Parameter(torch.ones(shape.hidden))
        self.ffn_gate = matrix(shape.ffn, shape.hidden)
        self.ffn_up = matrix(shape.ffn, shape.hidden)
        self.ffn_sub_norm = nn.Parameter(torch.ones(shape.ffn))
        self.ffn_down = matrix(shape.hidden, shape.ffn, SMALL_GAIN)

    def before_attention(self, x, cos, sin, matmul):
        """Queries, keys and values [tokens, heads, head_dim] of x [tokens, hidden], rotated."""
        shape = self.shape
        h = norm(x, self.attn_norm, shape.norm_eps)
        q, k, v = bit_linear(h, (self.attn_q, self.attn_k, self.attn_v), matmul)
        q = rotate(q.reshape(-1, shape.heads, shape.head_dim), cos, sin)
        k = rotate(k.reshape(-1, shape.kv_heads, shape.head_dim), cos, sin)
        return q.to(matmul), k.to(matmul), v.reshape(-1, shape.kv_heads, shape.head_dim).to(matmul)

    def after_attention(self, x, attended, matmul):
        """The residual stream [tokens, hidden] behind the layer; attended is [tokens, heads * head_dim]."""
        eps = self.shape.norm_eps
        (o,) = bit_linear(norm(attended.float(), self.attn_sub_norm, eps), (self.attn_output,), matmul)
        x = x + o
        gate, up = bit_linear(norm(x, self.ffn_norm, eps), (self.ffn_gate, self.ffn_up), matmul)
        inner = norm(F.relu(gate).square() * up, self.ffn_sub_norm, eps)
        (down,) = bit_linear(inner, (self.ffn_down,), matmul)
        return x + down


class Model(nn.Module):
    def __init__(self, shape, matmul=torch.float32):
        super().__init__()
        self.shape, self.matmul = shape, matmul
        self.token_embd = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * EMBEDDING_STD)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.Parameter(torch.ones(shape.hidden))
        frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.context), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.before_attention, self.after_attention = Layer.before_attention, Layer.after_attention
        self.attention = attention

    def compile(self):
        """Compiles a layer in three parts: only attention, the one in the middle, depends on the length."""
        torch._dynamo.config.recompile_limit = 32
        self.before_attention = torch.compile(Layer.before_attention, dynamic=False)
        self.attention = torch.compile(attention, dynamic=False)
        self.after_attention = torch.compile(Layer.after_attention, dynamic=False)

    def layered(self, ids, positions, attend):
        """The hidden states [tokens, hidden] of flat ids at half the depth and, normed, at the end.

        `attend` is between q, k and v of a layer.
        """
        x = F.embedding(ids, self.token_embd)
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        for number, layer in enumerate(self.blk):
            if number == len(self.blk) // 2:
                middle = x
            attended = attend(*self.before_attention(layer, x, cos, sin, self.matmul))
            x = self.after_attention(layer, x, attended, self.matmul)
        return middle, norm(x, self.output_norm, self.shape.norm_eps)

    def hidden(self, ids, positions=None, mask=None):
        """The normed last hidden states [batch * length, hidden] of ids [batch, length].

        The positions [length] count from 0 and the mask is causal unless given.
        """
        batch, length = ids.shape
        positions = torch.arange(length) if positions is None else positions
        mask = causal(length) if mask is None else mask

        def attend(*parts):
            return tokens_of(self.attention(*(rows_of(part, batch) for part in parts), mask))

        return self.layered(ids.reshape(-1), positions.repeat(batch), attend)[1]

    def hidden_behind(self, head, head_length, ids):
        """The hidden states [batch * length, hidden], as `layered` has them, of ids [batch, length] behind one head.

        head [padded] is computed once for all rows; behind its first `head_length` tokens it is padding, which
        nothing sees. The rows' positions count on from there.
        """
        batch, length = ids.shape
        padded = len(head)
        positions = torch.cat([torch.arange(padded), (head_length + torch.arange(length)).repeat(batch)])
        mask_of_head = causal(padded)
        mask = torch.cat([torch.zeros(length, padded), causal(length)], -1)
        mask[:, head_length:padded] = float("-inf")

        def attend(*parts):
            heads = [rows_of(part[:padded], 1) for part in parts]
            q, k, v = (rows_of(part[padded:], batch) for part in parts)
            k, v = (torch.cat([of_head.expand(batch, -1, -1, -1), of_rows], 2)
                    for of_head, of_rows in zip(heads[1:], (k, v)))
            return torch.cat([tokens_of(self.attention(*heads, mask_of_head)),
                              tokens_of(self.attention(q, k, v, mask))])

        middle, last = self.layered(torch.cat([head, ids.reshape(-1)]), positions, attend)
        return middle[padded:], last[padded:]

    def logits(self, hidden):
        """Logits [rows, vocab] of hidden states [rows, hidden]; the head is the embedding."""
        return F.linear(hidden.to(self.matmul), self.token_embd.to(self.matmul)).float()
