// The gradient of the 3 x 3 convolution in its weights against plain loops in double precision.
#include "matrix.h"

#include "../../../seg-unet/src/cuda/conv3_gradient.cu"

SOFT_ENTRY(conv3_gradient, 128)
SOFT_ENTRY(conv3_gradient_sum, 256)

namespace {

double gradient(Random& random) {
  const int batch = 1 + random.below(3), h = 1 + random.below(20), w = 1 + random.below(37);
  // The input is one map, or two of which each has padding of its own.
  const int ci = 16 * (1 + random.below(5)), co = 16 * (1 + random.below(5)), real_o = co - random.below(4);
  const bool joined = ci > 16 && random.below(2);
  const int first_padded = joined ? 16 * (1 + random.below(ci / 16 - 1)) : ci;
  const int first = first_padded - random.below(4), second = joined ? ci - first_padded - random.below(4) : 0;
  const int real_i = first + second, splits = random.pick({1, 2, 5, 8, 11, 40});
  Map x(batch, h, w, ci, random), dz(batch, h, w, co, random);
  x.fill(random, ci);
  for (int i = 0; i < batch; ++i)
    for (int py = 0; py < h; ++py)
      for (int px = 0; px < w; ++px)
        for (int c = 0; c < ci; ++c)
          if ((c >= first && c < first_padded) || c >= first_padded + second) x.at(i, py, px, c) = narrow(0.0f);
  dz.fill(random, real_o);
  Device<float> partial(9LL * splits * co * ci), result(9LL * real_o * real_i);
  LAUNCH(conv3_gradient, dim3(unsigned(splits), unsigned((ci + 31) / 32), unsigned((co + 31) / 32)), 128,
         2 * (180 + 128) * 32 * sizeof(T), x.base(), x.pitch, dz.base(), dz.pitch, partial.data, batch, h, w, ci, co);
  const unsigned blocks = unsigned(random.below(2) ? (9 * real_o * real_i + 31) / 32 : 3);
  LAUNCH(conv3_gradient_sum, dim3(blocks), 256, 0, partial.data, result.data, splits, ci, co, real_i, real_o, first,
         first_padded);

  Comparison comparison;
  for (int o = 0; o < real_o; ++o)
    for (int i = 0; i < real_i; ++i)
      for (int tap = 0; tap < 9; ++tap) {
        const int at = i < first ? i : first_padded + i - first;
        double sum = 0.0;
        for (int b = 0; b < batch; ++b)
          for (int py = 0; py < h; ++py)
            for (int px = 0; px < w; ++px)
              sum += x.value(b, py + tap / 3 - 1, px + tap % 3 - 1, at) * dz.value(b, py, px, o);
        comparison.add(result[(size_t(o) * real_i + i) * 9 + tap], sum);
      }
  // In BF16 the operands are exact and the sums are not rounded.
  comparison.check("conv3_gradient", PRECISION == 2 ? 1e-5 : tolerance);
  return comparison.part();
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? atoi(arguments[1]) : 40;
  catch_faults();
  double worst = 0.0;
  for (int k = 0; k < cases; ++k) {
    Random random(2000 + unsigned(k));
    const double part = gradient(random);
    if (part > worst) worst = part;
  }
  printf("conv3_gradient, precision %d: %d cases, largest error %.2e of the largest value\n", PRECISION, cases, worst);
}
