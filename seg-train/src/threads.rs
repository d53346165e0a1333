//! One pool of threads instead of two.
//!
//! Candle runs element-wise operations on a pool of its own beside rayon's. Its workers wait by spinning, so the two
//! pools take each other's cores: about a tenth of the training time on two quiet cores, far more on busy ones
//! (`docs/decisions/0005-one-pool-of-threads.md`). Candle reads its thread counts from the environment only, and setting
//! a variable of a running process is unsound, so the program replaces itself by itself with the variables set. What the
//! user has set stays.

/// Starts the program anew with `CANDLE_NUM_THREADS=1`, unless that is set; elsewhere than on Unix it does nothing.
#[cfg(unix)]
pub(crate) fn settle() {
    use std::{env, os::unix::process::CommandExt as _, process::Command, thread};

    const CANDLE: &str = "CANDLE_NUM_THREADS";
    const RAYON: &str = "RAYON_NUM_THREADS";
    if env::var_os(CANDLE).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut anew = Command::new(program);
    anew.args(env::args_os().skip(1)).env(CANDLE, "1");
    if env::var_os(RAYON).is_none() {
        // Unset, Candle counts the processors again at every matrix product.
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        anew.env(RAYON, threads.to_string());
    }
    // Returns only if the program could not be started; then this one goes on, slower.
    let _ = anew.exec();
}

/// Starts the program anew with `CANDLE_NUM_THREADS=1`, unless that is set; elsewhere than on Unix it does nothing.
#[cfg(not(unix))]
pub(crate) fn settle() {}
