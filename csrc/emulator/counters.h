// What a kernel asks of memory, counted as the hardware would serve it. A request is one access instruction of a warp;
// it is served in 32-byte sectors (global memory) or in wavefronts of 32 four-byte banks (shared memory). Lanes run one
// after another here, so a request is put together afterwards: from the n-th access of each lane at one place in the
// source since the warp last met in a barrier. This does not depend on the schedule or on OS threads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "emulator/site.h"

namespace fastconv::emulator {

enum class Space : uint8_t { global_load, global_store, global_atomic, shared_load, shared_store, shared_atomic };
constexpr int space_count = 6;
inline bool is_shared(Space space) { return space >= Space::shared_load; }
const char* name_of(Space space);

struct Traffic {
  int64_t requests = 0;
  int64_t units = 0;     // sectors or wavefronts
  int64_t ideal = 0;     // the fewest units that could carry the distinct bytes of each request
  int64_t bytes = 0;     // of all lanes
  int64_t distinct = 0;  // sectors, of which each block counts each once
};

struct Counters {
  int64_t launches = 0, blocks = 0, threads = 0;
  int64_t barriers = 0;  // sync_threads and named barriers completed
  int64_t mma = 0;       // tensor-core instructions, one for a warp
  int64_t mma_flops = 0;
  Traffic traffic[space_count];

  Counters& operator+=(const Counters& other);
};

// The sectors that a block has asked for: what L2 is asked for where L1 keeps them.
class SectorSet {
 public:
  bool add(uint64_t sector) {  // whether it is new
    if (sector == last_) return false;
    last_ = sector;
    return insert(sector);
  }
  void clear();

 private:
  bool insert(uint64_t sector);
  void grow();
  static constexpr int sector_bits = 40;
  uint64_t last_ = ~uint64_t(0), stamp_ = 1;
  size_t count_ = 0;
  std::vector<uint64_t> table_ = std::vector<uint64_t>(1024);  // stamp, sector; a power of two
};

// The accesses of one warp's lanes, on their way to becoming requests.
class WarpLog {
 public:
  // `address` counts from a 128-byte boundary, modulo 4 GB.
  void record(Site site, Space space, int bytes, int lane, uint32_t address, Counters& counters) {
    Stream& at = stream(site, space, bytes, counters);
    Request& request = next_request(at, lane);
    request.lanes |= 1u << lane;
    request.address[lane] = address;
    if (request.lanes == 0xffffffffu) [[unlikely]]
      close(at, request, counters);
  }
  // The lane's predicate is off: the request is the other lanes', and its next access belongs to the next one.
  void skip(Site site, Space space, int bytes, int lane, Counters& counters) {
    next_request(stream(site, space, bytes, counters), lane);
  }
  // The warp's lanes have met: what they do from now on belongs to other requests.
  void flush(Counters& counters);
  void clear();

 private:
  struct Request {
    uint32_t lanes = 0;
    uint32_t address[32];
  };
  struct Stream {  // the accesses at one place in the source
    const void* key;
    Space space;
    int bytes;
    size_t following = 0;    // where a lane went next
    uint32_t used = 0;       // requests
    uint32_t next[32] = {};  // which request a lane's next access belongs to
    std::vector<Request> requests;
  };
  // The lanes of a warp go through the same places in the same order: first look where the last lane went from here.
  Stream& stream(Site site, Space space, int bytes, Counters& counters) {
    size_t here = streams_.empty() ? 0 : streams_[last_].following;
    if (here >= streams_.size() || streams_[here].key != key_of(site) || streams_[here].bytes != bytes ||
        streams_[here].space != space) [[unlikely]]
      here = find(site, space, bytes, counters);
    last_ = here;
    return streams_[here];
  }
  static Request& next_request(Stream& at, int lane) {
    const uint32_t index = at.next[lane]++;
    if (index >= at.used) [[unlikely]]
      open_request(at, index);
    return at.requests[index];
  }
  size_t find(Site site, Space space, int bytes, Counters& counters);
  static void open_request(Stream& at, uint32_t index);
  static void close(Stream& at, Request& request, Counters& counters);

  static constexpr size_t table_size = 1024;
  std::vector<Stream> streams_;
  size_t last_ = 0;
  std::vector<uint16_t> table_ = std::vector<uint16_t>(table_size);  // hash of the place -> index in streams_ + 1
};

// Adds one request of `lanes` lanes; `address` is indexed by lane. Used directly by collectives, whose lanes come
// together.
void tally(Space space, int bytes, uint32_t lanes, const uint32_t* address, Traffic& traffic);

// Totals by kernel name since the start or the last reset, over all launches of the process.
std::map<std::string, Counters> all_counters();
void reset_counters();
void add_counters(const std::string& kernel, const Counters& counters);

}  // namespace fastconv::emulator
