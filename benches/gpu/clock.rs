//! Times by the GPU's own clock.

use std::sync::Arc;

use anyhow::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, sys};

/// A block of iterations lasts this long, milliseconds, so that neither the clock nor a launch counts.
const BLOCK: f32 = 5.0;

/// The means of `count` blocks as an answer: "ms" and milliseconds of one iteration.
///
/// # Errors
///
/// The iteration's, and what the device reports.
pub(crate) fn blocks(
    stream: &Arc<CudaStream>,
    count: usize,
    mut iteration: impl FnMut() -> Result<()>,
) -> Result<String> {
    // The first loads kernels and takes memory.
    iteration()?;
    let once = elapsed(stream, 1, &mut iteration)?;
    let size = (BLOCK / once.max(1e-3)).round().clamp(1.0, 1000.0) as usize;
    let mut answer = vec!["ms".to_owned()];
    for _ in 0..count {
        let ms = f64::from(elapsed(stream, size, &mut iteration)?) / size as f64;
        answer.push(ms.to_string());
    }
    Ok(answer.join(" "))
}

/// Milliseconds of `count` iterations, one after the other.
fn elapsed(
    stream: &Arc<CudaStream>,
    count: usize,
    iteration: &mut impl FnMut() -> Result<()>,
) -> Result<f32> {
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let begin = stream.record_event(flags)?;
    for _ in 0..count {
        iteration()?;
    }
    let end = stream.record_event(flags)?;
    Ok(begin.elapsed_ms(&end)?)
}
