//! Every kernel of the project through NVRTC, to the machine code of three generations of GPUs. With the true NVRTC on the
//! library path, as in `.ci/cuda-check`, what the kernels need of a multiprocessor is printed.

use std::{
    ffi::{CStr, CString},
    iter, ptr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use candle_core::cuda_backend::cudarc::nvrtc::{result, sys};

use super::device;

/// A100, H100 and H200, B200.
const TARGETS: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

/// A source's name, text and options.
type Source = (String, String, Vec<String>);

/// Every source with a target: each crate lists its own. Where they are many, one text with many options, they take turns.
fn work() -> Vec<(Source, &'static str)> {
    let of_a_crate = [
        dice_losses::cuda::sources(),
        seg_unet::cuda::sources(),
        seg_train::cuda::sources(),
    ];
    let mut all = Vec::new();
    for sources in of_a_crate {
        let turns = sources.len() > 30;
        for (at, source) in sources.into_iter().enumerate() {
            for (number, target) in TARGETS.into_iter().enumerate() {
                if !turns || at % TARGETS.len() == number {
                    all.push((source.clone(), target));
                }
            }
        }
    }
    all
}

/// The machine code, and what the compiler said.
#[allow(unsafe_code)] // NVRTC's own interface: cudarc's safe one stops at PTX
fn cubin(name: &str, text: &str, options: &[String]) -> Result<(Vec<u8>, String), String> {
    let text = CString::new(text).unwrap();
    let name = CString::new(format!("{name}.cu")).unwrap();
    let program = result::create_program(&text, Some(&name)).unwrap();
    // SAFETY: the program was made above and is destroyed at the end, and `text` and `name` outlive it.
    unsafe {
        let compiled = result::compile_program(program, options);
        let log = result::get_program_log(program).unwrap();
        let log = CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned();
        let code = compiled.map(|()| {
            let mut size = 0;
            assert_eq!(
                sys::nvrtcGetCUBINSize(program, ptr::from_mut(&mut size)),
                sys::nvrtcResult::NVRTC_SUCCESS
            );
            let mut code = vec![0_u8; size];
            assert_eq!(
                sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()),
                sys::nvrtcResult::NVRTC_SUCCESS
            );
            code
        });
        result::destroy_program(program).unwrap();
        code.map(|code| (code, log.clone()))
            .map_err(|error| format!("{error}\n{log}"))
    }
}

/// From what ptxas says: one line for each kernel of registers, spilled bytes and shared memory.
fn needs(log: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut kernel, mut spilled) = (String::new(), String::new());
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            rest.split('\'')
                .next()
                .unwrap_or_default()
                .clone_into(&mut kernel);
            spilled.clear();
        } else if line.contains("bytes stack frame") {
            line.trim().clone_into(&mut spilled);
        } else if let Some((_, used)) = line.split_once(": Used ") {
            let spills = if spilled.contains(", 0 bytes spill stores, 0 bytes spill loads") {
                ""
            } else {
                &spilled
            };
            lines.push(format!("{kernel}: {used} {spills}").trim_end().to_owned());
        }
    }
    lines
}

/// The lines to print of a source that compiles; what is wrong with one that does not.
fn compile(((name, text, options), target): &(Source, &str)) -> Result<String, String> {
    let mut all = vec![
        format!("--gpu-architecture={target}"),
        "--ptxas-options=-v".into(),
    ];
    all.extend(options.iter().cloned());
    let title = format!("{name} {} {target}", options.join(" "));
    let (code, log) = cubin(name, text, &all).map_err(|error| format!("{title}: {error}"))?;
    let mut lines = vec![format!("{title}: {} bytes\n", code.len())];
    lines.extend(needs(&log).iter().map(|line| format!("    {line}\n")));
    Ok(lines.concat())
}

#[test]
fn every_source_compiles_for_its_targets() {
    let (code, _) = cubin("device", device::SOURCE, &[]).unwrap();
    if code.starts_with(b"//") {
        println!("NOT CHECKED: this is soft CUDA's NVRTC, which makes no machine code");
        return;
    }
    let (work, next) = (work(), AtomicUsize::new(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let results = thread::scope(|scope| {
        let one = || {
            iter::from_fn(|| work.get(next.fetch_add(1, Ordering::Relaxed)))
                .map(compile)
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut lines: Vec<String> = results.into_iter().collect::<Result<_, _>>().unwrap();
    lines.sort();
    println!("{} sources:\n{}", lines.len(), lines.concat());
}

#[test]
fn what_is_wrong_is_told_by_line() {
    let error = cubin(
        "wrong",
        "extern \"C\" __global__ void f(float* x) {\n  x[0] = y;\n}\n",
        &[],
    )
    .unwrap_err();
    assert!(error.contains("wrong.cu"), "{error}");
    assert!(error.contains('2'), "{error}");
}
