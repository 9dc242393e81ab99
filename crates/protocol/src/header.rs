//! The header of a message in protobuf, by derive: fixed-width numbers and explicit presence throughout, so
//! that a header's length depends only on the number of its items and the length of its strings.

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Up {
    #[prost(oneof = "UpBody", tags = "1, 2, 3, 4")]
    pub(crate) body: Option<UpBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum UpBody {
    #[prost(message, tag = "1")]
    Join(Join),
    #[prost(message, tag = "2")]
    Poll(Empty),
    #[prost(message, tag = "3")]
    Deliver(Deliver),
    #[prost(message, tag = "4")]
    Failed(Failed),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Join {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) plan: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) schema: prost::bytes::Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Deliver {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) round: Option<u32>,
    #[prost(fixed32, optional, tag = "2")]
    pub(crate) attempt: Option<u32>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) plan: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) schema: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) base: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) update: prost::bytes::Bytes,
    #[prost(double, optional, tag = "7")]
    pub(crate) weight: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) metrics: Vec<Metric>,
    /// The body is the words that are not zero.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(crate) index: Option<prost::bytes::Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metric {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(double, optional, tag = "2")]
    pub(crate) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Failed {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) round: Option<u32>,
    #[prost(fixed32, optional, tag = "2")]
    pub(crate) attempt: Option<u32>,
    #[prost(string, tag = "3")]
    pub(crate) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Down {
    #[prost(oneof = "DownBody", tags = "1, 2, 3, 4, 5")]
    pub(crate) body: Option<DownBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum DownBody {
    #[prost(message, tag = "1")]
    Work(Work),
    #[prost(message, tag = "2")]
    Wait(Wait),
    #[prost(message, tag = "3")]
    Accepted(Accepted),
    #[prost(message, tag = "4")]
    Rejected(Rejected),
    #[prost(message, tag = "5")]
    Done(Done),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Work {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) round: Option<u32>,
    #[prost(fixed32, optional, tag = "2")]
    pub(crate) attempt: Option<u32>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) plan: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) schema: prost::bytes::Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) theta: prost::bytes::Bytes,
    #[prost(fixed64, repeated, tag = "6")]
    pub(crate) cohort: Vec<u64>,
    /// The body is the words in which `theta` differs from the vector of digest `base`. Both or neither.
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(crate) base: Option<prost::bytes::Bytes>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub(crate) index: Option<prost::bytes::Bytes>,
    /// Both or neither.
    #[prost(double, optional, tag = "9")]
    pub(crate) mean_loss: Option<f64>,
    #[prost(double, optional, tag = "10")]
    pub(crate) greatest_deviation: Option<f64>,
}

/// `reason`: 1 clients, 2 unselected, 3 others, 4 aggregation.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Wait {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) reason: Option<u32>,
    #[prost(fixed32, optional, tag = "2")]
    pub(crate) round: Option<u32>,
    #[prost(fixed32, optional, tag = "3")]
    pub(crate) have: Option<u32>,
    #[prost(fixed32, optional, tag = "4")]
    pub(crate) want: Option<u32>,
}

/// `what`: 1 join, 2 update, 3 failure.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Accepted {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) what: Option<u32>,
    #[prost(fixed32, optional, tag = "2")]
    pub(crate) round: Option<u32>,
    #[prost(fixed32, optional, tag = "3")]
    pub(crate) attempt: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) digest: Option<prost::bytes::Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Rejected {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) code: Option<u32>,
    #[prost(string, tag = "2")]
    pub(crate) detail: String,
}

/// `ending`: 1 completed, 2 too few clients, 3 round failed, 4 stopped.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Done {
    #[prost(fixed32, optional, tag = "1")]
    pub(crate) ending: Option<u32>,
}
