// Device memory: fresh bytes are 0xff (NaN), the page behind an allocation and all of a freed one cannot be touched.
#include <sys/mman.h>

#include <atomic>

#include "driver.h"

static constexpr size_t page = 4096;
// So many freed places are kept unreadable before the system may use them again.
static constexpr size_t most_freed = 8192;

static std::mutex mutex;
static std::map<uintptr_t, Allocation>& table() {
  static auto& table = *new std::map<uintptr_t, Allocation>;
  return table;
}
static std::deque<Allocation>& freed() {
  static auto& freed = *new std::deque<Allocation>;
  return freed;
}
static size_t used[16];

static size_t all_memory() {
  const char* text = getenv("SOFT_CUDA_MEMORY");
  return text ? strtoull(text, nullptr, 10) : size_t(8) << 30;
}

void memory_info(int device, size_t* free, size_t* total) {
  std::lock_guard<std::mutex> lock(mutex);
  *total = all_memory();
  *free = *total - used[device];
}

CUresult allocate(size_t bytes, int device, bool pinned, GraphMemory* graph, uintptr_t* address) {
  // The end is at the page that cannot be touched, but vectors of 16 bytes have to be aligned.
  const size_t room = (bytes + 15) / 16 * 16, mapped = (room + page - 1) / page * page + page;
  std::lock_guard<std::mutex> lock(mutex);
  if (!pinned && bytes > all_memory() - used[device]) return CUDA_ERROR_OUT_OF_MEMORY;
  void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  const uintptr_t end = uintptr_t(mapping) + mapped - page, start = end - room;
  mprotect(reinterpret_cast<void*>(end), page, PROT_NONE);
  memset(reinterpret_cast<void*>(start), 0xff, room);
  if (!pinned) used[device] += bytes;
  table()[start] = {start, bytes, mapping, mapped, device, pinned, graph};
  *address = start;
  return CUDA_SUCCESS;
}

static void seal(const Allocation& a) {
  mmap(a.mapping, a.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

CUresult release(uintptr_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = table().find(address);
  if (found == table().end()) return CUDA_ERROR_INVALID_VALUE;
  const Allocation a = found->second;
  table().erase(found);
  if (!a.pinned) used[a.device] -= a.bytes;
  seal(a);
  freed().push_back(a);
  if (freed().size() > most_freed) {
    munmap(freed().front().mapping, freed().front().mapped);
    freed().pop_front();
  }
  return CUDA_SUCCESS;
}

void revive(uintptr_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  Allocation& a = table().at(address);
  mprotect(a.mapping, a.mapped - page, PROT_READ | PROT_WRITE);
  memset(reinterpret_cast<void*>(a.start), 0xff, (a.bytes + 15) / 16 * 16);
  a.live = true;
}

void bury(uintptr_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = table().find(address);
  if (found == table().end()) return;
  seal(found->second);
  found->second.live = false;
}

bool find_allocation(uintptr_t address, Allocation* result) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = table().upper_bound(address);
  if (found == table().begin()) return false;
  --found;
  if (address >= found->second.start + (found->second.bytes ? found->second.bytes : 1)) return false;
  *result = found->second;
  return true;
}

bool on_device(uintptr_t address, size_t bytes) {
  Allocation a;
  return bytes == 0 || (find_allocation(address, &a) && !a.pinned && address + bytes <= a.start + a.bytes);
}

bool in_pinned(uintptr_t address, size_t bytes) {
  Allocation a;
  return find_allocation(address, &a) && a.pinned && address + bytes <= a.start + a.bytes;
}

void describe_address(const void* address, char* text, size_t size) {
  const auto at = uintptr_t(address);
  if (at < page) {
    snprintf(text, size, "a null pointer, or one close to it");
    return;
  }
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  if (!lock) {
    snprintf(text, size, "memory that is not the kernel's");
    return;
  }
  auto next = table().upper_bound(at);
  if (next != table().begin()) {
    const Allocation& a = std::prev(next)->second;
    if (at < uintptr_t(a.mapping) + a.mapped) {
      if (!a.live)
        snprintf(text, size, "%zu bytes from the start of %zu bytes of a graph that are not allocated now", size_t(at - a.start), a.bytes);
      else
        snprintf(text, size, "%zu bytes behind the end of an allocation of %zu bytes", size_t(at - a.start - a.bytes), a.bytes);
      return;
    }
  }
  for (auto a = freed().rbegin(); a != freed().rend(); ++a)
    if (at >= uintptr_t(a->mapping) && at < uintptr_t(a->mapping) + a->mapped) {
      snprintf(text, size, "%lld bytes from the start of an allocation of %zu bytes that has been freed", (long long)(at - a->start),
               a->bytes);
      return;
    }
  const uintptr_t shared = uintptr_t(soft_here.dynamic_shared);
  if (at >= shared && at < shared + (256 << 10) + page)
    snprintf(text, size, "%zu bytes from the start of the dynamic shared memory, behind its end", size_t(at - shared));
  else
    snprintf(text, size, "no memory of the device's (an overflow of a thread's stack of 128 KB looks so too)");
}

// The functions of the driver ---------------------------------------------------------------------------------------------

API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  NEEDS_CONTEXT();
  memory_info(current_context->device, free, total);
  return CUDA_SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr* p, size_t bytes) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  uintptr_t address;
  const CUresult result = allocate(bytes, current_context->device, false, nullptr, &address);
  if (!result) *p = address;
  return result;
}

API CUresult cuMemFree_v2(CUdeviceptr p) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  drain_all();
  return p ? release(p) : CUDA_SUCCESS;
}

API CUresult cuMemAllocAsync(CUdeviceptr* p, size_t bytes, void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *p = 0;
  if (!bytes) return CUDA_SUCCESS;
  std::lock_guard<std::recursive_mutex> lock(streams_mutex());
  GraphMemory* graph = stream->capture && !stream->capture->invalid ? stream->capture->graph->memory.get() : nullptr;
  uintptr_t address;
  if (const CUresult failed = allocate(bytes, current_context->device, false, graph, &address)) return failed;
  *p = address;
  if (!graph) return stream->capture ? release(address), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  bury(address);
  graph->addresses.push_back(address);
  return submit(stream, {"allocate", [address] { revive(address); }});
}
API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* p, size_t bytes, void*, void* handle) { return cuMemAllocAsync(p, bytes, handle); }

API CUresult cuMemFreeAsync(CUdeviceptr p, void* handle) {
  NEEDS_CONTEXT();
  if (!p) return CUDA_SUCCESS;
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Allocation a;
  if (!find_allocation(p, &a) || a.start != p || a.pinned) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard<std::recursive_mutex> lock(streams_mutex());
  const bool capturing = stream->capture && !stream->capture->invalid;
  // A graph frees only what it has allocated: at its second launch the rest would be gone.
  if (capturing && a.graph != stream->capture->graph->memory.get()) return CUDA_ERROR_INVALID_VALUE;
  if (a.graph) return submit(stream, {"free", [p] { bury(p); }});
  return submit(stream, {"free", [p] { release(p); }});
}

// The pool is the system's.
API CUresult cuDeviceGetDefaultMemPool(void** pool, CUdevice) {
  static int the_pool;
  *pool = &the_pool;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetMemPool(void** pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }
API CUresult cuMemPoolSetAttribute(void*, int, void*) { return CUDA_SUCCESS; }
API CUresult cuMemPoolGetAttribute(void*, int, void* value) {
  memset(value, 0, 8);
  return CUDA_SUCCESS;
}
API CUresult cuMemPoolTrimTo(void*, size_t) { return CUDA_SUCCESS; }

API CUresult cuMemHostAlloc(void** p, size_t bytes, unsigned) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  uintptr_t address;
  const CUresult result = allocate(bytes, current_context->device, true, nullptr, &address);
  if (!result) *p = reinterpret_cast<void*>(address);
  return result;
}
API CUresult cuMemAllocHost_v2(void** p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }

API CUresult cuMemFreeHost(void* p) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  if (!p) return CUDA_SUCCESS;
  drain_all();
  return release(uintptr_t(p));
}
