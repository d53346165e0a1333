// Floats of 16 and 8 bits, under CUDA's names, as far as Candle's kernels use them. Arithmetic is that of f32, rounded.
#pragma once

// The nearest number of so many bits of exponent and mantissa, ties to even; infinities and NaN as IEEE 754 has them.
template <int E, int M>
inline unsigned soft_narrow(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 31 << (E + M), magnitude = bits & 0x7fffffffu;
  const int bias = (1 << (E - 1)) - 1;
  if (magnitude > 0x7f800000u) return sign | ((1u << (E + 1)) - 1) << (M - 1);
  const int exponent = int(magnitude >> 23) - 127;
  // Subnormal numbers have fewer bits.
  const int lost = 23 - M + (exponent < 1 - bias ? 1 - bias - exponent : 0);
  const unsigned long long mantissa = exponent == -127 ? (unsigned long long)(magnitude & 0x7fffffu) << 1 : (magnitude & 0x7fffffu) | 0x800000u;
  if (lost > 40) return sign;
  unsigned long long kept = mantissa >> lost;
  const unsigned long long rest = mantissa & ((1ull << lost) - 1), half = 1ull << (lost - 1);
  kept += rest > half || (rest == half && (kept & 1));
  const unsigned long long field = exponent < 1 - bias ? kept : kept + ((unsigned long long)(exponent + bias - 1) << M);
  const unsigned long long infinite = ((1ull << E) - 1) << M;
  return sign | unsigned(field < infinite ? field : infinite);
}

template <int E, int M>
inline float soft_widen(unsigned bits) {
  const unsigned exponent = bits >> M & ((1u << E) - 1), mantissa = bits & ((1u << M) - 1);
  const int bias = (1 << (E - 1)) - 1;
  const float value = exponent == (1u << E) - 1 ? (mantissa ? NAN : INFINITY)
                      : exponent               ? ldexpf(float((1u << M) + mantissa), int(exponent) - bias - M)
                                               : ldexpf(float(mantissa), 1 - bias - M);
  return bits >> (E + M) & 1 ? -value : value;
}

// Stored in two bytes; without a constructor of its own it may be shared memory.
template <int E, int M>
struct soft_Float16 {
  unsigned short __x;

  soft_Float16() = default;
  template <typename T>
  soft_Float16(T x) : __x((unsigned short)soft_narrow<E, M>(float(x))) {}
  template <int F, int N>
  soft_Float16(soft_Float16<F, N> x) : __x((unsigned short)soft_narrow<E, M>(float(x))) {}
  soft_Float16(const soft_Float16&) = default;
  soft_Float16& operator=(const soft_Float16&) = default;
  operator float() const {
    if (E == 8) return __uint_as_float(unsigned(__x) << 16);
    return soft_widen<E, M>(__x);
  }
  soft_Float16& operator+=(soft_Float16 b) { return *this = *this + b; }
  soft_Float16& operator-=(soft_Float16 b) { return *this = *this - b; }
  soft_Float16& operator*=(soft_Float16 b) { return *this = *this * b; }
  soft_Float16& operator/=(soft_Float16 b) { return *this = *this / b; }

  friend soft_Float16 operator+(soft_Float16 a, soft_Float16 b) { return float(a) + float(b); }
  friend soft_Float16 operator-(soft_Float16 a, soft_Float16 b) { return float(a) - float(b); }
  friend soft_Float16 operator*(soft_Float16 a, soft_Float16 b) { return float(a) * float(b); }
  friend soft_Float16 operator/(soft_Float16 a, soft_Float16 b) { return float(a) / float(b); }
  friend soft_Float16 operator-(soft_Float16 a) { return -float(a); }
  friend bool operator<(soft_Float16 a, soft_Float16 b) { return float(a) < float(b); }
  friend bool operator>(soft_Float16 a, soft_Float16 b) { return float(a) > float(b); }
  friend bool operator<=(soft_Float16 a, soft_Float16 b) { return float(a) <= float(b); }
  friend bool operator>=(soft_Float16 a, soft_Float16 b) { return float(a) >= float(b); }
  friend bool operator==(soft_Float16 a, soft_Float16 b) { return float(a) == float(b); }
  friend bool operator!=(soft_Float16 a, soft_Float16 b) { return float(a) != float(b); }
};
using __half = soft_Float16<5, 10>;
using half = __half;
using __nv_bfloat16 = soft_Float16<8, 7>;
using nv_bfloat16 = __nv_bfloat16;
using __half_raw = __half;
struct __half2 {
  __half x, y;
};
using half2 = __half2;
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline unsigned short __half_as_ushort(__half x) { return x.__x; }
inline __half __ushort_as_half(unsigned short bits) { return soft_bits<__half>(bits); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.__x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return soft_bits<__nv_bfloat16>(bits); }

#define SOFT_FLOAT16 template <int E, int M> inline
SOFT_FLOAT16 bool __hisnan(soft_Float16<E, M> a) { return isnan(float(a)); }
SOFT_FLOAT16 soft_Float16<E, M> __habs(soft_Float16<E, M> a) { return fabsf(a); }
SOFT_FLOAT16 soft_Float16<E, M> __hmax(soft_Float16<E, M> a, soft_Float16<E, M> b) { return fmaxf(a, b); }
SOFT_FLOAT16 soft_Float16<E, M> __hmin(soft_Float16<E, M> a, soft_Float16<E, M> b) { return fminf(a, b); }
SOFT_FLOAT16 soft_Float16<E, M> __hmax_nan(soft_Float16<E, M> a, soft_Float16<E, M> b) { return __hisnan(a) ? a : __hisnan(b) ? b : __hmax(a, b); }
SOFT_FLOAT16 soft_Float16<E, M> __hmin_nan(soft_Float16<E, M> a, soft_Float16<E, M> b) { return __hisnan(a) ? a : __hisnan(b) ? b : __hmin(a, b); }
SOFT_FLOAT16 soft_Float16<E, M> hsqrt(soft_Float16<E, M> a) { return sqrtf(a); }
SOFT_FLOAT16 soft_Float16<E, M> hsin(soft_Float16<E, M> a) { return sinf(a); }
SOFT_FLOAT16 soft_Float16<E, M> hcos(soft_Float16<E, M> a) { return cosf(a); }
SOFT_FLOAT16 soft_Float16<E, M> hlog(soft_Float16<E, M> a) { return logf(a); }
SOFT_FLOAT16 soft_Float16<E, M> hexp(soft_Float16<E, M> a) { return expf(a); }
SOFT_FLOAT16 soft_Float16<E, M> atomicAdd(soft_Float16<E, M>* address, soft_Float16<E, M> value) {
  auto bits = reinterpret_cast<unsigned short*>(address);
  return soft_bits<soft_Float16<E, M>>(soft_atomic(bits, [=](unsigned short old) { return (soft_bits<soft_Float16<E, M>>(old) + value).__x; }));
}
#undef SOFT_FLOAT16

#define SOFT_PAIR(name, operation) \
  inline __nv_bfloat162 name(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x operation b.x, a.y operation b.y}; } \
  inline __half2 name(__half2 a, __half2 b) { return {a.x operation b.x, a.y operation b.y}; }
SOFT_PAIR(__hadd2, +)
SOFT_PAIR(__hsub2, -)
SOFT_PAIR(__hmul2, *)
SOFT_PAIR(__h2div, /)
#undef SOFT_PAIR

// E4M3 has no infinity: its largest number is 448, and 0x7f is NaN. What is larger becomes the largest.
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
inline float soft_from_e4m3(unsigned char bits) {
  const unsigned exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float value = (bits & 0x7f) == 0x7f ? NAN : exponent ? ldexpf(float(8 + mantissa), int(exponent) - 10) : ldexpf(float(mantissa), -9);
  return bits & 0x80 ? -value : value;
}
struct __nv_fp8_e4m3 {
  unsigned char __x;

  __nv_fp8_e4m3() = default;
  template <typename T>
  explicit __nv_fp8_e4m3(T from) {
    const float x = float(from), magnitude = fabsf(x);
    const unsigned char sign = signbit(x) ? 0x80 : 0;
    if (isnan(x)) {
      __x = 0x7f;
    } else if (magnitude >= 448) {
      __x = sign | 0x7e;
    } else {
      // A step is 2^-9 below 2^-6, else an eighth of the power of two; rintf takes ties to even.
      const int exponent = magnitude < 0x1p-6f ? -6 : ilogbf(magnitude);
      const unsigned steps = unsigned(rintf(ldexpf(magnitude, 3 - exponent)));
      __x = sign | (unsigned char)(steps + (unsigned(exponent + 6) << 3));
    }
  }
  explicit operator float() const { return soft_from_e4m3(__x); }
};
inline __half_raw __nv_cvt_fp8_to_halfraw(unsigned char bits, __nv_fp8_interpretation_t) { return soft_from_e4m3(bits); }
