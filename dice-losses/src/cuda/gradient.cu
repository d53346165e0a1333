// The gradient of a loss in its logits, from the derivatives of the loss in its sums.
//
// Blocks go through the logits from behind: what the first pass has read last is still in the second-level cache. The
// gradient is written past it if it is larger than the cache (STREAMED), else for the next operation to find it there.

#ifndef STREAMED
#define STREAMED 0
#endif

// The derivatives in the sums of one class, times that of whatever is made of the loss.
__device__ __forceinline__ Upstream upstream_of(const double* derivatives, Index cells, Index cell, double scale) {
  Upstream up;
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    up.of[row] = row == VOLUME || row == PIXELS ? 0.0 : derivatives[row * cells + cell] * scale;
  }
  return up;
}

#if HELD > 0

__device__ __forceinline__ void store(Element* plane, Index at, Index end, Packed all) {
#if ALIGNED
  const uint4 four = make_uint4(all.word[0], all.word[1], all.word[2], all.word[3]);
  uint4* to = reinterpret_cast<uint4*>(plane + at);
  if (STREAMED) {
    __stcs(to, four);
  } else {
    *to = four;
  }
#else
#pragma unroll
  for (int j = 0; j < VECTOR; ++j) {
    const Index pixel = at + j * APART;
    if (pixel < end) plane[pixel] = element(all.get(j));
  }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    gradient(const Element* __restrict__ logits, const void* __restrict__ truth, const void* __restrict__ weights,
             const float* __restrict__ focus, const Index items, const Index channels, const Index pixels,
             const Index part, const Index parts, const Index ignore, const float gamma, const float log_power,
             const float own, const float other, const double* __restrict__ derivatives,
             const double* __restrict__ scale, const int scale_apart, const int accumulate, Element* out) {
  SETTING
  const Index block = gridDim.x - 1 - blockIdx.x;
  const Index group = block / parts, part_at = block % parts;
  const Planes planes = planes_of(group, set.channels);
  const Element* z = logits + planes.plane * pixels;
  Element* to = out + planes.plane * pixels;
  const Index start = part_at * part, end = start + part < pixels ? start + part : pixels;
  const Index cells = items * channels;
  const double factor = scale == nullptr ? 1.0 : scale[scale_apart * planes.item];
#if BINARY
  const Upstream yes_up = upstream_of(derivatives, cells, planes.plane + HELD - 1, factor);
  const Upstream no_up = upstream_of(derivatives, cells, planes.plane, factor);
  const BinarySlope slope = binary_slope(no_up, yes_up, gamma);
#elif SOFT
  SoftSlope slopes[HELD];
#pragma unroll
  for (int c = 0; c < HELD; ++c) {
    slopes[c] = soft_slope(upstream_of(derivatives, cells, planes.plane + c, factor), gamma);
  }
#else
  HardSlope slopes[HELD];
#pragma unroll
  for (int c = 0; c < HELD; ++c) {
    slopes[c] = hard_slope(upstream_of(derivatives, cells, planes.plane + c, factor), gamma);
  }
#endif
#pragma unroll(HELD <= 2 ? 2 : 1)
  for (Index at = start + FIRST; at < end; at += TILE) {
    Packed all[HELD];
#pragma unroll
    for (int c = 0; c < HELD; ++c) all[c] = load_logits<true>(z + c * pixels, at, end);
    Truths truths;
    truths.load(set, planes, at, end);
    Seen seen;
    see(set, planes, at, end, seen);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) {
      const float weight = seen.weight[j];
      const bool counted = counts(weight);
#if BINARY
#if SIGMOID
      float u = all[0].get(j);
      const float focus_yes = focus_of(set, 0, planes.channel), focus_no = focus_of(set, 1, planes.channel);
#else
      float u = all[HELD - 1].get(j) - all[0].get(j);
      const float focus_yes = focus_of(set, 0, 1), focus_no = focus_of(set, 0, 0);
#endif
      if (!counted) u = 0.0f;
      const bool y = seen.label[j] == planes.yes;
      float of_u = binary_of_log_odds(u, y, slope, y ? focus_yes : focus_no, set);
#if WEIGHTED
      of_u = counted ? of_u * weight : 0.0f;
#endif
      all[HELD - 1].set(j, of_u);
#if SIGMOID == 0
      all[0].set(j, -of_u);
#endif
#else
      float zs[HELD];
#pragma unroll
      for (int c = 0; c < HELD; ++c) zs[c] = counted ? all[c].get(j) : 0.0f;
#if SIGMOID
      const float y = truths.of(set, planes, 0, j, seen.label[j], weight);
      zs[0] = soft_of_logit(sigmoid(zs[0]), y, focus_of(set, 0, planes.channel), focus_of(set, 1, planes.channel),
                            slopes[0], set);
#else
      Classes classes;
      classes.softmax(zs);
      float of_p[HELD];
#if SOFT
#pragma unroll
      for (int c = 0; c < HELD; ++c) {
        const float y = truths.of(set, planes, c, j, seen.label[j], weight);
        of_p[c] = soft_of_p(classes.of(c), y, focus_of(set, 0, c), slopes[c], set);
      }
#else
      const int label = seen.label[j];
      Miss miss = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#if LOGS
#pragma unroll
      for (int c = 0; c < HELD; ++c) {
        if (label == c) {
          miss.e = classes.q[c];
          miss.r = classes.p[c];
          miss.minus_ln_r = -classes.ln_p[c];
          miss.focus = focus_of(set, 0, c);
        }
      }
#endif
#if LOGS_OF_ERRORS
      miss.ln_e = ln_of_complement(miss.e);
#endif
      float of_loss = 0.0f;
#if PIXEL
      of_loss = pixel_slope_over_error(miss, set.log_power);
#endif
#pragma unroll
      for (int c = 0; c < HELD; ++c) {
        of_p[c] = hard_of_p(label == c, classes.p[c], classes.q[c], classes.ln_p[c], miss, of_loss, slopes[c], set);
      }
#endif
      // q_k of_p_k - p_k sum of the others'
      sums_of_others(of_p, zs);
#pragma unroll
      for (int c = 0; c < HELD; ++c) zs[c] = classes.q[c] * of_p[c] - classes.p[c] * zs[c];
#endif
#pragma unroll
      for (int c = 0; c < HELD; ++c) {
#if WEIGHTED
        zs[c] = counted ? zs[c] * weight : 0.0f;
#endif
        all[c].set(j, zs[c]);
      }
#endif
    }
#pragma unroll
    for (int c = 0; c < HELD; ++c) {
      Element* plane = to + c * pixels;
      if (accumulate) {
        const Packed before = load_logits<false>(plane, at, end);
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) all[c].set(j, all[c].get(j) + before.get(j));
      }
      store(plane, at, end, all[c]);
    }
  }
}

#else

#if SOFT
typedef SoftSlope Slope;
__device__ __forceinline__ Slope slope_of(const Upstream& up, double gamma) { return soft_slope(up, gamma); }
#else
typedef HardSlope Slope;
__device__ __forceinline__ Slope slope_of(const Upstream& up, double gamma) { return hard_slope(up, gamma); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    gradient(const Element* __restrict__ logits, const void* __restrict__ truth, const void* __restrict__ weights,
             const float* __restrict__ focus, const Index items, const Index channels, const Index pixels,
             const Index part, const Index parts, const Index ignore, const float gamma, const float log_power,
             const float own, const float other, const double* __restrict__ derivatives,
             const double* __restrict__ scale, const int scale_apart, const int accumulate, Element* out) {
  SETTING
  const Index block = gridDim.x - 1 - blockIdx.x;
  const Index group = block / parts, part_at = block % parts;
  const Planes planes = planes_of(group, set.channels);
  const Element* z = logits + planes.plane * pixels;
  Element* to = out + planes.plane * pixels;
  const Index start = part_at * part, end = start + part < pixels ? start + part : pixels;
  const Index cells = items * channels;
  const double factor = scale == nullptr ? 1.0 : scale[scale_apart * planes.item];
  for (Index tile = start; tile < end; tile += TILE) {
    Pixels here;
    load(here, z, set, planes, tile + threadIdx.x, end);
#if SOFT == 0
    Miss misses[HERE];
    float of_losses[HERE];
#pragma unroll
    for (int j = 0; j < HERE; ++j) {
      misses[j] = true_miss(here, j, z, set, tile + threadIdx.x + j * THREADS, end);
#if PIXEL
      of_losses[j] = pixel_slope_over_error(misses[j], set.log_power);
#else
      of_losses[j] = 0.0f;
#endif
    }
#endif
    // p dL/dp of the largest class and of all others: again nothing is taken off but at most a half.
    float largest[HERE], others[HERE];
#pragma unroll
    for (int j = 0; j < HERE; ++j) largest[j] = others[j] = 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
      for (int c = 0; c < set.channels; ++c) {
        const Slope slope = slope_of(upstream_of(derivatives, cells, planes.plane + c, factor), gamma);
#pragma unroll
        for (int j = 0; j < HERE; ++j) {
          const Index at = tile + threadIdx.x + j * THREADS;
          const float weight = here.weight[j];
          const Probability s = here.softmax[j].of(logit(z, set, at, end, c, weight), c);
#if SOFT
          const float y = truth_at(here, j, set, planes, at, end, c);
          const float of_p = soft_of_p(s, y, focus_of(set, c), slope, set);
#else
          const float of_p = hard_of_p(here.label[j] == c, s.p, s.q, s.ln_p, misses[j], of_losses[j], slope, set);
#endif
          const bool is_largest = here.softmax[j].at == c;
          if (pass == 0) {
            if (is_largest) {
              largest[j] = of_p;
            } else {
              others[j] += of_p;
            }
          } else if (at < end) {
            const float rest = is_largest ? others[j] : largest[j] + (others[j] - of_p);
            float of_z = s.q * of_p - s.p * rest;
            of_z = counts(weight) ? of_z * weight : 0.0f;
            Element* place = to + c * pixels + at;
            *place = element(accumulate ? number(*place) + of_z : of_z);
          }
        }
      }
    }
  }
}
#endif
