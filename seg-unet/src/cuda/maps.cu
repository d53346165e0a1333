// What a network does to its maps besides the products of matrices: norm, pool, head, sums, and the packing of weights.
//
// A map is [pixels][channels], the channels padded to a multiple of 16 with zeros, and may be a part of a wider one
// (`pitch` numbers from pixel to pixel). A thread takes 16 bytes of channels of a pixel at a time. Every sum is added up in
// an order that the sizes alone decide: by a thread over its pixels, over the threads of a block, and over the blocks in
// f64, so the same input gives the same bits.

// Numbers that a thread takes at a time.
enum { V = PER_PIECE };

struct __align__(16) Vector {
  T of[V];
};
// Of the maxima in their windows, row by row.
struct __align__(16 / sizeof(T)) Positions {
  unsigned char of[V];
};

// Threads of a block that sums over pixels.
#define THREADS 256

__device__ __forceinline__ Vector load(const T *at) { return *reinterpret_cast<const Vector *>(at); }
__device__ __forceinline__ void store(T *at, const Vector &x) { *reinterpret_cast<Vector *>(at) = x; }

// Planes [N, C, H, W] to a map.
extern "C" __global__ void planes_to_map(const float *planes, T *map, long long pitch, int channels, int padded, long long area,
                                         long long pixels) {
  const int vectors = padded / V;
  const long long all = pixels * vectors;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (long long)gridDim.x * blockDim.x) {
    // Neighbouring threads take neighbouring pixels of a plane.
    const long long pixel = i % pixels;
    const int first = (int)(i / pixels) * V;
    const long long image = pixel / area, at = pixel % area;
    Vector out;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const int c = first + k;
      out.of[k] = narrow(c < channels ? planes[(image * channels + c) * area + at] : 0.0f);
    }
    store(map + pixel * pitch + first, out);
  }
}

// A map to planes [N, C, H, W].
extern "C" __global__ void map_to_planes(const T *map, long long pitch, float *planes, int channels, long long area, long long pixels) {
  const long long all = pixels * channels;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (long long)gridDim.x * blockDim.x) {
    const long long pixel = i % pixels;
    const int c = (int)(i / pixels);
    planes[(pixel / area * channels + c) * area + pixel % area] = widen(map[pixel * pitch + c]);
  }
}

// Threads of a block that adds up what other blocks have summed: columns, and rows of them.
#define SUM_COLUMNS 16
#define SUM_ROWS 64

// The sum over the rows of a block, always in the same pairs.
__device__ __forceinline__ double over_rows(double x, double (*shared)[SUM_COLUMNS]) {
  __syncthreads();
  shared[threadIdx.y][threadIdx.x] = x;
  for (int half = SUM_ROWS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.y < half) shared[threadIdx.y][threadIdx.x] += shared[threadIdx.y + half][threadIdx.x];
  }
  __syncthreads();
  return shared[0][threadIdx.x];
}

// From the moments of tiles (sums, and squared deviations from the tile's mean) those of each channel of each image:
// stats[n] = (mean, 1/sqrt(variance + eps)), affine[n] = (scale, shift) of the norm. y: images.
extern "C" __global__ void norm_moments(const float *partial, const float *weight, const float *bias, float *stats, float *affine,
                                        int h, int w, int rows, int channels, int padded, float eps) {
  __shared__ double shared[SUM_ROWS][SUM_COLUMNS];
  const int c = blockIdx.x * SUM_COLUMNS + threadIdx.x;
  const int across = (w + 15) / 16, tiles = across * ((h + rows - 1) / rows);
  const float *of_image = partial + (long long)blockIdx.y * tiles * 2 * padded + (c < padded ? c : 0);
  const double pixels = (double)h * w;
  double sum = 0.0;
  for (int tile = threadIdx.y; tile < tiles; tile += SUM_ROWS) sum += of_image[(long long)tile * 2 * padded];
  const double mean = over_rows(sum, shared) / pixels;
  double squares = 0.0;
  for (int tile = threadIdx.y; tile < tiles; tile += SUM_ROWS) {
    const double count = (double)min(rows, h - tile / across * rows) * min(16, w - tile % across * 16);
    const double away = of_image[(long long)tile * 2 * padded] / count - mean;
    squares += of_image[((long long)tile * 2 + 1) * padded] + count * away * away;
  }
  squares = over_rows(squares, shared);
  if (threadIdx.y != 0 || c >= padded) return;
  const double deviation = 1.0 / sqrt(squares / pixels + (double)eps);
  const double scale = c < channels ? weight[c] * deviation : 0.0;
  const double shift = c < channels ? bias[c] - mean * scale : 0.0;
  const long long at = (long long)blockIdx.y * 2 * padded + c;
  stats[at] = (float)mean;
  stats[at + padded] = (float)deviation;
  affine[at] = (float)scale;
  affine[at + padded] = (float)shift;
}

__device__ __forceinline__ Vector normed(const T *r, const float *affine, int padded) {
  const Vector x = load(r);
  Vector y;
#pragma unroll
  for (int k = 0; k < V; k++) y.of[k] = narrow(fmaf(widen(x.of[k]), affine[k], affine[padded + k]));
  return y;
}

// y = scale r + shift. y: images.
extern "C" __global__ void norm_apply(const T *r, const float *affine, T *y, long long pitch, long long area, int padded) {
  const int vectors = padded / V;
  const long long all = area * vectors, image = blockIdx.y;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (long long)gridDim.x * blockDim.x) {
    const int c = (int)(i % vectors) * V;
    const long long pixel = image * area + i / vectors;
    store(y + pixel * pitch + c, normed(r + pixel * padded + c, affine + image * 2 * padded + c, padded));
  }
}

// The same, and the maximum of each 2 × 2 window with its position: the first maximum row by row, or the first NaN.
extern "C" __global__ void norm_apply_pool(const T *r, const float *affine, T *y, long long pitch, T *pooled, Positions *positions, int h,
                                           int w, int padded) {
  const int vectors = padded / V, half = w / 2;
  const long long area = (long long)h * w, windows = area / 4, all = windows * vectors, image = blockIdx.y;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (long long)gridDim.x * blockDim.x) {
    const int c = (int)(i % vectors) * V;
    const long long window = i / vectors;
    const long long corner = image * area + window / half * 2 * w + window % half * 2;
    Vector best;
    Positions position;
#pragma unroll
    for (int place = 0; place < 4; place++) {
      const long long pixel = corner + place / 2 * w + place % 2;
      const Vector x = normed(r + pixel * padded + c, affine + image * 2 * padded + c, padded);
      store(y + pixel * pitch + c, x);
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float new_one = widen(x.of[k]), old = place == 0 ? 0.0f : widen(best.of[k]);
        if (place == 0 || (old == old && !(new_one <= old))) {
          best.of[k] = x.of[k];
          position.of[k] = (unsigned char)place;
        }
      }
    }
    const long long at = (image * windows + window) * padded + c;
    store(pooled + at, best);
    positions[at / V] = position;
  }
}

// The gradient that arrives at a normed map: `g`, and from the pool behind it `pooled`, where the pixel was the maximum.
struct Arriving {
  const T *g;
  long long pitch;
  const T *pooled; // may be null
  const Positions *positions;
  int w;
  int padded;

  __device__ __forceinline__ void at(long long image, long long area, long long pixel, int c, float *x) const {
    const Vector from = load(g + (image * area + pixel) * pitch + c);
#pragma unroll
    for (int k = 0; k < V; k++) x[k] = widen(from.of[k]);
    if (pooled == 0) return;
    const int column = (int)(pixel % w);
    const long long row = pixel / w;
    const int place = (int)(row & 1) * 2 + (column & 1);
    const long long window = (image * (area / 4) + (row / 2) * (w / 2) + column / 2) * padded + c;
    const Vector of_window = load(pooled + window);
    const Positions maximum = positions[window / V];
#pragma unroll
    for (int k = 0; k < V; k++)
      if (maximum.of[k] == place) x[k] += widen(of_window.of[k]);
  }
};

// How the threads of a block share a segment of pixels: `across` vectors of channels by `down` pixels at a time.
struct Share {
  int across, down, x, y, c;
  long long first, last;

  __device__ __forceinline__ Share(int padded, long long area, int segment) {
    const int vectors = padded / V;
    across = min(vectors, 32);
    down = THREADS / across;
    x = threadIdx.x % across;
    y = threadIdx.x / across;
    c = (blockIdx.y * across + x) * V;
    first = (long long)blockIdx.x * segment;
    last = min(first + segment, area);
  }
  // Whether this thread has channels and pixels at all.
  __device__ __forceinline__ bool works(int padded) const { return y < down && c < padded; }
};

// Adds up `sums`, COUNT numbers a channel and thread, over the pixels of a block, in order, to out[count][padded].
template <int COUNT> __device__ __forceinline__ void block_sums(const Share &share, const float (*sums)[V], float *out, int padded) {
  __shared__ float shared[THREADS * V];
#pragma unroll
  for (int count = 0; count < COUNT; count++) {
    __syncthreads();
    if (share.works(padded)) {
#pragma unroll
      for (int k = 0; k < V; k++) shared[(share.y * share.across + share.x) * V + k] = sums[count][k];
    }
    __syncthreads();
    const int columns = share.across * V, c = blockIdx.y * columns + threadIdx.x;
    if ((int)threadIdx.x < columns && c < padded) {
      float sum = 0.0f;
      for (int row = 0; row < share.down; row++) sum += shared[row * columns + threadIdx.x];
      out[(long long)count * padded + c] = sum;
    }
  }
}

// Sums of g and of g (r - mean)/deviation, of a segment of an image's pixels each: partial[n][segment][2][padded].
// x: segments, y: groups of channels, z: images.
extern "C" __global__ void norm_sums(const T *g, long long pitch, const T *pooled, const Positions *positions, const T *r, const float *stats,
                                     float *partial, int w, long long area, int padded, int segment) {
  const Share share(padded, area, segment);
  const long long image = blockIdx.z;
  float sums[2][V] = {};
  if (share.works(padded)) {
    const Arriving arriving = {g, pitch, pooled, positions, w, padded};
    const float *of = stats + image * 2 * padded + share.c;
    for (long long pixel = share.first + share.y; pixel < share.last; pixel += share.down) {
      float x[V];
      arriving.at(image, area, pixel, share.c, x);
      const Vector z = load(r + (image * area + pixel) * padded + share.c);
#pragma unroll
      for (int k = 0; k < V; k++) {
        sums[0][k] += x[k];
        sums[1][k] = fmaf(x[k], (widen(z.of[k]) - of[k]) * of[padded + k], sums[1][k]);
      }
    }
  }
  block_sums<2>(share, sums, partial + (image * gridDim.x + blockIdx.x) * 2 * padded, padded);
}

// The gradients of the norm's weight and bias, and what the gradient in r needs of each image's channel:
// slopes[n] = (mean, k, a, scale) of scale (g - a - (r - mean) k).
extern "C" __global__ void norm_slopes(const float *partial, const float *stats, const float *weight, float *of_weight, float *of_bias,
                                       float *slopes, int images, int segments, long long area, int channels, int padded) {
  __shared__ double shared[SUM_ROWS][SUM_COLUMNS];
  const int c = blockIdx.x * SUM_COLUMNS + threadIdx.x, column = c < padded ? c : 0;
  double all_g = 0.0, all_gr = 0.0;
  for (int image = 0; image < images; image++) {
    double g = 0.0, gr = 0.0;
    for (int segment = threadIdx.y; segment < segments; segment += SUM_ROWS) {
      const float *sums = partial + ((long long)image * segments + segment) * 2 * padded + column;
      g += sums[0];
      gr += sums[padded];
    }
    g = over_rows(g, shared);
    gr = over_rows(gr, shared);
    all_g += g;
    all_gr += gr;
    if (threadIdx.y == 0 && c < padded) {
      const float *of = stats + (long long)image * 2 * padded + c;
      float *to = slopes + (long long)image * 4 * padded + c;
      const double deviation = of[padded];
      to[0] = of[0];
      to[padded] = (float)(gr / (double)area * deviation);
      to[2 * padded] = (float)(g / (double)area);
      to[3 * padded] = c < channels ? (float)(weight[c] * deviation) : 0.0f;
    }
  }
  if (threadIdx.y == 0 && c < channels) {
    of_weight[c] = (float)all_gr;
    of_bias[c] = (float)all_g;
  }
}

// The gradient in the convolution's result z, r = relu(z), and its sums over segments: partial[n][segment][padded].
extern "C" __global__ void norm_gradient(const T *g, long long pitch, const T *pooled, const Positions *positions, const T *r,
                                         const float *slopes, T *dz, float *partial, int w, long long area, int padded, int segment) {
  const Share share(padded, area, segment);
  const long long image = blockIdx.z;
  float sums[1][V] = {};
  if (share.works(padded)) {
    const Arriving arriving = {g, pitch, pooled, positions, w, padded};
    const float *of = slopes + image * 4 * padded + share.c;
    for (long long pixel = share.first + share.y; pixel < share.last; pixel += share.down) {
      float x[V];
      arriving.at(image, area, pixel, share.c, x);
      const long long at = (image * area + pixel) * padded + share.c;
      const Vector z = load(r + at);
      Vector out;
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float value = widen(z.of[k]);
        const float slope = of[3 * padded + k] * (x[k] - of[2 * padded + k] - (value - of[k]) * of[padded + k]);
        // A NaN has to come through.
        const float of_z = value <= 0.0f ? 0.0f : slope;
        out.of[k] = narrow(of_z);
        // Not of what was rounded: behind a norm these sums are small beside what they are made of.
        sums[0][k] += of_z;
      }
      store(dz + at, out);
    }
  }
  block_sums<1>(share, sums, partial + (image * gridDim.x + blockIdx.x) * padded, padded);
}

// Sums of a map over segments: partial[n][segment][padded].
extern "C" __global__ void map_sums(const T *g, long long pitch, float *partial, long long area, int padded, int segment) {
  const Share share(padded, area, segment);
  const long long image = blockIdx.z;
  float sums[1][V] = {};
  if (share.works(padded)) {
    for (long long pixel = share.first + share.y; pixel < share.last; pixel += share.down) {
      const Vector x = load(g + (image * area + pixel) * pitch + share.c);
#pragma unroll
      for (int k = 0; k < V; k++) sums[0][k] += widen(x.of[k]);
    }
  }
  block_sums<1>(share, sums, partial + (image * gridDim.x + blockIdx.x) * padded, padded);
}

// Sums over rows of groups of padded columns to groups of real ones.
extern "C" __global__ void column_sums(const float *partial, float *out, int rows, int columns, int padded, int real) {
  __shared__ double shared[SUM_ROWS][SUM_COLUMNS];
  const int c = blockIdx.x * SUM_COLUMNS + threadIdx.x, column = c < columns ? c : 0;
  double sum = 0.0;
  for (int row = threadIdx.y; row < rows; row += SUM_ROWS) sum += partial[(long long)row * columns + column];
  sum = over_rows(sum, shared);
  const int group = c / padded, within = c % padded;
  if (threadIdx.y == 0 && c < columns && within < real) out[group * real + within] = (float)sum;
}

// Classes that a thread of the head computes at a time.
#define AT_ONCE 4

// Logits [N, K, H, W] = weight [K, C] · (scale r + shift) + bias. y: images.
extern "C" __global__ void head_forward(const T *r, const float *affine, const float *weight, const float *bias, float *logits, long long area,
                                        int channels, int padded, int classes) {
  const long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
  if (pixel >= area) return;
  const T *at = r + (image * area + pixel) * padded;
  affine += image * 2 * padded;
  for (int first = 0; first < classes; first += AT_ONCE) {
    const int count = min(AT_ONCE, classes - first);
    float sums[AT_ONCE] = {};
    for (int c = 0; c < channels; c += V) {
      const Vector x = load(at + c);
#pragma unroll
      for (int k = 0; k < V; k++) {
        if (c + k >= channels) break;
        const float y = fmaf(widen(x.of[k]), affine[c + k], affine[padded + c + k]);
#pragma unroll
        for (int class_ = 0; class_ < AT_ONCE; class_++)
          if (class_ < count) sums[class_] = fmaf(weight[(long long)(first + class_) * channels + c + k], y, sums[class_]);
      }
    }
#pragma unroll
    for (int class_ = 0; class_ < AT_ONCE; class_++)
      if (class_ < count) logits[(image * classes + first + class_) * area + pixel] = sums[class_] + bias[first + class_];
  }
}

// The gradient in the head's input, g[p][c] = Σ_k weight[k][c] slope[k][p].
extern "C" __global__ void head_gradient(const float *slopes, const float *weight, T *g, long long area, int channels, int padded,
                                         int classes) {
  const int vectors = padded / V;
  const long long all = area * vectors, image = blockIdx.y;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += (long long)gridDim.x * blockDim.x) {
    const int c = (int)(i % vectors) * V;
    const long long pixel = i / vectors;
    float sums[V] = {};
    for (int class_ = 0; class_ < classes; class_++) {
      const float slope = slopes[(image * classes + class_) * area + pixel];
#pragma unroll
      for (int k = 0; k < V; k++)
        if (c + k < channels) sums[k] = fmaf(weight[(long long)class_ * channels + c + k], slope, sums[k]);
    }
    Vector out;
#pragma unroll
    for (int k = 0; k < V; k++) out.of[k] = narrow(sums[k]);
    store(g + (image * area + pixel) * padded + c, out);
  }
}

// Sums over segments of slope[k] (scale r + shift), and of slope[k] itself behind them:
// partial[n][segment][classes][padded], of_bias[n][segment][classes]. x: segments, y: groups of channels, z: images.
extern "C" __global__ void head_sums(const float *slopes, const T *r, const float *affine, float *partial, float *of_bias, long long area,
                                     int padded, int classes, int segment) {
  const Share share(padded, area, segment);
  const long long image = blockIdx.z, row = image * gridDim.x + blockIdx.x;
  const float *of = affine + image * 2 * padded + share.c;
  for (int class_ = 0; class_ < classes; class_++) {
    const float *plane = slopes + (image * classes + class_) * area;
    float sums[2][V] = {};
    if (share.works(padded)) {
      for (long long pixel = share.first + share.y; pixel < share.last; pixel += share.down) {
        const float slope = plane[pixel];
        const Vector x = load(r + (image * area + pixel) * padded + share.c);
#pragma unroll
        for (int k = 0; k < V; k++) sums[0][k] = fmaf(slope, fmaf(widen(x.of[k]), of[k], of[padded + k]), sums[0][k]);
        sums[1][0] += slope;
      }
    }
    block_sums<1>(share, sums, partial + (row * classes + class_) * padded, padded);
    if (blockIdx.y == 0) {
      // Of the threads of one column of vectors, each pixel once.
      __shared__ float shared[THREADS];
      __syncthreads();
      if (share.x == 0 && share.y < share.down) shared[share.y] = sums[1][0];
      __syncthreads();
      if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (int k = 0; k < share.down; k++) sum += shared[k];
        of_bias[row * classes + class_] = sum;
      }
    }
  }
}

// Kernels of a network as the products want them.
#define LAYERS 48

struct Layer {
  const float *weight;
  const float *bias;
  T *forward;
  T *backward; // may be null
  float *padded_bias;
  int inputs, outputs; // padded
  int first, first_padded, real_inputs, real_outputs;
  int taps; // 9 of a convolution, 4 of a way up
  int unused;
};

struct Layers {
  Layer of[LAYERS];
};

__device__ __forceinline__ int real_input(const Layer &layer, int i) {
  if (i < layer.first_padded) return i < layer.first ? i : -1;
  const int behind = layer.first + i - layer.first_padded;
  return behind < layer.real_inputs ? behind : -1;
}

// The weight of padded channels i and o at a tap, 0 where one of them is none.
__device__ __forceinline__ float weight_at(const Layer &layer, int o, int i, int tap) {
  const int input = real_input(layer, i);
  if (input < 0 || o >= layer.real_outputs) return 0.0f;
  return layer.taps == 9 ? layer.weight[((long long)o * layer.real_inputs + input) * 9 + tap]
                         : layer.weight[((long long)input * layer.real_outputs + o) * 4 + tap];
}

// All layers at once; y: layers. A convolution: forward [inputs/CHUNK][9][outputs][CHUNK], backward (flipped)
// [outputs/CHUNK][9][inputs][CHUNK]. A way up: forward [inputs/CHUNK][4 outputs][CHUNK], whose rows are (tap, output),
// backward [4 outputs/CHUNK][inputs][CHUNK], whose columns are.
extern "C" __global__ void pack_weights(Layers layers) {
  const Layer &layer = layers.of[blockIdx.y];
  const long long all = (long long)layer.inputs * layer.outputs * layer.taps, step = (long long)gridDim.x * blockDim.x;
  const long long begin = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  for (long long at = begin; at < all; at += step) {
    const int k = (int)(at % CHUNK);
    const long long row = at / CHUNK;
    {
      const int o = (int)(row % layer.outputs), tap = (int)(row / layer.outputs % layer.taps);
      const int i = (int)(row / layer.outputs / layer.taps) * CHUNK + k;
      layer.forward[at] = narrow(weight_at(layer, o, i, tap));
    }
    if (layer.backward == 0) continue;
    const int i = (int)(row % layer.inputs);
    if (layer.taps == 9) {
      const int tap = (int)(row / layer.inputs % 9), o = (int)(row / layer.inputs / 9) * CHUNK + k;
      layer.backward[at] = narrow(weight_at(layer, o, i, 8 - tap));
    } else {
      const int column = (int)(row / layer.inputs) * CHUNK + k;
      layer.backward[at] = narrow(weight_at(layer, column % layer.outputs, i, column / layer.outputs));
    }
  }
  for (long long o = begin; o < layer.outputs; o += step) layer.padded_bias[o] = o < layer.real_outputs ? layer.bias[o] : 0.0f;
}
