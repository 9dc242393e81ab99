//! Why a division is impossible, and what would work.

use antiphon_core::ConfigError;

/// A division that cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The settings of the partitioner are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// More clients than the examples can fill.
    #[error(
        "{clients} clients of at least {min} examples need {}, and there are {examples}; at most {} clients would work",
        clients * min, examples / min
    )]
    TooFewExamples {
        /// Clients asked for.
        clients: usize,
        /// Examples that each needs.
        min: usize,
        /// Examples there are.
        examples: usize,
    },
    /// No draw reached the least client size.
    #[error(
        "{id}: in {attempts} draws the smallest client never had more than {best} of the {min} examples that \
         `min_examples` asks for; lower it, raise `alpha`, or take fewer clients"
    )]
    Unattainable {
        /// The partitioner.
        id: &'static str,
        /// Draws made.
        attempts: u64,
        /// The best smallest client.
        best: usize,
        /// What was asked for.
        min: usize,
    },
    /// Examples without the value that the partitioner looks at.
    #[error(
        "the division looks at the {what} of examples; of {examples} examples {labels} have a label and {fields} a \
         field. Name a column (`columns.{what}`), or set `over` to one of \"label\", \"field\", {{ clusters = 8 }}"
    )]
    NoValue {
        /// Label or field.
        what: &'static str,
        /// Examples there are.
        examples: usize,
        /// Examples with a label.
        labels: usize,
        /// Examples with a field.
        fields: usize,
    },
    /// The number of values is not the number of clients.
    #[error(
        "{values} values of the field remain but `clients = {clients}`; set `clients` to {values}, leave it out, or \
         choose values by `top`, `min_examples` or `rest`"
    )]
    ClientCount {
        /// Values that would each be a client.
        values: usize,
        /// Clients asked for.
        clients: usize,
    },
    /// The number of files is not the number of clients.
    #[error("`path` names {files} files but `clients = {clients}`; set `clients` to {files} or leave it out")]
    FileCount {
        /// Files there are.
        files: usize,
        /// Clients asked for.
        clients: usize,
    },
    /// The thresholds leave no value.
    #[error(
        "none of the {values} values of the field has {min_examples} examples and {min_bytes} bytes; the largest has \
         {examples} and {bytes}"
    )]
    NoneLargeEnough {
        /// Values there are.
        values: usize,
        /// Examples asked for.
        min_examples: usize,
        /// Bytes asked for.
        min_bytes: usize,
        /// Most examples of a value.
        examples: usize,
        /// Most bytes of a value.
        bytes: usize,
    },
    /// A cluster below the least client size.
    #[error("{client} has {examples} examples, below `min_examples = {min}`; lower it or take fewer clients")]
    SmallClient {
        /// Which.
        client: String,
        /// Its examples.
        examples: usize,
        /// What was asked for.
        min: usize,
    },
    /// A client without examples.
    #[error("{client} has no examples; a client needs at least one")]
    EmptyClient {
        /// Which.
        client: String,
    },
    /// A partitioner broke the law; a bug of ours.
    #[error("example {example} is not in exactly one place: the partitioner is wrong, please report this")]
    NotADivision {
        /// The first such example.
        example: usize,
    },
}
