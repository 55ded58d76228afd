//! Benchmarks of Postern.
