// The 3 x 3 convolution with a border of zeros, as a product on the tensor cores.
//
//   y[p][o] = max(bias[o] + sum over tap and i of x[p + tap][i] w[o][i][tap], least)
//
// with least = 0 if `relu` is set, else minus infinity. The gradient in the input is the same sum with
// the weights turned by half a turn and o and i exchanged, hence the same kernel.
//
//   grid     (ceil(h / ROWS) ceil(w / 16), ceil(co / N), n)      M = 16 ROWS pixels, N channels a block
//   weights  [ci / CHUNK][9][co][CHUNK], tap = 3 (dy + 1) + dx + 1
//   bias     [co] or null
//   moments  [n][tiles][2][co] or null: of the stored values of the tile, their sum and the sum of their
//            squared differences from the tile's own mean; added in a fixed order
//
//   kernel          ROWS  threads  stages  shared bytes F32, TF32  BF16
//   conv3_256x64     16    256      2            75776              57600
//   conv3_256x32     16    256      3            58752              58752
//   conv3_128x64      8    128      2            48384              48384
//   conv3_128x32      8    128      3            44928              44928
//   conv3_64x64       4    128      3            65664              65664
//   conv3_64x32       4    128      4            50688              50688
//   shared = max(stages ((ROWS + 2) 18 + 9 N) 32, 16 ROWS (N + 8) sizeof(T) + 8 threads)
//
// The larger the tile, the less often the weights are read; the smaller, the more blocks there are.
//
// A stage is a chunk of channels: the patch of the tile, (ROWS + 2) x 18 pixels of 32 bytes, and the
// weights of its 9 taps. While one is multiplied the next ones arrive. All taps read the same patch, and
// the operand read for a row of the patch serves three rows of the tile.

template <int ROWS, int N, int THREADS, int STAGES>
__device__ __forceinline__ void conv3(const T* x, long long x_pitch, const T* weights, const float* bias, T* y,
                                      long long y_pitch, float* moments, int h, int w, int ci, int co, int relu) {
    enum { WIDE = 18, PATCH = (ROWS + 2) * WIDE, STAGE = (PATCH + 9 * N) * 32 };
    enum { PIECES = (2 * PATCH + THREADS - 1) / THREADS, AT_ONCE = THREADS / 2 };
    typedef Product<16 * ROWS, N, THREADS> Sum;
    DYNAMIC_SHARED(memory);
    const Shared shared = shared_address(memory);
    const unsigned thread = threadIdx.x;
    const int tiles_x = (w + 15) / 16;
    const int y0 = (int)blockIdx.x / tiles_x * ROWS, x0 = (int)blockIdx.x % tiles_x * 16, o0 = blockIdx.y * N;
    const long long image = (long long)blockIdx.z * h;

    // The pieces of the patch that this thread copies in every stage.
    const unsigned char* source[PIECES];
    int place[PIECES];
    bool inside[PIECES];
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
        const unsigned piece = thread + k * THREADS, pixel = piece / 2, column = pixel % WIDE;
        const int py = y0 - 1 + (int)(pixel / WIDE), px = x0 - 1 + (int)column;
        inside[k] = py >= 0 && py < h && px >= 0 && px < w;
        const long long at = inside[k] ? ((image + py) * w + px) * x_pitch : 0;
        source[k] = (const unsigned char*)(x + at) + piece % 2 * 16;
        // The halves change places by the column alone: so a row of the patch is a constant step.
        place[k] = pixel * 32 + (piece % 2 ^ (column >> 2 & 1)) * 16;
    }
    // And those of the weights: of rows thread / 2 + AT_ONCE k of the 9 N, some taps further with every k.
    const unsigned first = thread / 2, o = o0 + first % N;
    const bool weight_wanted = o < (unsigned)co;
    const int weight_place = PATCH * 32 + place_32((int)first, (int)(thread % 2));
    const unsigned weight_step = AT_ONCE / N * 32 * co, weight_chunk = 9 * 32 * co;
    const unsigned char* weight = (const unsigned char*)weights;
    if (weight_wanted) weight += ((long long)(first / N) * co + o) * 32 + thread % 2 * 16;
    // Copies the next chunk of channels.
    const auto load = [&](int stage) {
        const Shared to = shared + stage * STAGE;
#pragma unroll
        for (int k = 0; k < PIECES; ++k) {
            if ((k + 1) * THREADS <= 2 * PATCH || thread + k * THREADS < 2 * PATCH) {
                copy_16(to + place[k], source[k], inside[k]);
            }
            source[k] += 32;
        }
#pragma unroll
        for (int k = 0; k * AT_ONCE < 9 * N; ++k) {
            if ((k + 1) * AT_ONCE <= 9 * N || first + k * AT_ONCE < 9 * N) {
                const unsigned char* from = weight + (unsigned long long)k * weight_step;
                copy_16(to + weight_place + k * AT_ONCE * 32, from, weight_wanted);
            }
        }
        weight += weight_chunk;
    };

    Sum sum;
    sum.clear();
#if PRECISION == 0
    const auto multiply = [&](int stage) {
        const unsigned char* patch = memory + stage * STAGE;
        const unsigned char* weights_at = patch + PATCH * 32;
        const int r0 = (int)(thread / 128) * Sum::ROWS;
        // Half a chunk of one column of the patch at a time: its rows serve all three dy.
#pragma unroll 1
        for (int step = 0; step < 6; ++step) {
            const int dx = step >> 1, half = step & 1, column = (int)(thread % 16) + dx;
            float4 a[Sum::ROWS + 2];
            const int from = (r0 * WIDE + column) * 32 + (half ^ (column >> 2 & 1)) * 16;
#pragma unroll
            for (int r = 0; r < Sum::ROWS + 2; ++r) a[r] = *(const float4*)(patch + from + r * WIDE * 32);
#pragma unroll
            for (int dy = 0; dy < 3; ++dy) {
#pragma unroll
                for (int j = 0; j < Sum::COLUMNS; ++j) {
                    const int o = Sum::column() + 8 * j;
                    const float4 b = *(const float4*)(weights_at + (dy * 3 + dx) * N * 32 + place_32(o, half));
#pragma unroll
                    for (int r = 0; r < Sum::ROWS; ++r) {
                        float s = sum.sum[r][j];
                        s = fmaf(a[r + dy].x, b.x, s);
                        s = fmaf(a[r + dy].y, b.y, s);
                        s = fmaf(a[r + dy].z, b.z, s);
                        sum.sum[r][j] = fmaf(a[r + dy].w, b.w, s);
                    }
                }
            }
        }
    };
#else
    // Where this lane reads: of the patch rows of 16 pixels from column dx on, of the weights 16 channels.
    const int lane = (int)(thread % 32);
    const int a_row = Sum::row() / 16 * WIDE * 32;
    const int b_place = PATCH * 32 + place_32(Sum::column() + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const auto multiply = [&](int stage) {
        const Shared from = shared + stage * STAGE;
        // All at once in TF32 would need more registers than two blocks of 256 threads leave.
#pragma unroll(PRECISION == 1 && THREADS == 256 ? 1 : 3)
        for (int dx = 0; dx < 3; ++dx) {
            const int column = lane % 16 + dx;
            const Shared a_from = from + a_row + column * 32 + (lane / 16 ^ (column >> 2 & 1)) * 16;
            const Shared b_from = from + b_place + dx * N * 32;
            unsigned a[Sum::ROWS + 2][4];
#pragma unroll
            for (int r = 0; r < Sum::ROWS + 2; ++r) {
                matrices(a[r], a_from + r * WIDE * 32);
                round_operands(a[r]);
            }
#pragma unroll
            for (int dy = 0; dy < 3; ++dy) {
#pragma unroll
                for (int j = 0; j < Sum::COLUMNS; j += 2) {
                    unsigned b[4];
                    matrices(b, b_from + (dy * 3 * N + 8 * j) * 32);
                    round_operands(b);
#pragma unroll
                    for (int r = 0; r < Sum::ROWS; ++r) {
                        multiply_add(sum.sum[r][j], a[r + dy], b[0], b[1]);
                        multiply_add(sum.sum[r][j + 1], a[r + dy], b[2], b[3]);
                    }
                }
            }
        }
    };
#endif

    const int chunks = ci / CHUNK;
#pragma unroll
    for (int k = 0; k < STAGES - 1; ++k) {
        if (k < chunks) load(k);
        copies_end();
    }
    int stage = 0, free_stage = STAGES - 1;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (chunk + STAGES - 1 < chunks) load(free_stage);
        copies_end();
        multiply(stage);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        free_stage = free_stage + 1 == STAGES ? 0 : free_stage + 1;
    }
    __syncthreads();

    // The tile goes through shared memory, so that it leaves in pieces of 16 bytes.
    sum.stage(memory, [&](int c) { return bias && o0 + c < co ? bias[o0 + c] : 0.0f; },
              relu ? 0.0f : -__int_as_float(0x7f800000));
    __syncthreads();
    const int rows = min(ROWS, h - y0), columns = min(16, w - x0);
    enum { ACROSS = N / PER_PIECE };
    const int across = (int)(thread % ACROSS) * PER_PIECE;
    if (o0 + across < co) {
        T* to = y + ((image + y0) * w + x0) * y_pitch + o0 + across;
#pragma unroll
        for (unsigned pixel = thread / ACROSS; pixel < 16 * ROWS; pixel += THREADS / ACROSS) {
            const int r = (int)(pixel / 16), c = (int)(pixel % 16);
            if (r < rows && c < columns) {
                *(uint4*)(to + ((long long)r * w + c) * y_pitch) =
                    *(const uint4*)(memory + pixel * Sum::PITCH + across * sizeof(T));
            }
        }
    }

    if (moments) {
        // A thread adds two channels of every PARTS-th pixel; the parts are added in order.
        enum { PAIRS = N / 2, PARTS = THREADS / PAIRS };
        float2* parts = (float2*)(memory + Sum::STAGED);
        const unsigned pair = thread % PAIRS, part = thread / PAIRS;
        const auto total = [&](float2 mine) {
            parts[thread] = mine;
            __syncthreads();
            float2 all = parts[pair];
#pragma unroll
            for (int k = 1; k < PARTS; ++k) {
                all.x += parts[k * PAIRS + pair].x;
                all.y += parts[k * PAIRS + pair].y;
            }
            __syncthreads();
            return all;
        };
        float2 mine = make_float2(0.0f, 0.0f);
#pragma unroll
        for (unsigned pixel = part; pixel < 16 * ROWS; pixel += PARTS) {
            if ((int)(pixel / 16) < rows && (int)(pixel % 16) < columns) {
                const float2 v = widen2((const T*)(memory + pixel * Sum::PITCH) + 2 * pair);
                mine.x += v.x;
                mine.y += v.y;
            }
        }
        const float2 s = total(mine);
        const float count = (float)(rows * columns);
        const float2 mean = make_float2(s.x / count, s.y / count);
        mine = make_float2(0.0f, 0.0f);
#pragma unroll
        for (unsigned pixel = part; pixel < 16 * ROWS; pixel += PARTS) {
            if ((int)(pixel / 16) < rows && (int)(pixel % 16) < columns) {
                const float2 v = widen2((const T*)(memory + pixel * Sum::PITCH) + 2 * pair);
                mine.x = fmaf(v.x - mean.x, v.x - mean.x, mine.x);
                mine.y = fmaf(v.y - mean.y, v.y - mean.y, mine.y);
            }
        }
        const float2 squares = total(mine);
        const int o = o0 + (int)(2 * pair);
        if (part == 0 && o < co) {
            float* to = moments + ((long long)blockIdx.z * gridDim.x + blockIdx.x) * 2 * co + o;
            *(float2*)to = s;
            *(float2*)(to + co) = squares;
        }
    }
}

// Blocks of the widest tile on a multiprocessor, by its registers.
enum { WIDEST = PRECISION == 0 ? 1 : 2 };

#define CONV3(NAME, ROWS, N, THREADS, STAGES, BLOCKS)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                               \
        NAME(const T* __restrict__ x, long long x_pitch, const T* __restrict__ weights,                         \
             const float* __restrict__ bias, T* __restrict__ y, long long y_pitch, float* __restrict__ moments, \
             int h, int w, int ci, int co, int relu) {                                                          \
        conv3<ROWS, N, THREADS, STAGES>(x, x_pitch, weights, bias, y, y_pitch, moments, h, w, ci, co, relu);    \
    }

CONV3(conv3_256x64, 16, 64, 256, 2, WIDEST)
CONV3(conv3_256x32, 16, 32, 256, 3, 2)
CONV3(conv3_128x64, 8, 64, 128, 2, 3)
CONV3(conv3_128x32, 8, 32, 128, 3, 3)
CONV3(conv3_64x64, 4, 64, 128, 3, 3)
CONV3(conv3_64x32, 4, 32, 128, 4, 3)
