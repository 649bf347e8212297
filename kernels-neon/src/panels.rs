//! A product walked panel by panel and, in each, by groups of tokens that share what is decoded of the weights.
//!
//! ```text
//! for each panel:                     its bytes stay in L1 for all tokens: 5 KiB a thousand columns at most
//!   for each group of at most four tokens:
//!     the kernel's products of the panel's rows with the group
//!   write the rows that exist
//! ```

use tern_kernels::Tile;
use tern_kernels::reference::prepared_bytes;

/// Tokens that share decoded weights at most; more would not fit into the registers beside their sums.
const GROUP: usize = 4;

/// Products of one panel of `ROWS` rows with a few tokens.
pub(crate) trait PanelKernel<const ROWS: usize> {
    /// `sum_c weight[r][c] q[t][c]` by token and row. `panel` is one whole panel, `tokens` are in the plain form of
    /// [`tern_kernels::reference::prepare`], all with the columns that the panel has; `T` is 1 to 4.
    fn products<const T: usize>(panel: &[u8], tokens: [&[u8]; T]) -> [[i32; ROWS]; T];
}

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]` for panels of `ROWS` rows, by the products of `K`.
pub(crate) fn multiply<K: PanelKernel<ROWS>, const ROWS: usize>(tile: Tile<'_>, sums: &mut [i32]) {
    if tile.cols == 0 {
        return sums.fill(0);
    }
    let panel_bytes = tile.weights.len() / tile.rows.div_ceil(ROWS);
    let panels = tile.weights.chunks_exact(panel_bytes);
    if tile.tokens == 1 {
        for (panel, sums) in panels.zip(sums.chunks_mut(ROWS)) {
            let [products] = K::products(panel, [tile.prepared]);
            write(&products, sums);
        }
        return;
    }
    for (index, panel) in panels.enumerate() {
        let mut token = 0;
        while token < tile.tokens {
            token += match tile.tokens - token {
                1 => group::<K, ROWS, 1>(tile, panel, index * ROWS, token, sums),
                2 => group::<K, ROWS, 2>(tile, panel, index * ROWS, token, sums),
                3 => group::<K, ROWS, 3>(tile, panel, index * ROWS, token, sums),
                _ => group::<K, ROWS, GROUP>(tile, panel, index * ROWS, token, sums),
            };
        }
    }
}

/// One panel, whose first row is `row`, with tokens `token..token + T`; returns `T`.
#[inline]
fn group<K: PanelKernel<ROWS>, const ROWS: usize, const T: usize>(
    tile: Tile<'_>,
    panel: &[u8],
    row: usize,
    token: usize,
    sums: &mut [i32],
) -> usize {
    let stride = prepared_bytes(tile.cols);
    let prepared = core::array::from_fn(|t| &tile.prepared[(token + t) * stride..][..stride]);
    let rows = ROWS.min(tile.rows - row);
    for (t, products) in K::products::<T>(panel, prepared).into_iter().enumerate() {
        write(&products, &mut sums[(token + t) * tile.rows + row..][..rows]);
    }
    T
}

/// Writes the rows that exist, of those of a panel.
#[inline]
fn write<const ROWS: usize>(products: &[i32; ROWS], sums: &mut [i32]) {
    match <&mut [i32; ROWS]>::try_from(&mut *sums) {
        Ok(sums) => *sums = *products,
        Err(_) => write_last(products, sums),
    }
}

/// [`write`] of a last panel that is not full: apart, so that the copy of a full one has a length known beforehand.
#[cold]
#[inline(never)]
fn write_last(products: &[i32], sums: &mut [i32]) {
    sums.copy_from_slice(&products[..sums.len()]);
}
