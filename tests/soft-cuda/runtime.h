// What the false driver needs of the run time: grids of blocks of fibers.
#pragma once

#include "include/soft_cuda.h"

// The threads of the static shared memory of a module: where each thread of the system has its own.
struct StaticShared {
  unsigned long module = 0;  // the dynamic linker's number of it; 0: there is none
  size_t bytes = 0;
};

struct Launch {
  const char* name;
  const soft_Entry* entry;
  dim3 blocks, threads;
  unsigned dynamic_shared;
  void** arguments;
  StaticShared static_shared;
};

// Returns when every block has.
void run_grid(const Launch& launch);

// Runs one block on the calling thread.
void run_block(const Launch& launch, uint3 block);

// Ends the program with one sentence that says where in which kernel it happened.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);

// The kernel that runs on this thread of the system; null outside.
extern thread_local const Launch* running;

// Answers a touch of forbidden memory, or a trap, with a sentence. Once for each thread that runs blocks.
void catch_faults();

// What is known of an address: an allocation near it, freed memory. Safe in a signal handler.
void describe_address(const void* address, char* text, size_t size);

// The order in which blocks, warps and lanes run: SOFT_CUDA_ORDER=forward|reverse|SEED.
struct Order {
  enum Kind { forward, reverse, shuffled } kind;
  unsigned long long seed;
  // The places 0 … n-1 in this order; `key` makes one shuffle differ from another.
  void places(unsigned* places, unsigned n, unsigned long long key) const;
  // The i-th of n, for numbers too large to be listed.
  unsigned long long place(unsigned long long i, unsigned long long n) const;
};
const Order& order();
