//! Under test.
fn main() {}
