#include "emulator/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Push the callee-saved registers, exchange stack pointers, pop, return. The first arrival on a new stack pops what
// prepare() put there. It ends in a return, not in a jump: fibers that wait at the same place have the same chain of
// calls, so the processor predicts this return and those that follow (a third of the time of a switch).
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl fastconv_switch
.hidden fastconv_switch
.type fastconv_switch,@function
fastconv_switch:
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
.size fastconv_switch,.-fastconv_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl fastconv_switch
.hidden fastconv_switch
.type fastconv_switch,%function
fastconv_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size fastconv_switch,.-fastconv_switch
)");
#else
#error "the emulator's fiber switch is written for x86-64 and aarch64"
#endif

namespace fastconv::emulator {
namespace {

constexpr size_t page = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = 256 * 1024;  // redzones make frames large
#else
constexpr size_t stack_bytes = 64 * 1024;
#endif
constexpr size_t stride = stack_bytes + page;

}  // namespace

void prepare(Fiber& fiber, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, fiber.bytes);
#endif
  auto top = reinterpret_cast<uintptr_t>(fiber.stack + fiber.bytes) & ~uintptr_t(15);
#if defined(__x86_64__)
  // As if entry had been called: the stack pointer is 8 below a multiple of 16, on a null return address.
  void** frame = reinterpret_cast<void**>(top) - 8;
  memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(entry);
#else
  void** frame = reinterpret_cast<void**>(top) - 20;
  memset(frame, 0, 20 * sizeof(void*));
  frame[11] = reinterpret_cast<void*>(entry);
#endif
  fiber.stack_pointer = frame;
}

#if defined(__SANITIZE_ADDRESS__)
void switch_sanitized(Fiber& from, Fiber& to) {
  __sanitizer_start_switch_fiber(&from.sanitizer, to.stack, to.bytes);
  fastconv_switch(&from.stack_pointer, to.stack_pointer);
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
}
#endif

void fiber_started() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void adopt_thread(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  thread_local const Fiber thread = [] {  // asking costs a read of /proc/self/maps
    Fiber found;
    pthread_attr_t attributes;
    void* stack = nullptr;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
      pthread_attr_getstack(&attributes, &stack, &found.bytes);
      pthread_attr_destroy(&attributes);
    }
    found.stack = static_cast<char*>(stack);
    return found;
  }();
  fiber = thread;
#else
  fiber = {};
#endif
}

Stacks::Stacks(int count) : count_(count) {
  void* memory = mmap(nullptr, stride * size_t(count), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) mprotect(memory_ + stride * size_t(i) + page, stack_bytes, PROT_READ | PROT_WRITE);
}

Stacks::~Stacks() { munmap(memory_, stride * size_t(count_)); }

Fiber Stacks::fiber(int i) const {
  // Stack tops are staggered over the sets of the first-level cache; at one distance they would all fall into one set.
  const size_t stagger = size_t(i % 15) * 256;
  return {nullptr, memory_ + stride * size_t(i) + page, stack_bytes - stagger, nullptr};
}

}  // namespace fastconv::emulator
