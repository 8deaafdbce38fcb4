// Registers a thread, for the planner, which has no ptxas when it runs: what ptxas says for sm_90a, the most of the
// kernels whose names match, up to the next multiple of 8 (as warps are given them). `make resources` reads these
// lines and holds them to what was built.
#pragma once

#include "kernels/direct_launch.h"
#include "kernels/igemm_launch.h"
#include "kernels/separable_params.h"

namespace fastconv::planner {

struct Registers {
  const char* kernels;  // a regular expression over their demangled names
  int count;
};

constexpr Registers igemm_large[] = {{"igemm_gather<.*WarpTiling<128, 128,[^>]*>, false", 168},
                                     {"igemm_gather<.*WarpTiling<128, 128,[^>]*>, true", 176},
                                     {"igemm_wgrad<.*WarpTiling<128, 128,", 168}};
constexpr Registers igemm_tall[] = {{"igemm_gather<.*, [01], .*WarpTiling<64, 128,[^>]*>, false", 120},
                                    {"igemm_gather<.*, [01], .*WarpTiling<64, 128,[^>]*>, true", 128},
                                    {"igemm_wgrad<.*, [01], .*WarpTiling<64, 128,", 120}};
constexpr Registers igemm_tall_x3[] = {{"igemm_gather<.*, 2, .*WarpTiling<64, 128,[^>]*>, false", 232},
                                       {"igemm_gather<.*, 2, .*WarpTiling<64, 128,[^>]*>, true", 248},
                                       {"igemm_wgrad<.*, 2, .*WarpTiling<64, 128,", 232}};
constexpr Registers igemm_square[] = {{"igemm_gather<.*, [01], .*WarpTiling<64, 64,[^>]*>, false, 16", 120},
                                      {"igemm_gather<.*, [01], .*WarpTiling<64, 64,[^>]*>, true, 16", 128},
                                      {"igemm_wgrad<.*, [01], .*WarpTiling<64, 64,[^>]*>, 16", 120}};
constexpr Registers igemm_square_x3[] = {{"igemm_gather<.*, 2, .*WarpTiling<64, 64,[^>]*>, false, 16", 152},
                                         {"igemm_gather<.*, 2, .*WarpTiling<64, 64,[^>]*>, true, 16", 168},
                                         {"igemm_wgrad<.*, 2, .*WarpTiling<64, 64,[^>]*>, 16", 160}};
// Copies of two or four bytes.
constexpr Registers igemm_narrow[] = {{"igemm_gather<.*, [01], .*WarpTiling<64, 64,[^>]*>, false, [24]", 184},
                                      {"igemm_gather<.*, [01], .*WarpTiling<64, 64,[^>]*>, true, [24]", 200},
                                      {"igemm_wgrad<.*, [01], .*WarpTiling<64, 64,[^>]*>, [24]", 128}};
constexpr Registers igemm_narrow_x3[] = {{"igemm_gather<.*, 2, .*WarpTiling<64, 64,[^>]*>, false, [24]", 176},
                                         {"igemm_gather<.*, 2, .*WarpTiling<64, 64,[^>]*>, true, [24]", 208},
                                         {"igemm_wgrad<.*, 2, .*WarpTiling<64, 64,[^>]*>, [24]", 168}};
constexpr Registers depthwise_gather = {"depthwise<", 72}, depthwise_wgrad = {"depthwise_wgrad<", 144};
constexpr Registers depthwise_images = {"depthwise_images<", 64};
constexpr Registers separable_lines[] = {{"separable<.*WarpTiling<64, 64,[^>]*>, 16", 136},
                                         {"separable<.*WarpTiling<64, 64,[^>]*>, 2", 168},
                                         {"separable<.*WarpTiling<64, 128,", 168}};
constexpr Registers depthwise_tiled = {"depthwise_tiled<", 96};
constexpr Registers depthwise_toeplitz_registers = {"depthwise_toeplitz<", 88};
constexpr Registers depthwise_sums[] = {{"depthwise_sums<.*, 1, 3, [12]>", 80},
                                        {"depthwise_sums<.*, 1, 5, [12]>", 128},
                                        {"depthwise_sums<.*, 1, 7, [12]>", 128}};
// A word of channels a thread.
constexpr Registers depthwise_word_sums[] = {{"depthwise_sums<.*, 2, 3, [12]>", 96},
                                             {"depthwise_sums<.*, 2, 5, [12]>", 136},
                                             {"depthwise_sums<.*, 2, 7, [12]>", 176}};
constexpr Registers pool_forward = {"pool_forward<", 128}, pool_backward = {"pool_backward<", 104};
constexpr Registers pool_gather = {"pool_gather<", 56}, pool_global = {"pool_global<", 56};
constexpr Registers pool_staged = {"pool_staged<", 64}, pool_staged_backward = {"pool_staged_backward<", 64};
constexpr Registers pool_march = {"pool_march<", 96}, pool_march_backward = {"pool_march_backward<", 88};
constexpr Registers pool_unpool = {"pool_unpool_", 64}, pool_pick = {"pool_pick<", 24};
constexpr Registers bias_sum = {"bias_sum<", 56};

// `narrow`: in copies of less than 16 bytes.
constexpr int igemm_registers(kernels::IgemmTile tile, Pass pass, Math math, bool narrow) {
  using kernels::IgemmTile;
  const bool x3 = math == Math::tf32x3;
  const Registers* lines = tile == IgemmTile::large  ? igemm_large
                           : tile == IgemmTile::tall ? (x3 ? igemm_tall_x3 : igemm_tall)
                           : narrow                  ? (x3 ? igemm_narrow_x3 : igemm_narrow)
                                                     : (x3 ? igemm_square_x3 : igemm_square);
  return lines[pass == Pass::fprop ? 0 : pass == Pass::dgrad ? 1 : 2].count;
}

constexpr int separable_registers(kernels::SeparableTile tile, bool narrow) {
  return separable_lines[tile == kernels::SeparableTile::positions_128 ? 2 : narrow ? 1 : 0].count;
}

// As the launch bounds of direct.h have it (resident_blocks): an SM holds two blocks, of 256 threads, or one.
constexpr int direct_registers(kernels::DirectTile tile, kernels::Access walk, Pass pass, DType dtype) {
  using kernels::Access, kernels::DirectTile;
  const bool wide_sweep = pass == Pass::wgrad ? tile == DirectTile::flat && walk == Access::nchw : walk == Access::nhwc;
  return dtype == DType::f64 || tile == DirectTile::large || wide_sweep ? 256 : 128;
}

}  // namespace fastconv::planner
