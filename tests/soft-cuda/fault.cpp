// A kernel that does what it must not ends the program with one sentence.
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>

#include "runtime.h"

static void say(const char* what) {
  char text[1200];
  int n;
  if (const Launch* launch = running) {
    const soft_Here& h = soft_here;
    n = snprintf(text, sizeof text, "soft CUDA: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", launch->name, h.block.x,
                 h.block.y, h.block.z, h.thread.x, h.thread.y, h.thread.z, what);
  } else {
    n = snprintf(text, sizeof text, "soft CUDA: %s\n", what);
  }
  // Not by way of stdio: a signal may have come in the middle of it.
  if (write(STDERR_FILENO, text, size_t(n) < sizeof text ? size_t(n) : sizeof text - 1) < 0) return;
}

void fail(const char* format, ...) {
  char text[800];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  say(text);
  abort();
}

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
static struct sigaction before[NSIG];

static void on_signal(int signal, siginfo_t* info, void* context) {
  if (!running) {
    // None of ours: whoever was there before answers, at the latest when it happens again.
    const struct sigaction& old = before[signal];
    if (old.sa_flags & SA_SIGINFO && old.sa_sigaction)
      old.sa_sigaction(signal, info, context);
    else
      sigaction(signal, &old, nullptr);
    return;
  }
  char text[600];
  if (signal == SIGILL || signal == SIGTRAP) {
    snprintf(text, sizeof text,
             "undefined behaviour: a misaligned access, an index outside its array, or what else SOFT_CUDA_SANITIZE looks for");
  } else if (signal == SIGFPE) {
    snprintf(text, sizeof text, "an integer divided by 0");
  } else {
    int n = snprintf(text, sizeof text, "touches %p: ", info->si_addr);
    describe_address(info->si_addr, text + n, sizeof text - size_t(n));
  }
  say(text);
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGABRT, &standard, nullptr);
  abort();
}

namespace {
// A stack for signals: a fiber's own may just have overflowed.
struct SignalStack {
  void* place = nullptr;
  static constexpr size_t bytes = 64 << 10;
  SignalStack() {
    stack_t old;
    if (sigaltstack(nullptr, &old) || !(old.ss_flags & SS_DISABLE)) return;
    place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t own = {};
    own.ss_sp = place;
    own.ss_size = bytes;
    sigaltstack(&own, nullptr);
  }
  ~SignalStack() {
    if (!place) return;
    stack_t none = {};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
    munmap(place, bytes);
  }
};
}  // namespace

void catch_faults() {
  static thread_local SignalStack stack;
  (void)stack.place;
  static std::once_flag once;
  std::call_once(once, [] {
    for (int signal : signals) {
      struct sigaction action = {};
      action.sa_sigaction = on_signal;
      action.sa_flags = SA_SIGINFO | SA_ONSTACK;
      sigaction(signal, &action, &before[signal]);
    }
  });
}
