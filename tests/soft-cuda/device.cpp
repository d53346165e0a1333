// Devices and contexts.
#include <atomic>

#include "driver.h"

thread_local Context* current_context = nullptr;
static std::atomic<bool> is_initialized{false};
bool initialized() { return is_initialized; }

int device_count() {
  const char* text = getenv("SOFT_CUDA_DEVICES");
  const int n = text ? atoi(text) : 1;
  return n < 0 ? 0 : n > 16 ? 16 : n;
}

int capability() {
  const char* text = getenv("SOFT_CUDA_CAPABILITY");
  int major = 9, minor = 0;
  if (text && sscanf(text, "%d.%d", &major, &minor) != 2) fail("SOFT_CUDA_CAPABILITY=%s: expected one such as 9.0", text);
  return major * 10 + minor;
}

static Context contexts[16];
Context* primary_context(int device) {
  contexts[device].device = device;
  return &contexts[device];
}

static bool no_such(CUdevice device) { return device < 0 || device >= device_count(); }

API CUresult cuInit(unsigned flags) {
  COUNT();
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (device_count() == 0) return CUDA_ERROR_NO_DEVICE;
  is_initialized = true;
  catch_faults();
  return CUDA_SUCCESS;
}

API CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int* n) {
  COUNT();
  if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
  *n = device_count();
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  COUNT();
  if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
  if (no_such(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
  if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
  snprintf(name, size_t(size), "soft CUDA device %d", device);
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(unsigned char* uuid, CUdevice device) {
  if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
  memset(uuid, 0, 16);
  uuid[15] = (unsigned char)(device + 1);
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetUuid(unsigned char* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
  size_t unused;
  memory_info(device, &unused, bytes);
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
  static const std::map<int, int> values = {
      {1, 1024},                                 // threads a block
      {2, 1024}, {3, 1024}, {4, 64},             // block, x y z
      {5, 2147483647}, {6, 65535}, {7, 65535},   // grid, x y z
      {8, 48 << 10},                             // shared memory a block
      {9, 64 << 10},                             // constant memory
      {10, 32},                                  // warp
      {11, 2147483647},                          // pitch
      {12, 65536},                               // registers a block
      {13, 1000000},                             // clock, kHz
      {14, 512},                                 // alignment of textures
      {15, 1},                                   // copies beside kernels
      {16, 8},                                   // multiprocessors
      {19, 1},                                   // host memory can be mapped
      {31, 1},                                   // kernels beside kernels
      {33, 1},                                   // bus
      {36, 1000000}, {37, 1024},                 // memory's clock and width
      {38, 4 << 20},                             // L2
      {39, 2048},                                // threads a multiprocessor
      {40, 2},                                   // engines for copies
      {41, 1},                                   // one address space
      {78, 1},                                   // priorities of streams
      {79, 1}, {80, 1},                          // L1 for global and local memory
      {81, 228 << 10},                           // shared memory a multiprocessor
      {82, 65536},                               // registers a multiprocessor
      {97, 227 << 10},                           // shared memory a block, when asked for
      {106, 32},                                 // blocks a multiprocessor
      {111, 1024},                               // shared memory that the driver keeps of each block
      {115, 1},                                  // memory pools
  };
  if (attribute == 75)
    *value = capability() / 10;
  else if (attribute == 76)
    *value = capability() % 10;
  else if (const auto found = values.find(attribute); found != values.end())
    *value = found->second;
  else
    *value = 0;
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(Context** context, CUdevice device) {
  COUNT();
  if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
  if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
  *context = primary_context(device);
  (*context)->retained++;
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  COUNT();
  if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
  primary_context(device)->retained--;
  return CUDA_SUCCESS;
}

API CUresult cuCtxGetCurrent(Context** context) {
  if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
  *context = current_context;
  return CUDA_SUCCESS;
}

API CUresult cuCtxSetCurrent(Context* context) {
  if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
  current_context = context;
  return CUDA_SUCCESS;
}

static thread_local std::vector<Context*> pushed;
API CUresult cuCtxPushCurrent_v2(Context* context) {
  pushed.push_back(current_context);
  current_context = context;
  return CUDA_SUCCESS;
}
API CUresult cuCtxPopCurrent_v2(Context** context) {
  if (pushed.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context) *context = current_context;
  current_context = pushed.back();
  pushed.pop_back();
  return CUDA_SUCCESS;
}

API CUresult cuCtxGetDevice(CUdevice* device) {
  if (!current_context) return CUDA_ERROR_INVALID_CONTEXT;
  *device = current_context->device;
  return CUDA_SUCCESS;
}

API CUresult cuCtxSetFlags(unsigned) {
  NEEDS_CONTEXT();
  return CUDA_SUCCESS;
}

API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  NEEDS_CONTEXT();
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

API CUresult cuCtxSynchronize() {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  drain_all();
  return CUDA_SUCCESS;
}

API CUresult cuProfilerStart() { return CUDA_SUCCESS; }
API CUresult cuProfilerStop() { return CUDA_SUCCESS; }

// Errors' names, for the messages of those who call.
static const struct {
  CUresult error;
  const char *name, *words;
} errors[] = {
#define ERROR(name, words) {name, #name, words}
    ERROR(CUDA_SUCCESS, "no error"),
    ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    ERROR(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    ERROR(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    ERROR(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    ERROR(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed"),
    ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
    ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    ERROR(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread"),
#undef ERROR
};

API CUresult cuGetErrorName(CUresult error, const char** text) {
  for (const auto& one : errors)
    if (one.error == error) return *text = one.name, CUDA_SUCCESS;
  *text = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult error, const char** text) {
  for (const auto& one : errors)
    if (one.error == error) return *text = one.words, CUDA_SUCCESS;
  *text = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

// Counts of calls.
namespace {
struct Counts {
  std::mutex mutex;
  std::map<std::string, unsigned long long> counts;
  const char* file = getenv("SOFT_CUDA_COUNT");
};
}  // namespace
static Counts& counts() {
  static Counts& counts = *new Counts;
  return counts;
}

static void write_counts() {
  drain_all();  // a launch that nobody has waited for counts too
  Counts& c = counts();
  std::lock_guard<std::mutex> lock(c.mutex);
  FILE* file = fopen(c.file, "a");
  if (!file) return;
  for (const auto& [name, n] : c.counts) fprintf(file, "%s %llu\n", name.c_str(), n);
  fclose(file);
}

void count(const char* name, const std::string& detail) {
  Counts& c = counts();
  if (!c.file) return;
  std::lock_guard<std::mutex> lock(c.mutex);
  if (c.counts.empty()) atexit(write_counts);
  c.counts[detail.empty() ? name : name + (" " + detail)]++;
}
