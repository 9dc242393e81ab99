//! Real models and data that are not part of the project.

use std::path::{Path, PathBuf};

/// `relative` under `$ANTIPHON_SHARED`, or under `../shared` beside the workspace; `None` where it does not exist, and
/// then a test that needs it says so and passes.
#[must_use]
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("ANTIPHON_SHARED") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    Some(root.join(relative)).filter(|p| p.exists())
}
