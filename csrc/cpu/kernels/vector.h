// Vectors of the instruction set being compiled for, as GCC's vector extension: arithmetic is written once, lanes
// follow.
#pragma once

#include "cpu/kernels/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
struct vector_of;
template <>
struct vector_of<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t mask __attribute__((vector_size(kVectorBytes)));
  using integer = int32_t;
};
template <>
struct vector_of<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t mask __attribute__((vector_size(kVectorBytes)));
  using integer = int64_t;
};
template <>
struct vector_of<int32_t> {
  typedef int32_t type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
};
template <>
struct vector_of<int64_t> {
  typedef int64_t type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
};

template <class A>
using vec = typename vector_of<A>::type;
template <class A>
using mask_of = typename vector_of<A>::mask;
template <class A>
using integer_of = typename vector_of<A>::integer;  // as wide as A: the winners beside the values of a max-pool
template <class A>
constexpr int lanes = kVectorBytes / int(sizeof(A));

template <class A>
inline __attribute__((always_inline)) vec<A> load(const A* from) {
  return *reinterpret_cast<const typename vector_of<A>::unaligned*>(from);
}
template <class A>
inline __attribute__((always_inline)) void store(A* to, vec<A> value) {
  *reinterpret_cast<typename vector_of<A>::unaligned*>(to) = value;
}
// Bytes that need not lie at a multiple of anything.
typedef uint8_t BytesInMemory __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));

// to[0, bytes) = 0, and = from[0, bytes). For what is larger than L1 and smaller than L3 the C library's own functions
// take up to three times as long (glibc's `rep stosb` on a virtual machine), so that gcc must not see them in here.
inline __attribute__((always_inline)) void zero_bytes(void* to, int64_t bytes) {
  char* at = static_cast<char*>(to);
  char* const end = at + bytes;
  for (; end - at >= kVectorBytes; at += kVectorBytes) {
    *reinterpret_cast<BytesInMemory*>(at) = BytesInMemory{};
    asm volatile("" ::: "memory");
  }
  for (; at < end; ++at) *at = 0;
}
inline __attribute__((always_inline)) void copy_bytes(void* to, const void* from, int64_t bytes) {
  char* at = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  char* const end = at + bytes;
  for (; end - at >= kVectorBytes; at += kVectorBytes, source += kVectorBytes) {
    *reinterpret_cast<BytesInMemory*>(at) = *reinterpret_cast<const BytesInMemory*>(source);
    asm volatile("" ::: "memory");
  }
  for (; at < end; ++at, ++source) *at = *source;
}

template <class A>
inline __attribute__((always_inline)) vec<A> broadcast(A value) {
  return value - vec<A>{};  // x - 0 is x even for -0, so this folds into one instruction; x + 0 does not
}

}  // namespace fastconv::cpu::FASTCONV_ISA
