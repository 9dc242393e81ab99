//! Metrics, diagnosis, plots and the HTML report
