// What the tests of the matrix kernels share: guarded memory, random maps, a launch, a comparison.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <tuple>
#include <vector>

#include "../runtime.h"

#include "../../../seg-unet/src/cuda/prelude.cu"

// What the driver knows of its allocations; there is no driver here.
__attribute__((weak)) void describe_address(const void* address, char* text, size_t size) {
  snprintf(text, size, "%p", address);
}

// Device memory: full of NaN, its end at the end of a page, beyond which nothing may be touched.
template <class E>
class Device {
 public:
  explicit Device(long long count) {
    const size_t page = 4096, bytes = (size_t(count) * sizeof(E) + 31) / 32 * 32;
    size = (bytes + page - 1) / page * page + 2 * page;
    base = static_cast<unsigned char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base == MAP_FAILED) abort();
    memset(base, 0xFF, size);
    mprotect(base, page, PROT_NONE);
    mprotect(base + size - page, page, PROT_NONE);
    data = reinterpret_cast<E*>(base + size - page - bytes);
  }
  ~Device() { munmap(base, size); }
  Device(const Device&) = delete;
  E& operator[](size_t i) { return data[i]; }
  E* data;

 private:
  unsigned char* base;
  size_t size;
};

// Numbers in sequence from a seed, the same on every machine.
class Random {
 public:
  explicit Random(unsigned long long seed) : state(seed * 0x9E3779B97F4A7C15ull + 1) {}
  unsigned long long bits() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545F4914F6CDD1Dull;
  }
  int below(int n) { return int((bits() >> 33) % unsigned(n)); }
  int pick(std::initializer_list<int> of) { return of.begin()[below(int(of.size()))]; }
  float value() { return float(double(bits() >> 11) / double(1ull << 52) - 1.0); }  // in [-1, 1)
 private:
  unsigned long long state;
};

// A map inside of a wider one: `channels` of `pitch`, from `offset` on. What is not its own stays NaN.
struct Map {
  int n, h, w, channels, pitch, offset;
  Device<T> memory;
  Map(int n_, int h_, int w_, int channels_, int pitch_, int offset_)
      : n(n_), h(h_), w(w_), channels(channels_), pitch(pitch_), offset(offset_),
        memory((long long)n_ * h_ * w_ * pitch_) {}
  // Random placement: alone, or a part of a concatenation.
  Map(int n_, int h_, int w_, int channels_, Random& random)
      : Map(n_, h_, w_, channels_, random.below(3), random) {}
  Map(int n_, int h_, int w_, int channels_, int before, Random& random)
      : Map(n_, h_, w_, channels_, channels_ + 16 * (before + random.below(3)), 16 * before) {}
  T* base() { return memory.data + offset; }
  T& at(int i, int y, int x, int c) { return base()[((size_t(i) * h + y) * w + x) * pitch + c]; }
  double value(int i, int y, int x, int c) {
    return y < 0 || y >= h || x < 0 || x >= w ? 0.0 : double(widen(at(i, y, x, c)));
  }
  // Random numbers; zeros from channel `real` on, as in the padding.
  void fill(Random& random, int real) {
    for (int i = 0; i < n; ++i)
      for (int y = 0; y < h; ++y)
        for (int x = 0; x < w; ++x)
          for (int c = 0; c < channels; ++c) at(i, y, x, c) = c < real ? narrow(random.value()) : narrow(0.0f);
  }
  // Whether everything beside the map's own channels still is as it was allocated.
  bool neighbours_untouched() {
    for (size_t pixel = 0; pixel < size_t(n) * h * w; ++pixel)
      for (int c = 0; c < pitch; ++c)
        if (c < offset || c >= offset + channels) {
          const unsigned char* bytes = reinterpret_cast<unsigned char*>(&memory[pixel * pitch + c]);
          for (size_t k = 0; k < sizeof(T); ++k)
            if (bytes[k] != 0xFF) return false;
        }
    return true;
  }
};

// Runs a grid; the arguments are converted to the kernel's own types.
template <class... P, class... A>
void launch(const char* name, const soft_Entry& entry, void (*)(P...), dim3 blocks, unsigned threads, unsigned shared,
            A... arguments) {
  std::tuple<std::remove_const_t<P>...> values(arguments...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))...};
        run_grid(Launch{name, &entry, blocks, dim3(threads, 1, 1), shared, pointers, {}});
      },
      values);
}
#define LAUNCH(kernel, ...) launch(#kernel, soft_entry_##kernel, kernel, __VA_ARGS__)

// The error a kernel may make, as a part of the largest value that it computes.
constexpr double tolerance = PRECISION == 0 ? 1e-5 : PRECISION == 1 ? 1e-3 : 1e-2;

// The largest difference from the reference against the largest value of the reference.
class Comparison {
 public:
  void add(double found, double expected) {
    const double difference = fabs(found - expected);
    if (!(difference <= error)) error = difference;  // a NaN stays
    if (fabs(expected) > most) most = fabs(expected);
    ++count;
  }
  // Ends the test if the error is too large.
  void check(const char* what, double allowed) const {
    if (error <= allowed * most + 1e-30 && count > 0) return;
    fprintf(stderr, "FAILED %s: error %g of %g, allowed is the part %g (%zu values)\n", what, error, most, allowed,
            count);
    exit(1);
  }
  double part() const { return most > 0.0 ? error / most : 0.0; }

 private:
  double error = 0.0, most = 0.0;
  size_t count = 0;
};

inline void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "FAILED %s\n", what);
  exit(1);
}

// The weights w[row][k] of a product as the kernels want them: [k / CHUNK][rows][CHUNK], for each of `taps`
// between the two: [k / CHUNK][taps][rows][CHUNK].
template <class W>
void pack(Device<T>& packed, int taps, int rows, int depth, W weight) {
  for (int k = 0; k < depth; ++k)
    for (int tap = 0; tap < taps; ++tap)
      for (int row = 0; row < rows; ++row)
        packed[((size_t(k / CHUNK) * taps + tap) * rows + row) * CHUNK + k % CHUNK] = narrow(weight(tap, row, k));
}
