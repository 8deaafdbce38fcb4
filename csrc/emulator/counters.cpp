#include "emulator/counters.h"

#include <algorithm>
#include <mutex>

namespace fastconv::emulator {

const char* name_of(Space space) {
  constexpr const char* names[] = {"global_load", "global_store", "global_atomic",
                                   "shared_load", "shared_store", "shared_atomic"};
  return names[int(space)];
}

Counters& Counters::operator+=(const Counters& other) {
  launches += other.launches, blocks += other.blocks, threads += other.threads;
  barriers += other.barriers, mma += other.mma, mma_flops += other.mma_flops;
  for (int i = 0; i < space_count; ++i) {
    traffic[i].requests += other.traffic[i].requests;
    traffic[i].units += other.traffic[i].units;
    traffic[i].ideal += other.traffic[i].ideal;
    traffic[i].bytes += other.traffic[i].bytes;
  }
  return *this;
}

namespace {

// Sorts, unless sorted already (it nearly always is), and drops duplicates; returns how many are left.
int distinct(uint64_t* values, int count) {
  if (!std::is_sorted(values, values + count)) std::sort(values, values + count);
  return int(std::unique(values, values + count) - values);
}

// Wide accesses are served a half (8 bytes) or a quarter (16 bytes) of the warp at a time. In each such phase a bank
// gives one word a wavefront, to as many lanes as want it.
int wavefronts(int bytes, uint32_t lanes, const uint64_t* address) {
  const int phase_lanes = bytes <= 4 ? 32 : 128 / bytes, words = bytes <= 4 ? 1 : bytes / 4;
  int total = 0;
  for (int first = 0; first < 32; first += phase_lanes) {
    uint64_t wanted[32];
    int count = 0;
    for (int lane = first; lane < first + phase_lanes; ++lane)
      if (lanes >> lane & 1)
        for (int word = 0; word < words; ++word) wanted[count++] = address[lane] / 4 + uint64_t(word);
    count = distinct(wanted, count);
    int load[32] = {}, longest = 0;
    for (int i = 0; i < count; ++i) longest = std::max(longest, ++load[wanted[i] % 32]);
    total += longest;
  }
  return total;
}

}  // namespace

void tally(Space space, int bytes, uint32_t lanes, const uint64_t* address, Traffic& traffic) {
  uint64_t touched[32];
  int count = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) touched[count++] = address[__builtin_ctz(rest)];
  ++traffic.requests;
  traffic.bytes += count * bytes;
  count = distinct(touched, count);
  const int unit = is_shared(space) ? 128 : 32;
  traffic.ideal += (count * bytes + unit - 1) / unit;
  if (is_shared(space)) {
    traffic.units += wavefronts(bytes, lanes, address);
  } else {
    for (int i = 0; i < count; ++i) touched[i] /= 32;
    traffic.units += std::unique(touched, touched + count) - touched;
  }
}

WarpLog::Stream& WarpLog::stream(const Site& site, Space space, int bytes, Counters& counters) {
  if (streams_.size() > table_size / 2) flush(counters), clear();
  size_t slot = size_t(site.line() * 31 + site.column() * 7 + unsigned(bytes) + unsigned(space) * 3) % table_size;
  for (;; slot = (slot + 1) % table_size) {
    if (!table_[slot]) break;
    Stream& found = streams_[table_[slot] - 1u];
    if (same_site(found.site, site) && found.space == space && found.bytes == bytes) return found;
  }
  streams_.push_back({site, space, bytes, {}, 0, {}});
  table_[slot] = uint16_t(streams_.size());
  return streams_.back();
}

void WarpLog::record(const Site& site, Space space, int bytes, int lane, uint64_t address, Counters& counters) {
  Stream& at = stream(site, space, bytes, counters);
  const uint32_t index = at.next[lane]++;
  if (index >= at.used) {
    at.used = index + 1;
    if (at.requests.size() < at.used) at.requests.emplace_back();
  }
  Request& request = at.requests[index];
  request.lanes |= 1u << lane;
  request.address[lane] = address;
  if (request.lanes != 0xffffffffu) return;
  tally(space, bytes, request.lanes, request.address, counters.traffic[int(space)]);
  request.lanes = 0;
}

void WarpLog::flush(Counters& counters) {
  for (Stream& at : streams_) {
    if (!at.used) continue;
    for (uint32_t i = 0; i < at.used; ++i) {
      Request& request = at.requests[i];
      if (request.lanes) tally(at.space, at.bytes, request.lanes, request.address, counters.traffic[int(at.space)]);
      request.lanes = 0;
    }
    at.used = 0;
    std::fill(std::begin(at.next), std::end(at.next), 0u);
  }
}

void WarpLog::clear() {
  streams_.clear();
  std::fill(std::begin(table_), std::end(table_), uint16_t(0));
}

namespace {
std::mutex mutex;
std::map<std::string, Counters>& totals() {
  static std::map<std::string, Counters> instance;
  return instance;
}
}  // namespace

std::map<std::string, Counters> all_counters() {
  const std::lock_guard lock(mutex);
  return totals();
}

void reset_counters() {
  const std::lock_guard lock(mutex);
  totals().clear();
}

void add_counters(const std::string& kernel, const Counters& counters) {
  const std::lock_guard lock(mutex);
  totals()[kernel] += counters;
}

}  // namespace fastconv::emulator
