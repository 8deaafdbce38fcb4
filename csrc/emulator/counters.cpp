#include "emulator/counters.h"

#include <algorithm>
#include <mutex>
#include <utility>

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
    traffic[i].distinct += other.traffic[i].distinct;
  }
  return *this;
}

namespace {

// Sorts, unless sorted already (it nearly always is), and drops duplicates; returns how many are left.
int distinct(uint32_t* values, int count) {
  if (!std::is_sorted(values, values + count)) std::sort(values, values + count);
  return int(std::unique(values, values + count) - values);
}

// How many wavefronts it takes when every bank gives one word in each, to as many lanes as want it.
int longest_bank(const uint32_t* words, int count) {
  int load[32] = {}, longest = 0;
  for (int i = 0; i < count; ++i) longest = std::max(longest, ++load[words[i] % 32]);
  return longest;
}

// Wide accesses are served a half (8 bytes) or a quarter (16 bytes) of the warp at a time, except that parts whose
// words have no conflict share a wavefront (lanes that read the same words, mostly).
int wavefronts(int bytes, uint32_t lanes, const uint32_t* address) {
  const int part = bytes <= 4 ? 32 : 128 / bytes, words = bytes <= 4 ? 1 : bytes / 4;
  int total = 0, kept = 0;
  uint32_t wanted[64];  // the words of the wavefront that is being filled, then those of this part
  for (int first = 0; first < 32; first += part) {
    int count = kept;
    for (int lane = first; lane < first + part; ++lane)
      if (lanes >> lane & 1)
        for (int word = 0; word < words; ++word) wanted[count++] = address[lane] / 4 + uint32_t(word);
    if (count == kept) continue;
    uint32_t merged[64];
    std::copy(wanted, wanted + count, merged);
    int together = distinct(merged, count);
    if (kept > 0 && longest_bank(merged, together) > 1) {  // begin anew with this part alone
      std::copy(wanted + kept, wanted + count, merged);
      together = distinct(merged, count - kept);
      kept = 0;
    }
    const int turns = longest_bank(merged, together);
    total += kept > 0 ? 0 : turns;
    kept = turns == 1 ? together : 0;
    std::copy(merged, merged + kept, wanted);
  }
  return total;
}

// The commonest request: all lanes, one element after the other.
bool is_contiguous(int bytes, uint32_t lanes, const uint32_t* address) {
  if (lanes != 0xffffffffu) return false;
  uint32_t wrong = 0;
  for (uint32_t lane = 0; lane < 32; ++lane) wrong |= address[lane] ^ (address[0] + lane * uint32_t(bytes));
  return wrong == 0;
}

}  // namespace

void tally(Space space, int bytes, uint32_t lanes, const uint32_t* address, Traffic& traffic) {
  const int unit = is_shared(space) ? 128 : 32;
  ++traffic.requests;
  traffic.bytes += __builtin_popcount(lanes) * bytes;
  if (is_contiguous(bytes, lanes, address)) {
    const uint32_t first = address[0], last = first + 32 * uint32_t(bytes) - 1;
    const int ideal = std::max(1, 32 * bytes / unit);
    traffic.ideal += ideal;
    traffic.units += is_shared(space) ? ideal : int(last / 32 - first / 32 + 1);
    return;
  }
  uint32_t touched[32];
  int count = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) touched[count++] = address[__builtin_ctz(rest)];
  count = distinct(touched, count);
  traffic.ideal += (count * bytes + unit - 1) / unit;
  if (is_shared(space)) {
    traffic.units += wavefronts(bytes, lanes, address);
  } else {
    for (int i = 0; i < count; ++i) touched[i] /= 32;
    traffic.units += std::unique(touched, touched + count) - touched;
  }
}

bool SectorSet::insert(uint64_t sector) {
  const uint64_t entry = stamp_ << sector_bits | sector;
  size_t slot = size_t((sector * 0x9e3779b97f4a7c15u) >> 32) % table_.size();
  for (; table_[slot] >> sector_bits == stamp_; slot = (slot + 1) % table_.size())
    if (table_[slot] == entry) return false;
  table_[slot] = entry;
  if (2 * ++count_ > table_.size()) grow();
  return true;
}

void SectorSet::grow() {
  const std::vector<uint64_t> before(4 * table_.size());
  std::vector<uint64_t> kept = std::exchange(table_, before);
  count_ = 0;
  for (uint64_t entry : kept)
    if (entry >> sector_bits == stamp_) insert(entry & ((uint64_t(1) << sector_bits) - 1));
}

void SectorSet::clear() {
  count_ = 0, last_ = ~uint64_t(0);
  if (++stamp_ >> (64 - sector_bits)) std::fill(table_.begin(), table_.end(), uint64_t(0)), stamp_ = 1;
}

size_t WarpLog::find(Site site, Space space, int bytes, Counters& counters) {
  if (streams_.size() > table_size / 2) flush(counters), clear();
  size_t slot = (reinterpret_cast<uintptr_t>(key_of(site)) / 8 + unsigned(bytes)) % table_size;
  for (; table_[slot]; slot = (slot + 1) % table_size) {
    const Stream& found = streams_[table_[slot] - 1u];
    if (found.key == key_of(site) && found.space == space && found.bytes == bytes) break;
  }
  if (!table_[slot]) {
    streams_.push_back({key_of(site), space, bytes, 0, 0, {}, {}});
    table_[slot] = uint16_t(streams_.size());
  }
  const size_t found = table_[slot] - 1u;
  if (last_ < streams_.size()) streams_[last_].following = found;
  return found;
}

void WarpLog::open_request(Stream& at, uint32_t index) {
  at.used = index + 1;
  if (at.requests.size() < at.used) at.requests.emplace_back();
}

void WarpLog::close(Stream& at, Request& request, Counters& counters) {
  tally(at.space, at.bytes, request.lanes, request.address, counters.traffic[int(at.space)]);
  request.lanes = 0;
}

void WarpLog::flush(Counters& counters) {
  for (Stream& at : streams_) {
    if (!at.used) continue;
    for (uint32_t i = 0; i < at.used; ++i)
      if (at.requests[i].lanes) close(at, at.requests[i], counters);
    at.used = 0;
    std::fill(std::begin(at.next), std::end(at.next), 0u);
  }
}

void WarpLog::clear() {
  streams_.clear();
  last_ = 0;
  std::fill(table_.begin(), table_.end(), uint16_t(0));
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
