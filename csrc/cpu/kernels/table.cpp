#include "cpu/kernels/isa.h"

#define FASTCONV_TEXT(name) FASTCONV_TEXT_(name)
#define FASTCONV_TEXT_(name) #name

namespace fastconv::cpu::FASTCONV_ISA {

extern const Kernels table;
const Kernels table{FASTCONV_TEXT(FASTCONV_ISA),
                    direct_correlation,
                    direct_weight_gradient,
                    bias_gradient,
                    max_pool,
                    max_pool_dgrad,
                    max_pool_gather,
                    average_pool};

}  // namespace fastconv::cpu::FASTCONV_ISA
