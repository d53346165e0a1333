// How the false driver calls an entry point: by its own signature, from pointers to its arguments.
#pragma once

struct soft_Entry {
  void (*call)(void** arguments);
  unsigned arguments;
  const unsigned* sizes;  // of each argument, in bytes
  unsigned most_threads;  // by __launch_bounds__; 0 without
};

template <typename Kernel, Kernel* kernel>
struct soft_Unpack;

template <typename... A, void (*kernel)(A...)>
struct soft_Unpack<void(A...), kernel> {
  template <size_t... i>
  static void with(void** arguments, std::index_sequence<i...>) {
    kernel(*static_cast<A*>(arguments[i])...);
    (void)arguments;
  }
  static void call(void** arguments) { with(arguments, std::index_sequence_for<A...>()); }
  static constexpr unsigned sizes[] = {unsigned(sizeof(A))..., 0};
  static constexpr unsigned arguments = sizeof...(A);
};

constexpr unsigned soft_first(unsigned first = 0, unsigned = 0, unsigned = 0) { return first; }

// One line of this for each entry point is what the false NVRTC adds to a source.
#define SOFT_ENTRY(kernel, ...) \
  extern "C" __attribute__((visibility("default"), externally_visible, used)) const soft_Entry soft_entry_##kernel = { \
      soft_Unpack<decltype(kernel), kernel>::call, soft_Unpack<decltype(kernel), kernel>::arguments, \
      soft_Unpack<decltype(kernel), kernel>::sizes, soft_first(__VA_ARGS__)};
