// The false driver's own objects. Handles are pointers to them.
#pragma once

#include <stdint.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime.h"

#define API extern "C" __attribute__((visibility("default")))

enum CUresult : int {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_FILE_NOT_FOUND = 301,
  CUDA_ERROR_SHARED_OBJECT_INIT_FAILED = 303,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_NOT_SUPPORTED = 801,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_STREAM_CAPTURE_MERGE = 902,
  CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
  CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
  CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
  CUDA_ERROR_CAPTURED_EVENT = 907,
  CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
};

using CUdevice = int;
using CUdeviceptr = unsigned long long;

// How many times each function was called and each kernel launched: SOFT_CUDA_COUNT=FILE.
void count(const char* name, const std::string& detail = "");
#define COUNT() count(__func__)

struct Context {
  int device;
  int retained = 0;
  bool primary = true;
};
extern thread_local Context* current_context;
Context* primary_context(int device);
int device_count();
int capability();  // 90
bool initialized();
// Every function but the first few needs these two.
#define NEEDS_CONTEXT() \
  do { \
    COUNT(); \
    if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED; \
    if (!current_context) return CUDA_ERROR_INVALID_CONTEXT; \
  } while (0)

// Memory -----------------------------------------------------------------------------------------------------------------

struct Graph;
struct GraphMemory;

struct Allocation {
  uintptr_t start;
  size_t bytes;
  void* mapping;
  size_t mapped;
  int device;
  bool pinned = false;    // of the host
  GraphMemory* graph = nullptr;  // made by a node of a graph
  bool live = true;       // a graph's memory lives from its node to the node that frees it
};

// Fresh memory is full of bytes 0xff, ends at a page that cannot be touched, and cannot be touched once it is freed.
CUresult allocate(size_t bytes, int device, bool pinned, GraphMemory* graph, uintptr_t* address);
CUresult release(uintptr_t address);
// For memory that belongs to a graph: it is the same place at every launch.
void revive(uintptr_t address);
void bury(uintptr_t address);
// A copy of what is known of the memory that the address lies in.
bool find_allocation(uintptr_t address, Allocation* found);
// Whether all bytes of the range lie in one live allocation on the device.
bool on_device(uintptr_t address, size_t bytes);
bool in_pinned(uintptr_t address, size_t bytes);
void memory_info(int device, size_t* free, size_t* total);

// Streams ----------------------------------------------------------------------------------------------------------------

// One piece of a stream's work; in a graph it runs again and again.
struct Work {
  std::string name;
  std::function<void()> run;
};

struct Event;

struct Capture {
  std::unique_ptr<Graph> graph;
  struct Stream* origin = nullptr;
  std::vector<struct Stream*> streams;
  int mode = 0;
  std::thread::id thread;
  bool invalid = false;
};

struct Stream {
  Context* context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  std::deque<Work> waiting;          // with SOFT_CUDA_ASYNC
  unsigned long long given = 0, done = 0;  // pieces of work so far
  std::shared_ptr<Capture> capture;
  bool joined = true;  // nothing was recorded here since the capture's origin has waited for it
};

struct Event {
  Context* context;
  unsigned flags;
  Stream* stream = nullptr;        // where it was recorded last
  unsigned long long at = 0;       // after how many pieces of that stream's work
  double seconds = 0;
  bool happened = true;
  std::weak_ptr<Capture> capture;  // of the capture that it was recorded in
  bool captured = false;
  unsigned generation = 0;
};

// The stream of a handle: null and 1 are the legacy default, 2 is the calling thread's own.
Stream* stream_of(void* handle);
// Does the work now, when the stream is synchronised (SOFT_CUDA_ASYNC=1), or when the captured graph is launched.
CUresult submit(Stream* stream, Work work);
bool asynchronous();
// Before a call that may not be made while this thread (or, in the global mode, anybody) captures.
CUresult unsafe_call();
void drain(Stream* stream, unsigned long long until = ~0ull);
void drain_all();
// Held while the state of streams, events and captures is looked at or changed.
std::recursive_mutex& streams_mutex();

// Graphs -----------------------------------------------------------------------------------------------------------------

// What a graph's own nodes allocate has its place as long as the graph, or what was instantiated from it, is there.
struct GraphMemory {
  std::vector<uintptr_t> addresses;
  ~GraphMemory();
};
struct Graph {
  std::vector<Work> nodes;
  std::shared_ptr<GraphMemory> memory = std::make_shared<GraphMemory>();
};
void forget_stream(Stream* stream);

// Modules ----------------------------------------------------------------------------------------------------------------

struct Module;
struct Function {
  std::string name;
  const soft_Entry* entry;
  Module* module;
  StaticShared static_shared;
  int most_dynamic_shared = 48 << 10;
};
struct Module {
  Context* context;
  std::string source;       // of the stand-in for nvcc: each function is compiled when it is asked for
  void* library = nullptr;  // of the false NVRTC
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<Function>> functions;
};
// A kernel's launch with its arguments copied, so that it can run later.
Work launch_work(Function* function, dim3 blocks, dim3 threads, unsigned shared, void** arguments);
