// One block that runs: its fibers, its barrier, its warps.
#pragma once

#include <stdint.h>

#include <vector>

#include "fiber.h"
#include "runtime.h"

enum class State : uint8_t { fresh, ready, at_barrier, at_warp, returned };

enum class Together : uint8_t { none, warp_barrier, ballot, shuffle, reduce, match, mma_bf16, mma_f16, mma_tf32, ldmatrix };
const char* name_of(Together call);

// What a lane brings to a call of its warp, and what it takes away.
struct Operands {
  unsigned a[4], b[2];
  float c[4];
  unsigned long long value;
  unsigned lane;  // of a shuffle; the predicate of a ballot; what to do of a reduction or ldmatrix
  const void* row;
};

struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int size, bytes;
};

struct Fiber {
  Registers* context = nullptr;
  Stack stack = nullptr;
  Together call = Together::none;
  unsigned mask = 0;
  uint3 thread;
  Operands in, out;
  std::vector<Copy> copies;      // asynchronous, those not waited for
  std::vector<size_t> groups;    // how many copies each group that is committed has
  size_t uncommitted = 0;
};

class Block {
 public:
  ~Block();
  void run(const Launch& launch, uint3 place);

  Fiber& self() { return fibers[current]; }
  int barrier(int kind, int predicate);
  void meet(Together call, unsigned mask);
  unsigned lanes_alive();

  Stacks stacks;
  unsigned current = 0;

 private:
  static void main();
  void resume(unsigned fiber);
  void leave();  // back to the scheduler
  void release_barrier();
  bool complete(unsigned warp, unsigned first);
  void lane_returned();
  [[noreturn]] void stuck();
  unsigned char* dynamic_shared(unsigned bytes);

  void can_run(unsigned fiber);

  std::vector<Fiber> fibers;
  std::vector<State> states;        // of each fiber
  std::vector<unsigned> runnable;   // of each warp, a bit for each lane
  std::vector<unsigned> gone;       // of each warp: lanes that have returned, or never were
  std::vector<unsigned char> meeting;  // of each warp: how many lanes wait for others of it
  std::vector<unsigned> warp_order, lane_order;
  unsigned threads = 0, alive = 0;
  Registers* scheduler = nullptr;

  int barrier_kind = -1;
  unsigned barrier_waiting = 0, barrier_true = 0;
  int barrier_result = 0;

  unsigned char* shared = nullptr;  // the end of what can be touched
};

// What the lanes of a complete call take away. `lanes` are those of the mask that have not returned.
void calculate(Together call, Fiber* warp, unsigned lanes);
