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

// Leaves `from`, the running fiber, and continues `to`; returns when somebody switches to `from`.
void switch_fiber(Fiber& from, Fiber& to);

// To be called first thing in entry().
void fiber_started();

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
