// What the self-test runs; each kernel writes what main.cpp computes by plain loops.

#ifdef SOFT_CUDA
#define DYNAMIC_SHARED(name) unsigned char* name = soft_dynamic_shared()
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

// out[block][i] = the block's sum of in, by shuffles and a barrier.
extern "C" __global__ void __launch_bounds__(256) sums(const float* in, float* out) {
  __shared__ float partial[8];
  const unsigned i = threadIdx.x, lane = i % 32, warp = i / 32;
  float v = in[blockIdx.x * 256 + i];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < 8; w++) sum += partial[w];
  out[blockIdx.x * 256 + i] = sum;
}

// The same without the barrier: it is wrong, and must be seen to be.
extern "C" __global__ void sums_without_barrier(const float* in, float* out) {
  __shared__ float partial[8];
  const unsigned i = threadIdx.x, lane = i % 32, warp = i / 32;
  float v = in[blockIdx.x * 256 + i];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  if (lane == 0) partial[warp] = v;
  float sum = 0;
  for (int w = 0; w < 8; w++) sum += partial[w];
  out[blockIdx.x * 256 + i] = sum;
}

extern "C" __global__ void shuffles(int* out) {
  const int lane = threadIdx.x % 32;
  int* mine = out + threadIdx.x * 10;
  mine[0] = __shfl_sync(~0u, lane * 3, 5);
  mine[1] = __shfl_up_sync(~0u, lane * 3, 2);
  mine[2] = __shfl_down_sync(~0u, lane * 3, 4, 8);
  mine[3] = __shfl_xor_sync(~0u, lane * 3, 9, 8);
  mine[4] = int(__ballot_sync(~0u, lane % 3 == 0));
  // Two halves of a warp, each with a mask of its own.
  if (lane < 16)
    mine[5] = __shfl_sync(0x0000ffffu, lane, 3);
  else
    mine[5] = __shfl_sync(0xffff0000u, lane, 20);
  mine[6] = __syncthreads_count(lane < 5);
  mine[7] = __reduce_add_sync(~0u, lane);
  mine[8] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 31);
  // Most lanes have returned.
  if (lane > 10) return;
  mine[9] = __shfl_sync(0x7ffu, lane, 10) + (__syncthreads_or(0) ? 100 : 0);
}

extern "C" __global__ void multiply_bf16(const unsigned* a, const unsigned* b, float* c) {
  const int lane = threadIdx.x;
  float sum[4];
  for (int i = 0; i < 4; i++) sum[i] = c[lane * 4 + i];
  soft_mma_bf16(sum, a + lane * 4, b + lane * 2);
  for (int i = 0; i < 4; i++) c[lane * 4 + i] = sum[i];
}

extern "C" __global__ void multiply_tf32(const unsigned* a, const unsigned* b, float* c) {
  const int lane = threadIdx.x;
  float sum[4];
  for (int i = 0; i < 4; i++) sum[i] = c[lane * 4 + i];
  soft_mma_tf32(sum, a + lane * 4, b + lane * 2);
  for (int i = 0; i < 4; i++) c[lane * 4 + i] = sum[i];
}

// A 16×16 matrix of 16-bit numbers, row by row, as the four registers that ldmatrix gives each lane.
extern "C" __global__ void load(const unsigned short* in, unsigned* out) {
  DYNAMIC_SHARED(shared);
  unsigned short* tile = (unsigned short*)shared;
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) tile[i] = in[i];
  __syncthreads();
  // Matrices: rows 0…7 and 8…15 of columns 0…7, then of columns 8…15.
  const unsigned short* row = tile + (lane % 16) * 16 + lane / 16 * 8;
  unsigned r[4];
  soft_ldmatrix_x4(r, row);
  for (int i = 0; i < 4; i++) out[lane * 8 + i] = r[i];
  soft_ldmatrix_x4_trans(r, row);
  for (int i = 0; i < 4; i++) out[lane * 8 + 4 + i] = r[i];
}

// Copies 16 bytes a thread; group after group is waited for. Of the last group half is filled with zeros.
extern "C" __global__ void copies(const float* in, float* out, int wait) {
  DYNAMIC_SHARED(shared);
  float* tile = (float*)shared;
  const int i = threadIdx.x;
  soft_cp_async_16(tile + i * 4, in + i * 4, 16);
  soft_cp_async_commit();
  soft_cp_async_16(tile + 128 + i * 4, in + 128 + i * 4, 8);
  soft_cp_async_commit();
  if (wait) soft_cp_async_wait(1);
  __syncthreads();
  for (int k = 0; k < 4; k++) out[k * 32 + i] = tile[k * 32 + i];
  if (wait) soft_cp_async_wait(0);
  __syncthreads();
  for (int k = 4; k < 8; k++) out[k * 32 + i] = tile[k * 32 + i];
}

extern "C" __global__ void count_blocks(unsigned* counter, unsigned* last) {
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    __threadfence();
    const unsigned before = atomicAdd(counter, 1u);
    if (before == gridDim.x * gridDim.y * gridDim.z - 1) *last = before;
  }
}

// Errors: each must end the program with a sentence.
extern "C" __global__ void behind_the_end(float* out, int n) { out[n + threadIdx.x] = 1; }
extern "C" __global__ void misaligned(float* out) { *(float4*)(out + 1) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void outside_of_shared(float* out, int i) {
  __shared__ float tile[8];
  tile[i] = 1;
  __syncthreads();
  out[0] = tile[0];
}
extern "C" __global__ void deadlock(float* out) {
  if (threadIdx.x % 32 == 3)
    __syncthreads();
  else
    out[threadIdx.x] = __shfl_sync(~0u, 1.0f, 0);
}
extern "C" __global__ void double_index(double* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x + 0.5; }
