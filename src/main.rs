//! The `mirrorfs` command.
fn main() {}
