// Tensor-core matrix multiply, by a whole converged warp (sm_80).
//   ldmatrix_x1/_x2/_x4(r, shared_address)   1, 2 or 4 matrices of 8 rows of 16 bytes; lanes 8i..8i+7 give the rows of
//                                            matrix i. Lane l gets, in r[i], elements 2(l % 4), 2(l % 4) + 1 of row l /
//                                            4
//   ldmatrix_x1_trans/_x2_trans/_x4_trans    the same of the transposed matrices (16-bit elements)
//   mma_m16n8k16<T>(d, a, b), mma_m16n8k8<T>(d, a, b)   d += a b; T is f16 or bf16, d is float32
//   mma_m16n8k8_tf32(d, a, b), mma_m16n8k4_tf32(d, a, b)   operands are float32 bits of which the low 13 are ignored:
//   to_tf32(x)                               rounds first (to nearest, ties away from zero)
// Fragments, with g = lane / 4, t = lane % 4 (checked against CuTe's layouts in tests/test_layouts.py):
//   d[i]  row g + 8 (i / 2), column 2t + i % 2
//   16-bit a[i]: row g + 8 (i % 2), columns k = 2t + {0, 1} + 8 (i / 2);  b[i]: column g, rows k = 2t + {0, 1} + 8 i
//   tf32   a[i]: row g + 8 (i % 2), column  k = t + 4 (i / 2);            b[i]: column g, row  k = t + 4 i
#pragma once

#include "device/types.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/mma.h"
#endif

namespace fastconv::device {

#if defined(FASTCONV_EMULATOR)

inline void ldmatrix_x1(uint32_t (&r)[1], uint32_t address, FC_SITE) { emulator::ldmatrix(r, 1, false, address, site); }
inline void ldmatrix_x2(uint32_t (&r)[2], uint32_t address, FC_SITE) { emulator::ldmatrix(r, 2, false, address, site); }
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address, FC_SITE) { emulator::ldmatrix(r, 4, false, address, site); }
inline void ldmatrix_x1_trans(uint32_t (&r)[1], uint32_t address, FC_SITE) {
  emulator::ldmatrix(r, 1, true, address, site);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t address, FC_SITE) {
  emulator::ldmatrix(r, 2, true, address, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address, FC_SITE) {
  emulator::ldmatrix(r, 4, true, address, site);
}

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], FC_SITE) {
  emulator::mma(std::is_same_v<T, f16> ? emulator::Mma::f16_k16 : emulator::Mma::bf16_k16, d, a, b, site);
}
template <class T>
void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], FC_SITE) {
  emulator::mma(std::is_same_v<T, f16> ? emulator::Mma::f16_k8 : emulator::Mma::bf16_k8, d, a, b, site);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], FC_SITE) {
  emulator::mma(emulator::Mma::tf32_k8, d, a, b, site);
}
inline void mma_m16n8k4_tf32(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], FC_SITE) {
  emulator::mma(emulator::Mma::tf32_k4, d, a, b, site);
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = fastconv::detail::float_bits(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

#else

#define FC_LDMATRIX_ASM(shape) "ldmatrix.sync.aligned.m8n8." shape ".shared.b16 "

FC_DEVICE void ldmatrix_x1(uint32_t (&r)[1], uint32_t address) {
  asm volatile(FC_LDMATRIX_ASM("x1") "{%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
}
FC_DEVICE void ldmatrix_x2(uint32_t (&r)[2], uint32_t address) {
  asm volatile(FC_LDMATRIX_ASM("x2") "{%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
FC_DEVICE void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile(FC_LDMATRIX_ASM("x4") "{%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
FC_DEVICE void ldmatrix_x1_trans(uint32_t (&r)[1], uint32_t address) {
  asm volatile(FC_LDMATRIX_ASM("x1.trans") "{%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
}
FC_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t address) {
  asm volatile(FC_LDMATRIX_ASM("x2.trans") "{%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
FC_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile(FC_LDMATRIX_ASM("x4.trans") "{%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
#undef FC_LDMATRIX_ASM

// Four operand registers of a, two of b; and two, one.
#define FC_MMA_4_2(shape_and_types)                                                                                   \
  asm volatile("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define FC_MMA_2_1(shape_and_types)                                                                       \
  asm volatile("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                           \
               : "r"(a[0]), "r"(a[1]), "r"(b[0]))

template <class T>
FC_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, f16>) {
    FC_MMA_4_2("m16n8k16.row.col.f32.f16.f16.f32");
  } else {
    FC_MMA_4_2("m16n8k16.row.col.f32.bf16.bf16.f32");
  }
}
template <class T>
FC_DEVICE void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  if constexpr (std::is_same_v<T, f16>) {
    FC_MMA_2_1("m16n8k8.row.col.f32.f16.f16.f32");
  } else {
    FC_MMA_2_1("m16n8k8.row.col.f32.bf16.bf16.f32");
  }
}
FC_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  FC_MMA_4_2("m16n8k8.row.col.f32.tf32.tf32.f32");
}
FC_DEVICE void mma_m16n8k4_tf32(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  FC_MMA_2_1("m16n8k4.row.col.f32.tf32.tf32.f32");
}
#undef FC_MMA_4_2
#undef FC_MMA_2_1

FC_DEVICE uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

#endif

}  // namespace fastconv::device
