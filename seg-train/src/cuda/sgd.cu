// The step of the optimiser, in Keras' form, for all variables in one launch:
//   v <- mu v - eta g;  w <- w + v, or with Nesterov w <- w + mu v - eta g
// No product is contracted with a sum (the host compiles with fmad=false): an element has the CPU's bits.

typedef unsigned int u32;
typedef unsigned long long u64;

#define ENTRIES 120
#define THREADS 256
// Elements that a block takes: four of sixteen bytes a thread.
#define CHUNK (4 * 4 * THREADS)

struct Entry {
  float* w;
  float* v;
  const float* g;
  u32 length;
  u32 first;  // the first of its blocks
};

// A parameter of a kernel has room for 4 KiB.
struct Table {
  Entry entries[ENTRIES];
  u32 count;
  u32 unused;
};


static __device__ __forceinline__ bool is_number(double x) { return x - x == 0.0; }

static __device__ __forceinline__ u32 entry_of(const Table& table, u32 block) {
  u32 low = 0, high = table.count;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (table.entries[middle].first <= block) low = middle; else high = middle;
  }
  return low;
}

static __device__ __forceinline__ bool is_aligned(const void* p) { return ((u64)p & 15) == 0; }

// The sum of squares of each block's elements of g, in f64 and an order that never changes, to parts[first + block].
extern "C" __global__ void squares(const Table table, double* parts, const u32 first) {
  __shared__ double sums[THREADS];
  const u32 at = entry_of(table, blockIdx.x);
  const float* const g = table.entries[at].g;
  const u64 length = table.entries[at].length;
  const u64 begin = (u64)(blockIdx.x - table.entries[at].first) * CHUNK;
  double sum = 0.0;
  for (u32 round = 0; round < 4; round++) {
    const u64 i = begin + (u64)(round * THREADS + threadIdx.x) * 4;
    if (i + 4 <= length && is_aligned(g + i)) {
      const float4 x = *(const float4*)(g + i);
      sum += (double)x.x * x.x;
      sum += (double)x.y * x.y;
      sum += (double)x.z * x.z;
      sum += (double)x.w * x.w;
    } else {
      for (u64 j = i; j < i + 4 && j < length; j++) sum += (double)g[j] * g[j];
    }
  }
  sums[threadIdx.x] = sum;
  for (u32 half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) parts[first + blockIdx.x] = sums[0];
}

// What becomes of a step.
#define TAKEN 0
#define NO_LOSS 1
#define NO_NORM 2
#define HALTED 3

// One block. Writes the step's line of the ledger and what `update` is to do: push = {eta, whether to step}.
// state = {steps so far, whether a step has ended the run}; parts: 0 where the norm is not asked for; most: 0 where it has
// no bound.
extern "C" __global__ void decide(const float* value, const double* partial, const u32 parts, const double most,
                                  const u32 stops, const double* eta, u32* state, float* push, float* losses,
                                  double* norms, u32* ends, const u32 ring) {
  __shared__ double sums[THREADS];
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < parts; i += THREADS) sum += partial[i];
  sums[threadIdx.x] = sum;
  for (u32 half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sums[0]);
  u32 end = TAKEN;
  if (state[1]) end = HALTED;
  else if (!is_number((double)value[0])) end = NO_LOSS;
  else if (parts && !is_number(norm)) end = NO_NORM;
  if (stops && (end == NO_LOSS || end == NO_NORM)) state[1] = 1;
  const u32 line = state[0] % ring;
  losses[line] = value[0];
  norms[line] = norm;
  ends[line] = end;
  state[0] += 1;
  double step = eta[0];
  // In the step eta stands beside g and nowhere else: to scale one is to scale the other.
  if (most > 0.0 && norm > most) step *= most / norm;
  push[0] = (float)step;
  push[1] = end == TAKEN ? 1.0f : 0.0f;
}

static __device__ __forceinline__ void step(float& w, float& v, const float g, const float eta, const float mu,
                                            const u32 nesterov) {
  v = mu * v - eta * g;
  w += nesterov ? mu * v - eta * g : v;
}

extern "C" __global__ void update(const Table table, const float mu, const u32 nesterov, const float* push) {
  if (push[1] == 0.0f) return;
  const float eta = push[0];
  const u32 at = entry_of(table, blockIdx.x);
  float* const w = table.entries[at].w;
  float* const v = table.entries[at].v;
  const float* const g = table.entries[at].g;
  const u64 length = table.entries[at].length;
  const u64 begin = (u64)(blockIdx.x - table.entries[at].first) * CHUNK;
  const bool wide = is_aligned(w) && is_aligned(v) && is_aligned(g);
  for (u32 round = 0; round < 4; round++) {
    const u64 i = begin + (u64)(round * THREADS + threadIdx.x) * 4;
    if (wide && i + 4 <= length) {
      float4 a = *(const float4*)(w + i), b = *(const float4*)(v + i);
      const float4 c = *(const float4*)(g + i);
      step(a.x, b.x, c.x, eta, mu, nesterov);
      step(a.y, b.y, c.y, eta, mu, nesterov);
      step(a.z, b.z, c.z, eta, mu, nesterov);
      step(a.w, b.w, c.w, eta, mu, nesterov);
      *(float4*)(w + i) = a;
      *(float4*)(v + i) = b;
    } else {
      for (u64 j = i; j < i + 4 && j < length; j++) step(w[j], v[j], g[j], eta, mu, nesterov);
    }
  }
}
