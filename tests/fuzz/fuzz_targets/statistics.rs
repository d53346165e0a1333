#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| workspace_fuzz::statistics(bytes));
