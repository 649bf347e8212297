//! One batch of tokens through the layers of a BitNet b1.58 model.
//!
//! ```text
//! x = embedding[token]
//! for each layer:
//!     q, k, v = W_qkv . Q(rms(x) g_attn)              rope on q and k; k, v go to the cache
//!     a = softmax(q k / sqrt(head_dim)) v              over the cells that the row may see
//!     x += W_o . Q(rms(a) g_attn_sub)
//!     g, u = W_gate_up . Q(rms(x) g_ffn)
//!     x += W_down . Q(rms(relu(g)^2 u) g_ffn_sub)
//! y = rms(x) g_out
//! ```
//!
//! `Q` is absmax quantisation to int8 and each `W .` an exact integer product times `w_scale / s`. Nothing of a row
//! depends on the other rows of its batch or on the number of workers: a prompt gives the same bits in one pass, in
//! chunks, or beside strangers. Source: the Hugging Face `BitNetForCausalLM` graph and arXiv 2504.12285, section 2.

use bytemuck::{Pod, Zeroable, cast_slice_mut};
use tern_kernels::{KernelSet, quant};

use crate::arena::Arena;
use crate::error::LoadError;
use crate::kv_cache::{HeadAt, KvCache};
use crate::model::{Config, Model};
use crate::parallel::{self, Exec};
use crate::product::{self, Input, gated_product, product};
use crate::trie::MAX_DEPTH;

/// One token of a batch.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Row {
    /// Token id, below the size of the vocabulary.
    pub token: u32,
    /// Sequence.
    pub slot: u32,
    /// Position in the text, for the rotary embedding.
    pub position: u32,
    /// Where its key and value go.
    pub cell: u32,
    /// It sees cells `0..visible` of its sequence ...
    pub visible: u32,
    /// ... and then these: `branches[branch_start..branch_start + branch_len]`, ancestors in a label trie and itself.
    pub branch_start: u32,
    /// See `branch_start`; 0 for plain text, where `visible` includes the row itself.
    pub branch_len: u32,
}

/// What a pass computes with, apart from the model.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The kernels.
    pub set: &'a KernelSet,
    /// The workers.
    pub exec: &'a dyn Exec,
}

/// Sizes of a [`Workspace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkShape {
    /// Most rows of a batch.
    pub rows: usize,
    /// Most positions of a sequence.
    pub context: usize,
    /// Most cells of a sequence.
    pub cells: usize,
    /// Workers, each with scratch of its own.
    pub workers: usize,
    /// Bytes of a prepared token with as many columns as the widest matrix.
    pub prepared_bytes: usize,
    /// Scratch of one worker, in 8-byte words: the largest of what any phase asks for.
    pub scratch_words: usize,
}

impl WorkShape {
    /// Sizes for batches of `rows` rows of sequences of `context` positions and `cells` cells, with the kernels of `set`
    /// on `workers` workers.
    pub fn new(
        config: &Config,
        set: &KernelSet,
        rows: usize,
        (context, cells): (usize, usize),
        workers: usize,
    ) -> Self {
        let widest = config.hidden.max(config.ffn).max(config.q_dim());
        let norm = widest.div_ceil(2) + widest.div_ceil(8);
        let product = product::scratch_words(config, set, rows, workers);
        let attention = (cells + MAX_DEPTH).div_ceil(2);
        WorkShape {
            rows,
            context,
            cells,
            workers,
            prepared_bytes: set.prepared_bytes(widest),
            scratch_words: norm.max(product).max(attention).next_multiple_of(8),
        }
    }
}

/// Buffers that a pass reads and writes, cut from the arena once.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// Hidden states `[rows, hidden]`.
    x: &'a mut [f32],
    /// Quantised inputs of a product in the kernels' form, `[rows]`.
    prepared: &'a mut [u8],
    /// Quantisation scale of each row, `[rows]`.
    scales: &'a mut [f32],
    /// `[rows, q_dim + 2 kv_dim]`.
    qkv: &'a mut [f32],
    /// Head outputs `[rows, q_dim]`.
    attn: &'a mut [f32],
    /// Gated values `[rows, ffn]`.
    ffn: &'a mut [f32],
    /// Cosine then sine of each position, `[context, head_dim]`.
    rope: &'a mut [f32],
    /// Per worker.
    pub(crate) scratch: &'a mut [u64],
}

impl<'a> Workspace<'a> {
    /// Cuts the buffers for `shape` and computes the rotary table.
    ///
    /// # Errors
    /// If the arena is too small.
    pub fn new(config: &Config, shape: &WorkShape, arena: &mut Arena<'a>) -> Result<Self, LoadError> {
        let rows = shape.rows;
        let work = Workspace {
            x: arena.take(rows * config.hidden)?,
            prepared: arena.take(rows * shape.prepared_bytes)?,
            scales: arena.take(rows)?,
            qkv: arena.take(rows * (config.q_dim() + 2 * config.kv_dim()))?,
            attn: arena.take(rows * config.q_dim())?,
            ffn: arena.take(rows * config.ffn)?,
            rope: arena.take(shape.context * config.head_dim)?,
            scratch: arena.take(shape.workers * shape.scratch_words)?,
        };
        rope_table(config, work.rope);
        Ok(work)
    }

    /// Runs `rows` through all layers; their keys and values are in `cache` afterwards and their hidden states in
    /// this workspace until the next pass (see [`output`](Self::output)).
    ///
    /// # Panics
    /// If there are more rows than the workspace was cut for, or a token, slot or cell does not exist.
    pub fn run(
        &mut self,
        machine: Machine<'_>,
        model: &Model<'_>,
        cache: &mut KvCache<'_>,
        rows: &[Row],
        branches: &[u32],
    ) {
        let (n, hidden) = (rows.len(), model.config.hidden);
        let qkv_dim = model.config.q_dim() + 2 * model.config.kv_dim();
        for (row, x) in rows.iter().zip(self.x.chunks_exact_mut(hidden)) {
            model.embedding.row_into(row.token as usize, x);
        }
        for (at, layer) in model.layers.iter().enumerate() {
            self.quantize_rows(machine, Source::Hidden, layer.attn_norm, n, model);
            let input = Input { prepared: self.prepared, scales: self.scales, tokens: n };
            product(machine, self.scratch, &layer.qkv, input, (self.qkv, qkv_dim), |_, sum| sum);
            self.rope_and_store(model, cache, at, rows);
            self.attend(machine, model, cache, at, rows, branches);

            self.quantize_rows(machine, Source::Attention, layer.attn_sub_norm, n, model);
            let input = Input { prepared: self.prepared, scales: self.scales, tokens: n };
            let output = core::slice::from_ref(&layer.attn_output);
            product(machine, self.scratch, output, input, (self.x, hidden), |x, sum| x + sum);

            self.quantize_rows(machine, Source::Hidden, layer.ffn_norm, n, model);
            let input = Input { prepared: self.prepared, scales: self.scales, tokens: n };
            gated_product(machine, self.scratch, &layer.gate_up, input, self.ffn);

            self.quantize_rows(machine, Source::Gated, layer.ffn_sub_norm, n, model);
            let input = Input { prepared: self.prepared, scales: self.scales, tokens: n };
            let down = core::slice::from_ref(&layer.down);
            product(machine, self.scratch, down, input, (self.x, hidden), |x, sum| x + sum);
        }
    }

    /// The normalised final hidden state of row `row` of the last pass, into `y: [hidden]`.
    pub fn output(&self, set: &KernelSet, model: &Model<'_>, row: usize, y: &mut [f32]) {
        let hidden = model.config.hidden;
        rms_norm(set, &self.x[row * hidden..(row + 1) * hidden], model.output_norm, model.config.rms_eps, y);
    }

    /// Normalises, quantises and prepares `n` rows of `source` as the input of a product.
    fn quantize_rows(
        &mut self,
        machine: Machine<'_>,
        source: Source,
        weight: &[f32],
        n: usize,
        model: &Model<'_>,
    ) {
        let (set, cols, eps) = (machine.set, weight.len(), model.config.rms_eps);
        let source: &[f32] = match source {
            Source::Hidden => self.x,
            Source::Attention => self.attn,
            Source::Gated => self.ffn,
        };
        let prepared = &mut self.prepared[..n * set.prepared_bytes(cols)];
        let outputs = (prepared, &mut self.scales[..n]);
        parallel::rows(machine.exec, self.scratch, n, outputs, |scratch, row, prepared, scale| {
            let (y, q) = scratch.split_at_mut(cols.div_ceil(2));
            let y = &mut cast_slice_mut::<u64, f32>(y)[..cols];
            let q = &mut cast_slice_mut::<u64, i8>(q)[..cols];
            rms_norm(set, &source[row * cols..(row + 1) * cols], weight, eps, y);
            scale[0] = quant::quantize(set, y, q);
            set.prepare(q, prepared);
        });
    }

    /// Turns queries and keys by their position and stores keys and values.
    fn rope_and_store(&mut self, model: &Model<'_>, cache: &mut KvCache<'_>, layer: usize, rows: &[Row]) {
        let Config { head_dim, .. } = model.config;
        let (q_dim, kv_dim) = (model.config.q_dim(), model.config.kv_dim());
        for (row, qkv) in rows.iter().zip(self.qkv.chunks_exact_mut(q_dim + 2 * kv_dim)) {
            let (turned, values) = qkv.split_at_mut(q_dim + kv_dim);
            let angles = &self.rope[row.position as usize * head_dim..][..head_dim];
            for head in turned.chunks_exact_mut(head_dim) {
                rotate(head, angles);
            }
            cache.write(row.slot as usize, layer, row.cell as usize, &turned[q_dim..], values);
        }
    }

    /// Attention of every row over the cells it sees.
    fn attend(
        &mut self,
        machine: Machine<'_>,
        model: &Model<'_>,
        cache: &KvCache<'_>,
        layer: usize,
        rows: &[Row],
        branches: &[u32],
    ) {
        let Config { heads, kv_heads, head_dim, .. } = model.config;
        let (q_dim, group) = (model.config.q_dim(), heads / kv_heads);
        let (set, scale) = (machine.set, 1.0 / libm::sqrtf(head_dim as f32));
        let qkv: &[f32] = self.qkv;
        let stride = q_dim + 2 * model.config.kv_dim();
        let outputs = (&mut self.attn[..rows.len() * q_dim], &mut [0u8; 0][..]);
        // One task a row and key/value head, so that the query heads of a group share what is in the cache.
        parallel::rows(
            machine.exec,
            self.scratch,
            rows.len() * kv_heads,
            outputs,
            |scratch, item, out, _| {
                let (row, head) = (&rows[item / kv_heads], item % kv_heads);
                let at = HeadAt { slot: row.slot as usize, layer, head };
                let visible = 0..row.visible as usize;
                let branch =
                    &branches[row.branch_start as usize..(row.branch_start + row.branch_len) as usize];
                let scores = &mut cast_slice_mut::<u64, f32>(scratch)[..visible.len() + branch.len()];
                let queries =
                    &qkv[(item / kv_heads) * stride + head * group * head_dim..][..group * head_dim];
                for (query, y) in queries.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
                    cache.scores(set, at, visible.clone(), query, &mut scores[..visible.len()]);
                    for (cell, score) in branch.iter().zip(&mut scores[visible.len()..]) {
                        let cell = *cell as usize;
                        cache.scores(set, at, cell..cell + 1, query, core::slice::from_mut(score));
                    }
                    scores.iter_mut().for_each(|score| *score *= scale);
                    let total = set.exp_sum(scores);
                    y.fill(0.0);
                    cache.mix(set, at, visible.clone(), &scores[..visible.len()], y);
                    for (cell, score) in branch.iter().zip(&scores[visible.len()..]) {
                        let cell = *cell as usize;
                        cache.mix(set, at, cell..cell + 1, core::slice::from_ref(score), y);
                    }
                    y.iter_mut().for_each(|y| *y /= total);
                }
            },
        );
    }
}

/// Which buffer a product takes its input from.
#[derive(Clone, Copy)]
enum Source {
    Hidden,
    Attention,
    Gated,
}

/// `y = x / sqrt(mean x^2 + eps) * weight`, all `[n]`.
fn rms_norm(set: &KernelSet, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let inverse = 1.0 / libm::sqrtf(set.sum_squares(x) / x.len() as f32 + eps);
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = weight * (x * inverse);
    }
}

/// Cosines then sines of `position / theta^(2 j / head_dim)` for each position, in binary32 as the references do.
fn rope_table(config: &Config, table: &mut [f32]) {
    let half = config.head_dim / 2;
    for (position, angles) in table.chunks_exact_mut(config.head_dim).enumerate() {
        for j in 0..half {
            let exponent = (2 * j) as f32 / config.head_dim as f32;
            let angle = position as f32 * (1.0 / libm::powf(config.rope_theta, exponent));
            angles[j] = libm::cosf(angle);
            angles[half + j] = libm::sinf(angle);
        }
    }
}

/// Rotary embedding of one head in the NeoX pairing: values `j` and `j + head_dim / 2` turn together.
fn rotate(head: &mut [f32], angles: &[f32]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    let (cosines, sines) = angles.split_at(half);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
