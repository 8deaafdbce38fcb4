// Prints what CuTe, NVIDIA's own reading of PTX in executable form, says of the layouts that csrc/device uses. A host
// program; tests/test_layouts.py compiles it with nvcc, runs it (no GPU needed) and compares.
//   mma NAME k : then for A, B and D a line of (lane, value) -> row + rows * column, lanes outermost
//   ldmatrix NAME matrices : a line of (lane, 16-bit value) -> 16-bit element of the rows, one row after the other
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/tensor.hpp>

using namespace cute;

template <class Layout>
void print_line(const Layout& layout) {
  for (int lane = 0; lane < 32; ++lane)
    for (int value = 0; value < int(size<1>(layout)); ++value) printf("%d ", int(layout(lane, value)));
  printf("\n");
}

template <class Operation>
void print_mma(const char* name) {
  using Traits = MMA_Traits<Operation>;
  printf("mma %s %d\n", name, int(size<2>(typename Traits::Shape_MNK{})));
  print_line(typename Traits::ALayout{});
  print_line(typename Traits::BLayout{});
  print_line(typename Traits::CLayout{});
}

// Copy layouts count bits. Value v of a destination lane begins at bit 16 v; the source gives lane l its row.
template <class Operation>
void print_ldmatrix(const char* name, int matrices) {
  using Traits = Copy_Traits<Operation>;
  const auto source = typename Traits::SrcLayout{};
  const auto destination = typename Traits::DstLayout{};
  printf("ldmatrix %s %d\n", name, matrices);
  for (int lane = 0; lane < 32; ++lane)
    for (int value = 0; value < 2 * matrices; ++value) {
      const int bit = int(destination(lane, 16 * value));
      int element = -1;  // of which row, in which place, is this bit?
      for (int row = 0; row < 8 * matrices; ++row)
        for (int place = 0; place < 8; ++place)
          if (int(source(row, 16 * place)) == bit) element = 8 * row + place;
      printf("%d ", element);
    }
  printf("\n");
}

int main() {
  print_mma<SM80_16x8x16_F32F16F16F32_TN>("m16n8k16_f16");
  print_mma<SM80_16x8x16_F32BF16BF16F32_TN>("m16n8k16_bf16");
  print_mma<SM80_16x8x8_F32F16F16F32_TN>("m16n8k8_f16");
  print_mma<SM80_16x8x8_F32BF16BF16F32_TN>("m16n8k8_bf16");
  print_mma<SM80_16x8x8_F32TF32TF32F32_TN>("m16n8k8_tf32");
  print_mma<SM80_16x8x4_F32TF32TF32F32_TN>("m16n8k4_tf32");
  print_ldmatrix<SM75_U32x1_LDSM_N>("x1", 1);
  print_ldmatrix<SM75_U32x2_LDSM_N>("x2", 2);
  print_ldmatrix<SM75_U32x4_LDSM_N>("x4", 4);
  print_ldmatrix<SM75_U16x2_LDSM_T>("x1_trans", 1);
  print_ldmatrix<SM75_U16x4_LDSM_T>("x2_trans", 2);
  print_ldmatrix<SM75_U16x8_LDSM_T>("x4_trans", 4);
}
