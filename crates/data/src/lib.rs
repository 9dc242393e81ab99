//! Formats, label masks, packing, partitioners, heterogeneity
