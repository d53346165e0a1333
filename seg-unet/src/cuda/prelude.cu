// What all kernels share: the element of a map, the matrix instructions, the copies in the background.
//
// A source text is this file and one file of kernels, compiled once per precision:
//   PRECISION 0  F32   elements are floats,  products by fused multiply-adds, sums in f32
//   PRECISION 1  TF32  elements are floats,  products of operands rounded to 10 bits of mantissa, sums in f32
//   PRECISION 2  BF16  elements are bfloat16 (their bits), products exact, sums in f32
//
// A map is NHWC: element (n, y, x, c) lies at ((n h + y) w + x) pitch + c. The number of channels is a
// multiple of 16, base and pitch are multiples of 32 bytes, channels of padding hold zeros.

#ifdef SOFT_CUDA
#define DYNAMIC_SHARED(name) unsigned char* name = soft_dynamic_shared()
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

#if PRECISION == 2
typedef unsigned short T;
#else
typedef float T;
#endif

// The step of all sums over channels: 32 bytes of them, 8 floats or 16 bfloat16.
enum { CHUNK = 32 / sizeof(T) };
// The elements of 16 bytes, the unit of all copies.
enum { PER_PIECE = 16 / sizeof(T) };

// ---- conversions -----------------------------------------------------------------------------------------

// Two floats as bfloat16, the first in the low half; to nearest, ties to even.
__device__ __forceinline__ unsigned bf16x2(float low, float high) {
#ifdef SOFT_CUDA
    unsigned half[2];
    const float value[2] = {low, high};
    for (int k = 0; k < 2; ++k) {
        const unsigned bits = __float_as_uint(value[k]);
        half[k] = value[k] != value[k] ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    }
    return half[0] | half[1] << 16;
#else
    unsigned result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#endif
}

// An element as a float, and a float as an element.
__device__ __forceinline__ float widen(T value) {
#if PRECISION == 2
    return __uint_as_float((unsigned)value << 16);
#else
    return value;
#endif
}

__device__ __forceinline__ T narrow(float value) {
#if PRECISION == 2
    return (T)bf16x2(value, 0.0f);
#else
    return value;
#endif
}

// Two neighbours at once; `from` and `to` lie at an even element.
__device__ __forceinline__ float2 widen2(const T* from) {
#if PRECISION == 2
    const unsigned both = *(const unsigned*)from;
    return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
#else
    return *(const float2*)from;
#endif
}

__device__ __forceinline__ void narrow2(T* to, float low, float high) {
#if PRECISION == 2
    *(unsigned*)to = bf16x2(low, high);
#else
    *(float2*)to = make_float2(low, high);
#endif
}

// The bits of a float, rounded to the 10 bits of mantissa of TF32: to nearest, ties away from zero.
__device__ __forceinline__ unsigned tf32(unsigned bits) {
#ifdef SOFT_CUDA
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
#else
    unsigned result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(__uint_as_float(bits)));
    return result;
#endif
}

// Operands as they come out of shared memory are rounded where the tensor cores would cut them off.
template <int COUNT>
__device__ __forceinline__ void round_operands(unsigned (&operand)[COUNT]) {
    (void)operand;
#if PRECISION == 1
#pragma unroll
    for (int k = 0; k < COUNT; ++k) operand[k] = tf32(operand[k]);
#endif
}

// ---- shared memory ---------------------------------------------------------------------------------------

// An address in shared memory, for the instructions that want one of 32 bits.
#ifdef SOFT_CUDA
typedef unsigned char* Shared;
__device__ __forceinline__ Shared shared_address(unsigned char* address) { return address; }
#else
typedef unsigned Shared;
__device__ __forceinline__ Shared shared_address(unsigned char* address) {
    return (unsigned)__cvta_generic_to_shared(address);
}
#endif

// Copies 16 bytes in the background; `wanted` false writes zeros and reads nothing.
__device__ __forceinline__ void copy_16(Shared to, const void* from, bool wanted) {
    const int bytes = wanted ? 16 : 0;
#ifdef SOFT_CUDA
    soft_cp_async_16(to, from, bytes);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#endif
}

// Closes a group of copies.
__device__ __forceinline__ void copies_end() {
#ifdef SOFT_CUDA
    soft_cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the `LEFT` youngest groups of this thread have arrived.
template <int LEFT>
__device__ __forceinline__ void copies_wait() {
#ifdef SOFT_CUDA
    soft_cp_async_wait(LEFT);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

// Four matrices of 8 rows of 16 bytes: lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void matrices(unsigned (&r)[4], Shared row) {
#ifdef SOFT_CUDA
    soft_ldmatrix_x4(r, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
#endif
}

// The same four, each transposed (elements of 2 bytes).
__device__ __forceinline__ void matrices_transposed(unsigned (&r)[4], Shared row) {
#ifdef SOFT_CUDA
    soft_ldmatrix_x4_trans(r, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
#endif
}

// ---- products --------------------------------------------------------------------------------------------

// c (16 x 8) += a (16 x CHUNK) b (CHUNK x 8) by a warp. With g = lane / 4 and t = lane % 4 a thread holds
// c of rows g (c[0], c[1]) and g + 8 (c[2], c[3]) and columns 2t, 2t + 1. The operands of both precisions
// have the same bytes in the same places: 4 bytes at 4t of row g, of row g + 8, and the same 16 bytes on.
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifdef SOFT_CUDA
    const unsigned b[2] = {b0, b1};
#if PRECISION == 2
    soft_mma_bf16(c, a, b);
#else
    soft_mma_tf32(c, a, b);
#endif
#elif PRECISION == 2
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Rows of 32 bytes lie close together; the halves of every other four rows change places, so that 8 rows in
// sequence, read or written 16 bytes each, lie in different banks. The place of a half of a row:
__device__ __forceinline__ int place_32(int row, int half) { return row * 32 + (half ^ (row >> 2 & 1)) * 16; }

// The product of a block, M rows (pixels) by N columns (channels), as its threads hold it.
//   tensor cores  warps of 2 columns: a warp has ROWS tiles of 16 rows by COLUMNS tiles of 8 columns
//   F32           a thread has rows row() + 16 j and columns column() + 8 j
template <int M, int N, int THREADS>
struct Product {
    // Bytes from one row of the staged product to the next: 8 more elements than the row has keep the
    // writes of a warp in different banks.
    enum { PITCH = (N + 8) * sizeof(T), STAGED = M * PITCH };
#if PRECISION == 0
    enum { ROWS = M / 16 / (THREADS / 128), COLUMNS = N / 8 };
    float sum[ROWS][COLUMNS];
    __device__ __forceinline__ static int row() { return (int)(threadIdx.x / 128 * (ROWS * 16) + threadIdx.x % 16); }
    __device__ __forceinline__ static int column() { return (int)(threadIdx.x / 16 % 8); }
#else
    enum { ROWS = M / 16 / (THREADS / 64), COLUMNS = N / 16 };
    float sum[ROWS][COLUMNS][4];
    __device__ __forceinline__ static int row() { return (int)(threadIdx.x / 64 * (ROWS * 16)); }
    __device__ __forceinline__ static int column() { return (int)(threadIdx.x / 32 % 2 * (N / 2)); }
#endif

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
#if PRECISION == 0
                sum[i][j] = 0.0f;
#else
#pragma unroll
                for (int k = 0; k < 4; ++k) sum[i][j][k] = 0.0f;
#endif
            }
        }
    }

    // Writes max(sum + bias(column), least), rounded to an element, to the tile in shared memory; NaN stays NaN.
    template <class Bias>
    __device__ __forceinline__ void stage(unsigned char* tile, Bias bias, float least) const {
        const auto raise = [least](float value) { return value < least ? least : value; };
#if PRECISION == 0
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const int c = column() + 8 * j;
            const float add = bias(c);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                *(T*)(tile + (row() + 16 * i) * PITCH + c * sizeof(T)) = raise(sum[i][j] + add);
            }
        }
#else
        const int g = (int)(threadIdx.x % 32 / 4), t = (int)(threadIdx.x % 4);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const int c = column() + 8 * j + 2 * t;
            const float add[2] = {bias(c), bias(c + 1)};
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                unsigned char* to = tile + (row() + 16 * i + g) * PITCH + c * sizeof(T);
                narrow2((T*)to, raise(sum[i][j][0] + add[0]), raise(sum[i][j][1] + add[1]));
                narrow2((T*)(to + 8 * PITCH), raise(sum[i][j][2] + add[0]), raise(sum[i][j][3] + add[1]));
            }
        }
#endif
    }
};

// Where an element of a gradient comes from, in the sums of one split, and where it goes.
struct Way {
    long long from, to;
};

// gradient[way(k).to] = sum over the splits s of partial[s step + way(k).from] for k < total, by blocks of 256
// threads. Few splits: a thread for each k. Many: eight threads, each with every eighth split, whose sums are
// then added in order.
template <class Find>
__device__ __forceinline__ void sum_of_splits(const float* partial, float* gradient, int splits, long long step,
                                              unsigned total, Find way) {
    __shared__ float parts[256];
    const unsigned threads = splits < 8 ? 1 : 8, sums = 256 / threads;
    const unsigned mine = threadIdx.x % sums, part = threadIdx.x / sums;
    for (unsigned block = blockIdx.x * sums; block < total; block += gridDim.x * sums) {
        const unsigned k = block + mine;
        const bool wanted = k < total;
        Way found = {0, 0};
        float sum = 0.0f;
        if (wanted) {
            found = way(k);
            const float* at = partial + found.from;
#pragma unroll 8
            for (int split = (int)part; split < splits; split += (int)threads) sum += at[split * step];
        }
        if (threads > 1) {
            parts[threadIdx.x] = sum;
            __syncthreads();
            if (part == 0) {
                for (unsigned other = 1; other < threads; ++other) sum += parts[other * sums + mine];
            }
            __syncthreads();
        }
        if (part == 0 && wanted) gradient[found.to] = sum;
    }
}
