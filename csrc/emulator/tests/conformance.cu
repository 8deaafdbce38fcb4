// One tiny kernel for every primitive of device/. Inputs are arrays 0 and 1, the output is array 2; one block of 64
// threads unless the test says otherwise. tests/test_conformance.py holds the numpy oracles and compares with the GPU.
#include "device/device.h"
#include "emulator/tests/harness.h"

namespace fastconv::testing {
namespace {

using namespace device;

FC_DEVICE int thread() { return int(threadIdx.x); }

// ---- types.h, launch.h ----

// Every thread writes where it is, at its place in the grid: threadIdx, blockIdx, blockDim, gridDim in three
// dimensions.
FC_TEST_KERNEL(indices) {
  const unsigned in_block = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned place = block * (blockDim.x * blockDim.y * blockDim.z) + in_block;
  Vec<int, 4> where;
  where[0] = int(threadIdx.x + 100 * threadIdx.y + 10000 * threadIdx.z);
  where[1] = fresh_block_index() + int(100 * blockIdx.y + 10000 * blockIdx.z);
  where[2] = warp_id();
  where[3] = lane_id();
  store(a.as<Vec<int, 4>>(2) + place, where);
}

// ---- memory.h ----

template <class V>
FC_TEST_KERNEL(copy_global) {
  store(a.as<V>(2) + thread(), load(a.as<V>(0) + thread()));
}

// Out of bounds where off: must not be touched. Every third thread stores nothing.
FC_TEST_KERNEL(predicates) {
  const int t = thread();
  const bool on = t % 2 == 0;
  const float* p = a.as<float>(0) + (on ? t : 1 << 20);
  const float sum = load_if(on, p) + load_if(on, p, 100.0f);
  store_if(t % 3 != 0, a.as<float>(2) + (t % 3 ? t : 1 << 20), sum);
}

template <class V>
FC_TEST_KERNEL(reverse_static_shared) {
  FC_STATIC_SHARED(V, other, 3);  // so that the tile does not start at the first address
  FC_STATIC_SHARED(V, tile, 64);
  if (thread() < 3) other.store(thread(), V{});
  tile.store(thread(), load(a.as<V>(0) + thread()));
  sync_threads();
  store(a.as<V>(2) + thread(), tile.load(63 - thread()));
}

// Elements of 4 bytes, moved as V; pointer arithmetic both ways.
template <class V>
FC_TEST_KERNEL(reverse_dynamic_shared) {
  constexpr int n = sizeof(V) / 4;
  const Shared<float> tile = dynamic_shared<float>(256, 64 * n);
  const Shared<float> end = tile + 64 * n;
  const int t = thread();
  tile.store_as<V>(t * n, load(as<V>(a.as<float>(0)) + t));
  sync_threads();
  store(as<V>(a.as<float>(2)) + t, (end - n).template load_as<V>(-t * n));
}

// ---- sync.h ----

FC_TEST_KERNEL(block_votes) {
  const int t = thread();
  Vec<int, 4> votes;
  votes[0] = sync_threads_or(load(a.as<int>(0) + t) > 0);
  votes[1] = sync_threads_and(load(a.as<int>(0) + t) > 0);
  votes[2] = sync_threads_count(load(a.as<int>(0) + t) > 0);
  votes[3] = 0;
  store(a.as<Vec<int, 4>>(2) + t, votes);
}

// Lanes of a warp pass values on through shared memory.
FC_TEST_KERNEL(warp_sync) {
  FC_STATIC_SHARED(float, tile, 64);
  const int t = thread();
  tile.store(t, load(a.as<float>(0) + t));
  sync_warp();
  const float next = tile.load(t / 32 * 32 + (t + 1) % 32);
  sync_warp(full_warp);
  tile.store(t, next);
  sync_warp();
  store(a.as<float>(2) + t, tile.load(t / 32 * 32 + (t + 1) % 32));
}

// 96 threads: warps 1 and 2 hand values to warp 0, which waits for them; they just arrive.
FC_TEST_KERNEL(named_barriers) {
  FC_STATIC_SHARED(float, tile, 64);
  const int t = thread();
  if (t >= 32) {
    tile.store(t - 32, load(a.as<float>(0) + t - 32));
    barrier_arrive(3, 96);
    barrier_sync(1, 64);  // of warps 1 and 2
    store(a.as<float>(2) + t, tile.load((t + 32) % 64));
  } else {
    barrier_sync(3, 96);
    store(a.as<float>(2) + t, tile.load(t) + tile.load(t + 32));
  }
}

// ---- warp.h ----

template <class T>
FC_TEST_KERNEL(shuffles) {
  const int t = thread();
  const T value = load(a.as<T>(0) + t);
  T* out = a.as<T>(2) + 6 * t;
  store(out + 0, shuffle(full_warp, value, (5 * t + 3) % 32));
  store(out + 1, shuffle_xor(full_warp, value, 9));
  store(out + 2, shuffle_down(full_warp, value, 4));
  store(out + 3, shuffle_up(full_warp, value, 7));
  // The halves of a warp, each on its own.
  const uint32_t half = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
  store(out + 4, shuffle_xor(half, value, 5));
  store(out + 5, warp_sum(value));
}

FC_TEST_KERNEL(warp_votes) {
  const int t = thread();
  const int value = load(a.as<int>(0) + t);
  Vec<int, 4> votes;
  votes[0] = int(ballot(full_warp, value > 0));
  votes[1] = any(full_warp, value > 1);
  votes[2] = all(full_warp, value > -1);
  votes[3] = warp_max(value);
  store(a.as<Vec<int, 4>>(2) + t, votes);
}

// ---- async.h ----

// Three stages in flight; every fifth copy is off and zero-fills, with an address nobody may touch. Thread t handles
// elements t, t + 64, ... of `stages` times 64 elements of Bytes.
template <int Bytes>
FC_TEST_KERNEL(cp_async_pipeline) {
  using V = Vec<uint32_t, Bytes / 4>;
  constexpr int stages = 3;
  const Shared<V> tile = dynamic_shared<V>(0, 64 * stages);
  const int t = thread(), steps = int(a.n[0]);
  const auto copy = [&](int step) {
    const int element = step * 64 + t;
    const bool on = step < steps && element % 5 != 0;
    if (step < steps) cp_async<Bytes>(tile.address(step % stages * 64 + t), a.as<V>(0) + (on ? element : 1 << 20), on);
    cp_async_commit();
  };
  for (int step = 0; step < stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<stages - 2>();
    sync_threads();
    store(a.as<V>(2) + step * 64 + t, tile.load(step % stages * 64 + 63 - t));
    copy(step + stages - 1);
  }
}

// ---- mma.h ----

// One warp. The tile is 32 rows of 16 bytes; lane l of ldmatrix gives row (5 l) % 32.
template <int Matrices, bool Transposed>
FC_TEST_KERNEL(load_matrix) {
  FC_STATIC_SHARED(uint16_t, tile, 256);
  const int t = thread();
  tile.store_as(t * 8, load(a.as<Vec<uint16_t, 8>>(0) + t));
  sync_warp();
  uint32_t r[Matrices];
  const uint32_t address = tile.address(5 * t % 32 * 8);
  if constexpr (Matrices == 1) Transposed ? ldmatrix_x1_trans(r, address) : ldmatrix_x1(r, address);
  if constexpr (Matrices == 2) Transposed ? ldmatrix_x2_trans(r, address) : ldmatrix_x2(r, address);
  if constexpr (Matrices == 4) Transposed ? ldmatrix_x4_trans(r, address) : ldmatrix_x4(r, address);
  for (int i = 0; i < Matrices; ++i) store(a.as<uint32_t>(2) + t * Matrices + i, r[i]);
}

// One warp. Arrays 0, 1 and 2 are the registers of A, B and D, lane by lane: the test packs and unpacks the fragments.
// T: f16 or bf16; float stands for tf32.
template <class T, int K>
FC_TEST_KERNEL(multiply) {
  constexpr int registers = K / (std::is_same_v<T, float> ? 4 : 8);
  const int lane = thread();
  uint32_t fa[2 * registers], fb[registers];
  for (int i = 0; i < 2 * registers; ++i) fa[i] = load(a.as<uint32_t>(0) + lane * 2 * registers + i);
  for (int i = 0; i < registers; ++i) fb[i] = load(a.as<uint32_t>(1) + lane * registers + i);
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = float(a.n[0]);
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (K == 8) mma_m16n8k8_tf32(d, fa, fb);
    if constexpr (K == 4) mma_m16n8k4_tf32(d, fa, fb);
  } else {
    if constexpr (K == 16) mma_m16n8k16<T>(d, fa, fb);
    if constexpr (K == 8) mma_m16n8k8<T>(d, fa, fb);
  }
  for (int i = 0; i < 4; ++i) store(a.as<float>(2) + lane * 4 + i, d[i]);
}

// ---- atomic.h ----

// Many threads, four cells; integers (also as floats), so that the order does not show. The old values' sum is checked,
// too.
template <class T>
FC_TEST_KERNEL(atomics_add) {
  FC_STATIC_SHARED(T, cells, 4);
  const int t = thread();
  if (t < 4) cells.store(t, T(0));
  sync_threads();
  const T value = load(a.as<T>(0) + t);
  atomic_add(cells, t % 4, value);
  atomic_add(a.as<T>(2) + 4 + t % 4, value);
  sync_threads();
  if (t < 4) store(a.as<T>(2) + t, cells.load(t));
}

template <class T>
FC_TEST_KERNEL(atomics_extrema) {
  FC_STATIC_SHARED(T, cells, 2);
  const int t = thread();
  if (t < 2) cells.store(t, T(1000));
  sync_threads();
  const T value = load(a.as<T>(0) + t);
  atomic_max(cells, 0, value);
  atomic_min(cells, 1, value);
  atomic_max(a.as<T>(2) + 2, value);
  atomic_min(a.as<T>(2) + 3, value);
  sync_threads();
  if (t < 2) store(a.as<T>(2) + t, cells.load(t));
}

// ---- math.h, dtype.h ----

FC_TEST_KERNEL(arithmetic) {
  const int t = thread();
  const float x = load(a.as<float>(0) + t), y = load(a.as<float>(1) + t);
  Vec<float, 4> r;
  r[0] = device::fma(x, y, -x);
  r[1] = device::min(x, y) + 2 * device::max(x, y);
  r[2] = float(ceil_div(t, 7));
  r[3] = rsqrt(x * x + 1.0f);
  store(a.as<Vec<float, 4>>(2) + t, r);
}

FC_TEST_KERNEL(round_tf32) { store(a.as<uint32_t>(2) + thread(), to_tf32(load(a.as<float>(0) + thread()))); }

template <class T>
FC_TEST_KERNEL(narrow_to) {
  store(a.as<T>(2) + thread(), narrow<T>(load(a.as<float>(0) + thread())));
}
template <class T>
FC_TEST_KERNEL(widen_from) {
  const int i = int(blockIdx.x * blockDim.x) + thread();
  store(a.as<float>(2) + i, widen(load(a.as<T>(0) + i)));
}

}  // namespace

const std::vector<TestKernel>& conformance_kernels() {
  static const std::vector<TestKernel> kernels{
      {"indices", indices},
      {"copy_1", copy_global<uint8_t>},
      {"copy_2", copy_global<f16>},
      {"copy_4", copy_global<float>},
      {"copy_8", copy_global<double>},
      {"copy_16", copy_global<Vec<float, 4>>},
      {"predicates", predicates},
      {"reverse_static_1", reverse_static_shared<uint8_t>},
      {"reverse_static_2", reverse_static_shared<bf16>},
      {"reverse_static_4", reverse_static_shared<int>},
      {"reverse_static_8", reverse_static_shared<Vec<float, 2>>},
      {"reverse_static_16", reverse_static_shared<Vec<f16, 8>>},
      {"reverse_dynamic_4", reverse_dynamic_shared<float>},
      {"reverse_dynamic_8", reverse_dynamic_shared<Vec<float, 2>>},
      {"reverse_dynamic_16", reverse_dynamic_shared<Vec<float, 4>>},
      {"block_votes", block_votes},
      {"warp_sync", warp_sync},
      {"named_barriers", named_barriers},
      {"shuffles_4", shuffles<float>},
      {"shuffles_8", shuffles<double>},
      {"warp_votes", warp_votes},
      {"cp_async_4", cp_async_pipeline<4>},
      {"cp_async_8", cp_async_pipeline<8>},
      {"cp_async_16", cp_async_pipeline<16>},
      {"ldmatrix_x1", load_matrix<1, false>},
      {"ldmatrix_x2", load_matrix<2, false>},
      {"ldmatrix_x4", load_matrix<4, false>},
      {"ldmatrix_x1_trans", load_matrix<1, true>},
      {"ldmatrix_x2_trans", load_matrix<2, true>},
      {"ldmatrix_x4_trans", load_matrix<4, true>},
      {"mma_m16n8k16_f16", multiply<f16, 16>},
      {"mma_m16n8k16_bf16", multiply<bf16, 16>},
      {"mma_m16n8k8_f16", multiply<f16, 8>},
      {"mma_m16n8k8_bf16", multiply<bf16, 8>},
      {"mma_m16n8k8_tf32", multiply<float, 8>},
      {"mma_m16n8k4_tf32", multiply<float, 4>},
      {"atomic_add_f32", atomics_add<float>},
      {"atomic_add_f64", atomics_add<double>},
      {"atomic_add_i32", atomics_add<int>},
      {"atomic_add_u32", atomics_add<unsigned>},
      {"atomic_add_u64", atomics_add<uint64>},
      {"atomic_extrema_i32", atomics_extrema<int>},
      {"atomic_extrema_u32", atomics_extrema<unsigned>},
      {"atomic_extrema_u64", atomics_extrema<uint64>},
      {"arithmetic", arithmetic},
      {"round_tf32", round_tf32},
      {"narrow_f16", narrow_to<f16>},
      {"narrow_bf16", narrow_to<bf16>},
      {"widen_f16", widen_from<f16>},
      {"widen_bf16", widen_from<bf16>},
  };
  return kernels;
}

void start(const TestKernel& kernel, const Launch& config, const Arguments& arguments) {
  launch(kernel.kernel, config, arguments);
}

}  // namespace fastconv::testing
