// Copies and fillings.
#include "driver.h"

static void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

static Work copy(const char* name, void* to, const void* from, size_t bytes) {
  return {name, [=] { memmove(to, from, bytes); }};
}

// A copy that the host waits for. It is ordered by the default stream.
static CUresult copy_now(const char* name, void* to, const void* from, size_t bytes) {
  if (const CUresult refused = unsafe_call()) return refused;
  Stream* stream = stream_of(nullptr);
  const CUresult result = submit(stream, copy(name, to, from, bytes));
  drain(stream);
  return result;
}

API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  NEEDS_CONTEXT();
  if (!on_device(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return copy_now("copy to device", pointer(to), from, bytes);
}

API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  NEEDS_CONTEXT();
  if (!on_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return copy_now("copy to host", to, pointer(from), bytes);
}

API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  NEEDS_CONTEXT();
  if (!on_device(to, bytes) || !on_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return copy_now("copy on device", pointer(to), pointer(from), bytes);
}

API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!on_device(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  // Pageable memory is read before the call returns, but for a graph, which reads it at its launch.
  if (asynchronous() && !stream->capture && !in_pinned(uintptr_t(from), bytes)) {
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return submit(stream, {"copy to device", [=] { memcpy(pointer(to), staged->data(), staged->size()); }});
  }
  return submit(stream, copy("copy to device", pointer(to), from, bytes));
}

API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!on_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = submit(stream, copy("copy to host", to, pointer(from), bytes));
  // Pageable memory is written before the call returns.
  if (!result && !stream->capture && !in_pinned(uintptr_t(to), bytes)) drain(stream);
  return result;
}

API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!on_device(to, bytes) || !on_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream, copy("copy on device", pointer(to), pointer(from), bytes));
}

API CUresult cuMemcpyPeerAsync(CUdeviceptr to, Context*, CUdeviceptr from, Context*, size_t bytes, void* handle) {
  return cuMemcpyDtoDAsync_v2(to, from, bytes, handle);
}
API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* handle) {
  if (on_device(to, 1) && on_device(from, 1)) return cuMemcpyDtoDAsync_v2(to, from, bytes, handle);
  return on_device(to, 1) ? cuMemcpyHtoDAsync_v2(to, pointer(from), bytes, handle)
                          : cuMemcpyDtoHAsync_v2(pointer(to), from, bytes, handle);
}

template <typename T>
static CUresult fill(CUdeviceptr to, T value, size_t n, void* handle) {
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (to % sizeof(T) || !on_device(to, n * sizeof(T))) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream, {"fill", [=] {
                           auto p = static_cast<T*>(pointer(to));
                           for (size_t i = 0; i < n; i++) p[i] = value;
                         }});
}

API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, void* handle) {
  NEEDS_CONTEXT();
  return fill(to, value, n, handle);
}
API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, void* handle) {
  NEEDS_CONTEXT();
  return fill(to, value, n, handle);
}
API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, void* handle) {
  NEEDS_CONTEXT();
  return fill(to, value, n, handle);
}
API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  return fill(to, value, n, nullptr);
}
API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  return fill(to, value, n, nullptr);
}
