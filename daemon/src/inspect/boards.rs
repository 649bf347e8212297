//! Which known boards a model fits, and how fast their memory would let it decode.

use serde::Serialize;
use tern_boards::profile::built_in;

/// Held back on every board for the firmware, the kernel and a slim system: a Pi Zero 2 W with 512 MiB shows 416 MiB
/// to Linux, and a headless Raspberry Pi OS takes some 100 of them.
pub const RESERVED_BYTES: u64 = 208 << 20;

/// Fewer bytes than this a token may come from a cache (that of the Orion O6 has 12 MiB), which memory does not bound.
const CACHED_BYTES: u64 = 16 << 20;

/// A board and a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoardFit {
    /// Name of the board's profile.
    pub board: String,
    /// What it is called.
    pub title: String,
    /// Memory sizes it is sold with that are enough, MiB.
    pub fits_mib: Vec<u64>,
    /// Memory sizes it is sold with that are not, MiB.
    pub too_small_mib: Vec<u64>,
    /// Tokens a second at which one core's published read bandwidth would be used up by weights alone: no promise, but
    /// no single core decodes faster. `None` where nobody published the bandwidth, and for models that caches may hold.
    pub one_core_bound_tokens_per_second: Option<f64>,
}

/// All boards whose memory sizes are known, for a model that needs `total_bytes` and reads `bytes_per_token`.
pub fn boards(total_bytes: u64, bytes_per_token: Option<u64>) -> Vec<BoardFit> {
    let from_memory = bytes_per_token.filter(|bytes| *bytes > CACHED_BYTES);
    let profiles = built_in().filter_map(|profile| {
        let memory = profile.memory?;
        let enough = |mib: &u64| (mib << 20).saturating_sub(RESERVED_BYTES) >= total_bytes;
        let (fits_mib, too_small_mib) = memory.sizes_mib.iter().partition(|mib| enough(mib));
        let bound =
            memory.read_mb_per_s.zip(from_memory).map(|(read, bytes)| read.value * 1e6 / bytes as f64);
        (!memory.sizes_mib.is_empty()).then_some(BoardFit {
            board: profile.name,
            title: profile.title,
            fits_mib,
            too_small_mib,
            one_core_bound_tokens_per_second: bound,
        })
    });
    profiles.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(total_bytes: u64, board: &str) -> BoardFit {
        let found = boards(total_bytes, Some(100_000_000)).into_iter().find(|fit| fit.board == board);
        found.expect("a board with a profile")
    }

    #[test]
    fn a_small_model_fits_everywhere_and_a_large_one_needs_a_large_board() {
        assert_eq!(fit(50 << 20, "raspberry-pi-zero-2-w").fits_mib, [512]);
        let zero = fit(400 << 20, "raspberry-pi-zero-2-w");
        assert_eq!((zero.fits_mib.len(), zero.too_small_mib), (0, vec![512]));
        let pi = fit(3 << 30, "raspberry-pi-5");
        assert!(pi.too_small_mib.contains(&2048) && pi.fits_mib.contains(&4096), "{pi:?}");
        assert!(fit(u64::MAX, "raspberry-pi-5").fits_mib.is_empty());
    }

    #[test]
    fn the_bound_is_bandwidth_by_bytes() {
        let bound = fit(1, "raspberry-pi-5").one_core_bound_tokens_per_second.expect("a published figure");
        assert!((bound - 148.77).abs() < 1e-6, "{bound}");
        assert_eq!(fit(1, "raspberry-pi-4b").one_core_bound_tokens_per_second, None);
        let cached = boards(1, Some(1 << 20));
        assert!(cached.iter().all(|fit| fit.one_core_bound_tokens_per_second.is_none()), "{cached:?}");
    }
}
