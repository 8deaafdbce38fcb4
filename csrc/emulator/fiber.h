// A stack that can be left and come back to: the emulator's CUDA thread. Switching costs some 20 ns, because the switch
// is two dozen instructions of assembly (fiber.cpp); ucontext would make a system call each time. A fiber stays on the
// OS thread that made it.
#pragma once

#include <cstddef>

namespace fastconv::emulator {

struct Fiber {
  void* stack_pointer = nullptr;  // while it is not running
  char* stack = nullptr;          // lowest address; null for the OS thread's own stack
  size_t bytes = 0;
  void* sanitizer = nullptr;  // ASan's shadow of the stack
};

// Prepares `fiber` (whose stack is set) to run entry() when first switched to. entry must never return.
void prepare(Fiber& fiber, void (*entry)());

extern "C" void fastconv_switch(void** save, void* load);
#if defined(__SANITIZE_ADDRESS__)
void switch_sanitized(Fiber& from, Fiber& to);
#endif

// Leaves `from`, the running fiber, and continues `to`; returns when somebody switches to `from`. Inline, so that as a
// function's last call it is a jump and leaves no frame on the stack: the fewer cache lines a switch touches the
// better.
inline void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  switch_sanitized(from, to);
#else
  fastconv_switch(&from.stack_pointer, to.stack_pointer);
#endif
}

// To be called first thing in entry().
void fiber_started();

// Makes `fiber` stand for the OS thread that calls, so that fibers can switch back to it.
void adopt_thread(Fiber& fiber);

// The stacks of one OS thread: one mapping, with an inaccessible page below every stack.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  Fiber fiber(int i) const;

 private:
  char* memory_;
  int count_;
};

}  // namespace fastconv::emulator
