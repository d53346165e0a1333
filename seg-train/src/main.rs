//! The trainer: see `seg-train --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    seg_train::cli::main()
}
