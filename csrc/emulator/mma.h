// Tensor-core instructions, see device/mma.h.
#pragma once

#include "emulator/block.h"

namespace fastconv::emulator {

enum class Mma : uint8_t { f16_k16, bf16_k16, f16_k8, bf16_k8, tf32_k8, tf32_k4 };

void ldmatrix(uint32_t* r, int matrices, bool transposed, uint32_t shared_address, Site site);
void mma(Mma shape, float* d, const uint32_t* a, const uint32_t* b, Site site);

}  // namespace fastconv::emulator
