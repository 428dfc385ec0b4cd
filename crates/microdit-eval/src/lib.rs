//! Is what was trained any good, and did it cost less? Metrics over pictures, sweeps with verdicts, reports.

pub mod prompts;
pub mod statistics;
