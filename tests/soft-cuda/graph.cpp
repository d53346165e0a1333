// Graphs: what a capture has recorded, in the order in which it was given.
#include "driver.h"

namespace {
// What can be launched; it outlives the graph.
struct Executable {
  std::shared_ptr<std::vector<Work>> nodes;
  std::shared_ptr<GraphMemory> memory;
  bool free_first;
};
}  // namespace

GraphMemory::~GraphMemory() {
  for (uintptr_t address : addresses) release(address);
}

API CUresult cuGraphInstantiateWithFlags(Executable** executable, Graph* graph, unsigned long long flags) {
  NEEDS_CONTEXT();
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  // To be launched from the device it needs more than can be here, and is refused with automatic frees anyway.
  if (flags & 4) return CUDA_ERROR_INVALID_VALUE;
  *executable = new Executable{std::make_shared<std::vector<Work>>(graph->nodes), graph->memory, (flags & 1) != 0};
  return CUDA_SUCCESS;
}
API CUresult cuGraphInstantiate_v2(Executable** executable, Graph* graph, void*, char*, size_t) {
  return cuGraphInstantiateWithFlags(executable, graph, 0);
}

API CUresult cuGraphUpload(Executable* executable, void*) {
  NEEDS_CONTEXT();
  return executable ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGraphLaunch(Executable* executable, void* handle) {
  NEEDS_CONTEXT();
  if (!executable) return CUDA_ERROR_INVALID_VALUE;
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  // What an earlier launch has allocated must be free again, or is freed if that was asked for.
  if (!executable->memory->addresses.empty()) {
    drain(stream);
    for (uintptr_t address : executable->memory->addresses) {
      Allocation a;
      if (!find_allocation(address, &a) || !a.live) continue;
      if (!executable->free_first) return CUDA_ERROR_INVALID_VALUE;
      bury(address);
    }
  }
  return submit(stream, {"graph", [nodes = executable->nodes] {
                           for (const Work& node : *nodes) node.run();
                         }});
}

API CUresult cuGraphExecDestroy(Executable* executable) {
  NEEDS_CONTEXT();
  if (!executable) return CUDA_ERROR_INVALID_VALUE;
  drain_all();
  delete executable;
  return CUDA_SUCCESS;
}

API CUresult cuGraphDestroy(Graph* graph) {
  NEEDS_CONTEXT();
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  delete graph;
  return CUDA_SUCCESS;
}

API CUresult cuGraphGetNodes(Graph* graph, void** nodes, size_t* n) {
  NEEDS_CONTEXT();
  if (nodes)
    for (size_t i = 0; i < *n && i < graph->nodes.size(); i++) nodes[i] = &graph->nodes[i];
  *n = graph->nodes.size();
  return CUDA_SUCCESS;
}
