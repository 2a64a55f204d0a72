//! The project's own tool: demo, test, vm, bench.

fn main() {}
