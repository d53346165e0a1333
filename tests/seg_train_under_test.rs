//! The trainer as its users call it.

use std::process::ExitCode;

fn main() -> ExitCode {
    seg_train::cli::main()
}
