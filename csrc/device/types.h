// The vocabulary of kernel code: the macros that make one source compile as CUDA and as host C++ (FASTCONV_EMULATOR),
// and the two types every kernel uses. Nothing outside csrc/device and csrc/emulator looks at which of the two it is.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fastconv/dtype.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/site.h"
#define FC_DEVICE inline
#define FC_KERNEL(max_threads, min_blocks)
#define FC_GRID_CONSTANT
#define FC_UNROLL
#define FC_NO_UNROLL _Pragma("GCC unroll 1")
#else
#include <cuda_runtime.h>
// A function of device code.
#define FC_DEVICE __device__ __forceinline__
// A kernel: `template <class Config> FC_KERNEL(Config::threads, 2) void name(const FC_GRID_CONSTANT Params p)`.
#define FC_KERNEL(max_threads, min_blocks) __global__ __launch_bounds__(max_threads, min_blocks)
// The one parameter of a kernel stays in constant memory, even if its address is taken.
#define FC_GRID_CONSTANT __grid_constant__
// Before a loop: unroll it whole; never unroll it.
#define FC_UNROLL _Pragma("unroll")
#define FC_NO_UNROLL _Pragma("unroll 1")
#endif

namespace fastconv::device {

// Our own dim3, so that code which only plans a launch needs no CUDA header.
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// N elements that move as one access: 1, 2, 4, 8 or 16 bytes in all, aligned to their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
  FC_HOST_DEVICE T& operator[](int i) { return v[i]; }
  FC_HOST_DEVICE const T& operator[](int i) const { return v[i]; }
};

// T, in a place from which it shall not be deduced: store(double* p, 0) works.
template <class T>
struct same {
  using type = T;
};
template <class T>
using same_t = typename same<T>::type;

template <class V>
constexpr bool is_word = std::is_trivially_copyable_v<V> &&
                         (sizeof(V) == 1 || sizeof(V) == 2 || sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);

}  // namespace fastconv::device
