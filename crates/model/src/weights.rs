//! The frozen tensors of a checkpoint on a device: one copy, shared by every client.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_kernels::{Backend, BackendError, FrozenData};

use crate::checkpoint::Checkpoint;
use crate::names::{self, Role, TensorInfo};
use crate::spec::Spec;
use crate::wiring::Task;

/// Where tensors come from: a mapped checkpoint, or values made from a configuration alone.
pub trait TensorSource {
    /// Data and shape of the tensor called `name` in the `state_dict`; `None` where there is none.
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)>;
}

impl TensorSource for Checkpoint {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        Self::get(self, name)
    }
}

/// A checkpoint does not hold the model that its configuration describes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A tensor is absent.
    #[error("the checkpoint has no tensor `{name}` (expected shape {expected:?})")]
    Missing {
        /// Its name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape.
    #[error("tensor `{name}` has shape {found:?}, and the configuration asks for {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The checkpoint's.
        found: Vec<usize>,
        /// The configuration's.
        expected: Vec<usize>,
    },
    /// A tensor's data are shorter or longer than its shape.
    #[error("tensor `{name}` of shape {shape:?} holds {found} elements")]
    Length {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements found.
        found: usize,
    },
    /// A tensor holds something that is no number: the file is damaged, or training blew up before it was saved.
    #[error(
        "tensor `{name}` holds a NaN or an infinity (element {index}), so that every result would be none"
    )]
    NotFinite {
        /// Its name.
        name: String,
        /// The first such element, in row-major order.
        index: usize,
    },
    /// A tensor to replace that the model does not have.
    #[error("the model has no tensor `{name}`: the values are another model's")]
    Foreign {
        /// Its name.
        name: String,
    },
    /// The device refused.
    #[error("tensor `{name}`")]
    Device {
        /// Its name.
        name: String,
        /// Why.
        source: BackendError,
    },
}

/// The tensors that a task reads, by role.
#[derive(Debug)]
pub struct Weights<B: Backend> {
    spec: Spec,
    bytes: usize,
    infos: Vec<TensorInfo>,
    tensors: Vec<Arc<B::Frozen>>,
    index: BTreeMap<Role, usize>,
}

impl<B: Backend> Weights<B> {
    /// Takes every tensor of [`names::tensors`] from `source` except the classification head, which is always trained.
    ///
    /// # Errors
    /// A tensor that is missing, or whose shape is not the configuration's.
    pub fn load(
        backend: &B,
        spec: &Spec,
        task: Task,
        source: &dyn TensorSource,
    ) -> Result<Arc<Self>, WeightsError> {
        let infos: Vec<TensorInfo> = names::tensors(spec, task)
            .into_iter()
            .filter(|t| !matches!(t.role, Role::ClassHead(_)))
            .collect();
        let mut tensors = Vec::with_capacity(infos.len());
        let mut bytes = 0;
        for info in &infos {
            let (data, found) = source.get(&info.name).ok_or_else(|| WeightsError::Missing {
                name: info.name.clone(),
                expected: info.shape.clone(),
            })?;
            bytes += data.bytes();
            tensors.push(Arc::new(checked(backend, info, data, &found)?));
        }
        let index = infos.iter().enumerate().map(|(i, t)| (t.role, i)).collect();
        Ok(Arc::new(Self { spec: spec.clone(), bytes, infos, tensors, index }))
    }

    /// The same tensors with those of `replaced` in the place of their namesakes; the others are shared, not copied.
    ///
    /// # Errors
    /// A tensor that this model does not have, of another shape, or with a value that is no number.
    pub fn with(
        &self,
        backend: &B,
        replaced: &BTreeMap<String, (FrozenData, Vec<usize>)>,
    ) -> Result<Arc<Self>, WeightsError> {
        let (mut tensors, mut bytes) = (self.tensors.clone(), self.bytes);
        for (name, (data, shape)) in replaced {
            let place = self.infos.iter().position(|t| t.name == *name);
            let place = place.ok_or_else(|| WeightsError::Foreign { name: name.clone() })?;
            bytes += data.bytes();
            tensors[place] = Arc::new(checked(backend, &self.infos[place], data.clone(), shape)?);
        }
        let (spec, infos, index) = (self.spec.clone(), self.infos.clone(), self.index.clone());
        Ok(Arc::new(Self { spec, bytes, infos, tensors, index }))
    }

    /// The model they belong to.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Bytes of all of them as they are stored.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Names, shapes and roles, in `state_dict` order.
    #[must_use]
    pub fn infos(&self) -> &[TensorInfo] {
        &self.infos
    }

    /// The tensor with this role.
    #[must_use]
    pub fn tensor(&self, role: Role) -> Option<&B::Frozen> {
        self.index.get(&role).map(|&i| &*self.tensors[i])
    }

    /// Index of the tensor with this role, for [`Self::at`].
    pub(crate) fn position(&self, role: Role) -> Option<usize> {
        self.index.get(&role).copied()
    }

    /// The tensor at `index`.
    pub(crate) fn at(&self, index: usize) -> &B::Frozen {
        &self.tensors[index]
    }
}

/// A tensor of `found` shape as the device reads it, if it is the one that `info` asks for.
fn checked<B: Backend>(
    backend: &B,
    info: &TensorInfo,
    data: FrozenData,
    found: &[usize],
) -> Result<B::Frozen, WeightsError> {
    let name = || info.name.clone();
    if found != info.shape {
        return Err(WeightsError::Shape {
            name: name(),
            found: found.to_vec(),
            expected: info.shape.clone(),
        });
    }
    if data.len() != found.iter().product::<usize>() {
        return Err(WeightsError::Length { name: name(), shape: found.to_vec(), found: data.len() });
    }
    if let Some(index) = data.first_non_finite() {
        return Err(WeightsError::NotFinite { name: name(), index });
    }
    backend.freeze(data).map_err(|source| WeightsError::Device { name: name(), source })
}
