// The gradient of the 3 x 3 convolution in its weights, in two kernels.
//
//   conv3_gradient      partial[s][tap][o][i] = sum over the pixels p of split s of x[p + tap][i] dz[p][o]
//   conv3_gradient_sum  gradient[o][i][tap] = sum over s of partial, in PyTorch's order, channels of padding left out
//
//   kernel              grid                                        threads  shared bytes F32, TF32   BF16
//   conv3_gradient      (splits, ceil(ci / 32), ceil(co / 32))       128       78848                 39424
//   conv3_gradient_sum  any; ceil(9 ci co / 32) is enough            256       0                     0
//   shared of conv3_gradient = 2 (10 18 + 8 16) 32 sizeof(T)
//
// A split is a run of patches of 8 x 16 pixels, of all n ceil(h / 8) ceil(w / 16) in their order: split s has
// those from s total / splits to (s + 1) total / splits. A block multiplies 32 channels of dz by 32 of x for
// all nine taps from one patch of x, 10 x 18 pixels, while the next patch arrives. A piece of x that is read
// serves three rows of dz, one of dz serves three columns of x.

enum {
    SIDE = 32,                             // channels of either map in a block
    PIXEL = SIDE * sizeof(T),              // bytes of a pixel
    ACROSS = PIXEL / 16,                   // pieces of a pixel
    TALL = 8, WIDE = 18,                   // rows of a patch, columns with their border
    AT_ONCE = 128 / (16 * ACROSS),         // rows that the block copies at once
    X_PIXELS = (TALL + 2) * WIDE,
    STAGE = (X_PIXELS + TALL * 16) * PIXEL,
    BLOCKS = PRECISION == 2 ? 3 : 2,       // on a multiprocessor, by shared memory
};

// The pieces of a pixel are exchanged by its column, so that a warp reads different banks.
__device__ __forceinline__ int exchanged(int piece, int column) {
    return PRECISION == 2 ? piece ^ (column >> 1 & 3) : piece ^ (column & 3) << 1;
}

extern "C" __global__ void __launch_bounds__(128, BLOCKS)
    conv3_gradient(const T* __restrict__ x, long long x_pitch, const T* __restrict__ dz, long long dz_pitch,
                   float* __restrict__ partial, int n, int h, int w, int ci, int co) {
    DYNAMIC_SHARED(memory);
    const Shared shared = shared_address(memory);
    const unsigned thread = threadIdx.x;
    const int i0 = blockIdx.y * SIDE, o0 = blockIdx.z * SIDE;
    const int tiles_x = (w + 15) / 16, tiles_y = (h + TALL - 1) / TALL;
    const long long total = (long long)n * tiles_y * tiles_x;
    const long long begin = (long long)blockIdx.x * total / gridDim.x, end = (blockIdx.x + 1LL) * total / gridDim.x;

    // The patch that is loaded next.
    int tile_x = (int)(begin % tiles_x), tile_y = (int)(begin / tiles_x % tiles_y);
    long long image = begin / tiles_x / tiles_y;
    // A thread copies one piece of one column of every AT_ONCE-th row of dz and, of the 16 columns in the middle,
    // of x; and one of the columns on the left and right. Nothing is read by an address outside of a map.
    const int piece = (int)(thread % ACROSS), column = (int)(thread / ACROSS % 16);
    const int first = (int)(thread / ACROSS / 16), side = (int)(thread / ACROSS % 2);
    const bool x_wanted = i0 + piece * PER_PIECE < ci, dz_wanted = o0 + piece * PER_PIECE < co;
    const int middle_place = (first * WIDE + column + 1) * PIXEL + exchanged(piece, column + 1) * 16;
    const int dz_place = (X_PIXELS + first * 16 + column) * PIXEL + exchanged(piece, column) * 16;
    const int side_place = side * 17 * PIXEL + exchanged(piece, side * 17) * 16;
    const long long x_line = w * x_pitch, dz_line = w * dz_pitch;
    const auto load = [&](int stage) {
        const Shared to = shared + stage * STAGE;
        const int y0 = tile_y * TALL, x0 = tile_x * 16;
        const long long line = image * h + y0;
        const bool in_row = x0 + column < w;
        const T* from = x + (line - 1 + first) * x_line + (x0 + column) * x_pitch + i0 + piece * PER_PIECE;
#pragma unroll
        for (int k = 0; k < TALL + 2; k += AT_ONCE) {
            copy_16(to + middle_place + k * WIDE * PIXEL, from,
                    x_wanted && in_row && (unsigned)(y0 - 1 + first + k) < (unsigned)h);
            from += AT_ONCE * x_line;
        }
        from = dz + (line + first) * dz_line + (x0 + column) * dz_pitch + o0 + piece * PER_PIECE;
#pragma unroll
        for (int k = 0; k < TALL; k += AT_ONCE) {
            copy_16(to + dz_place + k * 16 * PIXEL, from, dz_wanted && in_row && y0 + first + k < h);
            from += AT_ONCE * dz_line;
        }
        const int px = x0 - 1 + side * 17;
        from = x + (line - 1) * x_line + px * x_pitch + i0 + piece * PER_PIECE;
#pragma unroll
        for (int k = 0; k * 128 < 2 * (TALL + 2) * ACROSS; ++k) {
            const int row = (int)(thread / ACROSS / 2) + k * (64 / ACROSS), py = y0 - 1 + row;
            if (row < TALL + 2) {
                copy_16(to + side_place + row * WIDE * PIXEL, from + row * x_line,
                        x_wanted && (unsigned)px < (unsigned)w && (unsigned)py < (unsigned)h);
            }
        }
        if (++tile_x == tiles_x) {
            tile_x = 0;
            if (++tile_y == tiles_y) {
                tile_y = 0;
                ++image;
            }
        }
    };

#if PRECISION == 0
    // A thread has two channels of x and four of dz.
    float sum[9][4][2] = {};
    const int i = (int)(thread % 16) * 2, o = (int)(thread / 16) * 4;
    const auto multiply = [&](int stage) {
        const unsigned char* x_at = memory + stage * STAGE;
        const unsigned char* dz_at = x_at + X_PIXELS * PIXEL;
        const auto read_x = [&](int row, int column) {
            return *(const float2*)(x_at + (row * WIDE + column) * PIXEL + exchanged(i / 4, column) * 16 + i % 4 * 4);
        };
#pragma unroll 1
        for (int row = 0; row < TALL; ++row) {
            float2 a[3][3];  // the columns c, c + 1, c + 2, each in the place of its number modulo 3
#pragma unroll
            for (int dy = 0; dy < 3; ++dy) {
                a[dy][0] = read_x(row + dy, 0);
                a[dy][1] = read_x(row + dy, 1);
            }
#pragma unroll
            for (int column = 0; column < 16; ++column) {
#pragma unroll
                for (int dy = 0; dy < 3; ++dy) a[dy][(column + 2) % 3] = read_x(row + dy, column + 2);
                const float4 b =
                    *(const float4*)(dz_at + (row * 16 + column) * PIXEL + exchanged(o / 4, column) * 16);
#pragma unroll
                for (int tap = 0; tap < 9; ++tap) {
                    const float2 v = a[tap / 3][(column + tap % 3) % 3];
                    float(&s)[4][2] = sum[tap];
                    s[0][0] = fmaf(v.x, b.x, s[0][0]), s[0][1] = fmaf(v.y, b.x, s[0][1]);
                    s[1][0] = fmaf(v.x, b.y, s[1][0]), s[1][1] = fmaf(v.y, b.y, s[1][1]);
                    s[2][0] = fmaf(v.x, b.z, s[2][0]), s[2][1] = fmaf(v.y, b.z, s[2][1]);
                    s[3][0] = fmaf(v.x, b.w, s[3][0]), s[3][1] = fmaf(v.y, b.w, s[3][1]);
                }
            }
        }
    };
#else
    // A warp has 16 channels of dz (the rows of the product) and 16 of x (its columns, in two halves).
    float sum[9][2][4] = {};
    const int lane = (int)(thread % 32), i = (int)(thread / 64) * 16, o = (int)(thread / 32 % 2) * 16;
    const auto multiply = [&](int stage) {
#if PRECISION == 2
        const Shared from = shared + stage * STAGE;
        const int dz_column = lane % 8 + lane / 16 * 8;
        const Shared dz_from =
            from + (X_PIXELS + dz_column) * PIXEL + exchanged(o / 8 + lane / 8 % 2, dz_column) * 16;
        Shared x_from[3];
#pragma unroll
        for (int dx = 0; dx < 3; ++dx) {
            const int column = lane % 16 + dx;
            x_from[dx] = from + column * PIXEL + exchanged(i / 8 + lane / 16, column) * 16;
        }
        enum { PARTS = 1 };  // 16 pixels, the step of the product, are a row of the patch
#else
        const unsigned char* from = memory + stage * STAGE;
        const int g = lane / 4, t = lane % 4;
        // Channels of a map that lie 8 apart are two pieces apart, wherever the exchange has put them.
        const auto place = [&](int channel, int column) {
            return column * PIXEL + exchanged(channel / 4, column) * 16 + channel % 4 * 4;
        };
        enum { PARTS = 2 };  // 8 pixels are half a row
#endif
#pragma unroll 1
        for (int part = 0; part < PARTS; ++part) {
            unsigned a[3][4];  // the rows r, r - 1, r - 2 of dz, each in the place of its number modulo 3
#pragma unroll
            for (int r = 0; r < TALL + 2; ++r) {
                if (r < TALL) {
#if PRECISION == 2
                    matrices_transposed(a[r % 3], dz_from + r * 16 * PIXEL);
#else
                    const unsigned char* at = from + (X_PIXELS + r * 16 + part * 8) * PIXEL;
                    a[r % 3][0] = *(const unsigned*)(at + place(o + g, t));
                    a[r % 3][1] = *(const unsigned*)(at + place(o + g + 8, t));
                    a[r % 3][2] = *(const unsigned*)(at + place(o + g, t + 4));
                    a[r % 3][3] = *(const unsigned*)(at + place(o + g + 8, t + 4));
#endif
                    round_operands(a[r % 3]);
                }
#pragma unroll
                for (int dx = 0; dx < 3; ++dx) {
                    unsigned b[4];
#if PRECISION == 2
                    matrices_transposed(b, x_from[dx] + r * WIDE * PIXEL);
#else
                    const unsigned char* at = from + (r * WIDE + part * 8) * PIXEL;
                    b[0] = *(const unsigned*)(at + place(i + g, t + dx));
                    b[1] = *(const unsigned*)(at + place(i + g, t + dx + 4));
                    b[2] = *(const unsigned*)(at + place(i + g + 8, t + dx));
                    b[3] = *(const unsigned*)(at + place(i + g + 8, t + dx + 4));
#endif
                    round_operands(b);
#pragma unroll
                    for (int dy = 0; dy < 3; ++dy) {
                        if (r - dy >= 0 && r - dy < TALL) {
                            multiply_add(sum[dy * 3 + dx][0], a[(r - dy + 3) % 3], b[0], b[1]);
                            multiply_add(sum[dy * 3 + dx][1], a[(r - dy + 3) % 3], b[2], b[3]);
                        }
                    }
                }
            }
        }
    };
#endif

    if (begin < end) load(0);
    copies_end();
    int stage = 0;
#pragma unroll 1
    for (long long patch = begin; patch < end; ++patch) {
        copies_wait<0>();
        __syncthreads();
        if (patch + 1 < end) load(stage ^ 1);
        copies_end();
        multiply(stage);
        stage ^= 1;
    }

    float* to = partial + (long long)blockIdx.x * 9 * co * ci;
    const auto store = [&](int tap, int at_o, int at_i, float first, float second) {
        if (at_o < co && at_i < ci) {
            *(float2*)(to + ((long long)tap * co + at_o) * ci + at_i) = make_float2(first, second);
        }
    };
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
#if PRECISION == 0
#pragma unroll
        for (int k = 0; k < 4; ++k) store(tap, o0 + o + k, i0 + i, sum[tap][k][0], sum[tap][k][1]);
#else
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const int at_o = o0 + o + lane / 4, at_i = i0 + i + k * 8 + lane % 4 * 2;
            store(tap, at_o, at_i, sum[tap][k][0], sum[tap][k][1]);
            store(tap, at_o + 8, at_i, sum[tap][k][2], sum[tap][k][3]);
        }
#endif
    }
}

// Channel i of the input lies at `i` if i < first, else at first_padded + i - first: an input of two maps, each
// with padding of its own. An input of one map has first = ci.
extern "C" __global__ void __launch_bounds__(256)
    conv3_gradient_sum(const float* __restrict__ partial, float* __restrict__ gradient, int splits, int ci_padded,
                       int co_padded, int ci, int co, int first, int first_padded) {
    sum_of_splits(partial, gradient, splits, 9LL * co_padded * ci_padded, 9u * co * ci, [&](unsigned k) {
        const unsigned i = k % ci, row = k / ci, o = row % co, tap = row / co;  // neighbours read neighbours
        const int at = (int)i < first ? (int)i : first_padded + (int)i - first;
        return Way{((long long)tap * co_padded + o) * ci_padded + at, ((long long)o * ci + i) * 9 + tap};
    });
}
