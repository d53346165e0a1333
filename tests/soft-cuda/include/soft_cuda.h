// CUDA's language for g++: `g++ -std=c++17 -include soft_cuda.h -DSOFT_CUDA kernel.cu` makes a kernel that runs on the CPU.
// What a thread does alone is written here; what threads do together is in the run time, the library libcuda.so.1.
#pragma once

// Before the macros below: the system's headers use some of these words as attributes.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utility>

#ifndef SOFT_CUDA
#define SOFT_CUDA 1
#endif
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1

// While the false NVRTC looks for entry points, these two stay as they are in the preprocessed text.
#ifndef SOFT_CUDA_SCAN
#define __global__
#define __launch_bounds__(...)
#endif
#define __device__
#define __host__
#define __managed__
#define __grid_constant__
#define __constant__ __attribute__((visibility("default")))
// A block's threads are fibers of one thread of the system, so what they share is that thread's own.
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_assume(condition) ((void)0)

#include "soft_types.h"

#include "soft_threads.h"

#include "soft_math.h"

#include "soft_atomics.h"

#include "soft_entry.h"
