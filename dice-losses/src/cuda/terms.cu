// Logits to probabilities, and what is summed at a pixel. The same equations as the fused pass of the CPU.

// A class's probability, its complement, and the logarithms of both if they are needed.
struct Probability {
  float p;
  float q;
  float p_q;
  float ln_p;
  float ln_q;
};

// p = sigma(u)
__device__ __forceinline__ Probability sigmoid(float u) {
  const float size = fabsf(u);
  const float e = exp_of(-size);
  const float large = reciprocal(1.0f + e), small = e * large;
  const bool positive = u > 0.0f;
  Probability s;
  s.p = positive ? large : small;
  s.q = positive ? small : large;
  s.p_q = small * large;
#if LOGS
  const float ln_large = -log1pf(e), ln_small = ln_large - size;
  s.ln_p = positive ? ln_large : ln_small;
  s.ln_q = positive ? ln_small : ln_large;
#else
  s.ln_p = s.ln_q = 0.0f;
#endif
  return s;
}

// ln q of a complement that may have vanished: then so far below 0 that no power of it is left. A NaN stays one.
__device__ __forceinline__ float ln_of_complement(float q) {
  return q > 0.0f ? logf(at_least(q, TINY)) : (q == 0.0f ? -1e4f : q);
}

// x^k, 0 where x is 0.
__device__ __forceinline__ float power_of(float x, float k) {
  // A NaN is not above 0, and stays one.
  return x > 0.0f ? exp_of(at_most(k * logf(at_least(x, TINY)), LARGEST_EXPONENT)) : x;
}

// e^gamma
__device__ __forceinline__ float power_value(float e, float ln_e, float gamma) {
#if POWER == POWER_HALF
  return root(e);
#elif POWER == POWER_THREE_HALVES
  return e * root(e);
#elif POWER == POWER_TWO
  return e * e;
#elif POWER == POWER_THREE
  return e * e * e;
#elif POWER == POWER_GENERAL
  return exp_of(gamma * ln_e);
#else
  return e;
#endif
}

// e^(gamma - 1), bounded where gamma < 1 and e vanishes; it is only used in a product with something as small as e.
__device__ __forceinline__ float power_slope(float e, float ln_e, float gamma) {
#if POWER == POWER_HALF
  return 1.0f / root(at_least(e, LEAST_DIVISOR * LEAST_DIVISOR));
#elif POWER == POWER_THREE_HALVES
  return root(e);
#elif POWER == POWER_TWO
  return e;
#elif POWER == POWER_THREE
  return e * e;
#elif POWER == POWER_GENERAL
  return exp_of(at_most((gamma - 1.0f) * ln_e, STEEPEST));
#else
  return 1.0f;
#endif
}

// p times the slope of the error: p q^(gamma - 1) where the class is true, elsewhere p^gamma, which has no pole.
__device__ __forceinline__ float slope_times_p(bool is, float p, float q, float ln_e, float gamma) {
#if POWER == POWER_GENERAL
  const float power = exp_of(at_most((is ? gamma - 1.0f : gamma) * ln_e, STEEPEST));
  return is ? p * power : power;
#else
  return p * power_slope(is ? q : p, ln_e, gamma);
#endif
}

// y^gamma of a truth
__device__ __forceinline__ float power_of_truth(float y, float gamma) {
#if POWER == POWER_GENERAL
  return power_of(y, gamma);
#else
  return power_value(y, y, gamma);
#endif
}

// A pixel of one class seen from its truth: the error e, r = 1 - e, l = -ln r, and the focal exponent.
struct Miss {
  float e;
  float r;
  float ln_e;
  float minus_ln_r;
  float focus;
};

// l^k
__device__ __forceinline__ float log_factor(const Miss& miss, float log_power) {
#if FOCAL
  return log_power == 1.0f ? miss.minus_ln_r : power_of(miss.minus_ln_r, log_power);
#else
  return miss.minus_ln_r;
#endif
}

// e^f. Of an infinite logit the logarithm is, and 0 times it would be a NaN.
__device__ __forceinline__ float focal_factor(const Miss& miss) {
  return exp_of(miss.focus * at_least(miss.ln_e, -1e30f));
}

// e^f l^k
__device__ __forceinline__ float pixel_value(const Miss& miss, float log_power) {
#if FOCAL
  return focal_factor(miss) * log_factor(miss, log_power);
#else
  return miss.minus_ln_r;
#endif
}

// Its derivative in the log-odds of the error, f e^f r l^k + k e^f e l^(k - 1); e <= l, so the latter is bounded.
__device__ __forceinline__ float pixel_slope(const Miss& miss, float log_power) {
#if FOCAL
  const float logs = log_factor(miss, log_power);
  const float of_log =
      log_power == 1.0f ? miss.e : log_power * logs * (miss.e / at_least(miss.minus_ln_r, TINY));
  return focal_factor(miss) * (miss.focus * miss.r * logs + of_log);
#else
  return miss.e;
#endif
}

// The same over e, bounded where e vanishes; it is only used in a product with something as small as e.
__device__ __forceinline__ float pixel_slope_over_error(const Miss& miss, float log_power) {
#if FOCAL
  return pixel_slope(miss, log_power) / at_least(miss.e, LEAST_DIVISOR);
#else
  return 1.0f;
#endif
}

// The derivative of the loss in a sum, cut off far beyond any that training could use. A NaN stays one.
__device__ __forceinline__ float coefficient(double x) {
  return (float)(x > LARGEST_DERIVATIVE ? LARGEST_DERIVATIVE : (x < -LARGEST_DERIVATIVE ? -LARGEST_DERIVATIVE : x));
}

// A truth that is outside [0, 1] by rounding only, brought back into it; then `own y + other`. One that is outside stays
// so, for smoothing might hide it.
__device__ __forceinline__ float truth_of(float y, const Setting& set) {
  const float inside = at_most(at_least(y, 0.0f), 1.0f);
  if (fabsf(y - inside) < SLACK) y = inside;
  return fabsf(y - 0.5f) > 0.5f ? y : fmaf(y, set.own, set.other);
}

// ---- A softmax's class with hard labels.

__device__ __forceinline__ void add_hard(float sums[ROWS], bool is, float p, float ln_p, const Miss& miss, float loss,
                                         float weight, const Setting& set) {
#if ERRORS
  float error = power_value(is ? miss.e : p, is ? miss.ln_e : ln_p, set.gamma);
#if WEIGHTED
  p *= weight;
  error *= weight;
#endif
  sums[PREDICTED] += p;
  if (is) {
    sums[TP] += p;
    sums[FN] += error;
    sums[VOLUME] += weight;
  } else {
    sums[FP] += error;
  }
#endif
#if PIXEL
  if (is) sums[OF_CLASS] += loss;
#endif
}

// Derivatives of the loss in the sums of one class, as a pixel needs them.
struct HardSlope {
  // In the probability, where the class is not true and where it is.
  float overlap[2];
  // gamma times that in the errors.
  float error[2];
  float loss;
};

// A derivative a row.
struct Upstream {
  double of[ROWS];
};

__device__ __forceinline__ HardSlope hard_slope(const Upstream& up, double gamma) {
  HardSlope slope;
  slope.overlap[0] = coefficient(up.of[PREDICTED]);
  slope.overlap[1] = coefficient(up.of[PREDICTED] + up.of[TP]);
  slope.error[0] = coefficient(gamma * up.of[FP]);
  slope.error[1] = coefficient(-gamma * up.of[FN]);
  slope.loss = coefficient(-up.of[OF_CLASS]);
  return slope;
}

// p dL/dp; `of_loss` is the slope of the pixel loss over its error.
__device__ __forceinline__ float hard_of_p(bool is, float p, float q, float ln_p, const Miss& miss, float of_loss,
                                           const HardSlope& slope, const Setting& set) {
  float of_p = 0.0f;
#if ERRORS
  const float of_error = slope_times_p(is, p, q, is ? miss.ln_e : ln_p, set.gamma);
  of_p = fmaf(of_error, is ? slope.error[1] : slope.error[0], p * (is ? slope.overlap[1] : slope.overlap[0]));
#endif
#if PIXEL
  if (is) of_p += of_loss * slope.loss;
#endif
  return of_p;
}

// ---- A class that has a truth y of its own.

__device__ __forceinline__ Miss missed(const Probability& s, float focus) {
  return Miss{s.q, s.p, s.ln_q, -s.ln_p, focus};
}

__device__ __forceinline__ Miss mistaken(const Probability& s, float focus) {
  return Miss{s.p, s.q, s.ln_p, -s.ln_q, focus};
}

// p - y, in which nothing cancels where y is 0 or 1.
__device__ __forceinline__ float difference_of(const Probability& s, float y) {
  return s.p * (1.0f - y) - s.q * y;
}

__device__ __forceinline__ void add_soft(float sums[ROWS], const Probability& s, float y, float weight, float focus,
                                         float other_focus, const Setting& set) {
  const float counted = y * weight;
#if ERRORS
#if SQUARED
  const float difference = difference_of(s, y);
  const float over = at_least(difference, 0.0f), under = at_most(difference, 0.0f);
  const float fp = over * over, fn = under * under;
#else
  const float fp = power_value(s.p, s.ln_p, set.gamma) * power_of_truth(1.0f - y, set.gamma);
  const float fn = power_value(s.q, s.ln_q, set.gamma) * power_of_truth(y, set.gamma);
#endif
  sums[VOLUME] += counted;
  sums[TP] = fmaf(s.p, counted, sums[TP]);
  sums[PREDICTED] = fmaf(s.p, weight, sums[PREDICTED]);
  sums[FP] = fmaf(fp, weight, sums[FP]);
  sums[FN] = fmaf(fn, weight, sums[FN]);
#endif
#if PIXEL
  sums[OF_CLASS] = fmaf(pixel_value(missed(s, focus), set.log_power), counted, sums[OF_CLASS]);
#if SIGMOID
  sums[OF_OTHERS] = fmaf(pixel_value(mistaken(s, other_focus), set.log_power), weight - counted, sums[OF_OTHERS]);
#endif
#endif
}

struct SoftSlope {
  float tp;
  float predicted;
  // gamma times those in the errors.
  float fp;
  float fn;
  float of_class;
  float of_others;
};

__device__ __forceinline__ SoftSlope soft_slope(const Upstream& up, double gamma) {
  SoftSlope slope;
  slope.tp = coefficient(up.of[TP]);
  slope.predicted = coefficient(up.of[PREDICTED]);
  slope.fp = coefficient(gamma * up.of[FP]);
  slope.fn = coefficient(gamma * up.of[FN]);
  slope.of_class = coefficient(up.of[OF_CLASS]);
  slope.of_others = coefficient(up.of[OF_OTHERS]);
  return slope;
}

// p dL/dp, without the losses of the other side of a sigmoid.
__device__ __forceinline__ float soft_of_p(const Probability& s, float y, float focus, const SoftSlope& slope,
                                           const Setting& set) {
  float of_p = 0.0f;
#if ERRORS
#if SQUARED
  const float difference = difference_of(s, y);
  const float of_errors = s.p * difference * (difference > 0.0f ? slope.fp : slope.fn);
#else
  const float fp = power_value(s.p, s.ln_p, set.gamma) * power_of_truth(1.0f - y, set.gamma);
  const float fn = s.p * power_slope(s.q, s.ln_q, set.gamma) * power_of_truth(y, set.gamma);
  const float of_errors = slope.fp * fp - slope.fn * fn;
#endif
  of_p = fmaf(s.p, fmaf(slope.tp, y, slope.predicted), of_errors);
#endif
#if PIXEL
  of_p -= slope.of_class * y * pixel_slope_over_error(missed(s, focus), set.log_power);
#endif
  return of_p;
}

// The derivative in the logit of a sigmoid.
__device__ __forceinline__ float soft_of_logit(const Probability& s, float y, float focus, float other_focus,
                                               const SoftSlope& slope, const Setting& set) {
  float of_logit = s.q * soft_of_p(s, y, focus, slope, set);
#if PIXEL
  of_logit = fmaf(slope.of_others * (1.0f - y), pixel_slope(mistaken(s, other_focus), set.log_power), of_logit);
#endif
  return of_logit;
}

// ---- A question with two answers.

__device__ __forceinline__ Miss miss_of(const Probability& s, bool y, float focus) {
  return Miss{y ? s.q : s.p, y ? s.p : s.q, y ? s.ln_q : s.ln_p, y ? -s.ln_p : -s.ln_q, focus};
}

struct BinarySlope {
  float overlap[2];
  float error[2];
  float loss[2];
};

// `no` are the derivatives in the sums of class 0 of a softmax, which has the log-odds -u and is true where 1 is not.
__device__ __forceinline__ BinarySlope binary_slope(const Upstream& no, const Upstream& yes, double gamma) {
  BinarySlope slope;
#if SIGMOID
  slope.overlap[0] = coefficient(yes.of[PREDICTED]);
  slope.overlap[1] = coefficient(yes.of[PREDICTED] + yes.of[TP]);
  slope.error[0] = coefficient(gamma * yes.of[FP]);
  slope.error[1] = coefficient(-gamma * yes.of[FN]);
  slope.loss[0] = coefficient(yes.of[OF_OTHERS]);
  slope.loss[1] = coefficient(-yes.of[OF_CLASS]);
#else
  const double predicted = yes.of[PREDICTED] - no.of[PREDICTED];
  slope.overlap[0] = coefficient(predicted - no.of[TP]);
  slope.overlap[1] = coefficient(predicted + yes.of[TP]);
  slope.error[0] = coefficient(gamma * (yes.of[FP] + no.of[FN]));
  slope.error[1] = coefficient(-gamma * (yes.of[FN] + no.of[FP]));
  slope.loss[0] = coefficient(no.of[OF_CLASS]);
  slope.loss[1] = coefficient(-yes.of[OF_CLASS]);
#endif
  return slope;
}

__device__ __forceinline__ float binary_of_log_odds(float u, bool y, const BinarySlope& slope, float focus,
                                                    const Setting& set) {
  const Probability s = sigmoid(u);
  const Miss miss = miss_of(s, y, focus);
  float of_u = 0.0f;
#if ERRORS
  const float error = miss.r * power_value(miss.e, miss.ln_e, set.gamma);
  of_u = fmaf(s.p_q, y ? slope.overlap[1] : slope.overlap[0], error * (y ? slope.error[1] : slope.error[0]));
#endif
#if PIXEL
  of_u = fmaf(pixel_slope(miss, set.log_power), y ? slope.loss[1] : slope.loss[0], of_u);
#endif
  return of_u;
}

// ---- Softmax.

#if SIGMOID == 0 && CLASSES > 0
// For each class the sum of x over all the others, without subtraction.
__device__ __forceinline__ void sums_of_others(const float x[CLASSES], float others[CLASSES]) {
  float before = x[0];
#pragma unroll
  for (int c = 1; c < CLASSES; ++c) {
    others[c] = before;
    before += x[c];
  }
  float behind = x[CLASSES - 1];
#pragma unroll
  for (int c = CLASSES - 2; c > 0; --c) {
    others[c] += behind;
    behind += x[c];
  }
  others[0] = behind;
}

// All classes of a pixel. q is the sum of the other classes' exponentials over that of all: 1 - p would be 0, or a
// rounding error, where p is nearly 1.
struct Classes {
  float p[CLASSES];
  float q[CLASSES];
  float ln_p[CLASSES];

  __device__ __forceinline__ void softmax(const float z[CLASSES]) {
    float largest = z[0];
#pragma unroll
    for (int c = 1; c < CLASSES; ++c) largest = fmaxf(largest, z[c]);
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) {
      ln_p[c] = z[c] - largest;
      p[c] = exp_of(ln_p[c]);
    }
    sums_of_others(p, q);
    const float share = reciprocal(p[0] + q[0]);
#if LOGS
    // The largest exponential is 1, so the smallest sum of the others is all that exceeds 1.
    float excess = q[0];
#pragma unroll
    for (int c = 1; c < CLASSES; ++c) excess = fminf(excess, q[c]);
    // A minimum passes over a NaN, the share does not.
    const float ln_total = log1pf(excess + (share - share));
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) ln_p[c] -= ln_total;
#endif
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) {
      p[c] *= share;
      q[c] *= share;
    }
  }

  __device__ __forceinline__ Probability of(int c) const {
    Probability s;
    s.p = p[c];
    s.q = q[c];
    s.p_q = p[c] * q[c];
    s.ln_p = ln_p[c];
    s.ln_q = LOGS && SOFT ? ln_of_complement(q[c]) : 0.0f;
    return s;
  }
};
#endif

#if SIGMOID == 0 && CLASSES == 0
// A softmax of many classes that come one after the other: the largest logit so far, the others' exponentials relative to
// it, and where it stands.
//
// Of the largest class q is that excess; of another 1 + excess - e, in which at most half is taken off.
struct Online {
  float largest;
  float excess;
  int at;
  float share;
  float ln_total;

  __device__ __forceinline__ void begin(float z) {
    largest = z;
    excess = 0.0f;
    at = 0;
  }

  __device__ __forceinline__ void see(float z, int c) {
    const float above = z - largest;
    const float e = z == largest ? 1.0f : exp_of(-fabsf(above));
    if (above > 0.0f) {
      excess = (excess + 1.0f) * e;
      largest = z;
      at = c;
    } else {
      excess += e;
    }
  }

  __device__ __forceinline__ void end() {
    share = reciprocal(1.0f + excess);
#if LOGS
    ln_total = log1pf(excess);
#else
    ln_total = 0.0f;
#endif
  }

  __device__ __forceinline__ Probability of(float z, int c) const {
    const float x = z - largest;
    const float e = exp_of(x);
    Probability s;
    s.p = e * share;
    s.q = (c == at ? excess : 1.0f + excess - e) * share;
    s.p_q = s.p * s.q;
    s.ln_p = x - ln_total;
    s.ln_q = LOGS && SOFT ? ln_of_complement(s.q) : 0.0f;
    return s;
  }
};
#endif
