// The 2 x 2 transposed convolution of stride 2 and its gradients, as products on the tensor cores.
//
//   up2_forward             y[2h + a][2w + b][o] = bias[o] + sum over i of x[h][w][i] w[i][o][a][b]
//   up2_input_gradient      dx[h][w][i] = sum over a, b and o of dy[2h + a][2w + b][o] w[i][o][a][b]
//   up2_weight_gradient     partial[s][2a + b][o][i] = sum over the pixels of split s of
//                           x[h][w][i] dy[2h + a][2w + b][o]
//   up2_weight_gradient_sum gradient[i][o][a][b] = sum over s of partial, channels of padding left out
//
// n, h and w are those of x, the smaller map; n h w < 2^31. Its pixels are taken in sequence.
//
//   kernel                   grid                                          threads  stages  shared bytes
//   up2_forward_64           (ceil(n h w / 128), ceil(4 co / 64))           128      4        49152
//   up2_forward_32           (ceil(n h w / 128), ceil(4 co / 32))           128      4        40960
//   up2_input_gradient_64    (ceil(n h w / 128), ceil(ci / 64))             128      4        49152
//   up2_input_gradient_32    (ceil(n h w / 128), ceil(ci / 32))             128      4        40960
//   up2_weight_gradient      (splits, ceil(ci / 64), ceil(4 co / 64))       128      3        49152
//   up2_weight_gradient_sum  any; ceil(4 ci co / 32) is enough              256               0
//
//   weights of up2_forward         [ci / CHUNK][4 co][CHUNK], row (2a + b) co + o
//   weights of up2_input_gradient  [4 co / CHUNK][ci][CHUNK], depth (2a + b) co + o
//   split s of up2_weight_gradient: of the ceil(n h w / GROUP) groups of GROUP = 128 / sizeof(T) pixels those from
//   s groups / splits to (s + 1) groups / splits

// A pixel of x as one of y: the first of its four. `line` counts the rows of all images.
__device__ __forceinline__ long long fourfold(int line, int column, int w) { return 4LL * line * w + 2 * column; }

// The step from that pixel to the one of tap 2a + b.
__device__ __forceinline__ long long step_of_tap(int tap, int w) { return (long long)(tap >> 1) * 2 * w + (tap & 1); }

// 128 pixels by N rows of weights. A stage is two chunks of channels.
template <bool FORWARD, int N>
__device__ __forceinline__ void up2(const T* from, long long from_pitch, const T* weights, const float* bias, T* to,
                                    long long to_pitch, int n, int h, int w, int ci, int co) {
    enum { M = 128, DEEP = 2, STAGES = 4, STAGE = DEEP * (M + N) * 32 };
    typedef Product<M, N, 128> Sum;
    DYNAMIC_SHARED(memory);
    const Shared shared = shared_address(memory);
    const unsigned thread = threadIdx.x;
    const int total = n * h * w, p0 = blockIdx.x * M, r0 = blockIdx.y * N;
    const int rows = FORWARD ? 4 * co : ci, chunks = (FORWARD ? ci : 4 * co) / CHUNK, chunks_of_tap = co / CHUNK;

    // A thread copies one half of one chunk of every 32nd pixel and of every 32nd row of weights.
    const unsigned half = thread % 2, deep = thread / 2 % 2, every = thread / 4;
    const T* source[M / 32];
    bool inside[M / 32];
#pragma unroll
    for (int k = 0; k < M / 32; ++k) {
        const int p = p0 + (int)every + 32 * k, line = p / w;
        inside[k] = p < total;
        const long long pixel = !inside[k] ? 0 : FORWARD ? p : fourfold(line, p - line * w, w);
        source[k] = from + pixel * from_pitch + half * PER_PIECE;
    }
    const int place = place_32((int)every, (int)half);
    int chunk = (int)deep;                   // that this thread copies next,
    int tap = 0, chunk_of_tap = (int)deep;   // and what it is of dy
    const auto load = [&](int stage) {
        const Shared at = shared + stage * STAGE + place;
        if (!FORWARD) {
            while (chunk_of_tap >= chunks_of_tap) {
                chunk_of_tap -= chunks_of_tap;
                ++tap;
            }
        }
        const bool some = chunk < chunks;
        const long long offset =
            FORWARD ? (long long)chunk * CHUNK : step_of_tap(tap, w) * from_pitch + chunk_of_tap * CHUNK;
#pragma unroll
        for (int k = 0; k < M / 32; ++k) {
            const bool wanted = some && inside[k];
            copy_16(at + (int)(deep * M + 32 * k) * 32, wanted ? source[k] + offset : from, wanted);
        }
#pragma unroll
        for (int k = 0; k < N / 32; ++k) {
            const int row = r0 + (int)every + 32 * k;
            const bool wanted = some && row < rows;
            const T* weight = wanted ? weights + ((long long)chunk * rows + row) * CHUNK + half * PER_PIECE : weights;
            copy_16(at + (int)(DEEP * M + deep * N + 32 * k) * 32, weight, wanted);
        }
        chunk += DEEP;
        chunk_of_tap += DEEP;
    };

    Sum sum;
    sum.clear();
#if PRECISION == 0
    const auto multiply = [&](int stage) {
        const unsigned char* at = memory + stage * STAGE;
#pragma unroll 1
        for (int step = 0; step < 2 * DEEP; ++step) {
            const unsigned char* a_at = at + (step >> 1) * M * 32;
            const unsigned char* b_at = at + (DEEP * M + (step >> 1) * N) * 32;
            float4 a[Sum::ROWS];
#pragma unroll
            for (int i = 0; i < Sum::ROWS; ++i) {
                a[i] = *(const float4*)(a_at + place_32(Sum::row() + 16 * i, step & 1));
            }
#pragma unroll
            for (int j = 0; j < Sum::COLUMNS; ++j) {
                const float4 b = *(const float4*)(b_at + place_32(Sum::column() + 8 * j, step & 1));
#pragma unroll
                for (int i = 0; i < Sum::ROWS; ++i) {
                    float s = sum.sum[i][j];
                    s = fmaf(a[i].x, b.x, s);
                    s = fmaf(a[i].y, b.y, s);
                    s = fmaf(a[i].z, b.z, s);
                    sum.sum[i][j] = fmaf(a[i].w, b.w, s);
                }
            }
        }
    };
#else
    const int lane = (int)(thread % 32);
    const int a_place = place_32(Sum::row() + lane % 16, lane / 16);
    const int b_place = DEEP * M * 32 + place_32(Sum::column() + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const auto multiply = [&](int stage) {
        const Shared at = shared + stage * STAGE;
#pragma unroll
        for (int d = 0; d < DEEP; ++d) {
            unsigned a[Sum::ROWS][4];
#pragma unroll
            for (int i = 0; i < Sum::ROWS; ++i) {
                matrices(a[i], at + a_place + (d * M + 16 * i) * 32);
                round_operands(a[i]);
            }
#pragma unroll
            for (int j = 0; j < Sum::COLUMNS; j += 2) {
                unsigned b[4];
                matrices(b, at + b_place + (d * N + 8 * j) * 32);
                round_operands(b);
#pragma unroll
                for (int i = 0; i < Sum::ROWS; ++i) {
                    multiply_add(sum.sum[i][j], a[i], b[0], b[1]);
                    multiply_add(sum.sum[i][j + 1], a[i], b[2], b[3]);
                }
            }
        }
    };
#endif

    const int steps = (chunks + DEEP - 1) / DEEP;
#pragma unroll
    for (int k = 0; k < STAGES - 1; ++k) {
        if (k < steps) load(k);
        copies_end();
    }
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES);
        copies_end();
        multiply(step % STAGES);
    }
    __syncthreads();

    // The tile goes through shared memory, so that it leaves in pieces of 16 bytes.
    sum.stage(memory, [&](int c) { return FORWARD && bias && r0 + c < rows ? bias[(r0 + c) % co] : 0.0f; },
              -__int_as_float(0x7f800000));
    __syncthreads();
    enum { ACROSS = N / PER_PIECE };
    const int across = (int)(thread % ACROSS) * PER_PIECE, row = r0 + across;
    if (row >= rows) return;
    const int to_tap = FORWARD ? row / co : 0;
    T* const base = to + (FORWARD ? step_of_tap(to_tap, w) * to_pitch + row - to_tap * co : row);
#pragma unroll 4
    for (int k = (int)(thread / ACROSS); k < M; k += 128 / ACROSS) {
        const int p = p0 + k;
        if (p < total) {
            const int line = p / w;
            const long long pixel = FORWARD ? fourfold(line, p - line * w, w) : p;
            *(uint4*)(base + pixel * to_pitch) = *(const uint4*)(memory + k * Sum::PITCH + across * sizeof(T));
        }
    }
}

#define UP2(N)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, 3)                                                             \
        up2_forward_##N(const T* __restrict__ x, long long x_pitch, const T* __restrict__ weights,                   \
                        const float* __restrict__ bias, T* __restrict__ y, long long y_pitch, int n, int h, int w,   \
                        int ci, int co) {                                                                            \
        up2<true, N>(x, x_pitch, weights, bias, y, y_pitch, n, h, w, ci, co);                                        \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(128, 3)                                                             \
        up2_input_gradient_##N(const T* __restrict__ dy, long long dy_pitch, const T* __restrict__ weights,          \
                               T* __restrict__ dx, long long dx_pitch, int n, int h, int w, int ci, int co) {        \
        up2<false, N>(dy, dy_pitch, weights, nullptr, dx, dx_pitch, n, h, w, ci, co);                                \
    }

UP2(64)
UP2(32)

enum {
    SIDE = 64,                    // rows (2a + b, o) and channels i in a block
    PIXEL = SIDE * sizeof(T),     // bytes of a pixel in shared memory
    ACROSS = PIXEL / 16,          // its pieces
    GROUP = 128 / sizeof(T),      // pixels of a stage
    STAGES = 3,
    STAGE = 2 * GROUP * PIXEL,    // dy, then x
    COPIES = GROUP * ACROSS / 128,
};

// The pieces of a pixel are exchanged by its number, so that a warp reads different banks.
__device__ __forceinline__ int exchanged(int piece, int pixel) {
    return PRECISION == 2 ? piece ^ (pixel & 7) : piece ^ (pixel & 3) << 1;
}

extern "C" __global__ void __launch_bounds__(128, 3)
    up2_weight_gradient(const T* __restrict__ x, long long x_pitch, const T* __restrict__ dy, long long dy_pitch,
                        float* __restrict__ partial, int n, int h, int w, int ci, int co) {
    DYNAMIC_SHARED(pixels);
    const Shared shared = shared_address(pixels);
    const unsigned thread = threadIdx.x;
    const int i0 = blockIdx.y * SIDE, r0 = blockIdx.z * SIDE, rows = 4 * co, total = n * h * w;
    const long long groups = (total + GROUP - 1LL) / GROUP;
    const int begin = (int)(blockIdx.x * groups / gridDim.x), end = (int)((blockIdx.x + 1) * groups / gridDim.x);

    // A thread copies one piece of every 128 / ACROSS-th pixel of both maps.
    const int piece = (int)(thread % ACROSS), first = (int)(thread / ACROSS);
    const int row = r0 + piece * PER_PIECE, tap = row / co;
    const bool x_wanted = i0 + piece * PER_PIECE < ci, dy_wanted = row < rows;
    const T* const x_from = x + i0 + piece * PER_PIECE;
    const T* const dy_from = dy + step_of_tap(tap, w) * dy_pitch + row - tap * co;
    int line[COPIES], column[COPIES];
#pragma unroll
    for (int k = 0; k < COPIES; ++k) {
        const long long p = (long long)begin * GROUP + first + k * (128 / ACROSS);
        line[k] = (int)(p / w);
        column[k] = (int)(p % w);
    }
    const int lines_on = GROUP / w, columns_on = GROUP % w;
    const auto load = [&](int group, int stage) {
        const Shared at = shared + stage * STAGE;
#pragma unroll
        for (int k = 0; k < COPIES; ++k) {
            const int pixel = first + k * (128 / ACROSS);
            const long long p = (long long)group * GROUP + pixel;
            const Shared place = at + pixel * PIXEL + exchanged(piece, pixel) * 16;
            const bool of_dy = dy_wanted && p < total, of_x = x_wanted && p < total;
            copy_16(place, of_dy ? dy_from + fourfold(line[k], column[k], w) * dy_pitch : dy, of_dy);
            copy_16(place + GROUP * PIXEL, of_x ? x_from + p * x_pitch : x, of_x);
            line[k] += lines_on;
            column[k] += columns_on;
            if (column[k] >= w) {
                column[k] -= w;
                ++line[k];
            }
        }
    };

#if PRECISION == 0
    // A thread has rows r to r + 3 and r + 32 to r + 35, and four channels of x.
    float sum[8][4] = {};
    const int r = (int)(thread / 16) * 4, i = (int)(thread % 16) * 4;
    const auto multiply = [&](int stage) {
        const unsigned char* at = pixels + stage * STAGE;
#pragma unroll 4
        for (int p = 0; p < GROUP; ++p) {
            float a[8];
            *(float4*)a = *(const float4*)(at + p * PIXEL + exchanged(r / 4, p) * 16);
            *(float4*)(a + 4) = *(const float4*)(at + p * PIXEL + exchanged(r / 4 + 8, p) * 16);
            const float4 b = *(const float4*)(at + (GROUP + p) * PIXEL + exchanged(i / 4, p) * 16);
#pragma unroll
            for (int k = 0; k < 8; ++k) {
                sum[k][0] = fmaf(a[k], b.x, sum[k][0]);
                sum[k][1] = fmaf(a[k], b.y, sum[k][1]);
                sum[k][2] = fmaf(a[k], b.z, sum[k][2]);
                sum[k][3] = fmaf(a[k], b.w, sum[k][3]);
            }
        }
    };
#else
    // A warp has 32 rows and 32 channels of x.
    float sum[2][4][4] = {};
    const int lane = (int)(thread % 32), r = (int)(thread / 32 % 2) * 32, i = (int)(thread / 64) * 32;
    const auto multiply = [&](int stage) {
#if PRECISION == 2
        const Shared at = shared + stage * STAGE;
        const int a_pixel = lane % 8 + lane / 16 * 8, b_pixel = lane % 16;
#else
        const unsigned char* at = pixels + stage * STAGE;
        const int g = lane / 4, t = lane % 4;
        const auto read = [&](int pixel, int channel) {
            return *(const unsigned*)(at + pixel * PIXEL + exchanged(channel / 4, t) * 16 + channel % 4 * 4);
        };
#endif
#pragma unroll
        for (int p = 0; p < GROUP; p += CHUNK) {
            unsigned a[2][4], b[2][4];
#pragma unroll
            for (int k = 0; k < 2; ++k) {
#if PRECISION == 2
                matrices_transposed(
                    a[k], at + (p + a_pixel) * PIXEL + exchanged(r / 8 + 2 * k + lane / 8 % 2, a_pixel) * 16);
                matrices_transposed(
                    b[k], at + (GROUP + p + b_pixel) * PIXEL + exchanged(i / 8 + 2 * k + lane / 16, b_pixel) * 16);
#else
                a[k][0] = read(p + t, r + 16 * k + g);
                a[k][1] = read(p + t, r + 16 * k + g + 8);
                a[k][2] = read(p + t + 4, r + 16 * k + g);
                a[k][3] = read(p + t + 4, r + 16 * k + g + 8);
                b[k][0] = read(GROUP + p + t, i + 16 * k + g);
                b[k][1] = read(GROUP + p + t + 4, i + 16 * k + g);
                b[k][2] = read(GROUP + p + t, i + 16 * k + g + 8);
                b[k][3] = read(GROUP + p + t + 4, i + 16 * k + g + 8);
#endif
                round_operands(a[k]);
                round_operands(b[k]);
            }
#pragma unroll
            for (int k = 0; k < 2; ++k) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    multiply_add(sum[k][j], a[k], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    };
#endif

#pragma unroll
    for (int k = 0; k < STAGES - 1; ++k) {
        if (begin + k < end) load(begin + k, k);
        copies_end();
    }
    int stage = 0, free_stage = STAGES - 1;
#pragma unroll 1
    for (int group = begin; group < end; ++group) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (group + STAGES - 1 < end) load(group + STAGES - 1, free_stage);
        copies_end();
        multiply(stage);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        free_stage = free_stage + 1 == STAGES ? 0 : free_stage + 1;
    }

    float* to = partial + (long long)blockIdx.x * rows * ci;
    const auto store = [&](int at_r, int at_i, float one, float two) {
        if (at_r < rows && at_i < ci) *(float2*)(to + (long long)at_r * ci + at_i) = make_float2(one, two);
    };
#if PRECISION == 0
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        const int at = r0 + r + k % 4 + k / 4 * 32;
        store(at, i0 + i, sum[k][0], sum[k][1]);
        store(at, i0 + i + 2, sum[k][2], sum[k][3]);
    }
#else
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int at_r = r0 + r + 16 * k + lane / 4, at_i = i0 + i + 8 * j + lane % 4 * 2;
            store(at_r, at_i, sum[k][j][0], sum[k][j][1]);
            store(at_r + 8, at_i, sum[k][j][2], sum[k][j][3]);
        }
    }
#endif
}

extern "C" __global__ void __launch_bounds__(256)
    up2_weight_gradient_sum(const float* __restrict__ partial, float* __restrict__ gradient, int splits, int ci_padded,
                            int co_padded, int ci, int co) {
    sum_of_splits(partial, gradient, splits, 4LL * co_padded * ci_padded, 4u * co * ci, [&](unsigned k) {
        const unsigned i = k % ci, row = k / ci, o = row % co, tap = row / co;  // neighbours read neighbours
        return Way{((long long)tap * co_padded + o) * ci_padded + i, ((long long)i * co + o) * 4 + tap};
    });
}
