//! The experiments, their statistics, plots and the report.
