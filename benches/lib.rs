//! Benchmarks: `cargo bench --profile dev --workspace --bench ops` (`run`, `loader`), with the build of the tests; `compare.py` against PyTorch.
