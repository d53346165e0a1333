// Modules, functions and launches.
#include "driver.h"

#include <dlfcn.h>
#include <libgen.h>
#include <link.h>

#include <fstream>
#include <sstream>

#include "compile.h"

// What stands behind a keyword of an image's text; empty if it is not there.
static std::string line_of(const std::string& image, const char* keyword) {
  const size_t at = image.find(keyword);
  if (at == std::string::npos) return "";
  const size_t start = at + strlen(keyword);
  return image.substr(start, image.find('\n', start) - start);
}

// Where a library keeps its thread-local variables, which are the static shared memory.
static StaticShared shared_of(void* library) {
  link_map* map = nullptr;
  dlinfo(library, RTLD_DI_LINKMAP, &map);
  struct Search {
    uintptr_t base;
    StaticShared found;
  } search = {uintptr_t(map->l_addr), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto search = static_cast<Search*>(data);
        if (info->dlpi_addr != search->base) return 0;
        for (int i = 0; i < info->dlpi_phnum; i++)
          if (info->dlpi_phdr[i].p_type == PT_TLS) search->found = {info->dlpi_tls_modid, info->dlpi_phdr[i].p_memsz};
        return 1;
      },
      &search);
  return search.found;
}

static void* open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "soft CUDA: %s\n", dlerror());
  return library;
}

// One function of a source that the stand-in for nvcc has named: to compile all of Candle's takes minutes.
static void* library_with(const std::string& path, const char* name) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  const Compiled compiled = compile({text.str(), path, {"-I" + path.substr(0, path.rfind('/'))}, capability(), name});
  if (!compiled.library.empty()) return open_library(compiled.library);
  fprintf(stderr, "soft CUDA: %s does not compile:\n%s", path.c_str(), compiled.log.c_str());
  return nullptr;
}

API CUresult cuModuleLoadData(Module** module, const void* data) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  const std::string image(static_cast<const char*>(data));
  const std::string made_for = line_of(image, capability_line);
  if (!made_for.empty() && atoi(made_for.c_str()) > capability()) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  auto loaded = std::make_unique<Module>();
  loaded->context = current_context;
  loaded->source = line_of(image, source_line);
  if (loaded->source.empty()) {
    const std::string library = line_of(image, library_line);
    if (library.empty()) {
      fprintf(stderr, "soft CUDA: an image that is not the false NVRTC's: %.60s\n", image.c_str());
      return CUDA_ERROR_INVALID_IMAGE;
    }
    loaded->library = open_library(library);
    if (!loaded->library) return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
  }
  *module = loaded.release();
  return CUDA_SUCCESS;
}

API CUresult cuModuleLoadDataEx(Module** module, const void* data, unsigned, int*, void**) { return cuModuleLoadData(module, data); }
API CUresult cuModuleLoadFatBinary(Module** module, const void* data) { return cuModuleLoadData(module, data); }

API CUresult cuModuleLoad(Module** module, const char* path) {
  std::ifstream file(path);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  std::stringstream text;
  text << file.rdbuf();
  return cuModuleLoadData(module, text.str().c_str());
}

API CUresult cuModuleUnload(Module* module) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  drain_all();
  // The library stays: static shared memory of threads that still run may be in it.
  delete module;
  return CUDA_SUCCESS;
}

API CUresult cuModuleGetFunction(Function** function, Module* module, const char* name) {
  NEEDS_CONTEXT();
  if (!module) return CUDA_ERROR_INVALID_HANDLE;
  std::lock_guard<std::mutex> lock(module->mutex);
  auto& known = module->functions[name];
  if (!known) {
    void* library = module->source.empty() ? module->library : library_with(module->source, name);
    const void* entry = library ? dlsym(library, (std::string("soft_entry_") + name).c_str()) : nullptr;
    if (!entry) {
      module->functions.erase(name);
      return CUDA_ERROR_NOT_FOUND;
    }
    known = std::make_unique<Function>();
    known->name = name;
    known->entry = static_cast<const soft_Entry*>(entry);
    known->module = module;
    known->static_shared = shared_of(library);
  }
  *function = known.get();
  return CUDA_SUCCESS;
}

API CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, Module*, const char*) {
  COUNT();
  return CUDA_ERROR_NOT_SUPPORTED;
}

enum { MAX_THREADS = 0, SHARED = 1, CONSTANT = 2, LOCAL = 3, REGISTERS = 4, PTX_VERSION = 5, BINARY_VERSION = 6, MAX_DYNAMIC_SHARED = 8 };
static constexpr int most_shared = 227 << 10;

API CUresult cuFuncGetAttribute(int* value, int attribute, Function* function) {
  NEEDS_CONTEXT();
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  switch (attribute) {
    case MAX_THREADS: *value = function->entry->most_threads ? int(function->entry->most_threads) : 1024; break;
    case SHARED: *value = int(function->static_shared.bytes); break;
    case REGISTERS: *value = 32; break;
    case PTX_VERSION:
    case BINARY_VERSION: *value = capability(); break;
    case MAX_DYNAMIC_SHARED: *value = function->most_dynamic_shared; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

API CUresult cuFuncSetAttribute(Function* function, int attribute, int value) {
  NEEDS_CONTEXT();
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  if (attribute == MAX_DYNAMIC_SHARED) {
    if (value < 0 || value > most_shared) return CUDA_ERROR_INVALID_VALUE;
    function->most_dynamic_shared = value;
  }
  return CUDA_SUCCESS;
}

API CUresult cuFuncSetCacheConfig(Function*, int) { return CUDA_SUCCESS; }

static unsigned most_threads(const Function* f) { return f->entry->most_threads ? min(f->entry->most_threads, 1024u) : 1024u; }

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, Function* function, int threads, size_t shared, unsigned) {
  NEEDS_CONTEXT();
  if (!function || threads <= 0) return CUDA_ERROR_INVALID_VALUE;
  const int by_threads = unsigned(threads) > most_threads(function) ? 0 : 2048 / ((threads + 31) / 32 * 32);
  const int by_shared = int((228 << 10) / (shared + 1024));
  *blocks = shared > size_t(function->most_dynamic_shared) ? 0 : min(32, min(by_threads, by_shared));
  return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int threads, size_t shared) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}

Work launch_work(Function* function, dim3 blocks, dim3 threads, unsigned shared, void** arguments) {
  const soft_Entry* entry = function->entry;
  // Each argument begins at a multiple of 16 bytes.
  auto bytes = std::make_shared<std::vector<unsigned char>>();
  std::vector<size_t> offsets;
  for (unsigned i = 0; i < entry->arguments; i++) {
    offsets.push_back(bytes->size());
    const auto from = static_cast<const unsigned char*>(arguments[i]);
    bytes->insert(bytes->end(), from, from + entry->sizes[i]);
    bytes->resize((bytes->size() + 15) / 16 * 16);
  }
  const std::string name = function->name;
  const StaticShared static_shared = function->static_shared;
  return {name, [=] {
            std::vector<void*> pointers;
            for (const size_t offset : offsets) pointers.push_back(bytes->data() + offset);
            count("kernel", name);
            static const bool trace = getenv("SOFT_CUDA_TRACE") && !strcmp(getenv("SOFT_CUDA_TRACE"), "1");
            if (trace)
              fprintf(stderr, "soft CUDA: %s<<<(%u, %u, %u), (%u, %u, %u), %u>>>\n", name.c_str(), blocks.x, blocks.y, blocks.z, threads.x,
                      threads.y, threads.z, shared);
            run_grid({name.c_str(), entry, blocks, threads, shared, pointers.data(), static_shared});
          }};
}

// An argument that points to memory of another device would be an error there.
static bool of_this_device(const Function* function, void** arguments) {
  if (device_count() < 2) return true;
  for (unsigned i = 0; i < function->entry->arguments; i++) {
    uintptr_t value;
    Allocation a;
    if (function->entry->sizes[i] != sizeof value) continue;
    memcpy(&value, arguments[i], sizeof value);
    if (find_allocation(value, &a) && !a.pinned && a.device != function->module->context->device) return false;
  }
  return true;
}

API CUresult cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                            unsigned shared, void* handle, void** arguments, void** extra) {
  NEEDS_CONTEXT();
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  Stream* stream = stream_of(handle);
  if (!stream || function->module->context != stream->context) return CUDA_ERROR_INVALID_HANDLE;
  if (extra || (!arguments && function->entry->arguments)) return CUDA_ERROR_INVALID_VALUE;
  const unsigned long long threads = (unsigned long long)bx * by * bz;
  if (!gx || !gy || !gz || !threads || gx > 2147483647u || gy > 65535 || gz > 65535) return CUDA_ERROR_INVALID_VALUE;
  if (bx > 1024 || by > 1024 || bz > 64 || threads > most_threads(function)) return CUDA_ERROR_INVALID_VALUE;
  if (shared > unsigned(function->most_dynamic_shared)) return CUDA_ERROR_INVALID_VALUE;
  if (!of_this_device(function, arguments)) fail("kernel %s: an argument points to memory of another device", function->name.c_str());
  return submit(stream, launch_work(function, {gx, gy, gz}, {bx, by, bz}, shared, arguments));
}
