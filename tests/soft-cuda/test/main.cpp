// The self-test of soft CUDA, by way of the same functions that a program calls. It needs no GPU, and on one it must pass too,
// but for the kernels that are wrong on purpose.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

extern "C" {
int cuInit(unsigned), cuDeviceGet(int*, int), cuDevicePrimaryCtxRetain(void**, int), cuCtxSetCurrent(void*);
int cuMemAlloc_v2(unsigned long long*, size_t), cuMemFree_v2(unsigned long long);
int cuMemcpyHtoD_v2(unsigned long long, const void*, size_t), cuMemcpyDtoH_v2(void*, unsigned long long, size_t);
int cuModuleLoadData(void**, const void*), cuModuleGetFunction(void**, void*, const char*), cuCtxSynchronize();
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuStreamCreate(void**, unsigned), cuStreamSynchronize(void*), cuStreamBeginCapture_v2(void*, int), cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long), cuGraphLaunch(void*, void*), cuFuncSetAttribute(void*, int, int);
int cuMemsetD8Async(unsigned long long, unsigned char, size_t, void*), cuEventCreate(void**, unsigned), cuEventRecord(void*, void*);
int cuMemAllocAsync(unsigned long long*, size_t, void*), cuMemFreeAsync(unsigned long long, void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int nvrtcCreateProgram(void**, const char*, const char*, int, const char* const*, const char* const*);
int nvrtcCompileProgram(void*, int, const char* const*), nvrtcGetPTXSize(void*, size_t*), nvrtcGetPTX(void*, char*);
int nvrtcGetProgramLogSize(void*, size_t*), nvrtcGetProgramLog(void*, char*);
}

static int checks = 0;
#define CHECK(condition) \
  do { \
    checks++; \
    if (!(condition)) fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition), exit(1); \
  } while (0)
#define OK(call) CHECK((call) == 0)

static void* module;

static void* function(const char* name) {
  void* f;
  OK(cuModuleGetFunction(&f, module, name));
  return f;
}

struct Buffer {
  unsigned long long p = 0;
  size_t bytes;
  explicit Buffer(size_t bytes) : bytes(bytes) { OK(cuMemAlloc_v2(&p, bytes)); }
  template <typename T>
  explicit Buffer(const std::vector<T>& v) : Buffer(v.size() * sizeof(T)) {
    OK(cuMemcpyHtoD_v2(p, v.data(), bytes));
  }
  ~Buffer() { cuMemFree_v2(p); }
  template <typename T>
  std::vector<T> read() const {
    std::vector<T> v(bytes / sizeof(T));
    OK(cuMemcpyDtoH_v2(v.data(), p, bytes));
    return v;
  }
};

template <typename... A>
static int launch(const char* name, unsigned blocks, unsigned threads, unsigned shared, void* stream, A... arguments) {
  void* pointers[] = {&arguments...};
  return cuLaunchKernel(function(name), blocks, 1, 1, threads, 1, 1, shared, stream, pointers, nullptr);
}

static unsigned state = 1;
static float any() {
  state = state * 1664525u + 1013904223u;
  return float(state >> 8) / float(1 << 23) - 1;
}
static unsigned short bf16(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return (unsigned short)(bits >> 16);
}
static float number(unsigned short bf16) {
  const unsigned bits = unsigned(bf16) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
static bool close(float a, float b) { return fabsf(a - b) <= 1e-5f * (1 + fabsf(b)); }

static void test_sums() {
  std::vector<float> in(3 * 256);
  for (float& x : in) x = any();
  Buffer a(in), b(in.size() * 4);
  OK(launch("sums", 3, 256, 0, nullptr, a.p, b.p));
  const auto out = b.read<float>();
  for (int block = 0; block < 3; block++) {
    float sum = 0;
    for (int i = 0; i < 256; i++) sum += in[size_t(block * 256 + i)];
    for (int i = 0; i < 256; i++) CHECK(close(out[size_t(block * 256 + i)], sum));
  }
  OK(launch("sums_without_barrier", 3, 256, 0, nullptr, a.p, b.p));
  const auto wrong = b.read<float>();
  CHECK(memcmp(wrong.data(), out.data(), out.size() * 4) != 0);
}

static void test_shuffles() {
  Buffer b(64 * 10 * 4);
  OK(launch("shuffles", 1, 64, 0, nullptr, b.p));
  const auto out = b.read<int>();
  unsigned votes = 0;
  for (int i = 0; i < 32; i += 3) votes |= 1u << i;
  for (int i = 0; i < 64; i++) {
    const int lane = i % 32;
    const int* mine = &out[size_t(i * 10)];
    CHECK(mine[0] == 15);
    CHECK(mine[1] == 3 * (lane >= 2 ? lane - 2 : lane));
    CHECK(mine[2] == 3 * (lane % 8 + 4 < 8 ? lane + 4 : lane));
    // By 9 the lane leaves its group of 8: to one before it may, to one behind it may not.
    CHECK(mine[3] == 3 * ((lane ^ 9) <= (lane | 7) ? lane ^ 9 : lane));
    CHECK(unsigned(mine[4]) == votes);
    CHECK(mine[5] == (lane < 16 ? 3 : 20));
    CHECK(mine[6] == 10);
    CHECK(mine[7] == 496);
    CHECK(mine[8] == 1);
    if (lane <= 10) CHECK(mine[9] == 10);
  }
}

static void test_mma() {
  // Of 16-bit numbers.
  unsigned short a[16][16], b[16][8];
  float c[16][8], expected[16][8];
  for (auto& row : a) for (auto& x : row) x = bf16(any());
  for (auto& row : b) for (auto& x : row) x = bf16(any());
  for (auto& row : c) for (auto& x : row) x = any();
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 8; n++) {
      expected[m][n] = c[m][n];
      for (int k = 0; k < 16; k++) expected[m][n] += number(a[m][k]) * number(b[k][n]);
    }
  std::vector<unsigned> fa, fb;
  std::vector<float> fc;
  auto pair = [](unsigned low, unsigned high) { return high << 16 | low; };
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    fa.push_back(pair(a[g][2 * t], a[g][2 * t + 1]));
    fa.push_back(pair(a[g + 8][2 * t], a[g + 8][2 * t + 1]));
    fa.push_back(pair(a[g][2 * t + 8], a[g][2 * t + 9]));
    fa.push_back(pair(a[g + 8][2 * t + 8], a[g + 8][2 * t + 9]));
    fb.push_back(pair(b[2 * t][g], b[2 * t + 1][g]));
    fb.push_back(pair(b[2 * t + 8][g], b[2 * t + 9][g]));
    for (float x : {c[g][2 * t], c[g][2 * t + 1], c[g + 8][2 * t], c[g + 8][2 * t + 1]}) fc.push_back(x);
  }
  auto compare = [&](const Buffer& buffer) {
    const auto out = buffer.read<float>();
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane / 4, t = lane % 4;
      const float* mine = &out[size_t(lane * 4)];
      CHECK(close(mine[0], expected[g][2 * t]));
      CHECK(close(mine[1], expected[g][2 * t + 1]));
      CHECK(close(mine[2], expected[g + 8][2 * t]));
      CHECK(close(mine[3], expected[g + 8][2 * t + 1]));
    }
  };
  Buffer da(fa), db(fb), dc(fc);
  OK(launch("multiply_bf16", 1, 32, 0, nullptr, da.p, db.p, dc.p));
  compare(dc);

  // Of tf32, whose low bits must not matter: 16×8 by 8×8, of the same numbers.
  std::vector<unsigned> ta, tb;
  auto tf32 = [](unsigned short x) { return unsigned(x) << 16 | 0x1234u; };
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 8; n++) {
      expected[m][n] = c[m][n];
      for (int k = 0; k < 8; k++) expected[m][n] += number(a[m][k]) * number(b[k][n]);
    }
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (unsigned short x : {a[g][t], a[g + 8][t], a[g][t + 4], a[g + 8][t + 4]}) ta.push_back(tf32(x));
    for (unsigned short x : {b[t][g], b[t + 4][g]}) tb.push_back(tf32(x));
  }
  Buffer ea(ta), eb(tb), ec(fc);
  OK(launch("multiply_tf32", 1, 32, 0, nullptr, ea.p, eb.p, ec.p));
  compare(ec);
}

static void test_ldmatrix() {
  std::vector<unsigned short> in(256);
  for (size_t i = 0; i < 256; i++) in[i] = (unsigned short)i;
  Buffer a(in), b(32 * 8 * 4);
  OK(launch("load", 1, 32, 512, nullptr, a.p, b.p));
  const auto out = b.read<unsigned>();
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned m = 0; m < 4; m++) {
      const unsigned top = m % 2 * 8, left = m / 2 * 8, row = lane / 4, column = lane % 4 * 2;
      auto at = [&](unsigned r, unsigned c) { return unsigned(in[(top + r) * 16 + left + c]); };
      CHECK(out[lane * 8 + m] == (at(row, column) | at(row, column + 1) << 16));
      CHECK(out[lane * 8 + 4 + m] == (at(column, row) | at(column + 1, row) << 16));
    }
}

static void test_copies() {
  std::vector<float> in(256);
  for (float& x : in) x = any();
  Buffer a(in), b(1024);
  OK(launch("copies", 1, 32, 1024, nullptr, a.p, b.p, 1));
  auto out = b.read<float>();
  for (size_t i = 0; i < 256; i++) CHECK(out[i] == (i < 128 || i % 4 < 2 ? in[i] : 0));
  OK(launch("copies", 1, 32, 1024, nullptr, a.p, b.p, 0));
  for (float x : b.read<float>()) CHECK(isnan(x));
}

static void test_blocks() {
  std::vector<unsigned> zeros(2);
  Buffer counter(zeros);
  const unsigned long long last = counter.p + 4;
  void* arguments[] = {&counter.p, const_cast<unsigned long long*>(&last)};
  OK(cuLaunchKernel(function("count_blocks"), 17, 5, 3, 4, 2, 1, 0, nullptr, arguments, nullptr));
  const auto out = counter.read<unsigned>();
  CHECK(out[0] == 255 && out[1] == 254);
  Buffer many(1000 * 8);
  OK(launch("double_index", 250, 4, 0, nullptr, many.p));
  const auto numbers = many.read<double>();
  for (size_t i = 0; i < 1000; i++) CHECK(numbers[i] == double(i / 4) + 0.5);
}

static void test_limits() {
  Buffer b(1024);
  CHECK(launch("double_index", 0, 4, 0, nullptr, b.p) == 1);
  CHECK(launch("double_index", 1, 1025, 0, nullptr, b.p) == 1);
  CHECK(launch("sums", 1, 512, 0, nullptr, b.p, b.p) == 1);  // more than its __launch_bounds__
  CHECK(launch("double_index", 1, 4, 100 << 10, nullptr, b.p) == 1);
  OK(cuFuncSetAttribute(function("double_index"), 8, 100 << 10));
  OK(launch("double_index", 1, 4, 100 << 10, nullptr, b.p));
  CHECK(cuFuncSetAttribute(function("double_index"), 8, 228 << 10) == 1);
  void* f;
  CHECK(cuModuleGetFunction(&f, module, "nobody") == 500);
  // Fresh memory holds nothing of use.
  for (float x : Buffer(1000).read<float>()) CHECK(isnan(x));
}

static void test_graph() {
  void *stream, *graph, *executable, *event;
  OK(cuStreamCreate(&stream, 1));
  Buffer b(64 * 8);
  OK(cuMemsetD8Async(b.p, 0, b.bytes, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuStreamBeginCapture_v2(stream, 1));
  OK(launch("double_index", 2, 32, 0, stream, b.p));
  OK(cuStreamEndCapture(stream, &graph));
  CHECK(b.read<double>()[40] == 0);
  OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
  OK(cuGraphLaunch(executable, stream));
  OK(cuStreamSynchronize(stream));
  CHECK(b.read<double>()[40] == 1.5);

  // What may not be done while a stream captures.
  OK(cuStreamBeginCapture_v2(stream, 1));
  CHECK(cuStreamSynchronize(stream) == 900);
  CHECK(launch("double_index", 2, 32, 0, stream, b.p) == 901);
  CHECK(cuStreamEndCapture(stream, &graph) == 901 && !graph);
  OK(cuStreamBeginCapture_v2(stream, 1));
  unsigned long long p;
  CHECK(cuMemAlloc_v2(&p, 16) == 900);
  CHECK(cuStreamEndCapture(stream, &graph) == 901);
  OK(cuEventCreate(&event, 2));
  OK(cuEventRecord(event, stream));
  OK(cuStreamBeginCapture_v2(stream, 1));
  CHECK(cuStreamWaitEvent(stream, event, 0) == 905);
  CHECK(cuStreamEndCapture(stream, &graph) == 901);

  // Memory of a graph's own.
  OK(cuStreamBeginCapture_v2(stream, 1));
  OK(cuMemAllocAsync(&p, 64 * 8, stream));
  OK(launch("double_index", 2, 32, 0, stream, p));
  OK(cuMemFreeAsync(p, stream));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
  OK(cuGraphLaunch(executable, stream));
  OK(cuGraphLaunch(executable, stream));
  OK(cuStreamSynchronize(stream));
}

// Runs what must end the process, in a process of its own; what it said has to hold the words.
template <typename Fault>
static void must_say(const char* words, Fault fault) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    fault();
    cuCtxSynchronize();
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char buffer[512];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, size_t(n));
  close(ends[0]);
  int status;
  waitpid(child, &status, 0);
  if (said.find(words) == std::string::npos || !WIFSIGNALED(status))
    fprintf(stderr, "expected \"%s\", got \"%s\" and status %d\n", words, said.c_str(), status);
  CHECK(said.find(words) != std::string::npos && WIFSIGNALED(status));
}

static void test_faults() {
  Buffer b(1024);
  must_say("kernel behind_the_end, block (0, 0, 0), thread (0, 0, 0): touches", [&] { launch("behind_the_end", 1, 1, 0, nullptr, b.p, 256); });
  must_say("0 bytes behind the end of an allocation of 1024 bytes", [&] { launch("behind_the_end", 1, 1, 0, nullptr, b.p, 256); });
  must_say("has been freed", [&] {
    cuMemFree_v2(b.p);
    launch("behind_the_end", 1, 1, 0, nullptr, b.p, 0);
  });
  must_say("undefined behaviour", [&] { launch("misaligned", 1, 1, 0, nullptr, b.p); });
  must_say("undefined behaviour", [&] { launch("outside_of_shared", 1, 1, 0, nullptr, b.p, 8); });
  must_say("deadlock: 1 threads are at a barrier and 31 at calls of their warps", [&] { launch("deadlock", 1, 32, 0, nullptr, b.p); });
}

int main(int, char** arguments) {
  const std::string self = arguments[0];
  std::ifstream file(arguments[1]);
  std::stringstream source;
  source << file.rdbuf();
  OK(cuInit(0));
  int device;
  void* context;
  OK(cuDeviceGet(&device, 0));
  OK(cuDevicePrimaryCtxRetain(&context, device));
  OK(cuCtxSetCurrent(context));
  void* program;
  OK(nvrtcCreateProgram(&program, source.str().c_str(), "kernels.cu", 0, nullptr, nullptr));
  const char* options[] = {"--gpu-architecture=compute_90"};
  const int result = nvrtcCompileProgram(program, 1, options);
  size_t size;
  OK(nvrtcGetProgramLogSize(program, &size));
  std::string log(size, 0);
  OK(nvrtcGetProgramLog(program, &log[0]));
  if (result) fprintf(stderr, "%s\n", log.c_str());
  OK(result);
  OK(nvrtcGetPTXSize(program, &size));
  std::string ptx(size, 0);
  OK(nvrtcGetPTX(program, &ptx[0]));
  OK(cuModuleLoadData(&module, ptx.data()));

  test_faults();  // before there are threads that a fork would lose
  test_sums();
  test_shuffles();
  test_mma();
  test_ldmatrix();
  test_copies();
  test_blocks();
  test_limits();
  test_graph();
  // A source that is wrong is told of.
  OK(nvrtcCreateProgram(&program, "extern \"C\" __global__ void k(float* x) { x[0] = y; }", nullptr, 0, nullptr, nullptr));
  CHECK(nvrtcCompileProgram(program, 0, nullptr) == 6);
  OK(nvrtcGetProgramLogSize(program, &size));
  log.assign(size, 0);
  OK(nvrtcGetProgramLog(program, &log[0]));
  CHECK(log.find("default_program:1:") != std::string::npos);
  const char* unknown[] = {"--no-such-option"};
  CHECK(nvrtcCompileProgram(program, 1, unknown) == 5);
  printf("soft CUDA: %d checks\n", checks);
}
