//! Opening a GPU, waiting for it, and what it says of itself.

use anyhow::{Context as _, Result, anyhow, bail};
use candle_core::{
    Device,
    cuda_backend::cudarc::driver::{CudaContext, CudaStream, DriverError, sys},
};

use crate::config::device_number;

/// Opens GPU `number`, which the user calls `name`, with a stream of its own.
///
/// Of a stream a thread, Candle's default, the thread that prepares images would have another one than the thread that
/// trains.
#[allow(unsafe_code)]
pub(crate) fn open(name: &str, number: usize) -> Result<Device> {
    refuse_missing(name, number)?;
    let device = Device::new_cuda_with_stream(number)
        .map_err(|error| anyhow!("device `{name}` cannot be opened: {error}"))?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all that touches a tensor of this device is on its one stream, in order, but for the copies of images, which
    // are ordered by events of their own. Cudarc's events, recorded outside a graph, would end its recording.
    unsafe { cuda.disable_event_tracking() };
    Ok(device)
}

/// Refuses the number of a GPU that is not there.
fn refuse_missing(name: &str, number: usize) -> Result<()> {
    let there = count(name)?;
    if number >= there {
        let all = match there {
            1 => "1 CUDA device, cuda:0".into(),
            _ => format!("{there} CUDA devices, cuda:0 to cuda:{}", there - 1),
        };
        bail!("device `{name}` cannot be opened: there is {all}; use one of these");
    }
    Ok(())
}

/// How many GPUs there are, which is one at least.
pub(crate) fn count(name: &str) -> Result<usize> {
    let none = |words: &str| {
        anyhow!("no CUDA device: device `{name}` cannot be opened: {words}; use --device cpu")
    };
    match CudaContext::device_count() {
        Ok(0) => Err(none("the driver finds none")),
        Ok(count) => Ok(count as usize),
        Err(error) => Err(none(&words(error))),
    }
}

/// An error in the driver's words.
fn words(error: DriverError) -> String {
    match error.error_string() {
        Ok(words) => words.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}

/// Waits for all that lies in a stream, without keeping a core busy: others prepare images on it.
pub(crate) fn wait(stream: &CudaStream) -> Result<()> {
    let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
    stream.record_event(Some(flags))?.synchronize()?;
    // Errors of destructors and of launches, which had nobody to tell.
    stream.context().check_err()?;
    Ok(())
}

/// What a GPU is: its name, its compute capability, and the CUDA version of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) compute_capability: String,
    pub(crate) driver: String,
}

/// What the GPU of this name is; none where it names the CPU.
#[allow(unsafe_code)]
pub(crate) fn describe(name: &str) -> Result<Option<Description>> {
    let Some(number) = device_number(name)? else {
        return Ok(None);
    };
    refuse_missing(name, number)?;
    let cannot = || format!("device `{name}` cannot be asked what it is");
    let context = CudaContext::new(number).with_context(cannot)?;
    let (major, minor) = context.compute_capability().with_context(cannot)?;
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .with_context(cannot)?;
    Ok(Some(Description {
        name: context.name().with_context(cannot)?,
        compute_capability: format!("{major}.{minor}"),
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
    }))
}
