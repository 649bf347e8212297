//! Where the daemon and the commands keep what outlives them.

use std::path::PathBuf;

/// The state directory: systemd's `$STATE_DIRECTORY` (systemd.exec(5); the first, where there are several), else
/// `tern` in `$XDG_STATE_HOME`, else `~/.local/state/tern` (XDG Base Directory Specification 0.8). It need not exist yet;
/// `None` for a process that has none of them.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let systemd = || Some(std::env::split_paths(&set("STATE_DIRECTORY")?).next()?.to_owned());
    let user = || {
        let base = set("XDG_STATE_HOME").map(PathBuf::from);
        Some(base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")))?.join("tern"))
    };
    systemd().or_else(user).filter(|folder| folder.is_absolute())
}
