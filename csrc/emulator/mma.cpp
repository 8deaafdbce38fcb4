#include "emulator/mma.h"

#include <cstring>

#include "emulator/async.h"
#include "emulator/memory.h"
#include "emulator/races.h"

namespace fastconv::emulator {
namespace {

constexpr uint32_t full = 0xffffffffu;

struct LoadLane {
  uint32_t* r;
  uint32_t address;
  int matrices;
  bool transposed;
  Site site;
};

struct MmaLane {
  float* d;
  const uint32_t *a, *b;
};

// The addresses are the ldmatrix lanes' own business: each row is checked as a load by the lane that names it.
const unsigned char* matrix_row(Block& block, const LoadLane& lane, Thread& reader) {
  Thread* const caller = current_thread;
  current_thread = &reader;  // so that a diagnosis names the lane that gave the address
  block.shared.check(lane.address, 16, "ldmatrix", lane.site);
  check_pending(lane.address, 16, "ldmatrix", lane.site);
  if (block.races) block.races->access(lane.address, 16, Access::load, lane.site);
  current_thread = caller;
  return block.shared.at(lane.address);
}

void load_matrices(Collective& group) {
  Block& block = *self().block;
  const int first_thread = self().warp * warp_lanes;
  const LoadLane& shape = group.of<LoadLane>(0);
  for (int matrix = 0; matrix < shape.matrices; ++matrix) {
    uint16_t rows[8][8];
    uint32_t addresses[32] = {};
    for (int row = 0; row < 8; ++row) {
      const int lane = matrix * 8 + row;
      const LoadLane& source = group.of<LoadLane>(lane);
      memcpy(rows[row], matrix_row(block, source, block.thread(first_thread + lane)), 16);
      addresses[row] = source.address;
    }
    if (block.counting) tally(Space::shared_load, 16, 0xff, addresses, block.counters.traffic[int(Space::shared_load)]);
    for (int lane = 0; lane < warp_lanes; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const uint16_t low = shape.transposed ? rows[column][row] : rows[row][column];
      const uint16_t high = shape.transposed ? rows[column + 1][row] : rows[row][column + 1];
      group.of<LoadLane>(lane).r[matrix] = uint32_t(low) | uint32_t(high) << 16;
    }
  }
}

// ---- mma ----

typedef float Row __attribute__((vector_size(32)));  // 8 columns

// d += a b for 16 x K times K x 8. Products of the operands' types are exact in float32, so fusing changes nothing.
template <int K>
[[gnu::always_inline]] inline void multiply(Row* d, const float (*a)[K], const Row* b) {
  for (int row = 0; row < 16; ++row) {
    Row sum = d[row];
    for (int k = 0; k < K; ++k) sum += a[row][k] * b[k];
    d[row] = sum;
  }
}

template <class T>
[[gnu::always_inline]] inline float to_float(uint32_t bits) {
  if constexpr (std::is_same_v<T, float>) {
    return fastconv::detail::bits_float(bits & 0xffffe000u);  // tf32: the low 13 bits do not count
  } else {
    return widen(T{uint16_t(bits)});
  }
}

// T: f16, bf16, or float for tf32.
template <class T, int K>
[[gnu::always_inline]] inline void mma_warp(Collective& group) {
  constexpr int per_register = std::is_same_v<T, float> ? 1 : 2;
  constexpr int step = 4 * per_register;  // columns of k that one register of all lanes covers
  constexpr int b_registers = K / step;
  uint32_t a_bits[16][K], b_bits[K][8];
  Row d[16];
  for (int lane = 0; lane < warp_lanes; ++lane) {
    const MmaLane& from = group.of<MmaLane>(lane);
    const int g = lane / 4, t = lane % 4 * per_register;
    for (int i = 0; i < 2 * b_registers; ++i)
      for (int half = 0; half < per_register; ++half)
        a_bits[g + i % 2 * 8][t + half + i / 2 * step] = from.a[i] >> 16 * half;
    for (int i = 0; i < b_registers; ++i)
      for (int half = 0; half < per_register; ++half) b_bits[t + half + i * step][g] = from.b[i] >> 16 * half;
    for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][lane % 4 * 2 + i % 2] = from.d[i];
  }
  float a[16][K];
  Row b[K];
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < K; ++k) a[row][k] = to_float<T>(a_bits[row][k]);
  for (int k = 0; k < K; ++k)
    for (int column = 0; column < 8; ++column) b[k][column] = to_float<T>(b_bits[k][column]);
  multiply<K>(d, a, b);
  for (int lane = 0; lane < warp_lanes; ++lane)
    for (int i = 0; i < 4; ++i) group.of<MmaLane>(lane).d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

#if defined(__x86_64__)
#define FC_VECTOR __attribute__((target("avx2,fma")))
const bool has_vectors = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
#define FC_VECTOR
const bool has_vectors = false;
#endif

// The same code twice: for AVX2, and for whatever the baseline is.
template <class T, int K>
FC_VECTOR void mma_vector(Collective& group) {
  mma_warp<T, K>(group);
}
template <class T, int K>
void mma_portable(Collective& group) {
  mma_warp<T, K>(group);
}
template <class T, int K>
void mma_any(Collective& group) {
  has_vectors ? mma_vector<T, K>(group) : mma_portable<T, K>(group);
  Counters& counters = self().block->counters;
  ++counters.mma;
  counters.mma_flops += 2 * 16 * 8 * K;
}

}  // namespace

void ldmatrix(uint32_t* r, int matrices, bool transposed, uint32_t shared_address, Site site) {
  LoadLane mine{r, shared_address, matrices, transposed, site};
  self().block->collective(full, "ldmatrix", &mine, load_matrices, site);
}

void mma(Mma shape, float* d, const uint32_t* a, const uint32_t* b, Site site) {
  static constexpr void (*finish[])(Collective&) = {mma_any<f16, 16>, mma_any<bf16, 16>, mma_any<f16, 8>,
                                                    mma_any<bf16, 8>, mma_any<float, 8>, mma_any<float, 4>};
  MmaLane mine{d, a, b};
  self().block->collective(full, "mma", &mine, finish[int(shape)], site);
}

}  // namespace fastconv::emulator
