#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static constexpr size_t page = 4096;

Stacks::~Stacks() {
  for (Stack stack : all) munmap(stack - bytes - page, bytes + page);
}

Stack Stacks::take() {
  if (unused.empty()) {
    void* place = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED || mprotect(place, page, PROT_NONE)) {
      perror("soft CUDA: no memory for the stack of a thread");
      abort();
    }
    all.push_back(static_cast<Stack>(place) + page + bytes);
    return all.back();
  }
  Stack stack = unused.back();
  unused.pop_back();
  return stack;
}

bool Stacks::overflowed(const void* address) const {
  const auto at = uintptr_t(address);
  for (Stack stack : all)
    if (at >= uintptr_t(stack - bytes - page) && at < uintptr_t(stack - bytes)) return true;
  return false;
}

#if defined(__x86_64__)

// The registers that a call keeps are on the stack; a context is the stack's pointer.
asm(R"(
.text
.local soft_change_context
.type soft_change_context, @function
soft_change_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size soft_change_context, . - soft_change_context
)");
extern "C" void soft_change_context(Registers** current, Registers* next);

Registers* new_context(Stack stack, void (*main)()) {
  // Not all at the same place in their pages: the same variable of all lanes would share few lines of the cache.
  const size_t colour = (uintptr_t(stack) / (Stacks::bytes + page) % 32) * 128;
  auto top = reinterpret_cast<uintptr_t*>(stack - colour);
  *--top = 0;                // where `main` would return to; its stack is as after a call
  *--top = uintptr_t(main);
  for (int i = 0; i < 6; i++) *--top = 0;
  return reinterpret_cast<Registers*>(top);
}

void change_context(Registers** current, Registers* next) { soft_change_context(current, next); }

#else

#include <ucontext.h>

// Slower: it asks the system for the signal mask at every change.
struct Registers {
  ucontext_t registers;
};

Registers* new_context(Stack stack, void (*main)()) {
  auto context = reinterpret_cast<Registers*>((uintptr_t(stack) - sizeof(Registers)) & ~uintptr_t(63));
  getcontext(&context->registers);
  context->registers.uc_stack.ss_sp = stack - Stacks::bytes;
  context->registers.uc_stack.ss_size = uintptr_t(context) - uintptr_t(stack - Stacks::bytes);
  context->registers.uc_link = nullptr;
  makecontext(&context->registers, main, 0);
  return context;
}

void change_context(Registers** current, Registers* next) {
  Registers here;
  *current = &here;
  swapcontext(&here.registers, &next->registers);
}

#endif
