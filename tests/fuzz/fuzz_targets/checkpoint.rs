#![no_main]

libfuzzer_sys::fuzz_target!(
    init: workspace_fuzz::on_one_thread(),
    |bytes: &[u8]| workspace_fuzz::checkpoint(bytes)
);
