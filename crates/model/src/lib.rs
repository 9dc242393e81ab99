//! One configurable transformer, Hugging Face checkpoints, tokenizers, adapters
