//! Where the real data are, when they are.

use std::path::{Path, PathBuf};

/// A folder of `../shared/data/datasets`, or `None` with a printed reason.
pub(crate) fn dataset(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ANTIPHON_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    let dir = root.join("data/datasets").join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    #[allow(clippy::print_stdout, reason = "a skipped test says why")]
    {
        println!("skipped: no data set `{name}` (looked in {}; set ANTIPHON_SHARED)", dir.display());
    }
    None
}
