//! One batch of tokens through the layers of a ternary model.
//!
//! ```text
//! x = embedding[token]
//! for each layer:
//!     q, k, v = W_qkv . Q(rms(x) g_attn)              rope on k; k, v go to the cache
//!     a = softmax(rope(q) k / sqrt(head_dim)) v        over the cells that the row may see
//!     x += W_o . Q(rms(a) g_attn_sub)
//!     g, u = W_gate_up . Q(rms(x) g_ffn)
//!     x += W_down . Q(rms(relu(g)^2 u) g_ffn_sub)
//! y = rms(x) g_out
//! ```
//!
//! That is BitNet b1.58 2B4T; what others do instead is in [`Graph`](crate::model::Graph): another gate, no norms in front of
//! `W_o` and `W_down`, norms on each head of `q` and `k`, other pairs of values that turn together, multipliers.
//!
//! `Q` is absmax quantisation to int8 (or what [`activations`](crate::activations) says) and each `W .` an exact integer product times `w_scale / s`. Nothing of a row
//! depends on the other rows of its batch or on the number of workers: a prompt gives the same bits in one pass, in
//! chunks, or beside strangers. Sources: see [`model::graph`](crate::model::graph).

use bytemuck::{Pod, Zeroable, cast_slice_mut};
use tern_kernels::KernelSet;

use crate::activations::Form;
use crate::arena::Arena;
use crate::attention;
use crate::error::LoadError;
use crate::kv_cache::KvCache;
use crate::model::graph::RotaryPairs;
use crate::model::{Config, Layer, Model};
use crate::parallel::{self, Exec, Serial};
use crate::product::{self, Epilogue, Input, gated_product, product};

/// Rows whose keys and values the caller stores by itself.
const STORE_ALONE: usize = 8;

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
    /// The form of the inputs of ternary products.
    pub form: Form,
    /// Bytes of a prepared token with as many columns as the widest matrix.
    pub prepared_bytes: usize,
    /// Factors of the sums of such a token.
    pub token_factors: usize,
    /// Floats for the spans of rows whose attention is shared out.
    pub span_floats: usize,
    /// Scratch of one worker, in 8-byte words: the largest of what any phase asks for.
    pub scratch_words: usize,
}

impl WorkShape {
    /// Sizes for batches of `rows` rows of sequences of `context` positions and `cells` cells, with the kernels of `set`
    /// and inputs of this form on `workers` workers.
    pub fn new(
        config: &Config,
        (set, form): (&KernelSet, Form),
        rows: usize,
        (context, cells): (usize, usize),
        workers: usize,
    ) -> Self {
        let widest = config.hidden.max(config.ffn).max(config.q_dim());
        let group = form.group_cols(widest);
        let norm = widest.div_ceil(2) + group.div_ceil(2) + group.div_ceil(8);
        let product = product::scratch_words(config, (set, form), rows, workers);
        let attention = attention::scratch_words(config).max(KvCache::write_words(config.head_dim));
        WorkShape {
            rows,
            context,
            cells,
            workers,
            form,
            // A width that is no whole number of groups is refused when the matrices are loaded.
            prepared_bytes: [config.hidden, config.ffn, config.q_dim()]
                .map(|cols| form.token_bytes(set, cols))
                .into_iter()
                .max()
                .unwrap_or(0),
            token_factors: form.factors(widest).max(1),
            span_floats: attention::spans_len(config, rows, cells, workers),
            scratch_words: norm.max(product).max(attention).next_multiple_of(8),
        }
    }
}

/// Buffers that a pass reads and writes, cut from the arena once.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// Hidden states `[rows, hidden]`.
    x: &'a mut [f32],
    /// Quantised inputs of a product in the kernels' form, `[groups, rows, digits]`.
    prepared: &'a mut [u8],
    /// What sums are multiplied by, `[rows, groups, digits]`, see [`Form::write_factors`].
    factors: &'a mut [f32],
    form: Form,
    /// `[rows, q_dim + 2 kv_dim]`.
    qkv: &'a mut [f32],
    /// Head outputs `[rows, q_dim]`.
    attn: &'a mut [f32],
    /// Gated values `[rows, ffn]`.
    ffn: &'a mut [f32],
    /// Cosine then sine of each position, `[context, head_dim]`.
    rope: &'a mut [f32],
    /// Spans of rows whose attention is shared out.
    spans: &'a mut [f32],
    /// Per worker.
    pub(crate) scratch: &'a mut [u64],
}

impl<'a> Workspace<'a> {
    /// Cuts the buffers for `model` and `shape` and computes the rotary table.
    ///
    /// # Errors
    /// If the arena is too small.
    pub fn new(model: &Model<'_>, shape: &WorkShape, arena: &mut Arena<'a>) -> Result<Self, LoadError> {
        let (config, rows) = (&model.config, shape.rows);
        let work = Workspace {
            x: arena.take(rows * config.hidden)?,
            prepared: arena.take(rows * shape.prepared_bytes)?,
            factors: arena.take(rows * shape.token_factors)?,
            form: shape.form,
            qkv: arena.take(rows * (config.q_dim() + 2 * config.kv_dim()))?,
            attn: arena.take(rows * config.q_dim())?,
            ffn: arena.take(rows * config.ffn)?,
            rope: arena.take(shape.context * config.head_dim)?,
            spans: arena.take(shape.span_floats)?,
            scratch: arena.take(shape.workers * shape.scratch_words)?,
        };
        config.rope.table(config.head_dim, model.rope_factors, work.rope);
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
        let outputs = (&mut self.x[..n * hidden], &mut [0u8; 0][..]);
        parallel::rows(machine.exec, self.scratch, n, outputs, |_, row, x, _| {
            model.embedding.row_into(rows[row].token as usize, x);
            let scale = model.config.stream_scale();
            if scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= scale);
            }
        });
        for (at, layer) in model.layers.iter().enumerate() {
            self.quantize_rows(machine, Source::Hidden, Some(layer.attn_norm), n, model);
            let input = Input { prepared: self.prepared, factors: self.factors, tokens: n, form: self.form };
            product(machine, self.scratch, &layer.qkv, input, (self.qkv, qkv_dim), Epilogue::Store);
            self.mend_heads(machine, &model.config, layer, n);
            self.store(machine, &model.config, cache, at, rows);
            let batch = attention::Batch {
                config: &model.config,
                cache,
                layer: at,
                rows,
                branches,
                queries: self.qkv,
                stride: qkv_dim,
                rope: self.rope,
            };
            attention::attend(machine, self.scratch, self.spans, batch, self.attn);

            self.quantize_rows(machine, Source::Attention, layer.attn_sub_norm, n, model);
            let input = Input { prepared: self.prepared, factors: self.factors, tokens: n, form: self.form };
            let output = core::slice::from_ref(&layer.attn_output);
            product(machine, self.scratch, output, input, (self.x, hidden), Epilogue::Add);

            self.quantize_rows(machine, Source::Hidden, Some(layer.ffn_norm), n, model);
            let input = Input { prepared: self.prepared, factors: self.factors, tokens: n, form: self.form };
            gated_product(machine, self.scratch, &layer.gate_up, model.config.graph.gate, input, self.ffn);

            self.quantize_rows(machine, Source::Gated, layer.ffn_sub_norm, n, model);
            let input = Input { prepared: self.prepared, factors: self.factors, tokens: n, form: self.form };
            let down = core::slice::from_ref(&layer.down);
            product(machine, self.scratch, down, input, (self.x, hidden), Epilogue::Add);
        }
    }

    /// The normalised final hidden state of row `row` of the last pass, into `y: [hidden]`.
    pub fn output(&self, set: &KernelSet, model: &Model<'_>, row: usize, y: &mut [f32]) {
        let Config { hidden, multipliers, .. } = model.config;
        let x = &self.x[row * hidden..(row + 1) * hidden];
        // What divides logits may as well divide what they are sums of.
        let inverse = inverse_rms(set, x, model.config.stream_eps()) / multipliers.logits;
        set.norm(x, inverse, model.output_norm, y);
    }

    /// Normalises, if there is a `norm`, quantises and prepares `n` rows of `source` as the input of a product.
    fn quantize_rows(
        &mut self,
        machine: Machine<'_>,
        source: Source,
        norm: Option<&[f32]>,
        n: usize,
        model: &Model<'_>,
    ) {
        let (set, eps) = (machine.set, model.config.rms_eps);
        let (source, cols, eps): (&[f32], usize, f32) = match source {
            Source::Hidden => (self.x, model.config.hidden, model.config.stream_eps()),
            Source::Attention => (self.attn, model.config.q_dim(), eps),
            Source::Gated => (self.ffn, model.config.ffn, eps),
        };
        let form = self.form;
        let (group, groups, bytes) = (form.group_cols(cols), form.groups(cols), form.group_bytes(set, cols));
        let prepared = (&mut self.prepared[..groups * n * bytes], n * bytes);
        let each = form.factors(cols) / groups;
        let factors = &mut self.factors[..n * form.factors(cols)];
        parallel::columns(
            machine.exec,
            self.scratch,
            n,
            factors,
            prepared,
            |scratch, row, factors, mut places| {
                let (y, scratch) = scratch.split_at_mut(cols.div_ceil(2));
                let (rest, q) = scratch.split_at_mut(group.div_ceil(2));
                let y = &mut cast_slice_mut::<u64, f32>(y)[..cols];
                let rest = &mut cast_slice_mut::<u64, f32>(rest)[..group];
                let q = &mut cast_slice_mut::<u64, i8>(q)[..group];
                let mut x = &source[row * cols..(row + 1) * cols];
                if let Some(weight) = norm {
                    rms_norm(set, x, weight, eps, y);
                    x = y;
                }
                for (at, (x, factors)) in
                    x.chunks_exact(group).zip(factors.chunks_exact_mut(each)).enumerate()
                {
                    let s = form.quantize(set, x, (&mut *q, &mut *rest), places.row(at));
                    form.write_factors(s, factors);
                }
            },
        );
    }

    /// Normalises the heads of queries and keys where the graph does, and puts their values into the order in which
    /// [`store`](Self::store) and attention turn them.
    fn mend_heads(&mut self, machine: Machine<'_>, config: &Config, layer: &Layer<'_>, n: usize) {
        let Config { head_dim, rms_eps, .. } = *config;
        if config.graph.pairs == RotaryPairs::Halves && layer.head_norms.is_none() {
            return;
        }
        let (q_dim, row_len) = (config.q_dim(), config.q_dim() + 2 * config.kv_dim());
        let outputs = (&mut self.qkv[..n * row_len], &mut [0u8; 0][..]);
        parallel::rows(machine.exec, self.scratch, n, outputs, |scratch, _, row, _| {
            let spare = &mut cast_slice_mut::<u64, f32>(scratch)[..head_dim];
            let (queries, rest) = row.split_at_mut(q_dim);
            let keys = &mut rest[..config.kv_dim()];
            for (heads, which) in [(queries, 0), (keys, 1)] {
                for head in heads.chunks_exact_mut(head_dim) {
                    if let Some(norms) = layer.head_norms {
                        spare.copy_from_slice(head);
                        rms_norm(machine.set, spare, norms[which], rms_eps, head);
                    }
                    config.graph.pairs.to_halves(head, spare);
                }
            }
        });
    }

    /// Turns keys by their position and stores them with their values.
    fn store(
        &mut self,
        machine: Machine<'_>,
        config: &Config,
        cache: &mut KvCache<'_>,
        layer: usize,
        rows: &[Row],
    ) {
        let (q_dim, kv_dim, dim) = (config.q_dim(), config.kv_dim(), config.head_dim);
        let (qkv, rope): (&[f32], &[f32]) = (self.qkv, self.rope);
        // For a few rows, waking somebody takes longer than the work.
        let machine = if rows.len() < STORE_ALONE { Machine { exec: &Serial, ..machine } } else { machine };
        let cells = || rows.iter().map(|row| (row.slot as usize, row.cell as usize));
        cache.write(machine, self.scratch, layer, cells, |row, head, key| {
            let keys = row * (q_dim + 2 * kv_dim) + q_dim + head * dim;
            let angles = &rope[rows[row].position as usize * dim..][..dim];
            machine.set.rotate(&qkv[keys..keys + dim], angles, 1.0, key);
            &qkv[keys + kv_dim..][..dim]
        });
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
    set.norm(x, inverse_rms(set, x, eps), weight, y);
}

/// `1 / sqrt(mean x^2 + eps)`.
fn inverse_rms(set: &KernelSet, x: &[f32], eps: f32) -> f32 {
    1.0 / libm::sqrtf(set.sum_squares(x) / x.len() as f32 + eps)
}
