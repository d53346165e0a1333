// Atomic operations: blocks run on several threads of the system at once.
#pragma once

// The old value goes through `change` and is written if it is still there.
template <typename T, typename Change>
inline T soft_atomic(T* address, Change change) {
  T old, now;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do now = change(old);
  while (!__atomic_compare_exchange(address, &old, &now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

#define SOFT_ATOMIC_ADD(T) \
  inline T atomicAdd(T* address, T value) { return soft_atomic(address, [=](T old) { return old + value; }); }
SOFT_ATOMIC_ADD(int)
SOFT_ATOMIC_ADD(unsigned)
SOFT_ATOMIC_ADD(unsigned long long)
SOFT_ATOMIC_ADD(float)
SOFT_ATOMIC_ADD(double)
#undef SOFT_ATOMIC_ADD

#define SOFT_ATOMIC_INTEGER(T) \
  inline T atomicMin(T* address, T value) { return soft_atomic(address, [=](T old) { return old < value ? old : value; }); } \
  inline T atomicMax(T* address, T value) { return soft_atomic(address, [=](T old) { return old > value ? old : value; }); } \
  inline T atomicAnd(T* address, T value) { return __atomic_fetch_and(address, value, __ATOMIC_RELAXED); } \
  inline T atomicOr(T* address, T value) { return __atomic_fetch_or(address, value, __ATOMIC_RELAXED); } \
  inline T atomicXor(T* address, T value) { return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED); } \
  inline T atomicExch(T* address, T value) { return __atomic_exchange_n(address, value, __ATOMIC_RELAXED); } \
  inline T atomicCAS(T* address, T compare, T value) { \
    __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    return compare; \
  }
SOFT_ATOMIC_INTEGER(int)
SOFT_ATOMIC_INTEGER(unsigned)
SOFT_ATOMIC_INTEGER(long long)
SOFT_ATOMIC_INTEGER(unsigned long long)
#undef SOFT_ATOMIC_INTEGER

inline int atomicSub(int* address, int value) { return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED); }
inline unsigned atomicSub(unsigned* address, unsigned value) { return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED); }
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return soft_atomic(address, [=](unsigned old) { return old >= last ? 0u : old + 1; });
}
inline float atomicExch(float* address, float value) {
  return soft_atomic(address, [=](float) { return value; });
}
inline unsigned short atomicCAS(unsigned short* address, unsigned short compare, unsigned short value) {
  __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
