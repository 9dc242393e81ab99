//! Endpoints that cannot be used.

use std::path::PathBuf;

use crate::answer::Missing;

/// Why a connection to an endpoint was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Not an address of a server.
    #[error("`{url}` is no address of an endpoint: {reason}; such as http://127.0.0.1:8000/v1")]
    Url {
        /// What was given, without user and password.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Not what an address begins with, where a list says which may be used.
    #[error(
        "`{found}` among the allowed hosts is no origin: {reason}; such as https://api.example or http://127.0.0.1:8000"
    )]
    Origin {
        /// What was given, without user and password.
        found: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A host that the site does not allow.
    #[error("{origin} is not among the endpoints that this site allows: {}", allowed.join(", "))]
    NotAllowed {
        /// Scheme, host and port.
        origin: String,
        /// Those that are.
        allowed: Vec<String>,
    },
    /// A key over an unprotected connection to another machine.
    #[error("{origin}: a key is sent over https only, or to this machine")]
    Exposed {
        /// Scheme, host and port.
        origin: String,
    },
    /// The key cannot be read.
    #[error("the key in {}: {reason}", path.display())]
    Key {
        /// The file or descriptor.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The site's certificates cannot be read.
    #[error("the certificates in {}: {reason}; expected PEM", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The model is not there.
    #[error("{origin} has no model `{model}`; it has: {}", found.join(", "))]
    NoModel {
        /// Scheme, host and port.
        origin: String,
        /// Asked for.
        model: String,
        /// Listed.
        found: Vec<String>,
    },
    /// The endpoint did not answer the first questions.
    #[error("{origin}: {what}: {missing}")]
    Probe {
        /// Scheme, host and port.
        origin: String,
        /// What was asked.
        what: &'static str,
        /// What came back.
        missing: Missing,
    },
    /// Input vectors and tokens are not the same to the endpoint.
    #[error(
        "the table of embeddings is not that of the model behind {origin}: a question scores {vectors:.3} by its vectors and \
         {text:.3} by its text; model.base_model has to be the checkpoint that is served"
    )]
    OtherTable {
        /// Scheme, host and port.
        origin: String,
        /// Log-probability by input vectors.
        vectors: f64,
        /// Log-probability by text.
        text: f64,
    },
}

impl HttpError {
    /// Whether it was found before any request.
    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        !matches!(self, Self::NoModel { .. } | Self::Probe { .. } | Self::OtherTable { .. })
    }
}
