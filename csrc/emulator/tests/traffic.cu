// Kernels whose memory traffic is known by hand: tests/test_emulator_counters.py holds the figures.
#include "device/device.h"
#include "emulator/tests/harness.h"

namespace fastconv::testing {
namespace {

using namespace device;

FC_DEVICE int thread() { return int(threadIdx.x + blockIdx.x * blockDim.x); }

// Array 0 to array 1, V by V: element i * n[0] + n[1] to element i. Thread i does n[2] elements, one grid apart.
template <class V>
FC_TEST_KERNEL(strided_copy) {
  const int threads = int(gridDim.x * blockDim.x);
  for (int i = thread(); i < threads * a.n[2]; i += threads)
    store(a.as<V>(1) + i, load(a.as<V>(0) + i * a.n[0] + a.n[1]));
}

// Lanes that are off make no traffic, and the others still make one request. Loops of different lengths do not mix up
// requests.
FC_TEST_KERNEL(ragged) {
  const int t = thread();
  float sum = load_if(t % 2 == 0, a.as<float>(0) + t);
  for (int i = 0; i < t % 4; ++i) sum += load(a.as<float>(0) + t);
  store(a.as<float>(1) + t, sum);
}

// Even and odd lanes take turns: a lane that is off keeps its place, so each turn is a request of half the warp.
FC_TEST_KERNEL(alternating) {
  const int t = thread();
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += load_if((i + t) % 2 == 0, a.as<float>(0) + 32 * i + t);
  for (int i = 0; i < 4; ++i) store_if((i + t) % 2 == 0, a.as<float>(1) + 32 * i + t, sum);
}

// Shared memory: lane l loads V number l * n[0]; all load V number 0; then a store of each.
template <class V>
FC_TEST_KERNEL(shared_strides) {
  const Shared<V> tile = dynamic_shared<V>();
  const int t = thread(), at = t * int(a.n[0]);
  tile.store(at, V{});
  sync_warp();
  const V mine = tile.load(at), first = tile.load(0);
  store(a.as<V>(1) + 2 * t, mine);
  store(a.as<V>(1) + 2 * t + 1, first);
}

// ldmatrix of a tile with rows of 128 bytes: column n[1] of 16 bytes, with the XOR swizzle if n[0].
FC_TEST_KERNEL(matrix_rows) {
  const Shared<uint16_t> tile = dynamic_shared<uint16_t>();
  const int t = thread();
  for (int i = t; i < 32 * 8; i += 32) tile.store_as(i * 8, Vec<uint16_t, 8>{});
  sync_warp();
  const int column = int(a.n[1]), place = a.n[0] ? column ^ (t % 8) : column;
  uint32_t r[4];
  ldmatrix_x4(r, tile.address(t * 64 + place * 8));
  store(a.as<uint32_t>(1) + t, r[0] + r[1] + r[2] + r[3]);
}

// One of everything else that is counted.
FC_TEST_KERNEL(totals) {
  float d[4] = {0, 0, 0, 0};
  const uint32_t fa[4] = {0, 0, 0, 0}, fb[2] = {0, 0};
  mma_m16n8k16<f16>(d, fa, fb);
  atomic_add(a.as<float>(1), d[0]);
  sync_threads();
  barrier_sync(2, int(blockDim.x));
}

}  // namespace

const std::vector<TestKernel>& traffic_kernels() {
  static const std::vector<TestKernel> kernels{
      {"strided_copy_2", strided_copy<f16>},
      {"strided_copy_4", strided_copy<float>},
      {"strided_copy_16", strided_copy<Vec<float, 4>>},
      {"ragged", ragged},
      {"alternating", alternating},
      {"shared_strides_2", shared_strides<f16>},
      {"shared_strides_4", shared_strides<float>},
      {"shared_strides_8", shared_strides<Vec<float, 2>>},
      {"shared_strides_16", shared_strides<Vec<float, 4>>},
      {"matrix_rows", matrix_rows},
      {"totals", totals},
  };
  return kernels;
}

}  // namespace fastconv::testing
