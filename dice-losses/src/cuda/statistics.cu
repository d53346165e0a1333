// The sums of a loss in one pass over logits and truth.
//
// A block sums one part of an item's pixels: its threads sum at most 64 pixels each in f32, the threads of a warp are
// added up in f32, and everything above that in f64, always in the same order. The last block to finish adds up the
// parts and computes the loss. So the bits depend on the shape alone, and nothing is read back.
//
// Why this keeps up with memory: a thread has sixteen bytes of each class under way, so 1024 threads a multiprocessor
// have 32 to 128 kB, several times what the latency of HBM3 asks for; and the arithmetic, some 20 instructions a class
// and pixel without logarithms, fits into the time of the loads.

// What the parts are added up from and to; an argument `program` of null means that the sums are wanted alone.
struct Result {
  // [ROWS, N, C, parts]
  double* partials;
  // Blocks that have finished; 0 again when the last one has.
  unsigned* finished;
  // [ROWS, N, C]
  double* sums;
};

__device__ __forceinline__ bool is_used(int row) {
  if (row == PIXELS) return true;
  if (row == OF_CLASS) return PIXEL != 0;
  if (row == OF_OTHERS) return PIXEL != 0 && SIGMOID != 0;
  return ERRORS != 0;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Whether this block is the last of the grid to come here; what all others wrote before is then to be seen.
__device__ __forceinline__ bool is_last(unsigned* finished) {
  __shared__ int last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(finished, 1u) == gridDim.x - 1;
    if (last) *finished = 0u;
  }
  __syncthreads();
  __threadfence();
  return last != 0;
}

// The sums of all parts, in their order.
__device__ __forceinline__ void add_parts(const Result& result, Index cells, Index parts) {
  const Index outputs = ROWS * cells;
  if (parts <= 8) {
    for (Index out = threadIdx.x; out < outputs; out += THREADS) {
      double sum = 0.0;
      if (is_used((int)(out / cells))) {
        for (Index part = 0; part < parts; ++part) sum += __ldcg(result.partials + out * parts + part);
      }
      result.sums[out] = sum;
    }
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (Index out = warp; out < outputs; out += WARPS) {
    double sum = 0.0;
    if (is_used((int)(out / cells))) {
      for (Index part = lane; part < parts; part += 32) sum += __ldcg(result.partials + out * parts + part);
      sum = warp_sum(sum);
    }
    if (lane == 0) result.sums[out] = sum;
  }
}

#define SETTING                                                                                                     \
  Setting set;                                                                                                      \
  set.truth = truth;                                                                                                \
  set.weights = weights;                                                                                            \
  set.focus = focus;                                                                                                \
  set.pixels = pixels;                                                                                              \
  set.channels = (int)channels;                                                                                     \
  set.ignore = ignore;                                                                                              \
  set.gamma = gamma;                                                                                                \
  set.log_power = log_power;                                                                                        \
  set.own = own;                                                                                                    \
  set.other = other;

#if BINARY
// Quantities of a question with two answers, where it is true and where not.
#define P_TRUE 0
#define P_FALSE 1
#define Q_TRUE 2
#define Q_FALSE 3
#define ERRORS_TRUE 4
#define ERRORS_FALSE 5
#define PIXELS_TRUE 6
#define ALL_PIXELS 7
#define LOSS_TRUE 8
#define LOSS_FALSE 9
#define QUANTITIES 10

__device__ __forceinline__ bool is_summed(int quantity) {
  if (quantity == ALL_PIXELS) return WEIGHTED != 0;
  if (quantity == LOSS_TRUE || quantity == LOSS_FALSE) return PIXEL != 0;
  if (quantity == Q_TRUE || quantity == Q_FALSE) return ERRORS != 0 && SIGMOID == 0;
  return ERRORS != 0;
}

__device__ __forceinline__ void add_binary(float sums[QUANTITIES], float u, bool y, float weight, float no_focus,
                                           float focus, const Setting& set) {
  const Probability s = sigmoid(u);
  const Miss miss = miss_of(s, y, y ? focus : no_focus);
#if ERRORS
  float p = s.p, q = s.q, error = power_value(miss.e, miss.ln_e, set.gamma);
#if WEIGHTED
  p *= weight;
  q *= weight;
  error *= weight;
#endif
  if (y) {
    sums[P_TRUE] += p;
    sums[Q_TRUE] += q;
    sums[ERRORS_TRUE] += error;
    sums[PIXELS_TRUE] += weight;
  } else {
    sums[P_FALSE] += p;
    sums[Q_FALSE] += q;
    sums[ERRORS_FALSE] += error;
  }
#endif
#if PIXEL
  float loss = pixel_value(miss, set.log_power);
#if WEIGHTED
  loss *= weight;
#endif
  if (y) {
    sums[LOSS_TRUE] += loss;
  } else {
    sums[LOSS_FALSE] += loss;
  }
#endif
#if WEIGHTED
  sums[ALL_PIXELS] += weight;
#endif
}

// A row of a class, from the quantities.
__device__ __forceinline__ double row_of(const double* q, int row, int c) {
#if SIGMOID == 0
  if (c == 0) {
    // Class 0 is true where 1 is not.
    if (row == TP) return q[Q_FALSE];
    if (row == FP) return q[ERRORS_TRUE];
    if (row == FN) return q[ERRORS_FALSE];
    if (row == VOLUME) return q[ALL_PIXELS] - q[PIXELS_TRUE];
    if (row == PREDICTED) return q[Q_TRUE] + q[Q_FALSE];
    if (row == PIXELS) return q[ALL_PIXELS];
    if (row == OF_CLASS) return q[LOSS_FALSE];
    return 0.0;
  }
#endif
  if (row == TP) return q[P_TRUE];
  if (row == FP) return q[ERRORS_FALSE];
  if (row == FN) return q[ERRORS_TRUE];
  if (row == VOLUME) return q[PIXELS_TRUE];
  if (row == PREDICTED) return q[P_TRUE] + q[P_FALSE];
  if (row == PIXELS) return q[ALL_PIXELS];
  if (row == OF_CLASS) return q[LOSS_TRUE];
  return SIGMOID != 0 ? q[LOSS_FALSE] : 0.0;
}
#define PIXEL_QUANTITY ALL_PIXELS
#elif HELD > 0
// Quantities are the rows of each class; pixels are counted for all together.
#define QUANTITIES (ROWS * HELD)
#define PIXEL_QUANTITY PIXELS

__device__ __forceinline__ bool is_summed(int quantity) {
  if (quantity % ROWS == PIXELS) return WEIGHTED != 0 && quantity == PIXELS;
  return is_used(quantity % ROWS);
}

__device__ __forceinline__ double row_of(const double* q, int row, int c) {
  return row == PIXELS ? q[PIXELS] : q[c * ROWS + row];
}
#endif

#if HELD > 0

// The truths of a thread's pixels, a class.
struct Truths {
#if TRUTH == 2
  float y[HELD][VECTOR];
#endif

  __device__ __forceinline__ void load(const Setting& set, const Planes& planes, Index at, Index end) {
#if TRUTH == 2
    const float* y_planes = static_cast<const float*>(set.truth) + planes.plane * set.pixels;
#pragma unroll
    for (int c = 0; c < HELD; ++c) load_floats(y_planes + c * set.pixels, at, end, y[c]);
#endif
  }

  // That of class c at pixel j, which has a label unless truths are a value a class; 0 where a pixel does not count.
  __device__ __forceinline__ float of(const Setting& set, const Planes& planes, int c, int j, int label,
                                      float weight) const {
#if TRUTH == 2
    return truth_of(counts(weight) ? y[c][j] : 0.0f, set);
#else
    return label == (SIGMOID != 0 ? planes.yes : c) ? set.own : set.other;
#endif
  }
};

// The first or the other focal exponent of a class.
__device__ __forceinline__ float focus_of(const Setting& set, int side, int c) {
#if FOCAL
  return set.focus[side * set.channels + c];
#else
  return 0.0f;
#endif
}

// Adds a thread's pixels at `at`; returns whether a truth is none.
__device__ __forceinline__ bool add_pixels(float sums[QUANTITIES], const Element* z, const Setting& set,
                                           const Planes& planes, Index at, Index end) {
  Packed logits[HELD];
#pragma unroll
  for (int c = 0; c < HELD; ++c) logits[c] = load_logits<false>(z + c * set.pixels, at, end);
  Truths truths;
  truths.load(set, planes, at, end);
  Seen seen;
  bool stray = see(set, planes, at, end, seen);
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    const float weight = seen.weight[j];
    const bool counted = counts(weight);
#if BINARY
#if SIGMOID
    float u = logits[0].get(j);
    const float focus = focus_of(set, 0, planes.channel), no_focus = focus_of(set, 1, planes.channel);
#else
    float u = logits[HELD - 1].get(j) - logits[0].get(j);
    const float focus = focus_of(set, 0, 1), no_focus = focus_of(set, 0, 0);
#endif
    if (!counted) u = 0.0f;
    add_binary(sums, u, seen.label[j] == planes.yes, weight, no_focus, focus, set);
#else
    float zs[HELD];
#pragma unroll
    for (int c = 0; c < HELD; ++c) zs[c] = counted ? logits[c].get(j) : 0.0f;
#if SIGMOID
    const Probability s = sigmoid(zs[0]);
    const float y = truths.of(set, planes, 0, j, seen.label[j], weight);
    stray |= fabsf(y - 0.5f) > 0.5f;
    add_soft(sums, s, y, weight, focus_of(set, 0, planes.channel), focus_of(set, 1, planes.channel), set);
#else
    Classes classes;
    classes.softmax(zs);
#if SOFT
#pragma unroll
    for (int c = 0; c < HELD; ++c) {
      const float y = truths.of(set, planes, c, j, seen.label[j], weight);
      stray |= fabsf(y - 0.5f) > 0.5f;
      add_soft(sums + c * ROWS, classes.of(c), y, weight, focus_of(set, 0, c), 0.0f, set);
    }
#else
    const int label = seen.label[j];
    Miss miss = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int c = 0; c < HELD; ++c) {
      if (label == c) {
        miss.e = classes.q[c];
        miss.r = classes.p[c];
        miss.minus_ln_r = -classes.ln_p[c];
        miss.focus = focus_of(set, 0, c);
      }
    }
#if LOGS_OF_ERRORS
    miss.ln_e = ln_of_complement(miss.e);
#endif
    float loss = 0.0f;
#if PIXEL
    loss = pixel_value(miss, set.log_power) * weight;
#endif
#pragma unroll
    for (int c = 0; c < HELD; ++c) {
      add_hard(sums + c * ROWS, label == c, classes.p[c], classes.ln_p[c], miss, loss, weight, set);
    }
#endif
#endif
#if WEIGHTED
    sums[PIXELS] += weight;
#endif
#endif
  }
  return stray;
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    statistics(const Element* __restrict__ logits, const void* __restrict__ truth, const void* __restrict__ weights,
               const float* __restrict__ focus, const Index items, const Index channels, const Index pixels,
               const Index part, const Index parts, const Index ignore, const float gamma, const float log_power,
               const float own, const float other, double* partials, unsigned* finished, double* sums,
               const double* program, const double* all_sums, double* derivatives, double* workspace,
               const double* sample_weights, double* value, float* value_f32) {
  __shared__ double of_warps[WARPS][QUANTITIES];
  __shared__ double totals[QUANTITIES];
  SETTING
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Index group = blockIdx.x / parts, part_at = blockIdx.x % parts;
  const Planes planes = planes_of(group, set.channels);
  const Element* z = logits + planes.plane * pixels;
  const Index start = part_at * part, end = start + part < pixels ? start + part : pixels;
  if (lane == 0) {
    for (int q = 0; q < QUANTITIES; ++q) of_warps[warp][q] = 0.0;
  }
  bool stray = false;
  for (Index piece = start; piece < end; piece += PIECE) {
    const Index stop = piece + PIECE < end ? piece + PIECE : end;
    float quantities[QUANTITIES];
#pragma unroll
    for (int q = 0; q < QUANTITIES; ++q) quantities[q] = 0.0f;
    // Of one or two planes a thread has two loads under way, of more they are enough.
#pragma unroll(HELD <= 2 ? 2 : 1)
    for (Index at = piece + FIRST; at < stop; at += TILE) stray |= add_pixels(quantities, z, set, planes, at, stop);
#pragma unroll
    for (int q = 0; q < QUANTITIES; ++q) {
      if (is_summed(q)) {
        const float sum = warp_sum(quantities[q]);
        if (lane == 0) of_warps[warp][q] += sum;
      }
    }
  }
  stray = __syncthreads_or(stray) != 0;
  if (threadIdx.x < QUANTITIES) {
    double total = 0.0;
    for (int w = 0; w < WARPS; ++w) total += of_warps[w][threadIdx.x];
    if (WEIGHTED == 0 && threadIdx.x == PIXEL_QUANTITY) total = end > start ? (double)(end - start) : 0.0;
    totals[threadIdx.x] = total;
  }
  __syncthreads();
  const Index cells = items * channels;
  if (threadIdx.x < ROWS * HELD) {
    const int row = threadIdx.x % ROWS, c = threadIdx.x / ROWS;
    if (is_used(row)) {
      // A truth that is none makes the loss a NaN: there is no other way to say so without asking the device.
      const double sum = stray ? not_a_number() : row_of(totals, row, c);
      partials[(row * cells + planes.plane + c) * parts + part_at] = sum;
    }
  }
  if (!is_last(finished)) return;
  const Result result = {partials, finished, sums};
  add_parts(result, cells, parts);
  if (program == nullptr) return;
  __syncthreads();
  algebra(program, all_sums, derivatives, workspace, sample_weights, items, channels, value, value_f32);
}

#else

// ---- Any number of classes, one after the other. Their logits are read twice, the second time from a cache: a block's
// pixels are few.

// Pixels of a thread.
#define HERE 8
#undef TILE
#define TILE (THREADS * HERE)

// The pixels of a thread, THREADS apart from each other.
struct Pixels {
  Online softmax[HERE];
  int label[HERE];
  float weight[HERE];
};

__device__ __forceinline__ float logit(const Element* z, const Setting& set, Index at, Index end, int c, float weight) {
  return at < end && counts(weight) ? number(z[c * set.pixels + at]) : 0.0f;
}

// Class numbers, weights and softmax of a thread's pixels; returns whether a label is none.
__device__ __forceinline__ bool load(Pixels& here, const Element* z, const Setting& set, const Planes& planes,
                                     Index first, Index end) {
  bool stray = false;
#pragma unroll
  for (int j = 0; j < HERE; ++j) {
    const Index at = first + j * THREADS;
    here.label[j] = 0;
    here.weight[j] = 0.0f;
    if (at < end) {
      here.weight[j] = 1.0f;
#if WEIGHTS == 1
      here.weight[j] = static_cast<const float*>(set.weights)[planes.item * set.pixels + at];
      stray |= !(here.weight[j] >= 0.0f && here.weight[j] <= 3.0e38f);
#elif WEIGHTS == 2
      here.weight[j] = static_cast<const unsigned char*>(set.weights)[planes.item * set.pixels + at] != 0 ? 1.0f : 0.0f;
#endif
#if TRUTH != 2
#if LABEL == 0
      const unsigned raw = static_cast<const unsigned char*>(set.truth)[planes.item * set.pixels + at];
      const bool ignored = IGNORE != 0 && raw == (unsigned)set.ignore;
#elif LABEL == 1
      const unsigned raw = static_cast<const unsigned*>(set.truth)[planes.item * set.pixels + at];
      const bool ignored = IGNORE != 0 && raw == (unsigned)set.ignore;
#else
      const unsigned long long raw = static_cast<const unsigned long long*>(set.truth)[planes.item * set.pixels + at];
      const bool ignored = IGNORE != 0 && raw == (unsigned long long)set.ignore;
#endif
      const bool is_class = raw < (unsigned)set.channels;
      stray |= !is_class && !ignored;
      here.label[j] = is_class ? (int)raw : 0;
      if (ignored) here.weight[j] = 0.0f;
#endif
    }
    here.softmax[j].begin(logit(z, set, at, end, 0, here.weight[j]));
  }
  for (int c = 1; c < set.channels; ++c) {
#pragma unroll
    for (int j = 0; j < HERE; ++j) {
      here.softmax[j].see(logit(z, set, first + j * THREADS, end, c, here.weight[j]), c);
    }
  }
#pragma unroll
  for (int j = 0; j < HERE; ++j) here.softmax[j].end();
  return stray;
}

// The truth of class c.
__device__ __forceinline__ float truth_at(const Pixels& here, int j, const Setting& set, const Planes& planes, Index at,
                                          Index end, int c) {
#if TRUTH == 2
  const float* y = static_cast<const float*>(set.truth) + (planes.plane + c) * set.pixels;
  return truth_of(at < end && counts(here.weight[j]) ? y[at] : 0.0f, set);
#else
  return here.label[j] == c ? set.own : set.other;
#endif
}

__device__ __forceinline__ float focus_of(const Setting& set, int c) {
#if FOCAL
  return set.focus[c];
#else
  return 0.0f;
#endif
}

// The pixel seen from the class that is true.
__device__ __forceinline__ Miss true_miss(const Pixels& here, int j, const Element* z, const Setting& set, Index at,
                                          Index end) {
  const int c = here.label[j];
  const Probability s = here.softmax[j].of(logit(z, set, at, end, c, here.weight[j]), c);
  Miss miss = {s.q, s.p, 0.0f, -s.ln_p, focus_of(set, c)};
#if LOGS_OF_ERRORS
  miss.ln_e = ln_of_complement(miss.e);
#endif
  return miss;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    statistics(const Element* __restrict__ logits, const void* __restrict__ truth, const void* __restrict__ weights,
               const float* __restrict__ focus, const Index items, const Index channels, const Index pixels,
               const Index part, const Index parts, const Index ignore, const float gamma, const float log_power,
               const float own, const float other, double* partials, unsigned* finished, double* sums,
               const double* program, const double* all_sums, double* derivatives, double* workspace,
               const double* sample_weights, double* value, float* value_f32) {
  // Twice, so that one class is added up while the next one is summed.
  __shared__ float of_warps[2][WARPS][ROWS];
  SETTING
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Index group = blockIdx.x / parts, part_at = blockIdx.x % parts;
  const Planes planes = planes_of(group, set.channels);
  const Element* z = logits + planes.plane * pixels;
  const Index start = part_at * part, end = start + part < pixels ? start + part : pixels;
  const Index cells = items * channels;
  bool stray = false;
  for (Index tile = start; tile == start || tile < end; tile += TILE) {
    Pixels here;
    stray |= load(here, z, set, planes, tile + threadIdx.x, end);
#if SOFT == 0
    Miss misses[HERE];
    float losses[HERE];
#pragma unroll
    for (int j = 0; j < HERE; ++j) {
      misses[j] = true_miss(here, j, z, set, tile + threadIdx.x + j * THREADS, end);
#if PIXEL
      losses[j] = pixel_value(misses[j], set.log_power) * here.weight[j];
#else
      losses[j] = 0.0f;
#endif
    }
#endif
    for (int c = 0; c < set.channels; ++c) {
      float rows[ROWS];
#pragma unroll
      for (int row = 0; row < ROWS; ++row) rows[row] = 0.0f;
#pragma unroll
      for (int j = 0; j < HERE; ++j) {
        const Index at = tile + threadIdx.x + j * THREADS;
        const float weight = here.weight[j];
        const Probability s = here.softmax[j].of(logit(z, set, at, end, c, weight), c);
#if SOFT
        const float y = truth_at(here, j, set, planes, at, end, c);
        stray |= fabsf(y - 0.5f) > 0.5f;
        add_soft(rows, s, y, weight, focus_of(set, c), 0.0f, set);
#else
        add_hard(rows, here.label[j] == c, s.p, s.ln_p, misses[j], losses[j], weight, set);
#endif
        rows[PIXELS] += weight;
      }
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        if (is_used(row)) {
          const float sum = warp_sum(rows[row]);
          if (lane == 0) of_warps[c % 2][warp][row] = sum;
        }
      }
      __syncthreads();
      if (threadIdx.x < ROWS && is_used(threadIdx.x)) {
        double sum = 0.0;
        for (int w = 0; w < WARPS; ++w) sum += of_warps[c % 2][w][threadIdx.x];
        double* partial = partials + (threadIdx.x * cells + planes.plane + c) * parts + part_at;
        *partial = tile == start ? sum : *partial + sum;
      }
    }
    // The next tile begins with the first buffer again.
    __syncthreads();
  }
  if (__syncthreads_or(stray) != 0) {
    for (Index i = threadIdx.x; i < ROWS * channels; i += THREADS) {
      partials[(i / channels * cells + planes.plane + i % channels) * parts + part_at] = not_a_number();
    }
  }
  if (!is_last(finished)) return;
  const Result result = {partials, finished, sums};
  add_parts(result, cells, parts);
  if (program == nullptr) return;
  __syncthreads();
  algebra(program, all_sums, derivatives, workspace, sample_weights, items, channels, value, value_f32);
}
#endif
