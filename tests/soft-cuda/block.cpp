// The scheduler of a block. One warp runs until all its lanes wait for others or have returned, then the next does:
// a barrier that is missing between warps shows as one warp reading what the other has not written yet.
#include "block.h"

#include <sys/mman.h>

extern "C" {
__thread soft_Here soft_here = {};
// The dynamic linker's own: the calling thread's copy of a module's thread-local variables.
void* __tls_get_addr(unsigned long*);
}

thread_local const Launch* running = nullptr;

// The block that runs on this thread of the system.
static __thread Block* the_block __attribute__((tls_model("initial-exec")));
static Block& this_block() { return *the_block; }

void run_block(const Launch& launch, uint3 place) {
  static thread_local Block block;
  the_block = &block;
  block.run(launch, place);
}

static constexpr size_t most_shared = 256 << 10;

Block::~Block() {
  if (shared) munmap(shared - most_shared, most_shared + 4096);
}

// Ends where the page begins that cannot be touched.
unsigned char* Block::dynamic_shared(unsigned bytes) {
  if (!shared) {
    void* place = mmap(nullptr, most_shared + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED || mprotect(static_cast<unsigned char*>(place) + most_shared, 4096, PROT_NONE))
      fail("no memory for the shared memory of a block");
    shared = static_cast<unsigned char*>(place) + most_shared;
  }
  const unsigned room = (bytes + 15) / 16 * 16;
  memset(shared - room, 0xff, room);
  return shared - room;
}

void Block::main() {
  Block& block = this_block();
  running->entry->call(running->arguments);
  block.states[block.current] = State::returned;
  block.gone[block.current / 32] |= 1u << block.current % 32;
  block.alive--;
  block.lane_returned();
  block.leave();
  abort();  // a fiber that has returned is never resumed
}

void Block::leave() {
  change_context(&self().context, scheduler);
}

void Block::can_run(unsigned fiber) {
  states[fiber] = State::ready;
  runnable[fiber / 32] |= 1u << fiber % 32;
}

void Block::resume(unsigned fiber) {
  current = fiber;
  Fiber& f = fibers[fiber];
  if (states[fiber] == State::fresh) {
    f.stack = stacks.take();
    f.context = new_context(f.stack, main);
    f.call = Together::none;
    if (f.uncommitted || !f.groups.empty()) {
      f.copies.clear();
      f.groups.clear();
      f.uncommitted = 0;
    }
    const dim3 t = running->threads;
    f.thread = {fiber % t.x, fiber / t.x % t.y, fiber / t.x / t.y};
    states[fiber] = State::ready;
  }
  runnable[fiber / 32] &= ~(1u << fiber % 32);
  soft_here.thread = f.thread;
  change_context(&scheduler, f.context);
  // The next thread begins where this one has: a kernel without barriers needs a single stack.
  if (states[fiber] == State::returned) stacks.give(f.stack);
}

void Block::run(const Launch& launch, uint3 place) {
  running = &launch;
  const dim3 t = launch.threads;
  threads = alive = t.x * t.y * t.z;
  if (fibers.size() < threads) fibers.resize(threads);
  const unsigned warps = (threads + 31) / 32;
  states.assign(threads, State::fresh);
  runnable.assign(warps, ~0u);
  if (threads % 32) runnable.back() = (1u << threads % 32) - 1;
  gone.assign(warps, 0);
  gone.back() = ~runnable.back();
  meeting.assign(warps, 0);
  barrier_kind = -1;
  barrier_waiting = barrier_true = 0;

  soft_here.block = place;
  soft_here.threads = t;
  soft_here.blocks = launch.blocks;
  soft_here.dynamic_shared = dynamic_shared(launch.dynamic_shared);
  if (launch.static_shared.module) {
    unsigned long of_module[2] = {launch.static_shared.module, 0};
    memset(__tls_get_addr(of_module), 0xff, launch.static_shared.bytes);
  }

  const unsigned long long key = place.x + 65537ull * (place.y + 65537ull * place.z);
  warp_order.resize(warps);
  order().places(warp_order.data(), warps, key);
  lane_order.resize(warps * 32);
  for (unsigned w = 0; w < warps; w++) order().places(&lane_order[w * 32], 32, key * 33 + w);

  while (alive) {
    bool progress = false;
    for (unsigned warp : warp_order)
      while (runnable[warp]) {
        progress = true;
        for (unsigned i = 0; i < 32; i++)
          if (const unsigned lane = lane_order[warp * 32 + i]; runnable[warp] >> lane & 1) resume(warp * 32 + lane);
      }
    if (!progress) stuck();
  }
  running = nullptr;
}

static const char* const barrier_names[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"};

int Block::barrier(int kind, int predicate) {
  if (barrier_waiting && kind != barrier_kind)
    fail("this thread is at %s while others are at %s", barrier_names[kind], barrier_names[barrier_kind]);
  barrier_kind = kind;
  barrier_waiting++;
  barrier_true += predicate != 0;
  states[current] = State::at_barrier;
  if (barrier_waiting == alive) {
    release_barrier();
    runnable[current / 32] &= ~(1u << current % 32);
  } else {
    leave();
  }
  return barrier_result;
}

void Block::release_barrier() {
  const int results[] = {0, int(barrier_true), barrier_true == barrier_waiting, barrier_true != 0};
  barrier_result = results[barrier_kind];
  barrier_waiting = barrier_true = 0;
  for (unsigned i = 0; i < threads; i++)
    if (states[i] == State::at_barrier) can_run(i);
}

unsigned Block::lanes_alive() { return ~gone[current / 32]; }

// Whether all lanes that `lane` waits for are at its call; then they may go on.
bool Block::complete(unsigned warp, unsigned lane) {
  Fiber* const lanes = &fibers[warp * 32];
  const Fiber& one = lanes[lane];
  if (meeting[warp] < __builtin_popcount(one.mask & ~gone[warp])) return false;
  unsigned here = 0;
  for (unsigned i = 0; i < 32; i++) {
    if (!(one.mask >> i & 1)) continue;
    if (gone[warp] >> i & 1) {
      if (one.call >= Together::mma_bf16) fail("%s by a warp of which lane %u is not there", name_of(one.call), i);
      continue;
    }
    if (states[warp * 32 + i] != State::at_warp || lanes[i].call != one.call || lanes[i].mask != one.mask) return false;
    here |= 1u << i;
  }
  calculate(one.call, lanes, here);
  for (unsigned i = 0; i < 32; i++)
    if (here >> i & 1) {
      can_run(warp * 32 + i);
      meeting[warp]--;
    }
  return true;
}

void Block::meet(Together call, unsigned mask) {
  Fiber& f = self();
  const unsigned lane = current % 32;
  if (!(mask >> lane & 1)) fail("%s: the mask %08x has no bit of the calling lane %u", name_of(call), mask, lane);
  f.call = call;
  f.mask = mask;
  states[current] = State::at_warp;
  meeting[current / 32]++;
  if (complete(current / 32, lane))
    runnable[current / 32] &= ~(1u << lane);  // it runs already
  else
    leave();
}

// Those who wait for everybody else may have waited for this lane alone.
void Block::lane_returned() {
  if (barrier_waiting && barrier_waiting == alive) release_barrier();
  const unsigned warp = current / 32;
  for (unsigned i = 0; i < 32 && meeting[warp]; i++)
    if (warp * 32 + i < threads && states[warp * 32 + i] == State::at_warp && fibers[warp * 32 + i].mask >> current % 32 & 1) complete(warp, i);
}

void Block::stuck() {
  unsigned waiting = 0, first = threads;
  for (unsigned i = 0; i < threads; i++)
    if (states[i] == State::at_warp) {
      waiting++;
      if (first == threads) first = i;
    }
  if (first == threads) fail("no thread can go on, and none is at a call of its warp");
  const Fiber& one = fibers[first];
  current = first;
  soft_here.thread = one.thread;
  // Say what one of those does that are waited for.
  for (unsigned i = 0; i < 32; i++) {
    const unsigned other = first / 32 * 32 + i;
    if (!(one.mask >> i & 1) || other >= threads || states[other] == State::returned) continue;
    const Fiber& f = fibers[other];
    if (states[other] == State::at_warp && f.call == one.call && f.mask == one.mask) continue;
    if (states[other] == State::at_barrier)
      fail("deadlock: %u threads are at a barrier and %u at calls of their warps; this one is at %s with mask %08x and waits "
           "for lane %u, which is at %s",
           barrier_waiting, waiting, name_of(one.call), one.mask, i, barrier_names[barrier_kind]);
    fail("deadlock: this thread is at %s with mask %08x and waits for lane %u, which is at %s with mask %08x", name_of(one.call),
         one.mask, i, name_of(f.call), f.mask);
  }
  fail("deadlock: %u threads wait at calls of their warps", waiting);
}

// What kernels call.
static Fiber& self() { return this_block().self(); }

void soft_barrier() { this_block().barrier(0, 0); }
int soft_barrier_count(int predicate) { return this_block().barrier(1, predicate); }
int soft_barrier_and(int predicate) { return this_block().barrier(2, predicate); }
int soft_barrier_or(int predicate) { return this_block().barrier(3, predicate); }

void soft_warp_barrier(unsigned mask) { this_block().meet(Together::warp_barrier, mask); }
unsigned soft_active() { return this_block().lanes_alive(); }

unsigned soft_ballot(unsigned mask, int predicate) {
  Fiber& f = self();
  f.in.lane = predicate != 0;
  this_block().meet(Together::ballot, mask);
  return f.out.lane;
}

unsigned long long soft_shuffle(unsigned mask, unsigned long long value, unsigned lane) {
  Fiber& f = self();
  f.in.value = value;
  f.in.lane = lane;
  this_block().meet(Together::shuffle, mask);
  return f.out.value;
}

unsigned soft_reduce(unsigned mask, unsigned value, int operation) {
  Fiber& f = self();
  f.in.value = value;
  f.in.lane = unsigned(operation);
  this_block().meet(Together::reduce, mask);
  return unsigned(f.out.value);
}

unsigned soft_match_any(unsigned mask, unsigned long long value) {
  Fiber& f = self();
  f.in.value = value;
  this_block().meet(Together::match, mask);
  return f.out.lane;
}

static void mma(Together call, float* c, const unsigned* a, const unsigned* b) {
  Fiber& f = self();
  memcpy(f.in.a, a, sizeof f.in.a);
  memcpy(f.in.b, b, sizeof f.in.b);
  memcpy(f.in.c, c, sizeof f.in.c);
  this_block().meet(call, ~0u);
  memcpy(c, f.out.c, sizeof f.out.c);
}
void soft_mma_bf16(float c[4], const unsigned a[4], const unsigned b[2]) { mma(Together::mma_bf16, c, a, b); }
void soft_mma_f16(float c[4], const unsigned a[4], const unsigned b[2]) { mma(Together::mma_f16, c, a, b); }
void soft_mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]) { mma(Together::mma_tf32, c, a, b); }

static void ldmatrix(unsigned* r, const void* row, unsigned matrices, bool transposed) {
  Block& block = this_block();
  Fiber& f = block.self();
  if (block.current % 32 < 8 * matrices && uintptr_t(row) % 16) fail("ldmatrix of the row at %p: not a multiple of 16 bytes", row);
  f.in.row = row;
  f.in.lane = matrices | (transposed ? 8u : 0u);
  block.meet(Together::ldmatrix, ~0u);
  memcpy(r, f.out.a, matrices * sizeof *r);
}
void soft_ldmatrix_x1(unsigned r[1], const void* row) { ldmatrix(r, row, 1, false); }
void soft_ldmatrix_x1_trans(unsigned r[1], const void* row) { ldmatrix(r, row, 1, true); }
void soft_ldmatrix_x2(unsigned r[2], const void* row) { ldmatrix(r, row, 2, false); }
void soft_ldmatrix_x2_trans(unsigned r[2], const void* row) { ldmatrix(r, row, 2, true); }
void soft_ldmatrix_x4(unsigned r[4], const void* row) { ldmatrix(r, row, 4, false); }
void soft_ldmatrix_x4_trans(unsigned r[4], const void* row) { ldmatrix(r, row, 4, true); }

// The place is lost at once, and what was asked for comes at the wait: a wait or a barrier that is missing shows both ways.
void soft_cp_async(void* shared, const void* global, int size, int bytes) {
  if (size != 4 && size != 8 && size != 16) fail("cp.async of %d bytes: expected 4, 8 or 16", size);
  if (bytes < 0 || bytes > size) fail("cp.async reads %d bytes of %d", bytes, size);
  if (uintptr_t(shared) % size || uintptr_t(global) % size)
    fail("cp.async of %d bytes from %p to %p: not both are multiples of it", size, global, shared);
  memset(shared, 0xff, size_t(size));
  Fiber& f = self();
  f.copies.push_back({static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), size, bytes});
  f.uncommitted++;
}
void soft_cp_async_16(void* shared, const void* global, int bytes) { soft_cp_async(shared, global, 16, bytes); }

void soft_cp_async_commit() {
  Fiber& f = self();
  f.groups.push_back(f.uncommitted);
  f.uncommitted = 0;
}

void soft_cp_async_wait(int groups_left) {
  Fiber& f = self();
  size_t done = 0;
  while (f.groups.size() > size_t(groups_left)) {
    for (size_t i = 0; i < f.groups.front(); i++, done++) {
      const Copy& copy = f.copies[done];
      memcpy(copy.to, copy.from, size_t(copy.bytes));
      memset(copy.to + copy.bytes, 0, size_t(copy.size - copy.bytes));
    }
    f.groups.erase(f.groups.begin());
  }
  f.copies.erase(f.copies.begin(), f.copies.begin() + long(done));
}

void soft_trap(const char* what) { fail("%s", what); }
