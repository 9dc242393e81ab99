//! `layers_to_transform`, peft's name: a method on some layers of a model, counted as the checkpoint counts them.

use antiphon_model::Spec;

use super::MethodError;

/// The layers of `spec` that the checkpoint counts as `wanted`; `None` for all of them.
pub(super) fn among(wanted: Option<&[usize]>, spec: &Spec) -> Result<Option<Vec<usize>>, MethodError> {
    let of = |&layer: &usize| {
        spec.layer_of(layer).ok_or_else(|| {
            let known = (0..spec.layers).map(|l| spec.checkpoint_layer(l)).collect();
            MethodError::Layer { layer, known }
        })
    };
    wanted.map(|list| list.iter().map(of).collect()).transpose()
}

/// Layers in words: `0 to 13`, or one by one where some are missing.
pub(super) fn listed(layers: &[usize]) -> String {
    match layers {
        [first, .., last] if last - first + 1 == layers.len() => format!("{first} to {last}"),
        _ => layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
