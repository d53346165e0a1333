// No kernel may depend on the order in which its threads run. Running it in several shows where one does.
#include "runtime.h"

static unsigned long long mixed(unsigned long long x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

static Order from_environment() {
  const char* text = getenv("SOFT_CUDA_ORDER");
  if (!text || !*text || !strcmp(text, "forward")) return {Order::forward, 0};
  if (!strcmp(text, "reverse")) return {Order::reverse, 0};
  char* end;
  const unsigned long long seed = strtoull(text, &end, 10);
  if (*end) fail("SOFT_CUDA_ORDER=%s: expected forward, reverse or a number", text);
  return {Order::shuffled, seed};
}

const Order& order() {
  static const Order order = from_environment();
  return order;
}

void Order::places(unsigned* places, unsigned n, unsigned long long key) const {
  for (unsigned i = 0; i < n; i++) places[i] = kind == reverse ? n - 1 - i : i;
  if (kind != shuffled) return;
  unsigned long long state = mixed(seed ^ mixed(key));
  for (unsigned i = n; i > 1; i--) {
    state = mixed(state);
    std::swap(places[i - 1], places[state % i]);
  }
}

unsigned long long Order::place(unsigned long long i, unsigned long long n) const {
  if (kind == forward) return i;
  if (kind == reverse) return n - 1 - i;
  // A step that has no divisor in common with n goes through all places.
  unsigned long long step = mixed(seed) % n | 1;
  auto common = [](unsigned long long a, unsigned long long b) {
    while (b) a %= b, std::swap(a, b);
    return a;
  };
  while (common(step, n) != 1) step++;
  return (unsigned long long)(((unsigned __int128)i * step + mixed(seed + 1)) % n);
}
