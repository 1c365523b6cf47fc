//! The corpus, and with it every input that once broke something, on every build.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests read the corpus, and fail where they stand"
)]

mod seeds;
