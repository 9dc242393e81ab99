//! The covariance of the search distribution up to the step size: `C` as learnt, and `C^{1/2}`, `C^{-1/2}` as last made
//! from it.
//!
//! The root is the symmetric one, not `B D` as in pycma: it does not depend on signs and order of eigenvectors, so a search
//! does not depend on whose eigensolver made them. In law the samples are the same.

use serde::{Deserialize, Serialize};

use super::constants::Covariance;
use super::{CmaError, eigen};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// `C = I` for ever.
    Isotropic,
    /// Variances, `[n]`.
    Diagonal(Vec<f64>),
    /// Boxed: it is five vectors long.
    Full(Box<Full>),
}

/// All matrices `[n, n]`, row-major, symmetric.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Full {
    c: Vec<f64>,
    root: Vec<f64>,
    inverse: Vec<f64>,
    /// What the roots were made of; `None` for the identity.
    made_of: Option<Vec<f64>>,
    /// Generations since then.
    stale: u64,
}

/// What to save. Lower triangles, row by row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ShapeState {
    /// Nothing is learnt.
    Isotropic,
    /// Variances, `[n]`.
    Diagonal(Vec<f64>),
    /// A full covariance.
    Full {
        /// As learnt, `[n (n+1) / 2]`.
        c: Vec<f64>,
        /// As it was when the roots were last made; absent if that was never.
        made_of: Option<Vec<f64>>,
        /// Generations since then.
        stale: u64,
    },
}

impl ShapeState {
    /// Which kind it is.
    #[must_use]
    pub fn covariance(&self) -> Covariance {
        match self {
            Self::Isotropic => Covariance::Isotropic,
            Self::Diagonal(_) => Covariance::Separable,
            Self::Full { .. } => Covariance::Full,
        }
    }
}

impl Shape {
    pub(super) fn new(covariance: Covariance, n: usize) -> Self {
        match covariance {
            Covariance::Isotropic => Self::Isotropic,
            Covariance::Separable => Self::Diagonal(vec![1.0; n]),
            Covariance::Full => {
                let identity = identity(n);
                Self::Full(Box::new(Full {
                    c: identity.clone(),
                    root: identity.clone(),
                    inverse: identity,
                    made_of: None,
                    stale: 0,
                }))
            }
        }
    }

    /// `C^{1/2} z`.
    pub(super) fn transform(&self, z: &[f64]) -> Vec<f64> {
        match self {
            Self::Isotropic => z.to_vec(),
            Self::Diagonal(v) => z.iter().zip(v).map(|(z, v)| z * v.sqrt()).collect(),
            Self::Full(f) => product(&f.root, z),
        }
    }

    /// `C^{-1/2} y`.
    pub(super) fn inverse(&self, y: &[f64]) -> Vec<f64> {
        match self {
            Self::Isotropic => y.to_vec(),
            Self::Diagonal(v) => y.iter().zip(v).map(|(y, v)| y / v.sqrt()).collect(),
            Self::Full(f) => product(&f.inverse, y),
        }
    }

    /// `‖C^{-1/2} y‖`.
    pub(super) fn norm(&self, y: &[f64]) -> f64 {
        self.inverse(y).iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Makes the roots anew if `gap` generations have passed since they were made.
    pub(super) fn refresh(&mut self, gap: f64) -> Result<(), CmaError> {
        match self {
            Self::Full(f) if f.stale > 0 && f.stale as f64 >= gap => f.make_roots(),
            _ => Ok(()),
        }
    }

    /// The same, whatever the gap.
    pub(super) fn refresh_now(&mut self) -> Result<(), CmaError> {
        match self {
            Self::Full(f) => f.make_roots(),
            _ => Ok(()),
        }
    }

    /// `C ← (1 − Σ w) C + Σ_i w_i v_i v_iᵀ`, where a vector of negative weight is first brought to the length `√N` in the
    /// metric of the roots. A diagonal has no roots that lag behind; there the metric is `(1 − Σ w) C`, as in pycma. `rows`:
    /// `(w_i, v_i)`.
    pub(super) fn update(&mut self, rows: &[(f64, Vec<f64>)]) {
        let keep = 1.0 - rows.iter().map(|(w, _)| w).sum::<f64>();
        let decayed = if matches!(self, Self::Diagonal(_)) { keep.sqrt() } else { 1.0 };
        let length = |w: f64, v: &[f64]| if w < 0.0 { self.norm(v) / decayed } else { 0.0 };
        let lengths: Vec<f64> = rows.iter().map(|(w, v)| length(*w, v)).collect();
        let scaled = rows.iter().zip(lengths).map(|((w, v), length)| {
            let w = if *w < 0.0 { w * v.len() as f64 / (length + 1e-9).powi(2) } else { *w };
            (w, v)
        });
        match self {
            Self::Isotropic => {}
            Self::Diagonal(c) => {
                c.iter_mut().for_each(|c| *c *= keep);
                for (w, v) in scaled {
                    c.iter_mut().zip(v).for_each(|(c, v)| *c += w * v * v);
                }
            }
            Self::Full(f) => {
                f.c.iter_mut().for_each(|c| *c *= keep);
                for (w, v) in scaled {
                    for (row, a) in f.c.chunks_exact_mut(v.len()).zip(v) {
                        // in this order the matrix stays symmetric to the last bit
                        row.iter_mut().zip(v).for_each(|(c, b)| *c += w * (a * b));
                    }
                }
                f.stale += 1;
            }
        }
    }

    /// Coordinate variances.
    pub(super) fn variances(&self, n: usize) -> Vec<f64> {
        match self {
            Self::Isotropic => vec![1.0; n],
            Self::Diagonal(v) => v.clone(),
            Self::Full(f) => (0..n).map(|i| f.c[i * n + i]).collect(),
        }
    }

    pub(super) fn state(&self, n: usize) -> ShapeState {
        match self {
            Self::Isotropic => ShapeState::Isotropic,
            Self::Diagonal(v) => ShapeState::Diagonal(v.clone()),
            Self::Full(f) => ShapeState::Full {
                c: lower(&f.c, n),
                made_of: f.made_of.as_ref().map(|m| lower(m, n)),
                stale: f.stale,
            },
        }
    }

    /// Continues from `state`, with the same bits.
    pub(super) fn load(state: ShapeState, n: usize) -> Result<Self, CmaError> {
        let check = |what, v: &[f64], expected: usize| {
            if v.len() != expected {
                return Err(CmaError::Length { what, expected, found: v.len() });
            }
            if v.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(CmaError::NotFinite { what }) }
        };
        match state {
            ShapeState::Isotropic => Ok(Self::Isotropic),
            ShapeState::Diagonal(v) => {
                check("the variances", &v, n)?;
                match v.iter().find(|x| **x <= 0.0) {
                    Some(&smallest) => Err(CmaError::NotPositive { smallest }),
                    None => Ok(Self::Diagonal(v)),
                }
            }
            ShapeState::Full { c, made_of, stale } => {
                let triangle = n * (n + 1) / 2;
                check("the covariance", &c, triangle)?;
                let Self::Full(mut full) = Self::new(Covariance::Full, n) else { return Ok(Self::Isotropic) };
                if let Some(m) = made_of {
                    check("the covariance of the roots", &m, triangle)?;
                    full.c = square(&m, n);
                    full.make_roots()?;
                }
                full.c = square(&c, n);
                full.stale = stale;
                Ok(Self::Full(full))
            }
        }
    }
}

impl Full {
    fn make_roots(&mut self) -> Result<(), CmaError> {
        let n = (self.c.len() as f64).sqrt() as usize;
        let (d, v) = eigen::symmetric(&self.c, n).ok_or(CmaError::NotFinite { what: "the covariance" })?;
        let smallest = d.iter().copied().fold(f64::INFINITY, f64::min);
        if smallest <= 0.0 {
            return Err(CmaError::NotPositive { smallest });
        }
        let roots: Vec<f64> = d.iter().map(|d| d.sqrt()).collect();
        for i in 0..n {
            for j in 0..=i {
                let (a, b) = (&v[i * n..(i + 1) * n], &v[j * n..(j + 1) * n]);
                let terms = a.iter().zip(b).map(|(a, b)| a * b).zip(&roots);
                let (r, s) = terms.fold((0.0, 0.0), |(r, s), (ab, d)| (r + ab * d, s + ab / d));
                for at in [i * n + j, j * n + i] {
                    self.root[at] = r;
                    self.inverse[at] = s;
                }
            }
        }
        self.made_of = Some(self.c.clone());
        self.stale = 0;
        Ok(())
    }
}

fn identity(n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    (0..n).for_each(|i| out[i * n + i] = 1.0);
    out
}

fn product(a: &[f64], x: &[f64]) -> Vec<f64> {
    a.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

fn lower(a: &[f64], n: usize) -> Vec<f64> {
    (0..n).flat_map(|i| a[i * n..=i * n + i].iter().copied()).collect()
}

fn square(lower: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    let mut entries = lower.iter();
    for i in 0..n {
        for j in 0..=i {
            if let Some(&x) = entries.next() {
                out[i * n + j] = x;
                out[j * n + i] = x;
            }
        }
    }
    out
}
