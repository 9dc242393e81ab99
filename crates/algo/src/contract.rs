//! What a stage may assume of the vectors it receives, and promises of those it passes on.
//!
//! A reduction of the domain and metric of OpenDP's transformations to what federated rounds need.

use std::fmt;

/// Threaded through the stages once, before round 0, by [`crate::Plan::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// The set each coordinate lives in.
    pub carrier: Carrier,
    /// Coordinates of one client's vector: the `d` of the schema, plus what layers appended.
    pub len: usize,
    /// Whether adding two vectors adds the values that they stand for. A top-k codec sends index
    /// lists, so it sets this to `false`, and a mask after it is refused.
    pub summable: bool,
    /// An upper bound on the l2 norm of one client's contribution, if an earlier stage enforces one.
    /// This is the sensitivity that a noise layer calibrates to; `None` means unbounded.
    pub l2: Option<f64>,
    /// What the server can observe from here on.
    pub view: View,
    /// Whether vectors carry a factor that only their sum can be freed of, so that one by one they are not in the
    /// units of the model.
    pub weighted: bool,
}

/// The set each coordinate lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// IEEE-754 binary32.
    Real,
    /// Integers modulo 2^64.
    Ring,
}

/// What the server can observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Each client's vector.
    PerClient,
    /// Only the sum over the cohort (secure aggregation).
    SumOnly,
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carrier = match self.carrier {
            Carrier::Real => "real",
            Carrier::Ring => "ring",
        };
        write!(f, "{} {carrier} coordinates", self.len)?;
        match self.l2 {
            Some(bound) => write!(f, " of l2 norm at most {bound}")?,
            None => write!(f, " without an l2 bound")?,
        }
        if !self.summable {
            write!(f, ", not summable")?;
        }
        if self.weighted {
            write!(f, ", multiplied by a weight")?;
        }
        if self.view == View::SumOnly {
            write!(f, ", visible to the server only as a sum")?;
        }
        Ok(())
    }
}

/// Two stages that do not fit together: who refuses what, and what would fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{stage}` needs {needs}, but receives {found}; {remedy}")]
pub struct Mismatch {
    /// The id of the stage that refused.
    pub stage: &'static str,
    /// What it needs, in words.
    pub needs: &'static str,
    /// What it was given.
    pub found: Contract,
    /// What would work.
    pub remedy: &'static str,
}
