//! Golden loader, tolerances and laws
