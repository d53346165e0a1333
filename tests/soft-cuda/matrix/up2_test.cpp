// The 2 x 2 transposed convolution and its gradients against plain loops in double precision.
#include "matrix.h"

#include "../../../seg-unet/src/cuda/up2.cu"

SOFT_ENTRY(up2_forward_64, 128)
SOFT_ENTRY(up2_forward_32, 128)
SOFT_ENTRY(up2_input_gradient_64, 128)
SOFT_ENTRY(up2_input_gradient_32, 128)
SOFT_ENTRY(up2_weight_gradient, 128)
SOFT_ENTRY(up2_weight_gradient_sum, 256)

namespace {

void run(Random& random, bool wide, double (&worst)[3]) {
  const int n = 1 + random.below(3), h = 1 + random.below(12), w = 1 + random.below(random.pick({3, 20}));
  const int ci = 16 * (1 + random.below(5)), co = 16 * (1 + random.below(5));
  const int real_i = ci - random.below(4), real_o = co - random.below(4), splits = random.pick({1, 2, 5, 8, 11});
  const unsigned pixels = unsigned(n * h * w), blocks = (pixels + 127) / 128, side = wide ? 64 : 32;
  const unsigned shared = 4 * 2 * (128 + side) * 32;
  std::vector<float> weight(size_t(ci) * co * 4);
  for (int i = 0; i < ci; ++i)
    for (int o = 0; o < co; ++o)
      for (int tap = 0; tap < 4; ++tap)
        weight[(size_t(i) * co + o) * 4 + tap] =
            i < real_i && o < real_o ? widen(narrow(random.value())) : 0.0f;
  const auto at = [&](int i, int o, int tap) { return weight[(size_t(i) * co + o) * 4 + tap]; };

  Map x(n, h, w, ci, random), y(n, 2 * h, 2 * w, co, random);
  x.fill(random, real_i);
  Device<T> forward_weights(4LL * ci * co);
  pack(forward_weights, 1, 4 * co, ci, [&](int, int row, int i) { return at(i, row % co, row / co); });
  Device<float> bias((long long)co);
  for (int o = 0; o < co; ++o) bias[size_t(o)] = o < real_o ? random.value() : 0.0f;
  const dim3 grid(blocks, (unsigned(4 * co) + side - 1) / side);
  if (wide)
    LAUNCH(up2_forward_64, grid, 128, shared, x.base(), x.pitch, forward_weights.data, bias.data, y.base(), y.pitch, n,
           h, w, ci, co);
  else
    LAUNCH(up2_forward_32, grid, 128, shared, x.base(), x.pitch, forward_weights.data, bias.data, y.base(), y.pitch, n,
           h, w, ci, co);
  Comparison forward;
  for (int b = 0; b < n; ++b)
    for (int py = 0; py < 2 * h; ++py)
      for (int px = 0; px < 2 * w; ++px)
        for (int o = 0; o < co; ++o) {
          double sum = double(bias[size_t(o)]);
          for (int i = 0; i < ci; ++i) sum += x.value(b, py / 2, px / 2, i) * double(at(i, o, py % 2 * 2 + px % 2));
          forward.add(y.value(b, py, px, o), sum);
        }
  forward.check("up2_forward", tolerance);
  require(y.neighbours_untouched(), "up2_forward: nothing beside its own channels is written");

  Map dy(n, 2 * h, 2 * w, co, random), dx(n, h, w, ci, random);
  dy.fill(random, real_o);
  Device<T> backward_weights(4LL * ci * co);
  pack(backward_weights, 1, ci, 4 * co, [&](int, int i, int k) { return at(i, k % co, k / co); });
  const dim3 back(blocks, (unsigned(ci) + side - 1) / side);
  if (wide)
    LAUNCH(up2_input_gradient_64, back, 128, shared, dy.base(), dy.pitch, backward_weights.data, dx.base(), dx.pitch, n,
           h, w, ci, co);
  else
    LAUNCH(up2_input_gradient_32, back, 128, shared, dy.base(), dy.pitch, backward_weights.data, dx.base(), dx.pitch, n,
           h, w, ci, co);
  Comparison input;
  for (int b = 0; b < n; ++b)
    for (int py = 0; py < h; ++py)
      for (int px = 0; px < w; ++px)
        for (int i = 0; i < ci; ++i) {
          double sum = 0.0;
          for (int tap = 0; tap < 4; ++tap)
            for (int o = 0; o < co; ++o)
              sum += dy.value(b, 2 * py + tap / 2, 2 * px + tap % 2, o) * double(at(i, o, tap));
          input.add(dx.value(b, py, px, i), sum);
        }
  input.check("up2_input_gradient", tolerance);
  require(dx.neighbours_untouched(), "up2_input_gradient: nothing beside its own channels is written");

  Device<float> partial(4LL * splits * co * ci), gradient(4LL * real_i * real_o);
  LAUNCH(up2_weight_gradient, dim3(unsigned(splits), unsigned((ci + 63) / 64), unsigned((4 * co + 63) / 64)), 128,
         3 * 2 * 128 * 64, x.base(), x.pitch, dy.base(), dy.pitch, partial.data, n, h, w, ci, co);
  LAUNCH(up2_weight_gradient_sum, dim3(random.below(2) ? unsigned(4 * real_i * real_o + 31) / 32 : 3), 256, 0,
         partial.data, gradient.data, splits, ci, co, real_i, real_o);
  Comparison weights;
  for (int i = 0; i < real_i; ++i)
    for (int o = 0; o < real_o; ++o)
      for (int tap = 0; tap < 4; ++tap) {
        double sum = 0.0;
        for (int b = 0; b < n; ++b)
          for (int py = 0; py < h; ++py)
            for (int px = 0; px < w; ++px)
              sum += x.value(b, py, px, i) * dy.value(b, 2 * py + tap / 2, 2 * px + tap % 2, o);
        weights.add(gradient[(size_t(i) * real_o + o) * 4 + tap], sum);
      }
  // In BF16 the operands are exact and the sums are not rounded.
  weights.check("up2_weight_gradient", PRECISION == 2 ? 1e-5 : tolerance);

  const double parts[3] = {forward.part(), input.part(), weights.part()};
  for (int k = 0; k < 3; ++k)
    if (parts[k] > worst[k]) worst[k] = parts[k];
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? atoi(arguments[1]) : 40;
  catch_faults();
  double worst[3] = {};
  for (int k = 0; k < cases; ++k) {
    Random random(3000 + unsigned(k));
    run(random, k % 2, worst);
  }
  printf("up2, precision %d: %d cases, largest errors of the largest value: forward %.2e, input %.2e, weights %.2e\n",
         PRECISION, cases, worst[0], worst[1], worst[2]);
}
