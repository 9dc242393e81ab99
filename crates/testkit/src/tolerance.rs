//! How close is close enough, as a type.

/// Found and expected agree when `||found - expected||_2 <= relative ||expected||_2 + absolute sqrt(n)`, with all
/// `n` numbers finite. The absolute part is per number, for tensors that are zero but for rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of the norm of what is expected.
    pub relative: f64,
    /// Root mean square error that is always forgiven.
    pub absolute: f64,
}

/// Two tensors that disagree.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Deviation {
    /// Of different lengths.
    Length {
        /// What was compared.
        what: String,
        /// Numbers there should be.
        expected: usize,
        /// Numbers there are.
        found: usize,
    },
    /// Not a number, or infinite.
    NotFinite {
        /// What was compared.
        what: String,
        /// The first bad number.
        index: usize,
    },
    /// Too far apart.
    Far {
        /// What was compared.
        what: String,
        /// `||found - expected||_2 / ||expected||_2`.
        relative: f64,
        /// Root mean square of the difference.
        rms: f64,
        /// What was allowed.
        tolerance: Tolerance,
        /// Where the largest difference is.
        index: usize,
        /// There.
        worst: (f64, f64),
    },
}

impl std::fmt::Display for Deviation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { what, expected, found } => {
                write!(f, "{what}: {found} numbers, expected {expected}")
            }
            Self::NotFinite { what, index } => write!(f, "{what}: number {index} is not finite"),
            Self::Far { what, relative, rms, tolerance, index, worst } => write!(
                f,
                "{what}: relative error {relative:.3e} (allowed {:.1e}), rms {rms:.3e} (allowed {:.1e}); worst at \
                 {index}: {} where {} is expected",
                tolerance.relative, tolerance.absolute, worst.0, worst.1
            ),
        }
    }
}

impl std::error::Error for Deviation {}

impl Tolerance {
    /// A purely relative tolerance.
    #[must_use]
    pub const fn relative(relative: f64) -> Self {
        Self { relative, absolute: 0.0 }
    }

    /// The same with `absolute` forgiven always.
    #[must_use]
    pub const fn or(self, absolute: f64) -> Self {
        Self { absolute, ..self }
    }

    /// `Ok` where `found` is close enough to `expected`; `what` names them in the error.
    pub fn check<T, U>(self, what: &str, found: &[T], expected: &[U]) -> Result<(), Deviation>
    where
        T: Copy + Into<f64>,
        U: Copy + Into<f64>,
    {
        let what = || what.to_owned();
        if found.len() != expected.len() {
            return Err(Deviation::Length { what: what(), expected: expected.len(), found: found.len() });
        }
        let (mut error, mut norm, mut worst) = (0.0_f64, 0.0_f64, (0, 0.0_f64));
        for (index, (a, b)) in found.iter().zip(expected).enumerate() {
            let (a, b): (f64, f64) = ((*a).into(), (*b).into());
            if !(a.is_finite() && b.is_finite()) {
                return Err(Deviation::NotFinite { what: what(), index });
            }
            let d = (a - b).abs();
            if d > worst.1 {
                worst = (index, d);
            }
            error += d * d;
            norm += b * b;
        }
        let (error, norm, root) = (error.sqrt(), norm.sqrt(), (found.len() as f64).sqrt());
        if error <= self.relative * norm + self.absolute * root {
            return Ok(());
        }
        let index = worst.0;
        Err(Deviation::Far {
            what: what(),
            relative: error / norm,
            rms: error / root,
            tolerance: self,
            index,
            worst: (found[index].into(), expected[index].into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_passes_far_fails_and_says_where() {
        let t = Tolerance::relative(1e-3);
        assert_eq!(t.check("w", &[1.0005_f32, 2.0], &[1.0_f64, 2.0]), Ok(()));
        let e = t.check("w", &[1.0_f32, 2.1], &[1.0_f32, 2.0]).unwrap_err();
        assert!(
            e.to_string().starts_with("w: relative error") && e.to_string().contains("worst at 1"),
            "{e}"
        );
        assert!(matches!(t.check("w", &[1.0_f32], &[1.0_f32, 2.0]), Err(Deviation::Length { .. })));
        assert!(matches!(t.check("w", &[f32::NAN], &[f32::NAN]), Err(Deviation::NotFinite { .. })));
        assert_eq!(t.check::<f32, f32>("w", &[], &[]), Ok(()));
    }

    #[test]
    fn what_is_zero_but_for_rounding_needs_the_absolute_part() {
        let (found, expected) = ([1e-9_f32; 4], [0.0_f32; 4]);
        assert!(Tolerance::relative(1e-3).check("b", &found, &expected).is_err());
        assert_eq!(Tolerance::relative(1e-3).or(1e-8).check("b", &found, &expected), Ok(()));
    }
}
