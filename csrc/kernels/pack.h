// Brings tensors to the form that the tensor-core kernels read best, and their weight gradient back: channels last, a
// group's channels padded with zeros to whole 16-byte vectors, groups of few channels side by side on the diagonal,
// filters padded to whole strides.
//
//   pack     transposes through shared memory: positions are read side by side, channels written 16 bytes a lane.
//            A tile's row (one position) is 128 bytes of channels and one 4-byte word of padding, so that lanes at
//            neighbouring positions lie in neighbouring banks. Rows of no whole vectors are written by elements.
//            Traffic: `from` read once, `to` written once.
//   unpack   reduce_slices (reduce.h) with the elements' places exchanged. Reads are side by side, writes are where
//            `out` is channels last.
#pragma once

#include "device/device.h"
#include "kernels/pack_params.h"

namespace fastconv::kernels {

using namespace fastconv::device;

// A tile of the matrix, in shared memory: [position][channel].
template <class Word>
class PackedTile {
  static constexpr int words = 4 / int(sizeof(Word)), vector = 16 / int(sizeof(Word));

 public:
  FC_DEVICE PackedTile(const PackParams& p, const Shared<Word>& storage) : p_(p), storage_(storage) {
    const PackTile tile = pack_tile(sizeof(Word), p.padded);
    pitch_ = tile.channels + words;
    int64_t index = blockIdx.x;
    first_channel_ = int(index % p.channel_tiles) * tile.channels, index /= p.channel_tiles;
    first_position_ = index % p.position_tiles * tile.positions, index /= p.position_tiles;
    const int i = int(index % p.inner);
    const int64_t o = index / p.inner;
    channels_ = min(tile.channels, p.padded - first_channel_);
    positions_ = int(min(int64_t(tile.positions), p.positions - first_position_));
    first_source_ = i < p.inner_valid ? first_channel_ - i / p.shift_rows * p.channels : p.channels;
    from_ = static_cast<const Word*>(p.from) + o * p.from_outer + i * p.from_inner;
    to_ = static_cast<Word*>(p.to) + o * p.to_outer + i * p.to_inner;
  }

  FC_DEVICE void read() const {
    if (p_.vector_loads) {
      read_vectors();
    } else {
      read_elements(p_.from_channel == 1);
    }
  }

  FC_DEVICE void write() const {
    if (!p_.vector_stores) return write_elements();
    if (p_.padded < vector) return write_dense();
    using Vector = Vec<uint32_t, 4>;
    const int vectors = channels_ / vector;
    for (int q = int(threadIdx.x); q < positions_ * vectors; q += pack_threads) {
      const int position = q / vectors, c = q % vectors * vector;
      Vector value;
      FC_UNROLL
      for (int w = 0; w < 4; ++w) value[w] = storage_.template load_as<uint32_t>(position * pitch_ + c + w * words);
      store(as<Vector>(to_ + (first_position_ + position) * p_.to_position + first_channel_ + c), value);
    }
  }

 private:
  FC_DEVICE void write_elements() const {
    for (int q = int(threadIdx.x); q < positions_ * channels_; q += pack_threads) {
      const int position = q / channels_, c = q - position * channels_;
      store(to_ + (first_position_ + position) * p_.to_position + first_channel_ + c,
            storage_.load(position * pitch_ + c));
    }
  }

  // Less than a vector of channels: several positions make one, and `to` is dense.
  FC_DEVICE void write_dense() const {
    const int elements = positions_ * p_.padded;
    Word* const to = to_ + first_position_ * p_.padded;
    for (int q = int(threadIdx.x) * vector; q < elements; q += pack_threads * vector) {
      Vec<Word, vector> value{};
      FC_UNROLL
      for (int e = 0; e < vector; ++e) {
        const int position = (q + e) / p_.padded;
        if (q + e < elements) value[e] = storage_.load(position * pitch_ + (q + e) - position * p_.padded);
      }
      if (q + vector <= elements) {
        store(as<Vec<Word, vector>>(to + q), value);
      } else {
        FC_UNROLL
        for (int e = 0; e < vector; ++e) store_if(q + e < elements, to + q + e, value[e]);
      }
    }
  }

  FC_DEVICE bool exists(int c) const { return unsigned(first_source_ + c) < unsigned(p_.channels); }
  FC_DEVICE const Word* source(int c, int64_t position) const {
    return from_ + (first_source_ + c) * p_.from_channel + position * p_.from_position;
  }

  // Vectors of 32 positions, then the next channel: the elements of a warp's vectors lie in different banks.
  FC_DEVICE void read_vectors() const {
    constexpr int line = 32 / vector;
    const int halves = (positions_ + 31) / 32;
    for (int q = int(threadIdx.x); q < halves * channels_ * line; q += pack_threads) {
      const int c = q / line % channels_, position = q / line / channels_ * 32 + q % line * vector;
      if (position >= positions_) continue;
      const auto value = load_if(exists(c), as<Vec<Word, vector>>(source(c, first_position_ + position)));
      FC_UNROLL
      for (int e = 0; e < vector; ++e) storage_.store((position + e) * pitch_ + c, value[e]);
    }
  }

  // Neighbouring lanes along what is contiguous in `from`.
  FC_DEVICE void read_elements(bool along_channels) const {
    const int fast = along_channels ? channels_ : positions_;
    for (int q = int(threadIdx.x); q < positions_ * channels_; q += pack_threads) {
      const int slow = q / fast, rest = q - slow * fast;
      const int c = along_channels ? rest : slow, position = along_channels ? slow : rest;
      const int64_t at = position_in_run(first_position_ + position, p_.run, p_.from_run, p_.run_first);
      storage_.store(position * pitch_ + c, load_if(exists(c) && at >= 0, source(c, at)));
    }
  }

  const PackParams& p_;
  Shared<Word> storage_;
  int pitch_, first_channel_, channels_, positions_;
  int first_source_;  // of the tile's channel 0 in `from`
  int64_t first_position_;
  const Word* from_;
  Word* to_;
};

// A width's worth of bits: the dtype does not matter.
template <class Word>
FC_KERNEL(pack_threads, 1)
void pack(const FC_GRID_CONSTANT PackParams p) {
  FC_STATIC_SHARED(Word, storage, 64 * 132 / sizeof(Word));
  static_assert(256 * 20 <= 64 * 132, "the storage holds either tile");
  const PackedTile<Word> tile(p, storage);
  tile.read();
  sync_threads();
  tile.write();
}

template <class T>
FC_KERNEL(pack_threads, 1)
void unpack(const FC_GRID_CONSTANT UnpackParams p) {
  const float* partial = static_cast<const float*>(p.partial);
  const int row_elements = p.taps * p.padded;
  const int64_t elements = p.rows * row_elements, step = int64_t(gridDim.x) * pack_threads;
  for (int64_t i = int64_t(blockIdx.x) * pack_threads + threadIdx.x; i < elements; i += step) {
    const int64_t row = i / row_elements;
    const int rest = int(i - row * row_elements), tap = rest / p.padded;
    const int shift = int(row % (int64_t(p.merged) * p.group_rows)) / p.group_rows * p.channels;
    const int c = rest - tap * p.padded - shift;
    const int64_t to = position_in_run(tap, p.run, p.from_run, p.run_first);
    const bool on = unsigned(c) < unsigned(p.channels) && to >= 0;
    float sum = 0;
    for (int s = 0; s < p.slices; ++s) sum += load_if(on, partial + s * elements + i);
    store_if(on, static_cast<T*>(p.out) + row * p.out_row + c * p.out_channel + to * p.out_tap, narrow<T>(sum));
  }
}

}  // namespace fastconv::kernels
