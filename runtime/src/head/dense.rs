//! Heads as files store them: binary32, binary16, or blocks that are widened row by row.

use bytemuck::cast_slice_mut;
use tern_kernels::KernelSet;

use crate::forward::Machine;
use crate::model::{Dense, DenseData};
use crate::parallel::{self, Cut};

/// Rows of the head that one task computes.
const TILE_ROWS: usize = 256;
/// Rows that are widened at a time.
const MOST_WIDE: usize = 4;

/// `logits[t] = head . states[t]` with `states: [n, hidden]` and `logits: [n, vocab]`.
///
/// `scratch` must hold `hidden` values of binary32 a worker.
pub fn logits(
    machine: Machine<'_>,
    scratch: &mut [u64],
    head: &Dense<'_>,
    states: &[f32],
    logits: &mut [f32],
) {
    let cut = Cut { segments: &[head.rows], most: TILE_ROWS };
    let cols = head.cols;
    let out = (logits, head.rows);
    parallel::stripes(machine.exec, scratch, out, cut, |scratch, piece, mut stripe| {
        let rows = piece.range;
        let span = rows.start * cols..rows.end * cols;
        match head.data {
            DenseData::F32(values) => {
                for (t, state) in states.chunks_exact(cols).enumerate() {
                    machine.set.matvec_f32(&values[span.clone()], state, stripe.row(t));
                }
            }
            DenseData::F16(values) => {
                for (t, state) in states.chunks_exact(cols).enumerate() {
                    machine.set.matvec_f16(&values[span.clone()], state, stripe.row(t));
                }
            }
            DenseData::Blocks(_) => {
                // Widened once for all states, several rows at a time where there is room: rows side by side keep the
                // adders of a product busy.
                let wide = cast_slice_mut::<u64, f32>(scratch);
                let most = (wide.len() / cols).clamp(1, MOST_WIDE);
                for first in rows.clone().step_by(most) {
                    let some = first..rows.end.min(first + most);
                    let wide = &mut wide[..some.len() * cols];
                    head.widen_rows(machine.set, some.clone(), wide);
                    let out = some.start - rows.start..some.end - rows.start;
                    for (t, state) in states.chunks_exact(cols).enumerate() {
                        machine.set.matvec_f32(wide, state, &mut stripe.row(t)[out.clone()]);
                    }
                }
            }
        }
    });
}

/// The logit of one token, the same bits as [`logits`] gives it; `wide: [hidden]` is working memory.
pub fn logit(set: &KernelSet, head: &Dense<'_>, state: &[f32], token: usize, wide: &mut [f32]) -> f32 {
    let mut out = [0.0];
    let span = token * head.cols..(token + 1) * head.cols;
    match head.data {
        DenseData::F32(values) => set.matvec_f32(&values[span], state, &mut out),
        DenseData::F16(values) => set.matvec_f16(&values[span], state, &mut out),
        DenseData::Blocks(_) => {
            head.widen_rows(set, token..token + 1, wide);
            set.matvec_f32(wide, state, &mut out);
        }
    }
    out[0]
}
