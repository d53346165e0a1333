// Fibers: stacks that one thread of the system changes between.
#pragma once

#include <stddef.h>

#include <vector>

using Stack = unsigned char*;  // its upper end

// The stacks of one thread of the system, used again and again. Below each lies a page that cannot be touched.
class Stacks {
 public:
  static constexpr size_t bytes = 128 << 10;
  ~Stacks();
  Stack take();
  void give(Stack stack) { unused.push_back(stack); }
  // Whether an address is in the page below a stack.
  bool overflowed(const void* address) const;

 private:
  std::vector<Stack> all, unused;
};

struct Registers;

// A context that begins in `main` on that stack; `main` never returns.
Registers* new_context(Stack stack, void (*main)());
// Goes on with `next`; what is left comes back from here when somebody changes to what is then in `current`.
void change_context(Registers** current, Registers* next);
