// What the lanes of a warp get from a call that they make together.
#include "block.h"

const char* name_of(Together call) {
  static const char* const names[] = {"no call", "__syncwarp",  "__ballot_sync", "__shfl_sync", "__reduce_sync",
                                      "__match_sync", "mma (bf16)", "mma (f16)",     "mma (tf32)",  "ldmatrix"};
  return names[unsigned(call)];
}

static float from_bf16(unsigned bits) { return __uint_as_float(bits << 16); }

static float from_f16(unsigned bits) {
  const unsigned exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float value = exponent == 0    ? ldexpf(float(mantissa), -24)
                      : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                       : ldexpf(float(1024 + mantissa), int(exponent) - 25);
  return bits & 0x8000 ? -value : value;
}

static float from_tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }

// c[16][8] += a[16][K] b[K][8]; of the PTX manual: lane = 4 group + t, and a register of 16-bit numbers holds two.
template <int K, typename Split>
static void product(Fiber* warp, Split split) {
  float a[16][K], b[K][8], c[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const int group = lane / 4, t = lane % 4;
    const Operands& in = warp[lane].in;
    for (int r = 0; r < 4; r++) split(in.a[r], [&](int i, float x) { a[group + r % 2 * 8][r / 2 * (K / 2) + t * (K / 8) + i] = x; });
    for (int r = 0; r < 2; r++) split(in.b[r], [&](int i, float x) { b[r * (K / 2) + t * (K / 8) + i][group] = x; });
    for (int r = 0; r < 4; r++) c[group + r / 2 * 8][t * 2 + r % 2] = in.c[r];
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < K; k++)
      for (int n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < 32; lane++)
    for (int r = 0; r < 4; r++) warp[lane].out.c[r] = c[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
}

static void load_matrices(Fiber* warp) {
  const unsigned what = warp[0].in.lane, matrices = what & 7;
  for (int lane = 0; lane < 32; lane++)
    if (warp[lane].in.lane != what) fail("ldmatrix: lanes 0 and %d load different numbers of matrices", lane);
  for (unsigned m = 0; m < matrices; m++) {
    unsigned short rows[8][8];
    for (int i = 0; i < 8; i++) memcpy(rows[i], warp[m * 8 + i].in.row, 16);
    for (int lane = 0; lane < 32; lane++) {
      const int major = lane / 4, minor = lane % 4 * 2;
      const unsigned low = what & 8 ? rows[minor][major] : rows[major][minor];
      const unsigned high = what & 8 ? rows[minor + 1][major] : rows[major][minor + 1];
      warp[lane].out.a[m] = high << 16 | low;
    }
  }
}

static unsigned reduced(unsigned a, unsigned b, unsigned operation) {
  switch (operation) {
    case SOFT_ADD: return a + b;
    case SOFT_MIN: return min(a, b);
    case SOFT_MAX: return max(a, b);
    case SOFT_SIGNED_MIN: return unsigned(min(int(a), int(b)));
    case SOFT_SIGNED_MAX: return unsigned(max(int(a), int(b)));
    case SOFT_AND: return a & b;
    case SOFT_OR: return a | b;
    default: return a ^ b;
  }
}

void calculate(Together call, Fiber* warp, unsigned lanes) {
  auto each = [&](auto&& what) {
    for (unsigned i = 0; i < 32; i++)
      if (lanes >> i & 1) what(i);
  };
  switch (call) {
    case Together::none:
    case Together::warp_barrier: break;
    case Together::ballot: {
      unsigned votes = 0;
      each([&](unsigned i) { votes |= warp[i].in.lane << i; });
      each([&](unsigned i) { warp[i].out.lane = votes; });
      break;
    }
    case Together::shuffle:
      each([&](unsigned i) {
        const unsigned from = warp[i].in.lane;
        warp[i].out.value = from < 32 && lanes >> from & 1 ? warp[from].in.value : ~0ull;
      });
      break;
    case Together::reduce: {
      const unsigned first = unsigned(__builtin_ctz(lanes));
      unsigned result = unsigned(warp[first].in.value);
      each([&](unsigned i) {
        if (warp[i].in.lane != warp[first].in.lane) fail("__reduce_sync: the lanes reduce in different ways");
        if (i != first) result = reduced(result, unsigned(warp[i].in.value), warp[i].in.lane);
      });
      each([&](unsigned i) { warp[i].out.value = result; });
      break;
    }
    case Together::match:
      each([&](unsigned i) {
        warp[i].out.lane = 0;
        each([&](unsigned j) { warp[i].out.lane |= unsigned(warp[i].in.value == warp[j].in.value) << j; });
      });
      break;
    case Together::mma_bf16:
      product<16>(warp, [](unsigned r, auto&& put) { put(0, from_bf16(r & 0xffff)), put(1, from_bf16(r >> 16)); });
      break;
    case Together::mma_f16:
      product<16>(warp, [](unsigned r, auto&& put) { put(0, from_f16(r & 0xffff)), put(1, from_f16(r >> 16)); });
      break;
    case Together::mma_tf32:
      product<8>(warp, [](unsigned r, auto&& put) { put(0, from_tf32(r)); });
      break;
    case Together::ldmatrix: load_matrices(warp); break;
  }
}
