// What a loss makes of its sums, and the derivative of it in every sum: one block, in f64.
//
// The program is data. It begins with [terms, constant, values, parts], where `values` is 0 for a scalar; then come the
// terms, each [kind, length, part, factor, ...]:
//   a region:  index, alpha, beta, smooth, exponent, outer, power, mean over classes, whole batch, empty, reduction, K,
//              then K classes, K powers and K class weights (of an index of one ratio of all classes one each counts)
//   a pixel loss:  reduction, divisor, then C weights of the classes and C of the other sides
// Guards are those of the host's `guard.rs`. A NaN stays one throughout.

#define PROGRAM_HEAD 4
#define TERM_HEAD 16
#define INDEX_TVERSKY 0
#define OUTER_POWER 0
#define OUTER_INDEX_POWER 1
#define OUTER_MINUS_LOG 2
#define EMPTY_PENALTY 0
#define EMPTY_SKIP 1
#define EMPTY_ZERO 2
#define EMPTY_ONE 3
#define EMPTY_RATIO 4
#define REDUCE_MEAN 0
#define REDUCE_SUM 1
#define NEAREST 1e-12
// The largest number that a sum is not divided by.
#define SMALLEST 1e-290

__device__ __forceinline__ double no_less(double x, double least) { return x < least ? least : x; }

// a / b of sums, 0 if both vanish.
__device__ __forceinline__ double ratio(double a, double b) { return b <= SMALLEST ? 0.0 : a / b; }

// A value and its derivative.
struct Dual {
  double value;
  double slope;
};

// x^k
__device__ __noinline__ Dual power_dual(double x, double k) {
  if (k == 1.0) return Dual{x, 1.0};
  return Dual{pow(x, k), k * pow(k < 1.0 ? no_less(x, NEAREST) : x, k - 1.0)};
}

// -ln rest, where rest is 1 - x as rounded and x is known to all its digits (Kahan).
__device__ __noinline__ double minus_ln(double rest, double x) {
  const double difference = 1.0 - rest;
  return difference == 0.0 ? x : -log(rest) * (x / difference);
}

// The outer function of a region's loss.
__device__ __noinline__ Dual outer_of(int kind, double power, double x) {
  if (kind == OUTER_POWER) return power_dual(x, power);
  if (kind == OUTER_INDEX_POWER) {
    if (power == 1.0) return Dual{x, 1.0};
    const double rest = no_less(1.0 - x, 0.0);
    const double t = tanh(minus_ln(rest, x) * (power / 2.0));
    const double near = power < 1.0 ? no_less(rest, NEAREST) : rest;
    return Dual{2.0 * t / (t + 1.0), power * pow(near, power - 1.0)};
  }
  if (kind == OUTER_MINUS_LOG) {
    const double rest = no_less(1.0 - x, NEAREST);
    const Dual outer = power_dual(minus_ln(rest, x), power);
    return Dual{outer.value, outer.slope / rest};
  }
  const double slope = tanh(x);
  if (x > 1.0) return Dual{x + log(exp(-2.0 * x) + 1.0) - 0.69314718055994530942, slope};
  const double square = slope * slope;
  return Dual{0.5 * minus_ln(no_less(1.0 - square, NEAREST), square), slope};
}

// The sum of a number of each thread, the same for all and in the same order every time.
__device__ __noinline__ double block_sum(double x) {
  __shared__ double numbers[THREADS];
  __syncthreads();
  numbers[threadIdx.x] = x;
  __syncthreads();
  for (int step = THREADS / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) numbers[threadIdx.x] += numbers[threadIdx.x + step];
    __syncthreads();
  }
  return numbers[0];
}

// The sums of one pass, and the regions that a term makes of them.
struct Regions {
  const double* sums;
  Index items;
  Index channels;
  bool batch;

  __device__ __forceinline__ double of(int row, Index group, Index c) const {
    const double* from = sums + row * items * channels + c;
    if (!batch) return from[group * channels];
    double sum = 0.0;
    for (Index item = 0; item < items; ++item) sum += from[item * channels];
    return sum;
  }
};

// A region's loss, and what its derivatives are made of.
struct Region {
  double loss;
  // What the loss was divided by.
  double divisor;
  double pixels;
  bool is_empty;
};

// The Tversky loss of one class.
__device__ __noinline__ Region tversky(const double* term, const Regions& regions, Index group, Index c) {
  const double errors = term[5] * regions.of(FP, group, c) + term[6] * regions.of(FN, group, c);
  Region region;
  region.divisor = regions.of(TP, group, c) + errors + term[7];
  region.loss = ratio(errors, region.divisor);
  region.pixels = regions.of(PIXELS, group, c);
  region.is_empty = regions.of(VOLUME, group, c) == 0.0;
  return region;
}

// The weight of a class in one ratio of all: 1 for the rarest and for those that are absent.
__device__ __forceinline__ double class_weight(double volume, double rarest, double exponent) {
  if (exponent == 0.0 || volume == 0.0) return 1.0;
  const double share = rarest / volume;
  return exponent == 2.0 ? share * share : share;
}

__device__ __noinline__ double rarest_of(const double* classes, Index count, const Regions& regions, Index group) {
  // A volume beyond any image.
  double rarest = 1e30;
  for (Index k = 0; k < count; ++k) {
    const double volume = regions.of(VOLUME, group, (Index)classes[k]);
    if (volume != 0.0 && !(volume >= rarest)) rarest = volume;
  }
  return rarest;
}

// The generalised Dice loss of all classes.
__device__ __noinline__ Region generalised(const double* term, const Regions& regions, Index group, double rarest) {
  const Index count = (Index)term[15];
  const double* classes = term + TERM_HEAD;
  double errors = 0.0, all = 0.0, volume = 0.0;
  Region region;
  region.pixels = 0.0;
  for (Index k = 0; k < count; ++k) {
    const Index c = (Index)classes[k];
    const double of_class = regions.of(VOLUME, group, c);
    const double weight = class_weight(of_class, rarest, term[8]);
    const double wrong = regions.of(FP, group, c) + regions.of(FN, group, c);
    errors += weight * wrong;
    all += weight * (2.0 * regions.of(TP, group, c) + wrong);
    volume += of_class;
    region.pixels += regions.of(PIXELS, group, c);
  }
  region.divisor = all + term[7];
  region.loss = ratio(errors, region.divisor);
  region.is_empty = volume == 0.0;
  return region;
}

// Room for intermediate numbers of a term.
struct Room {
  // [groups, columns]
  double* loss;
  double* slope;
  // [groups]
  double* item;
  double* factor;
};

// Adds a region term's value, and its derivatives; a scalar's is returned, others are added to `values`.
__device__ __noinline__ double region_term(const double* term, const double* all_sums, double* all_derivatives,
                                           const Room& room, const double* sample_weights, Index items, Index channels,
                                           double* values) {
  const Index cells = items * channels, part = (Index)term[2];
  const double factor = term[3];
  const bool by_class = (int)term[4] == INDEX_TVERSKY;
  const int outer = (int)term[9], empty = (int)term[13], reduction = (int)term[14];
  const bool mean = term[11] != 0.0;
  const Index chosen = (Index)term[15];
  const double* classes = term + TERM_HEAD;
  const double* powers = classes + chosen;
  const double* weights = powers + chosen;
  const Regions regions = {all_sums + part * ROWS * cells, items, channels, term[12] != 0.0};
  double* derivatives = all_derivatives + part * ROWS * cells;
  const Index groups = regions.batch ? 1 : items, columns = by_class ? chosen : 1;

  for (Index i = threadIdx.x; i < groups * columns; i += THREADS) {
    const Index group = i / columns, k = i % columns;
    Region region;
    double predicted = 0.0;
    if (by_class) {
      region = tversky(term, regions, group, (Index)classes[k]);
      if (region.is_empty) predicted = regions.of(PREDICTED, group, (Index)classes[k]);
    } else {
      region = generalised(term, regions, group, rarest_of(classes, chosen, regions, group));
      if (region.is_empty) {
        for (Index l = 0; l < chosen; ++l) predicted += regions.of(PREDICTED, group, (Index)classes[l]);
      }
    }
    bool fixed = false;
    if (region.is_empty && empty != EMPTY_RATIO) {
      fixed = empty != EMPTY_PENALTY;
      region.loss = empty == EMPTY_PENALTY ? ratio(predicted, region.pixels) : (empty == EMPTY_ONE ? 1.0 : 0.0);
    }
    const Dual loss = outer_of(outer, outer == OUTER_POWER ? powers[k] : term[10], region.loss);
    room.loss[i] = weights[k] * loss.value;
    // What an empty region costs by agreement does not depend on the prediction.
    room.slope[i] = fixed ? 0.0 : weights[k] * loss.slope;
  }
  __syncthreads();

  double sum = 0.0, counted = 0.0;
  for (Index group = threadIdx.x; group < groups; group += THREADS) {
    double loss = 0.0, present = 0.0;
    for (Index k = 0; k < columns; ++k) {
      loss += room.loss[group * columns + k];
      bool is_present = true;
      if (empty == EMPTY_SKIP) {
        is_present = false;
        if (by_class) {
          is_present = regions.of(VOLUME, group, (Index)classes[k]) != 0.0;
        } else {
          for (Index l = 0; l < chosen; ++l) is_present |= regions.of(VOLUME, group, (Index)classes[l]) != 0.0;
        }
      }
      if (is_present) present += 1.0;
    }
    double of_item = mean ? ratio(1.0, present) : 1.0;
    if (sample_weights != nullptr) of_item *= sample_weights[group];
    room.item[group] = loss * of_item;
    room.factor[group] = of_item;
    sum += room.item[group];
    if (present > 0.0) counted += 1.0;
  }
  sum = block_sum(sum);
  counted = block_sum(counted);
  double of_value = factor;
  if (reduction == REDUCE_MEAN) of_value *= ratio(1.0, counted);
  if (reduction != REDUCE_MEAN && reduction != REDUCE_SUM) {
    for (Index group = threadIdx.x; group < groups; group += THREADS) values[group] += factor * room.item[group];
  }

  for (Index i = threadIdx.x; i < groups * chosen; i += THREADS) {
    const Index group = i / chosen, k = i % chosen;
    const Index c = (Index)classes[k], column = by_class ? k : 0;
    const double up = of_value * room.factor[group] * room.slope[group * columns + column];
    Region region;
    double of_tp, of_fp, of_fn, of_predicted = 0.0;
    if (by_class) {
      region = tversky(term, regions, group, c);
      // (1 - loss) / divisor; nothing cancels, as 1 - loss is the true positives' share.
      const double share = ratio(regions.of(TP, group, c) + term[7], region.divisor);
      of_fp = ratio(term[5] * share, region.divisor);
      of_fn = ratio(term[6] * share, region.divisor);
      of_tp = -ratio(region.loss, region.divisor);
    } else {
      const double rarest = rarest_of(classes, chosen, regions, group);
      region = generalised(term, regions, group, rarest);
      const double weight = class_weight(regions.of(VOLUME, group, c), rarest, term[8]);
      of_fp = of_fn = ratio(weight * (1.0 - region.loss), region.divisor);
      of_tp = -ratio(2.0 * weight * region.loss, region.divisor);
    }
    if (region.is_empty && empty != EMPTY_RATIO) {
      of_tp = of_fp = of_fn = 0.0;
      if (empty == EMPTY_PENALTY) of_predicted = ratio(1.0, region.pixels);
    }
    const Index first = regions.batch ? 0 : group, last = regions.batch ? items : group + 1;
    for (Index item = first; item < last; ++item) {
      double* cell = derivatives + item * channels + c;
      cell[TP * cells] += up * of_tp;
      cell[FP * cells] += up * of_fp;
      cell[FN * cells] += up * of_fn;
      cell[PREDICTED * cells] += up * of_predicted;
    }
  }
  __syncthreads();
  return reduction == REDUCE_MEAN || reduction == REDUCE_SUM ? sum * of_value : 0.0;
}

// Adds a pixel loss.
__device__ __noinline__ double pixel_term(const double* term, const double* all_sums, double* all_derivatives,
                                          const Room& room, const double* sample_weights, Index items, Index channels,
                                          double* values) {
  const Index cells = items * channels, part = (Index)term[2];
  const double factor = term[3], divisor = term[5];
  const int reduction = (int)term[4];
  const double* of_class = term + TERM_HEAD;
  const double* of_others = of_class + channels;
  const double* sums = all_sums + part * ROWS * cells;
  double* derivatives = all_derivatives + part * ROWS * cells;

  double sum = 0.0, pixels = 0.0, ratios = 0.0;
  for (Index item = threadIdx.x; item < items; item += THREADS) {
    double loss = 0.0;
    for (Index c = 0; c < channels; ++c) {
      const Index cell = item * channels + c;
      loss += of_class[c] * sums[OF_CLASS * cells + cell];
      if (of_others[c] != 0.0) loss += of_others[c] * sums[OF_OTHERS * cells + cell];
    }
    const double here = sums[PIXELS * cells + item * channels];
    const double weight = (sample_weights != nullptr ? sample_weights[item] : 1.0) / divisor;
    loss *= weight;
    room.item[item] = ratio(loss, here);
    room.factor[item] = weight * (reduction == REDUCE_MEAN ? 1.0 : ratio(1.0, here));
    sum += loss;
    pixels += here;
    ratios += room.item[item];
  }
  sum = block_sum(sum);
  pixels = block_sum(pixels);
  ratios = block_sum(ratios);
  const double of_value = reduction == REDUCE_MEAN ? factor * ratio(1.0, pixels) : factor;
  if (reduction != REDUCE_MEAN && reduction != REDUCE_SUM) {
    for (Index item = threadIdx.x; item < items; item += THREADS) values[item] += factor * room.item[item];
  }
  for (Index cell = threadIdx.x; cell < cells; cell += THREADS) {
    const double up = of_value * room.factor[cell / channels];
    derivatives[OF_CLASS * cells + cell] += up * of_class[cell % channels];
    derivatives[OF_OTHERS * cells + cell] += up * of_others[cell % channels];
  }
  __syncthreads();
  if (reduction == REDUCE_MEAN) return factor * ratio(sum, pixels);
  return reduction == REDUCE_SUM ? factor * ratios : 0.0;
}

// The loss, to `value` in f64 and `value_f32` (either may be null), and its derivatives [parts, ROWS, N, C].
__device__ __noinline__ void algebra(const double* program, const double* all_sums, double* derivatives,
                                     double* workspace, const double* sample_weights, Index items, Index channels,
                                     double* value, float* value_f32) {
  const Index cells = items * channels;
  const Index terms = (Index)program[0], count = (Index)program[2], parts = (Index)program[3];
  const double constant = program[1];
  // 2 N C + 3 N numbers.
  const Room room = {workspace,
                     workspace + cells,
                     workspace + 2 * cells,
                     workspace + 2 * cells + items};
  double* values = workspace + 2 * cells + 2 * items;
  for (Index i = threadIdx.x; i < parts * ROWS * cells; i += THREADS) derivatives[i] = 0.0;
  for (Index i = threadIdx.x; i < count; i += THREADS) values[i] = constant;
  __syncthreads();
  double total = constant;
  const double* term = program + PROGRAM_HEAD;
  for (Index t = 0; t < terms; ++t) {
    if (term[0] == 0.0) {
      total += region_term(term, all_sums, derivatives, room, sample_weights, items, channels, values);
    } else {
      total += pixel_term(term, all_sums, derivatives, room, sample_weights, items, channels, values);
    }
    term += (Index)term[1];
  }
  for (Index i = threadIdx.x; i < (count == 0 ? 1 : count); i += THREADS) {
    const double x = count == 0 ? total : values[i];
    if (value != nullptr) value[i] = x;
    if (value_f32 != nullptr) value_f32[i] = (float)x;
  }
}
