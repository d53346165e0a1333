// The 3 x 3 convolution and its gradient in the weights against plain loops in double precision.
#include "matrix.h"

#include "../../../seg-unet/src/cuda/conv3.cu"

SOFT_ENTRY(conv3_256x64, 256)
SOFT_ENTRY(conv3_256x32, 256)
SOFT_ENTRY(conv3_128x64, 128)
SOFT_ENTRY(conv3_128x32, 128)
SOFT_ENTRY(conv3_64x64, 128)
SOFT_ENTRY(conv3_64x32, 128)

namespace {

unsigned shared_bytes(int rows, int n, int threads, int stages) {
  const int loop = stages * ((rows + 2) * 18 + 9 * n) * 32;
  const int end = 16 * rows * (n + 8) * int(sizeof(T)) + 8 * threads;
  return unsigned(loop > end ? loop : end);
}

double forward(Random& random, int kernel) {
  static const struct { int rows, n, threads, stages; } of[6] = {{16, 64, 256, 2}, {16, 32, 256, 3}, {8, 64, 128, 2},
                                                                {8, 32, 128, 3},  {4, 64, 128, 3},  {4, 32, 128, 4}};
  const auto [rows, n, threads, stages] = of[kernel];
  const int batch = 1 + random.below(3), h = 1 + random.below(random.pick({4, 35})), w = 1 + random.below(37);
  const int ci = 16 * (1 + random.below(5)), co = 16 * (1 + random.below(5)), real = co - random.below(4);
  const bool with_bias = random.below(2), with_moments = random.below(2), relu = random.below(2);
  Map x(batch, h, w, ci, random), y(batch, h, w, co, random);
  x.fill(random, ci - random.below(4));
  Device<T> weights(9LL * ci * co);
  pack(weights, 9, co, ci, [&](int, int o, int) { return o < real ? random.value() : 0.0f; });
  Device<float> bias((long long)co);
  for (int o = 0; o < co; ++o) bias[size_t(o)] = o < real ? random.value() : 0.0f;
  const int tiles_x = (w + 15) / 16, tiles = (h + rows - 1) / rows * tiles_x;
  Device<float> moments(2LL * batch * tiles * co);

  const dim3 grid(unsigned(tiles), unsigned((co + n - 1) / n), unsigned(batch));
  const auto run = [&](const char* name, const soft_Entry& entry, auto* f) {
    launch(name, entry, f, grid, unsigned(threads), shared_bytes(rows, n, threads, stages), x.base(), x.pitch,
           weights.data, with_bias ? bias.data : nullptr, y.base(), y.pitch, with_moments ? moments.data : nullptr, h,
           w, ci, co, relu);
  };
  switch (kernel) {
    case 0: run("conv3_256x64", soft_entry_conv3_256x64, conv3_256x64); break;
    case 1: run("conv3_256x32", soft_entry_conv3_256x32, conv3_256x32); break;
    case 2: run("conv3_128x64", soft_entry_conv3_128x64, conv3_128x64); break;
    case 3: run("conv3_128x32", soft_entry_conv3_128x32, conv3_128x32); break;
    case 4: run("conv3_64x64", soft_entry_conv3_64x64, conv3_64x64); break;
    default: run("conv3_64x32", soft_entry_conv3_64x32, conv3_64x32); break;
  }

  Comparison result, sums, squares;
  for (int i = 0; i < batch; ++i)
    for (int py = 0; py < h; ++py)
      for (int px = 0; px < w; ++px)
        for (int o = 0; o < co; ++o) {
          double sum = with_bias ? double(bias[size_t(o)]) : 0.0;
          for (int tap = 0; tap < 9; ++tap)
            for (int c = 0; c < ci; ++c)
              sum += x.value(i, py + tap / 3 - 1, px + tap % 3 - 1, c) *
                     double(widen(weights[((size_t(c / CHUNK) * 9 + tap) * co + o) * CHUNK + c % CHUNK]));
          if (relu && sum < 0.0) sum = 0.0;
          result.add(y.value(i, py, px, o), sum);
          if (o >= real) require(y.value(i, py, px, o) == 0.0, "conv3: zeros in the padding");
        }
  result.check("conv3", tolerance);
  require(y.neighbours_untouched(), "conv3: nothing beside its own channels is written");
  if (with_moments) {
    for (int i = 0; i < batch; ++i)
      for (int tile = 0; tile < tiles; ++tile)
        for (int o = 0; o < co; ++o) {
          double sum = 0.0, square = 0.0, count = 0.0;
          for (int pass = 0; pass < 2; ++pass)
            for (int p = 0; p < rows * 16; ++p) {
              const int py = tile / tiles_x * rows + p / 16, px = tile % tiles_x * 16 + p % 16;
              if (py >= h || px >= w) continue;
              const double v = y.value(i, py, px, o);
              if (pass == 0) sum += v, count += 1.0;
              else square += (v - sum / count) * (v - sum / count);
            }
          sums.add(moments[(size_t(i * tiles + tile) * 2 + 0) * co + o], sum);
          squares.add(moments[(size_t(i * tiles + tile) * 2 + 1) * co + o], square);
        }
    sums.check("conv3: sums of the tiles", 1e-6);
    squares.check("conv3: squared differences of the tiles", 1e-5);
  }
  return result.part();
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? atoi(arguments[1]) : 42;
  catch_faults();
  double worst = 0.0;
  for (int k = 0; k < cases; ++k) {
    Random random(1000 + unsigned(k));
    const double part = forward(random, k % 6);
    if (part > worst) worst = part;
  }
  printf("conv3, precision %d: %d cases, largest error %.2e of the largest value\n", PRECISION, cases, worst);
}
