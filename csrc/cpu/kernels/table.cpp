#include "cpu/kernels/isa.h"

#define FASTCONV_TEXT(name) FASTCONV_TEXT_(name)
#define FASTCONV_TEXT_(name) #name

namespace fastconv::cpu::FASTCONV_ISA {

extern const Kernels table;
const Kernels table{
    .isa = FASTCONV_TEXT(FASTCONV_ISA),
    .direct_correlation = direct_correlation,
    .direct_weight_gradient = direct_weight_gradient,
    .bias_gradient = bias_gradient,
    .planar_depthwise = planar_depthwise,
    .pixel_depthwise = pixel_depthwise,
    .pixel_pack = pixel_pack,
    .depthwise_gradient = depthwise_gradient,
    .depthwise_gradient_sum = depthwise_gradient_sum,
    .blocked_pack = blocked_pack,
    .blocked = blocked,
    .max_pool = max_pool,
    .max_pool_dgrad = max_pool_dgrad,
    .max_pool_scatter = max_pool_scatter,
    .max_pool_gather = max_pool_gather,
    .average_pool = average_pool,
    .banded_max_pool = banded_max_pool,
    .banded_average_pool = banded_average_pool,
};

}  // namespace fastconv::cpu::FASTCONV_ISA
