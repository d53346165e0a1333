// CUDA's arithmetic. The fast functions are as exact here as the slow ones; a test's tolerance has to allow for theirs.
#pragma once

template <typename To, typename From>
inline To soft_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits of another size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline unsigned __float_as_uint(float x) { return soft_bits<unsigned>(x); }
inline int __float_as_int(float x) { return soft_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return soft_bits<float>(x); }
inline float __int_as_float(int x) { return soft_bits<float>(x); }
inline long long __double_as_longlong(double x) { return soft_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return soft_bits<double>(x); }
inline int __double2hiint(double x) { return int(soft_bits<unsigned long long>(x) >> 32); }
inline int __double2loint(double x) { return int(soft_bits<unsigned long long>(x)); }
inline double __hiloint2double(int high, int low) {
  return soft_bits<double>((unsigned long long)(unsigned(high)) << 32 | unsigned(low));
}

// The result of one rounding, which no later operation may be fused with.
inline float soft_rounded(float x) {
  asm("" : "+x"(x));
  return x;
}
inline double soft_rounded(double x) {
  asm("" : "+x"(x));
  return x;
}
inline float __fadd_rn(float a, float b) { return soft_rounded(a + b); }
inline float __fsub_rn(float a, float b) { return soft_rounded(a - b); }
inline float __fmul_rn(float a, float b) { return soft_rounded(a * b); }
inline float __fdiv_rn(float a, float b) { return soft_rounded(a / b); }
inline float __frcp_rn(float a) { return soft_rounded(1 / a); }
inline float __fsqrt_rn(float a) { return soft_rounded(sqrtf(a)); }
inline float __frsqrt_rn(float a) { return soft_rounded(float(1 / sqrt(double(a)))); }
inline float __fmaf_rn(float a, float b, float c) { return soft_rounded(fmaf(a, b, c)); }
inline double __dadd_rn(double a, double b) { return soft_rounded(a + b); }
inline double __dsub_rn(double a, double b) { return soft_rounded(a - b); }
inline double __dmul_rn(double a, double b) { return soft_rounded(a * b); }
inline double __ddiv_rn(double a, double b) { return soft_rounded(a / b); }
inline double __drcp_rn(double a) { return soft_rounded(1 / a); }
inline double __dsqrt_rn(double a) { return soft_rounded(sqrt(a)); }
inline double __fma_rn(double a, double b, double c) { return soft_rounded(fma(a, b, c)); }

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x >= 0 ? (x <= 1 ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float rcbrtf(float x) { return 1 / cbrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(x * -0.707106781186547524f); }
inline double normcdf(double x) { return 0.5 * erfc(x * -0.707106781186547524401); }
inline float normcdf(float x) { return normcdff(x); }
inline float sinpif(float x) { return float(sin(M_PI * fmod(double(x), 2.0))); }
inline float cospif(float x) { return float(cos(M_PI * fmod(double(x), 2.0))); }

// Conversions of floats end at the integers' limits on a GPU, and a NaN becomes 0.
template <typename I>
inline I soft_integer(double x) {
  const I smallest = I(-1) < I(0) ? I(1ull << (8 * sizeof(I) - 1)) : I(0);
  const I largest = I(~smallest);
  if (x != x) return 0;
  if (x <= double(smallest)) return smallest;
  // The largest integer of 64 bits is not a double: the next one is its limit.
  if (x >= double(largest)) return largest;
  return I(x);
}
inline int __float2int_rn(float x) { return soft_integer<int>(rint(double(x))); }
inline int __double2int_rn(double x) { return soft_integer<int>(rint(x)); }
inline unsigned __float2uint_rn(float x) { return soft_integer<unsigned>(rint(double(x))); }
inline unsigned __double2uint_rn(double x) { return soft_integer<unsigned>(rint(x)); }
inline long long __float2ll_rn(float x) { return soft_integer<long long>(rint(double(x))); }
inline long long __double2ll_rn(double x) { return soft_integer<long long>(rint(x)); }
inline unsigned long long __float2ull_rn(float x) { return soft_integer<unsigned long long>(rint(double(x))); }
inline unsigned long long __double2ull_rn(double x) { return soft_integer<unsigned long long>(rint(x)); }
inline int __float2int_rz(float x) { return soft_integer<int>(trunc(double(x))); }
inline int __double2int_rz(double x) { return soft_integer<int>(trunc(x)); }
inline unsigned __float2uint_rz(float x) { return soft_integer<unsigned>(trunc(double(x))); }
inline unsigned __double2uint_rz(double x) { return soft_integer<unsigned>(trunc(x)); }
inline long long __float2ll_rz(float x) { return soft_integer<long long>(trunc(double(x))); }
inline long long __double2ll_rz(double x) { return soft_integer<long long>(trunc(x)); }
inline unsigned long long __float2ull_rz(float x) { return soft_integer<unsigned long long>(trunc(double(x))); }
inline unsigned long long __double2ull_rz(double x) { return soft_integer<unsigned long long>(trunc(x)); }
inline int __float2int_rd(float x) { return soft_integer<int>(floor(double(x))); }
inline int __double2int_rd(double x) { return soft_integer<int>(floor(x)); }
inline unsigned __float2uint_rd(float x) { return soft_integer<unsigned>(floor(double(x))); }
inline unsigned __double2uint_rd(double x) { return soft_integer<unsigned>(floor(x)); }
inline long long __float2ll_rd(float x) { return soft_integer<long long>(floor(double(x))); }
inline long long __double2ll_rd(double x) { return soft_integer<long long>(floor(x)); }
inline unsigned long long __float2ull_rd(float x) { return soft_integer<unsigned long long>(floor(double(x))); }
inline unsigned long long __double2ull_rd(double x) { return soft_integer<unsigned long long>(floor(x)); }
inline int __float2int_ru(float x) { return soft_integer<int>(ceil(double(x))); }
inline int __double2int_ru(double x) { return soft_integer<int>(ceil(x)); }
inline unsigned __float2uint_ru(float x) { return soft_integer<unsigned>(ceil(double(x))); }
inline unsigned __double2uint_ru(double x) { return soft_integer<unsigned>(ceil(x)); }
inline long long __float2ll_ru(float x) { return soft_integer<long long>(ceil(double(x))); }
inline long long __double2ll_ru(double x) { return soft_integer<long long>(ceil(x)); }
inline unsigned long long __float2ull_ru(float x) { return soft_integer<unsigned long long>(ceil(double(x))); }
inline unsigned long long __double2ull_ru(double x) { return soft_integer<unsigned long long>(ceil(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ll2float_rn(long long x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return double(x); }
inline double __ull2double_rn(unsigned long long x) { return double(x); }
inline float __double2float_rn(double x) { return float(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned choice = selector >> (4 * i) & 15u;
    unsigned byte = unsigned(bytes >> (8 * (choice & 7u))) & 255u;
    if (choice & 8u) byte = byte & 128u ? 255u : 0u;  // the sign, copied
    result |= byte << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((unsigned long long)high << 32 | low) << (shift & 31u)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((unsigned long long)high << 32 | low) >> (shift & 31u));
}

typedef long long soft_ll;
typedef unsigned long long soft_ull;
typedef unsigned long soft_ul;
inline int min(int a, int b) { return int(a) < int(b) ? int(a) : int(b); }
inline int max(int a, int b) { return int(a) > int(b) ? int(a) : int(b); }
inline unsigned min(unsigned a, unsigned b) { return unsigned(a) < unsigned(b) ? unsigned(a) : unsigned(b); }
inline unsigned max(unsigned a, unsigned b) { return unsigned(a) > unsigned(b) ? unsigned(a) : unsigned(b); }
inline unsigned min(int a, unsigned b) { return unsigned(a) < unsigned(b) ? unsigned(a) : unsigned(b); }
inline unsigned max(int a, unsigned b) { return unsigned(a) > unsigned(b) ? unsigned(a) : unsigned(b); }
inline unsigned min(unsigned a, int b) { return unsigned(a) < unsigned(b) ? unsigned(a) : unsigned(b); }
inline unsigned max(unsigned a, int b) { return unsigned(a) > unsigned(b) ? unsigned(a) : unsigned(b); }
inline long min(long a, long b) { return long(a) < long(b) ? long(a) : long(b); }
inline long max(long a, long b) { return long(a) > long(b) ? long(a) : long(b); }
inline soft_ul min(soft_ul a, soft_ul b) { return soft_ul(a) < soft_ul(b) ? soft_ul(a) : soft_ul(b); }
inline soft_ul max(soft_ul a, soft_ul b) { return soft_ul(a) > soft_ul(b) ? soft_ul(a) : soft_ul(b); }
inline soft_ul min(long a, soft_ul b) { return soft_ul(a) < soft_ul(b) ? soft_ul(a) : soft_ul(b); }
inline soft_ul max(long a, soft_ul b) { return soft_ul(a) > soft_ul(b) ? soft_ul(a) : soft_ul(b); }
inline soft_ul min(soft_ul a, long b) { return soft_ul(a) < soft_ul(b) ? soft_ul(a) : soft_ul(b); }
inline soft_ul max(soft_ul a, long b) { return soft_ul(a) > soft_ul(b) ? soft_ul(a) : soft_ul(b); }
inline soft_ll min(soft_ll a, soft_ll b) { return soft_ll(a) < soft_ll(b) ? soft_ll(a) : soft_ll(b); }
inline soft_ll max(soft_ll a, soft_ll b) { return soft_ll(a) > soft_ll(b) ? soft_ll(a) : soft_ll(b); }
inline soft_ull min(soft_ull a, soft_ull b) { return soft_ull(a) < soft_ull(b) ? soft_ull(a) : soft_ull(b); }
inline soft_ull max(soft_ull a, soft_ull b) { return soft_ull(a) > soft_ull(b) ? soft_ull(a) : soft_ull(b); }
inline soft_ull min(soft_ll a, soft_ull b) { return soft_ull(a) < soft_ull(b) ? soft_ull(a) : soft_ull(b); }
inline soft_ull max(soft_ll a, soft_ull b) { return soft_ull(a) > soft_ull(b) ? soft_ull(a) : soft_ull(b); }
inline soft_ull min(soft_ull a, soft_ll b) { return soft_ull(a) < soft_ull(b) ? soft_ull(a) : soft_ull(b); }
inline soft_ull max(soft_ull a, soft_ll b) { return soft_ull(a) > soft_ull(b) ? soft_ull(a) : soft_ull(b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
inline unsigned umin(unsigned a, unsigned b) { return min(a, b); }
inline unsigned umax(unsigned a, unsigned b) { return max(a, b); }

// Loads and stores with a hint for the caches.
template <typename T> inline T __ldg(const T* p) { return *p; }
template <typename T> inline T __ldcg(const T* p) { return *p; }
template <typename T> inline T __ldca(const T* p) { return *p; }
template <typename T> inline T __ldcs(const T* p) { return *p; }
template <typename T> inline T __ldlu(const T* p) { return *p; }
template <typename T> inline T __ldcv(const T* p) { return *(const volatile T*)p; }
template <typename T> inline void __stwb(T* p, T value) { *p = value; }
template <typename T> inline void __stcg(T* p, T value) { *p = value; }
template <typename T> inline void __stcs(T* p, T value) { *p = value; }
template <typename T> inline void __stwt(T* p, T value) { *p = value; }

inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }
