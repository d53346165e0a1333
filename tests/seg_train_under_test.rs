//! The trainer as its users call it.

use std::process::ExitCode;

mod faulty_disk;

fn main() -> ExitCode {
    if let Some(disk) = faulty_disk::from_environment() {
        seg_train::store::install(disk).expect("nothing is written yet");
    }
    seg_train::cli::main()
}
