//! Why a safetensors file did not pass.

/// A file that did not pass.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Too short even for the length of a header.
    #[error("{found} bytes are no safetensors file: it begins with 8 bytes of header length")]
    NoLength {
        /// Bytes in the file.
        found: usize,
    },
    /// The header is longer than allowed.
    #[error("the header declares {found} bytes; at most {limit} are accepted")]
    HeaderTooLong {
        /// Declared.
        found: u64,
        /// Allowed.
        limit: usize,
    },
    /// The file ends inside its header.
    #[error("the file is truncated: its header needs {needed} bytes, the file has {found}")]
    HeaderTruncated {
        /// Bytes up to the end of the header.
        needed: usize,
        /// Bytes in the file.
        found: usize,
    },
    /// The header is not the JSON it should be.
    #[error("the header is malformed at byte {at}: {reason}")]
    Malformed {
        /// Column of the header, which is one line.
        at: usize,
        /// What the parser said.
        reason: String,
    },
    /// Too many tensors.
    #[error("the header lists more than {limit} tensors")]
    TooManyTensors {
        /// Allowed.
        limit: usize,
    },
    /// A name that is too long or empty.
    #[error("a tensor name of {found} bytes; 1 to {limit} are accepted")]
    NameLength {
        /// Bytes.
        found: usize,
        /// Allowed.
        limit: usize,
    },
    /// Two entries share a name.
    #[error("the header lists `{name}` twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Metadata where none may be.
    #[error("the header carries `__metadata__`, which is not accepted from a peer")]
    Metadata,
    /// More metadata than allowed.
    #[error("`__metadata__` has more than {entries} entries or {bytes} bytes")]
    MetadataTooLong {
        /// Allowed entries.
        entries: usize,
        /// Allowed bytes.
        bytes: usize,
    },
    /// A number of dimensions that is not allowed.
    #[error("tensor `{name}` has {} dimensions; {} to {limit} are accepted", count(*rank, *limit), u8::from(!scalars))]
    Rank {
        /// The tensor.
        name: String,
        /// Dimensions, `limit + 1` meaning more than the limit.
        rank: usize,
        /// Allowed.
        limit: usize,
        /// Whether none would do.
        scalars: bool,
    },
    /// A tensor without elements.
    #[error("tensor `{name}` has a dimension of zero: shape {shape:?}")]
    ZeroDim {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// An element type that is unknown or not allowed.
    #[error("tensor `{name}` has element type `{found}`; accepted: {accepted}")]
    DType {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// Types that would do.
        accepted: &'static str,
    },
    /// The range of bytes is not the size of the shape.
    #[error("tensor `{name}` of shape {shape:?} and type {dtype} does not fill its bytes {from}..{to}")]
    Size {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its type.
        dtype: String,
        /// First byte of the data.
        from: u64,
        /// One past its last byte.
        to: u64,
    },
    /// The ranges overlap or leave holes.
    #[error(
        "tensor `{name}` begins at byte {found} of the data, expected {expected}: ranges must follow each other without overlaps or holes"
    )]
    NotContiguous {
        /// The tensor.
        name: String,
        /// Where it begins.
        found: usize,
        /// Where the one before it ends.
        expected: usize,
    },
    /// The data are shorter or longer than the header says.
    #[error("the header describes {expected} bytes of data, the file holds {found}{}", if found < expected { ": it is truncated" } else { "" })]
    DataLength {
        /// By the header.
        expected: usize,
        /// In the file.
        found: usize,
    },
    /// A tensor of the manifest is not in the file.
    #[error("tensor `{name}` is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor that is not in the manifest.
    #[error("tensor `{name}` is not expected")]
    Unexpected {
        /// The tensor.
        name: String,
    },
    /// A shape or type other than the manifest's.
    #[error("tensor `{name}` is {found}, expected {expected}")]
    Mismatch {
        /// The tensor.
        name: String,
        /// Type and shape in the file.
        found: String,
        /// Type and shape in the manifest.
        expected: String,
    },
    /// NaN or infinity.
    #[error("tensor `{name}` holds {value} at element {index}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Which element.
        index: usize,
        /// The value.
        value: f32,
    },
}

fn count(rank: usize, limit: usize) -> String {
    if rank > limit { format!("more than {limit}") } else { rank.to_string() }
}
