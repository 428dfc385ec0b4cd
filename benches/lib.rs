//! Benchmarks: `cargo bench --profile dev -p microdit-benches`, which uses the build of the tests.
