#include "cpu/kernels/vector.h"

#define FASTCONV_TEXT(name) FASTCONV_TEXT_(name)
#define FASTCONV_TEXT_(name) #name

namespace fastconv::cpu::FASTCONV_ISA {

extern const Kernels table;
const Kernels table{
    .isa = FASTCONV_TEXT(FASTCONV_ISA),
    .vector_bytes = kVectorBytes,
    .direct_correlation = direct_correlation,
    .direct_weight_gradient = direct_weight_gradient,
    .bias_gradient = bias_gradient,
    .planar_depthwise = planar_depthwise,
    .rows_depthwise = rows_depthwise,
    .rows_gradient = rows_gradient,
    .pixel_depthwise = pixel_depthwise,
    .pixel_pack = pixel_pack,
    .planar_gradient = planar_gradient,
    .pixel_gradient = pixel_gradient,
    .depthwise_gradient_sum = depthwise_gradient_sum,
    .interleaved_pack = interleaved_pack,
    .interleaved_depthwise = interleaved_depthwise,
    .interleaved_gradient = interleaved_gradient,
    .blocked_pack = blocked_pack,
    .blocked = blocked,
    .blocked_gradient = blocked_gradient,
    .max_pool = max_pool,
    .max_pool_dgrad = max_pool_dgrad,
    .max_pool_scatter = max_pool_scatter,
    .max_pool_gather = max_pool_gather,
    .max_unpool = max_unpool,
    .max_unpool_pick = max_unpool_pick,
    .max_gradient = max_gradient,
    .average_pool = average_pool,
    .max_pool_channels = max_pool_channels,
    .max_pool_rows = max_pool_rows,
    .average_pool_channels = average_pool_channels,
    .average_pool_rows = average_pool_rows,
};

}  // namespace fastconv::cpu::FASTCONV_ISA
