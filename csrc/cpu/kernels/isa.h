// For the files that are compiled once per instruction set. Everything they define lives in a namespace of that
// instruction set or has internal linkage, and they use no inline function of the standard library: the linker keeps
// one copy of an inline function, and if that were the AVX-512 copy, other machines would execute it.
#pragma once

#include "cpu/kernels/table.h"

#ifndef FASTCONV_ISA
#define FASTCONV_ISA baseline
#endif

namespace fastconv::cpu::FASTCONV_ISA {

inline __attribute__((always_inline)) int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline __attribute__((always_inline)) int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

void direct_correlation(const void* context, int64_t begin, int64_t end);
void direct_weight_gradient(const void* context, int64_t begin, int64_t end);
void bias_gradient(const void* context, int64_t begin, int64_t end);
void planar_depthwise(const void* context, int64_t begin, int64_t end);
void rows_depthwise(const void* context, int64_t begin, int64_t end);
void rows_gradient(const void* context, int64_t begin, int64_t end);
void pixel_depthwise(const void* context, int64_t begin, int64_t end);
void pixel_pack(const void* context, int64_t begin, int64_t end);
void planar_gradient(const void* context, int64_t begin, int64_t end);
void pixel_gradient(const void* context, int64_t begin, int64_t end);
void depthwise_gradient_sum(const void* context, int64_t begin, int64_t end);
void interleaved_pack(const void* context, int64_t begin, int64_t end);
void interleaved_depthwise(const void* context, int64_t begin, int64_t end);
void interleaved_gradient(const void* context, int64_t begin, int64_t end);
void blocked_pack(const void* context, int64_t begin, int64_t end);
void blocked_gradient(const void* context, int64_t begin, int64_t end);
void blocked(const void* context, int64_t begin, int64_t end);
void max_pool(const void* context, int64_t begin, int64_t end);
void max_pool_dgrad(const void* context, int64_t begin, int64_t end);
void max_pool_scatter(const void* context, int64_t begin, int64_t end);
void max_pool_gather(const void* context, int64_t begin, int64_t end);
void max_gradient(const void* context, int64_t begin, int64_t end);
void max_unpool(const void* context, int64_t begin, int64_t end);
void max_unpool_pick(const void* context, int64_t begin, int64_t end);
void average_pool(const void* context, int64_t begin, int64_t end);
void max_pool_channels(const void* context, int64_t begin, int64_t end);
void max_pool_rows(const void* context, int64_t begin, int64_t end);
void average_pool_channels(const void* context, int64_t begin, int64_t end);
void average_pool_rows(const void* context, int64_t begin, int64_t end);

}  // namespace fastconv::cpu::FASTCONV_ISA
