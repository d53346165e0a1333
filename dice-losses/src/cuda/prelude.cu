// What every kernel of the losses needs: the element type, loads and stores of sixteen bytes, fast functions.
//
// The host compiles this text at run time, one specialisation a combination of
//   ELEMENT   logits: 0 f32, 1 f16, 2 bf16
//   CLASSES   classes of a softmax that are held in registers; 0: any number, one after the other; 1 with SIGMOID
//   SIGMOID   each channel is a question of its own, and a block sees one channel
//   TRUTH     0 class numbers, 1 class numbers that are smoothed, 2 a value a class
//   LABEL     class numbers: 0 u8, 1 u32, 2 i64
//   IGNORE    whether there is a label that does not count
//   WEIGHTS   of pixels: 0 none, 1 f32, 2 u8 (a mask)
//   ERRORS    whether false positives and negatives are summed, and as what POWER of an error
//   SQUARED   whether soft labels are compared as (p - y)^2
//   PIXEL     the pixel loss: 0 none, 1 cross-entropy, 2 with focal exponents or a power of the logarithm
//   ALIGNED   whether every plane begins at a multiple of sixteen bytes
// and nothing else: exponents, class counts of CLASSES = 0 and sizes are arguments.

typedef long long Index;

#define THREADS 256
#define WARPS (THREADS / 32)

#define POWER_HALF 0
#define POWER_ONE 1
#define POWER_THREE_HALVES 2
#define POWER_TWO 3
#define POWER_THREE 4
#define POWER_GENERAL 5

// Pixels of a thread's load of sixteen bytes.
#if ELEMENT == 0
typedef float Element;
#define VECTOR 4
#else
typedef unsigned short Element;
#define VECTOR 8
#endif

// Pixels of a block's load.
#define TILE (THREADS * VECTOR)
// Pixels of which each thread sums 64 in f32: so few that the sum keeps its digits.
#define PIECE (THREADS * 64)

// Whether a pixel has a weight, or may lie beyond the last one.
#define WEIGHTED (WEIGHTS != 0 || IGNORE != 0 || ALIGNED == 0)
#define FOCAL (PIXEL == 2)
#define LOGS_OF_ERRORS ((ERRORS && POWER == POWER_GENERAL) || FOCAL)
#define LOGS (PIXEL != 0 || LOGS_OF_ERRORS)
// Two answers to a question, known for certain: one exponential a pixel serves both.
#define BINARY (TRUTH == 0 && (SIGMOID != 0 || CLASSES == 2))
#define SOFT (TRUTH != 0)
// Classes that a thread sees at once.
#define HELD (SIGMOID != 0 ? 1 : CLASSES)

// Blocks that a multiprocessor holds at least: what registers they may take follows from it.
#if SIGMOID != 0 || (CLASSES > 0 && CLASSES <= 4)
#define RESIDENT 3
#else
#define RESIDENT 2
#endif

// The rows of the sums, in the order of the host's.
#define TP 0
#define FP 1
#define FN 2
#define VOLUME 3
#define PREDICTED 4
#define PIXELS 5
#define OF_CLASS 6
#define OF_OTHERS 7
#define ROWS 8

#define TINY 1.17549435e-38f
#define LEAST_DIVISOR 1e-18f
#define STEEPEST 41.0f
#define LARGEST_DERIVATIVE 1e18
#define LARGEST_EXPONENT 85.0f
#define LOG2_E 1.44269504f
// How far outside [0, 1] a truth may lie by rounding.
#define SLACK 1e-3f

__device__ __forceinline__ double not_a_number() { return __longlong_as_double(0x7ff8000000000000ll); }

// 2^x. The unit that makes it is right to two in the last place, and `exp_of` multiplies by log2 e before: both
// together are off by 4e-6 of the power at x = -87, and by 3e-7 above -8, where whatever counts in a sum lies. `expf`
// would take three times the instructions, and there is one a class and pixel.
__device__ __forceinline__ float exp2_of(float x) {
#ifdef SOFT_CUDA
  const float power = exp2f(x);
  return power < TINY ? 0.0f : power;
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

__device__ __forceinline__ float exp_of(float x) { return exp2_of(x * LOG2_E); }

// 1 / x of a number from 1 to a few thousand.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef SOFT_CUDA
  return 1.0f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

__device__ __forceinline__ float root(float x) {
#ifdef SOFT_CUDA
  return sqrtf(x);
#else
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// The larger and the smaller, or x if that is a NaN.
__device__ __forceinline__ float at_least(float x, float least) { return x < least ? least : x; }
__device__ __forceinline__ float at_most(float x, float most) { return x > most ? most : x; }

#if ELEMENT == 1
__device__ __forceinline__ float widen(unsigned short bits) {
#ifdef SOFT_CUDA
  const unsigned sign = (unsigned)(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) return __uint_as_float(sign | __float_as_uint((float)mantissa * 5.9604645e-8f));
  return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
#else
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#endif
}

__device__ __forceinline__ unsigned short narrow(float x) {
#ifdef SOFT_CUDA
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return (unsigned short)(sign | 0x7e00);
  if (size >= 0x477ff000u) return (unsigned short)(sign | 0x7c00);
  if (size < 0x38800000u) {
    // Below the normal numbers: the sum's last bits are those of a multiple of 2^-24, rounded.
    const unsigned sum = __float_as_uint(__uint_as_float(size) + 0.5f);
    return (unsigned short)(sign | (sum - 0x3f000000u));
  }
  const unsigned rounded = size + 0xfffu + (size >> 13 & 1) - 0x38000000u;
  return (unsigned short)(sign | rounded >> 13);
#else
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#endif
}
#elif ELEMENT == 2
__device__ __forceinline__ float widen(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

__device__ __forceinline__ unsigned short narrow(float x) {
#ifdef SOFT_CUDA
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#else
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#endif
}
#endif

__device__ __forceinline__ float number(Element x) {
#if ELEMENT == 0
  return x;
#else
  return widen(x);
#endif
}

__device__ __forceinline__ Element element(float x) {
#if ELEMENT == 0
  return x;
#else
  return narrow(x);
#endif
}

// VECTOR elements as they stand in memory.
struct Packed {
  unsigned word[4];

  __device__ __forceinline__ float get(int j) const {
#if ELEMENT == 0
    return __uint_as_float(word[j]);
#else
    return widen((unsigned short)(word[j / 2] >> (16 * (j % 2)) & 0xffffu));
#endif
  }

  __device__ __forceinline__ void set(int j, float x) {
#if ELEMENT == 0
    word[j] = __float_as_uint(x);
#else
    const unsigned bits = (unsigned)narrow(x) << (16 * (j % 2));
    word[j / 2] = (word[j / 2] & 0xffffu << (16 * (1 - j % 2))) | bits;
#endif
  }
};

__device__ __forceinline__ Packed packed(uint4 x) {
  Packed all;
  all.word[0] = x.x;
  all.word[1] = x.y;
  all.word[2] = x.z;
  all.word[3] = x.w;
  return all;
}

// Where a thread's pixels lie: side by side, to be loaded together; or as far apart as the block is wide, so that the
// block's loads of one number each are side by side.
#if ALIGNED
#define FIRST (threadIdx.x * VECTOR)
#define APART 1
#else
#define FIRST threadIdx.x
#define APART THREADS
#endif

// VECTOR logits of a plane. The first pass loads plainly, so that as much of the logits as the second-level cache holds
// is still there for the second; whose loads are the last ones (LAST).
template <bool LAST>
__device__ __forceinline__ Packed load_logits(const Element* plane, Index at, Index end) {
#if ALIGNED
  const uint4* from = reinterpret_cast<const uint4*>(plane + at);
  return packed(LAST ? __ldcs(from) : *from);
#else
  Packed all = {{0u, 0u, 0u, 0u}};
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    const Index pixel = at + j * APART;
    if (pixel < end) all.set(j, number(plane[pixel]));
  }
  return all;
#endif
}

// VECTOR numbers of f32.
__device__ __forceinline__ void load_floats(const float* plane, Index at, Index end, float to[VECTOR]) {
#if ALIGNED
#pragma unroll
  for (int j = 0; j < VECTOR; j += 4) {
    const float4 four = *reinterpret_cast<const float4*>(plane + at + j);
    to[j] = four.x;
    to[j + 1] = four.y;
    to[j + 2] = four.z;
    to[j + 3] = four.w;
  }
#else
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    const Index pixel = at + j * APART;
    to[j] = pixel < end ? plane[pixel] : 0.0f;
  }
#endif
}

// VECTOR numbers of u8.
__device__ __forceinline__ void load_bytes(const unsigned char* plane, Index at, Index end, unsigned to[VECTOR]) {
#if ALIGNED
#pragma unroll
  for (int j = 0; j < VECTOR; j += 4) {
    // Four labels in a load of four bytes: thirty-two threads' loads are one whole line.
    const unsigned four = *reinterpret_cast<const unsigned*>(plane + at + j);
    to[j] = four & 255u;
    to[j + 1] = four >> 8 & 255u;
    to[j + 2] = four >> 16 & 255u;
    to[j + 3] = four >> 24;
  }
#else
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    const Index pixel = at + j * APART;
    to[j] = pixel < end ? plane[pixel] : 0u;
  }
#endif
}

// What a label says: a class number, or one of these.
#define IGNORED -1
#define STRAY -2

// VECTOR class numbers out of `classes`; beyond the last pixel 0.
__device__ __forceinline__ void load_labels(const void* labels, Index at, Index end, Index ignore, int classes,
                                            int to[VECTOR]) {
#if LABEL == 0
  unsigned raw[VECTOR];
  load_bytes(static_cast<const unsigned char*>(labels), at, end, raw);
#elif LABEL == 1
  const unsigned* plane = static_cast<const unsigned*>(labels);
  unsigned raw[VECTOR];
#else
  const unsigned long long* plane = static_cast<const unsigned long long*>(labels);
  unsigned long long raw[VECTOR];
#endif
#if LABEL != 0 && ALIGNED
#pragma unroll
  for (int j = 0; j < VECTOR; j += LABEL == 1 ? 4 : 2) {
    const uint4 four = *reinterpret_cast<const uint4*>(plane + at + j);
#if LABEL == 1
    raw[j] = four.x;
    raw[j + 1] = four.y;
    raw[j + 2] = four.z;
    raw[j + 3] = four.w;
#else
    raw[j] = four.x | (unsigned long long)four.y << 32;
    raw[j + 1] = four.z | (unsigned long long)four.w << 32;
#endif
  }
#elif LABEL != 0
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    const Index pixel = at + j * APART;
    raw[j] = pixel < end ? plane[pixel] : 0u;
  }
#endif
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
#if LABEL == 2
    // A negative label is a large unsigned one.
    const int label = raw[j] < (unsigned long long)classes ? (int)raw[j] : STRAY;
    to[j] = IGNORE != 0 && raw[j] == (unsigned long long)ignore ? IGNORED : label;
#else
    const int label = raw[j] < (unsigned)classes ? (int)raw[j] : STRAY;
    to[j] = IGNORE != 0 && raw[j] == (unsigned)ignore ? IGNORED : label;
#endif
  }
}

// What is the same for all pixels.
struct Setting {
  // Per item [N, S]: class numbers; or [N, C, S]: truths.
  const void* truth;
  // [N, S]
  const void* weights;
  // Focal exponents of the classes, and of the other sides of sigmoids, [2, C].
  const float* focus;
  Index pixels;
  int channels;
  Index ignore;
  float gamma;
  float log_power;
  // The truth of the class that is named and that of the others; or y -> own y + other.
  float own;
  float other;
};

// One item's planes, from the class on that a block sees.
struct Planes {
  Index item;
  // The first class, and the first plane [N * C].
  int channel;
  Index plane;
  // The class number that means yes to a question.
  int yes;
};

__device__ __forceinline__ Planes planes_of(Index group, int channels) {
  Planes planes;
#if SIGMOID
  planes.item = group / channels;
  planes.channel = (int)(group % channels);
  planes.plane = group;
  planes.yes = channels == 1 ? 1 : planes.channel;
#else
  planes.item = group;
  planes.channel = 0;
  planes.plane = group * channels;
  planes.yes = 1;
#endif
  return planes;
}

// Class numbers and weights of a thread's pixels.
struct Seen {
  int label[VECTOR];
  float weight[VECTOR];
};

// Loads them; returns whether one is none.
__device__ __forceinline__ bool see(const Setting& set, const Planes& planes, Index at, Index end, Seen& seen) {
  bool stray = false;
#if TRUTH != 2
#if LABEL == 0
  const void* labels = static_cast<const unsigned char*>(set.truth) + planes.item * set.pixels;
#elif LABEL == 1
  const void* labels = static_cast<const unsigned*>(set.truth) + planes.item * set.pixels;
#else
  const void* labels = static_cast<const unsigned long long*>(set.truth) + planes.item * set.pixels;
#endif
  load_labels(labels, at, end, set.ignore, set.channels < 2 ? 2 : set.channels, seen.label);
#endif
#if WEIGHTS == 1
  load_floats(static_cast<const float*>(set.weights) + planes.item * set.pixels, at, end, seen.weight);
#elif WEIGHTS == 2
  unsigned mask[VECTOR];
  load_bytes(static_cast<const unsigned char*>(set.weights) + planes.item * set.pixels, at, end, mask);
#endif
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
#if WEIGHTS == 2
    seen.weight[j] = mask[j] != 0u ? 1.0f : 0.0f;
#elif WEIGHTS == 0
    seen.weight[j] = 1.0f;
#endif
#if WEIGHTS == 1
    // A negative or an infinite weight is a mistake, and so is a NaN.
    stray |= !(seen.weight[j] >= 0.0f && seen.weight[j] <= 3.0e38f);
#endif
#if ALIGNED == 0
    if (at + j * APART >= end) seen.weight[j] = 0.0f;
#endif
#if TRUTH != 2
    stray |= seen.label[j] == STRAY;
#if IGNORE
    if (seen.label[j] == IGNORED) seen.weight[j] = 0.0f;
#endif
#endif
  }
  return stray;
}

// Whether a pixel counts; what stands at one that does not must not matter, not even a NaN.
__device__ __forceinline__ bool counts(float weight) { return WEIGHTED == 0 || weight > 0.0f; }
