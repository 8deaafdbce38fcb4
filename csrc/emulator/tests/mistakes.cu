// Kernels with a mistake planted. a.n[0] says which; 0 is the correct twin, which must pass under every schedule,
// poison and the race checker. tests/test_emulator.py plants each and demands the diagnosis.
#include "device/device.h"
#include "emulator/tests/harness.h"

namespace fastconv::testing {
namespace {

using namespace device;

FC_DEVICE int thread() { return int(threadIdx.x); }

// A tile is staged through shared memory twice: every element of array 1 is that of array 0, reversed within its block.
FC_TEST_KERNEL(stage_tile) {
  enum { correct, no_barrier, no_loop_end_barrier, load_row_out, store_row_out, past_shared, past_shared_store };
  const int64_t mistake = a.n[0];
  const int t = thread(), n = int(blockDim.x);
  const Shared<float> tile = dynamic_shared<float>();
  for (int round = 0; round < 2; ++round) {
    const int64_t row = round * gridDim.x + blockIdx.x;
    const int64_t load_row = row + (mistake == load_row_out), store_row = row + (mistake == store_row_out);
    tile.store(mistake == past_shared_store ? t + 1 : t, load(a.as<float>(0) + load_row * n + t));
    if (mistake != no_barrier) sync_threads();
    store(a.as<float>(1) + store_row * n + t, tile.load(mistake == past_shared ? n - t : n - 1 - t));
    if (mistake != no_loop_end_barrier) sync_threads();
  }
}

// A software pipeline of cp.async in three stages, read by a neighbour.
FC_TEST_KERNEL(pipeline) {
  enum { correct, no_wait, wait_one_less, wait_before_commit, no_commit, no_barrier, stage_reused_early };
  const int64_t mistake = a.n[0];
  using V = Vec<float, 4>;
  constexpr int stages = 3, steps = 8;
  const int t = thread(), n = int(blockDim.x);
  const Shared<V> tile = dynamic_shared<V>();
  const auto copy = [&](int step) {
    if (step < steps) cp_async<16>(tile.address(step % stages * n + t), a.as<V>(0) + step * n + t);
    if (mistake != no_commit) cp_async_commit();
  };
  for (int step = 0; step < stages - 1; ++step) copy(step);
  for (int step = 0; step < steps; ++step) {
    if (mistake == stage_reused_early) copy(step + stages - 1);
    if (mistake == wait_one_less || mistake == stage_reused_early)
      cp_async_wait<stages - 1>();
    else if (mistake != no_wait && mistake != wait_before_commit)
      cp_async_wait<stages - 2>();
    if (mistake != no_barrier) sync_threads();
    store(a.as<V>(1) + step * n + t, tile.load(step % stages * n + (t + 1) % n));
    if (mistake == wait_before_commit) cp_async_wait<stages - 2>();
    if (mistake != stage_reused_early) copy(step + stages - 1);
  }
}

// One 16-byte access at an odd place.
FC_TEST_KERNEL(alignment) {
  enum { correct, global_load, global_store, shared_load, shared_store, async_global, async_shared, matrix };
  const int64_t mistake = a.n[0];
  using V = Vec<float, 4>;
  const int t = thread();
  const Shared<float> tile = dynamic_shared<float>();
  const auto odd = [&](int64_t which) { return mistake == which ? 1 : 0; };
  const V value = load(as<V>(a.as<float>(0) + 4 * t + odd(global_load)));
  tile.store_as(4 * t + odd(shared_store), value);
  sync_threads();
  store(as<V>(a.as<float>(1) + 4 * t + odd(global_store)), tile.load_as<V>(4 * t + odd(shared_load)));
  sync_threads();
  cp_async<16>(tile.address(4 * t + odd(async_shared)), a.as<float>(0) + 4 * t + odd(async_global));
  cp_async_commit();
  cp_async_wait<0>();
  sync_warp();
  uint32_t r[4];
  ldmatrix_x4(r, tile.address(4 * t + odd(matrix)));
}

FC_TEST_KERNEL(barriers_diverge) {
  enum { correct, two_places, some_return, half_skip, named_count, named_mismatch, named_zero, named_odd };
  const int64_t mistake = a.n[0];
  const int t = thread();
  if (mistake == two_places && t >= 32) {
    sync_threads();
  } else {
    if (mistake == some_return && t == 40) return;
    if (mistake == half_skip && t >= 32) {
      while (!any(full_warp, true)) {
      }
      return;
    }
    sync_threads();
  }
  if (t >= 64) return;  // warps 0 and 1 of the 128 threads meet once more
  const int count = mistake == named_count ? 96 : mistake == named_mismatch && t < 32 ? 32 : 64;
  barrier_sync(mistake == named_zero ? 0 : 1, mistake == named_odd ? 33 : count);
}

FC_TEST_KERNEL(warps_diverge) {
  enum { correct, absent_lanes, returned_lanes, not_in_mask, other_masks, other_calls, undefined_source, no_sync_warp };
  const int64_t mistake = a.n[0];
  const int t = thread(), lane = lane_id();
  FC_STATIC_SHARED(int, cells, 64);
  if (mistake == returned_lanes && lane == 31) return;
  // Correct: the last warp has only 16 lanes, and the mask says so.
  const uint32_t there = t >= 32 ? 0x0000ffffu : full_warp;
  int value = shuffle_xor(mistake == absent_lanes || mistake == returned_lanes ? full_warp : there, t, 1);
  if (mistake == not_in_mask) value += shuffle(there & ~2u, value, 0);
  if (mistake == other_masks) value += int(ballot(lane < 8 ? 0x0fffu : there, lane < 4));
  if (mistake == other_calls) value += lane < 8 ? shuffle(there, value, 0) : shuffle_xor(there, value, 1);
  if (mistake == undefined_source) value += shuffle(t >= 32 ? there : 0x00ffu << lane / 8 * 8, value, 0);
  cells.store(t, value);
  if (mistake != no_sync_warp) sync_warp(there);
  store(a.as<int>(1) + t, cells.load(t ^ 1));
}

// What the matrix instructions read must have been written, and be there.
FC_TEST_KERNEL(matrices) {
  enum { correct, past_shared, no_sync, early, null_address, not_all_lanes };
  const int64_t mistake = a.n[0];
  const int t = thread();
  const Shared<uint16_t> tile = dynamic_shared<uint16_t>();
  cp_async<16>(tile.address(8 * t), a.as<uint16_t>(0) + 8 * t);
  cp_async_commit();
  if (mistake != early) cp_async_wait<0>();
  if (mistake != no_sync) sync_warp();
  uint32_t r[4];
  const uint32_t address = mistake == null_address ? 0 : tile.address(8 * (mistake == past_shared ? t + 1 : 31 - t));
  if (mistake == not_all_lanes && t >= 16) return;
  ldmatrix_x4(r, address);
  store(a.as<uint32_t>(1) + t, r[0] + r[1] + r[2] + r[3]);
}

// Nothing orders blocks, and nothing but a barrier orders a block's threads.
FC_TEST_KERNEL(global_races) {
  enum { correct, same_by_blocks, same_by_threads, read_back, atomic_and_plain };
  const int64_t mistake = a.n[0];
  const int t = thread(), n = int(blockDim.x), place = int(blockIdx.x) * n + t;
  float* out = a.as<float>(1);
  store(out + (mistake == same_by_blocks ? t : mistake == same_by_threads ? place / 2 : place), 1.0f);
  if (mistake == read_back) {
    sync_threads();
    store(out + place, load(out + place) + 1.0f);
  }
  atomic_add(out + 2 * n, 1.0f);
  if (mistake == atomic_and_plain && t == 5) store(out + 2 * n, 0.0f);
}

// Uninitialised shared memory: n[0] chooses what hides it. Writes max(uninitialised, 0), as a ReLU or a max-pool would.
FC_TEST_KERNEL(uninitialised) {
  const Shared<float> tile = dynamic_shared<float>();
  store(a.as<float>(1) + thread(), fmaxf(tile.load(thread()), 0.0f));
}

// Static shared memory, as much as n[0] says.
FC_TEST_KERNEL(static_limit) {
  FC_STATIC_SHARED(float, small, 1024);
  small.store(thread(), 0.0f);
  if (a.n[0] == 1) {
    FC_STATIC_SHARED(float, large, 11 * 1024 + 1);
    large.store(thread(), 0.0f);
  }
  if (a.n[0] == 2) dynamic_shared<float>(64, 1024).store(0, 0.0f);
}

}  // namespace

const std::vector<TestKernel>& mistake_kernels() {
  static const std::vector<TestKernel> kernels{
      {"stage_tile", stage_tile},       {"pipeline", pipeline},
      {"alignment", alignment},         {"barriers_diverge", barriers_diverge},
      {"warps_diverge", warps_diverge}, {"matrices", matrices},
      {"global_races", global_races},   {"uninitialised", uninitialised},
      {"static_limit", static_limit},
  };
  return kernels;
}

}  // namespace fastconv::testing
