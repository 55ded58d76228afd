//! Durations and sizes as an operator writes them.
