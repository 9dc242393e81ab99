//! One configurable transformer with explicit forward and backward, Hugging Face checkpoints by memory
//! mapping, tokenizers and chat templates, generation, and peft adapters in and out.
//!
//! A model is three things that never mix: a [`Spec`] (the mathematics, from `config.json`), frozen weights
//! (one mapped copy per process, shared by every client) and a [`Wiring`] (which tensors are trainable and
//! where they attach). A client owns its flat trainable vector and one workspace, nothing else.

pub mod adapter;
mod atomic;
pub mod base;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod emulator;
pub mod export;
pub mod gate;
pub mod generate;
pub mod init;
pub mod names;
pub mod net;
pub mod perturb;
pub mod pool;
pub mod probe;
pub mod quantise;
pub mod reader;
pub mod spec;
pub mod template;
pub mod tokenizer;
pub mod weights;
pub mod wiring;
pub mod workspace;

pub use adapter::{Adapter, AdapterError};
pub use base::Base;
pub use batch::{Batch, BatchError, Limits, NO_TOKEN};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::Config;
pub use emulator::{Emulator, EmulatorError, EmulatorSettings};
pub use names::{Part, Role, TensorInfo, module_path, tensor_name, tensors};
pub use net::{Cache, DropoutSeed, Influence, Net, NetError, Taps, Teacher};
pub use perturb::Perturbation;
pub use quantise::{EmulatorDtype, QuantisedSource};
pub use reader::{Reader, Wanted};
pub use spec::{Activation, Biases, Family, Norm, NormKind, Placement, Positions, Proj, RopeScaling, Spec};
pub use template::{ChatMessage, ChatTemplate};
pub use tokenizer::Tokenizer;
pub use weights::{TensorSource, Weights, WeightsError};
pub use wiring::{Bottleneck, Branch, HeadWiring, LoraPair, Pooling, PromptWiring, Task, Wiring};
pub use workspace::{Mode, Shape, Workspace, planned_bytes};
