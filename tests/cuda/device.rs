//! A tensor there and back, a kernel of one's own and a graph: what everything else on CUDA stands on.

use candle_core::{
    CudaDevice, Device, Storage, Tensor,
    cuda_backend::{
        CudaStorageSlice,
        cudarc::{
            driver::{DevicePtr, LaunchConfig, PushKernelArg, sys},
            nvrtc::{self, CompileOptions},
        },
    },
};

/// Adds up `step` to each number, a thread for each.
pub(crate) const SOURCE: &str = r#"
extern "C" __global__ void __launch_bounds__(256) add(const unsigned long long n, const float step, float* x) {
  const unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += step;
}
"#;

/// A device with a stream of its own, which can be captured.
pub(crate) fn open() -> (Device, CudaDevice) {
    let device = Device::new_cuda_with_stream(0).unwrap();
    let cuda = device.as_cuda_device().unwrap().clone();
    (device, cuda)
}

#[test]
fn a_tensor_comes_back_as_it_went() {
    let (device, _) = open();
    let x: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
    let there = Tensor::from_slice(&x, (10, 100), &device).unwrap();
    assert_eq!(there.flatten_all().unwrap().to_vec1::<f32>().unwrap(), x);
    // A view is copied by a kernel of Candle's.
    let turned = there.t().unwrap().contiguous().unwrap();
    assert_eq!(
        turned.to_vec2::<f32>().unwrap()[3][7].to_bits(),
        x[703].to_bits()
    );
}

#[test]
#[allow(unsafe_code)] // a launch is
fn a_graph_repeats_what_was_captured() {
    let (device, cuda) = open();
    let stream = cuda.cuda_stream();
    // A kernel that is captured may not wait for events from before.
    // SAFETY: there is only one stream.
    unsafe { cuda.disable_event_tracking() };
    let ptx = nvrtc::compile_ptx_with_opts(
        SOURCE,
        CompileOptions {
            arch: Some("compute_80"),
            ..Default::default()
        },
    )
    .unwrap();
    let add = cuda
        .get_or_load_custom_func("add", "tests_device", &ptx.to_src())
        .unwrap();

    let n = 1000_u64;
    let x = Tensor::zeros(n as usize, candle_core::DType::F32, &device).unwrap();
    let launch = |step: f32| {
        let (storage, _) = x.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            unreachable!("the tensor is on a CUDA device")
        };
        let CudaStorageSlice::F32(slice) = &storage.slice else {
            unreachable!("the tensor is of f32")
        };
        let (pointer, _used) = slice.device_ptr(&stream);
        let mut launch = add.builder();
        launch.arg(&n).arg(&step).arg(&pointer);
        // SAFETY: the kernel has these three parameters, and writes to n numbers.
        unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32 * 4)) }.unwrap_err();
        // SAFETY: as above; a block has the 256 threads that the kernel was compiled for.
        unsafe {
            launch.launch(LaunchConfig {
                grid_dim: ((n as u32).div_ceil(256), 1, 1),
                block_dim: (256, 1, 1),
                shared_mem_bytes: 0,
            })
        }
        .unwrap();
    };
    launch(1.0);
    stream.synchronize().unwrap();
    assert_eq!(x.to_vec1::<f32>().unwrap(), vec![1.0; n as usize]);

    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    launch(2.0);
    launch(3.0);
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .unwrap()
        .unwrap();
    assert_eq!(
        x.to_vec1::<f32>().unwrap(),
        vec![1.0; n as usize],
        "nothing runs while it is captured"
    );
    graph.launch().unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    assert_eq!(x.to_vec1::<f32>().unwrap(), vec![11.0; n as usize]);
}
