//! Every layer, one file each; the file name is the id.

use antiphon_core::Entry;

use crate::Layer;

pub mod clip;
pub mod weight;

/// Every layer that a run file may name, in the order of the generated reference.
pub const LAYERS: &[&Entry<dyn Layer>] = &[&weight::ENTRY, &clip::ENTRY];
