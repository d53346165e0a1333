// Threads of a block, lanes of a warp, the tensor cores' fragments and asynchronous copies.
#pragma once

// What the running fiber is; one for each thread of the system, changed at every switch of fibers.
struct soft_Here {
  uint3 thread, block;
  dim3 threads, blocks;
  unsigned char* dynamic_shared;
};

#pragma GCC visibility push(default)
extern "C" {
// It lies in a library that is loaded with the program, so its place is known and costs no call.
extern __thread soft_Here soft_here __attribute__((tls_model("initial-exec")));

// Each waits until every thread of the block that has not returned is at the same kind of barrier.
void soft_barrier();
int soft_barrier_count(int predicate);
int soft_barrier_and(int predicate);
int soft_barrier_or(int predicate);

// Each waits until every lane of the mask that has not returned is at the same call with the same mask.
void soft_warp_barrier(unsigned mask);
unsigned soft_ballot(unsigned mask, int predicate);
unsigned soft_active();
// Of a lane that has returned, or is not in the mask, all bits come out set: such a value is undefined.
unsigned long long soft_shuffle(unsigned mask, unsigned long long value, unsigned lane);
unsigned soft_reduce(unsigned mask, unsigned value, int operation);
unsigned soft_match_any(unsigned mask, unsigned long long value);

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 and …f16.f16…: c += a b.
void soft_mma_bf16(float c[4], const unsigned a[4], const unsigned b[2]);
void soft_mma_f16(float c[4], const unsigned a[4], const unsigned b[2]);
// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: c += a b; of a and b the low 13 bits are not looked at.
void soft_mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]);

// ldmatrix.sync.aligned.m8n8.xN(.trans).shared.b16: lane 8 i + j gives the address of row j of matrix i.
void soft_ldmatrix_x1(unsigned r[1], const void* row);
void soft_ldmatrix_x1_trans(unsigned r[1], const void* row);
void soft_ldmatrix_x2(unsigned r[2], const void* row);
void soft_ldmatrix_x2_trans(unsigned r[2], const void* row);
void soft_ldmatrix_x4(unsigned r[4], const void* row);
void soft_ldmatrix_x4_trans(unsigned r[4], const void* row);

// cp.async.cg.shared.global 16: until the wait that covers it, what was there is lost and what comes is not there.
void soft_cp_async_16(void* shared, const void* global, int bytes);
// cp.async.ca.shared.global, of 4, 8 or 16 bytes in all, of which `bytes` are read.
void soft_cp_async(void* shared, const void* global, int size, int bytes);
void soft_cp_async_commit();
void soft_cp_async_wait(int groups_left);

[[noreturn]] void soft_trap(const char* what);
}
#pragma GCC visibility pop

constexpr int warpSize = 32;
#define threadIdx (soft_here.thread)
#define blockIdx (soft_here.block)
#define blockDim (soft_here.threads)
#define gridDim (soft_here.blocks)

// As many bytes as the launch asked for, with an unreadable page behind them.
inline unsigned char* soft_dynamic_shared() { return soft_here.dynamic_shared; }

inline void __syncthreads() { soft_barrier(); }
inline int __syncthreads_count(int predicate) { return soft_barrier_count(predicate); }
inline int __syncthreads_and(int predicate) { return soft_barrier_and(predicate); }
inline int __syncthreads_or(int predicate) { return soft_barrier_or(predicate); }
inline void __syncwarp(unsigned mask = ~0u) { soft_warp_barrier(mask); }
inline unsigned __activemask() { return soft_active(); }
inline unsigned __ballot_sync(unsigned mask, int predicate) { return soft_ballot(mask, predicate); }
inline int __any_sync(unsigned mask, int predicate) { return soft_ballot(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return soft_ballot(mask, !predicate) == 0; }
inline void __trap() { soft_trap("__trap()"); }
// What a kernel says of itself must not be optimised away with the test that follows from it.
#define assert(condition) ((condition) ? (void)0 : soft_trap("assert(" #condition ")"))

inline unsigned soft_lane() {
  return (soft_here.thread.x + soft_here.threads.x * (soft_here.thread.y + soft_here.threads.y * soft_here.thread.z)) % 32;
}

template <typename T>
T soft_shuffle_value(unsigned mask, T value, unsigned lane) {
  static_assert(sizeof(T) <= 8, "a shuffle takes 2, 4 or 8 bytes");
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = soft_shuffle(mask, bits, lane);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  const unsigned self = soft_lane(), w = width;
  return soft_shuffle_value(mask, value, (self & ~(w - 1)) | (unsigned(lane) & (w - 1)));
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned self = soft_lane(), w = width;
  return soft_shuffle_value(mask, value, (self & (w - 1)) >= delta ? self - delta : self);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned self = soft_lane(), w = width;
  return soft_shuffle_value(mask, value, (self & (w - 1)) + delta < w ? self + delta : self);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const unsigned self = soft_lane(), w = width, other = self ^ unsigned(lanes);
  return soft_shuffle_value(mask, value, other <= (self | (w - 1)) ? other : self);
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof value);
  return soft_match_any(mask, bits);
}

enum { SOFT_ADD, SOFT_MIN, SOFT_MAX, SOFT_SIGNED_MIN, SOFT_SIGNED_MAX, SOFT_AND, SOFT_OR, SOFT_XOR };
inline unsigned __reduce_add_sync(unsigned mask, unsigned v) { return soft_reduce(mask, v, SOFT_ADD); }
inline int __reduce_add_sync(unsigned mask, int v) { return int(soft_reduce(mask, unsigned(v), SOFT_ADD)); }
inline unsigned __reduce_min_sync(unsigned mask, unsigned v) { return soft_reduce(mask, v, SOFT_MIN); }
inline int __reduce_min_sync(unsigned mask, int v) { return int(soft_reduce(mask, unsigned(v), SOFT_SIGNED_MIN)); }
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) { return soft_reduce(mask, v, SOFT_MAX); }
inline int __reduce_max_sync(unsigned mask, int v) { return int(soft_reduce(mask, unsigned(v), SOFT_SIGNED_MAX)); }
inline unsigned __reduce_and_sync(unsigned mask, unsigned v) { return soft_reduce(mask, v, SOFT_AND); }
inline unsigned __reduce_or_sync(unsigned mask, unsigned v) { return soft_reduce(mask, v, SOFT_OR); }
inline unsigned __reduce_xor_sync(unsigned mask, unsigned v) { return soft_reduce(mask, v, SOFT_XOR); }
