// The epilogue of the tensor-core kernels. A warp's accumulators leave through shared memory, a few lines of the result
// at a time, so that its lanes store whole 16-byte vectors side by side. A *line* is contiguous in the result, its
// *run* the warp's part of it: along the rows of the GEMM (a position's channels in NHWC) or along its columns (a
// channel's positions in NCHW, a channel's filter in wgrad). What is stored at (row, column) lies at
// rows(row) + columns(column), either negative for nowhere.
#pragma once

#include "kernels/epilogue.h"
#include "kernels/igemm_tile.h"

namespace fastconv::kernels {

// Eight lanes should read 128 bytes from different banks. So the second halves of the 16-byte vectors that a run will
// be narrowed to lie behind all first halves; and where four vectors make a run, neighbouring groups of four lanes take
// lines that lie half the banks apart.
template <class Element, bool AlongRows, int Run>
struct LineScratch {
  static constexpr int vector = 16 / int(sizeof(Element)), lines = AlongRows ? 8 : 16;
  static constexpr int halves = vector / 4, second = Run / 2 + 4;
  static constexpr int leading = Run + (AlongRows ? 4 : 8);
  static constexpr int elements = lines * leading;
  static constexpr int line_vectors = Run / vector, apart = AlongRows ? 4 : 2;

  FC_DEVICE static int at(int line, int i) {
    if constexpr (halves == 1) return line * leading + i;
    return line * leading + i / 8 * 4 + i % 8 / 4 * second + i % 4;
  }
  // Of vector q, in the order in which the lanes take them.
  FC_DEVICE static int line(int q) {
    const int line = q / line_vectors;
    if constexpr (line_vectors != 4) return line;
    return line / (2 * apart) * (2 * apart) + line % 2 * apart + line / 2 % apart;
  }
};

// The sums of `group` of lines (a column of mma blocks, or a row of them) into scratch.
template <bool AlongRows, class Scratch, class Sums>
FC_DEVICE void put_lines(const Sums& sums, const Shared<float>& scratch, int group) {
  const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  FC_UNROLL
  for (int other = 0; other < (AlongRows ? Sums::down : Sums::across); ++other) {
    const auto& sum = AlongRows ? sums.sum[other][group] : sums.sum[group][other];
    FC_UNROLL
    for (int half = 0; half < 2; ++half) {
      if constexpr (AlongRows) {
        FC_UNROLL
        for (int e = 0; e < 2; ++e) scratch.store(Scratch::at(2 * t + e, 16 * other + 8 * half + g), sum[2 * half + e]);
      } else {
        scratch.template store_as<Vec<float, 2>>(Scratch::at(8 * half + g, 8 * other + 2 * t),
                                                 {sum[2 * half], sum[2 * half + 1]});
      }
    }
  }
}

// `rows` and `columns` are of the warp's part; the epilogue's bias[0] is of its row 0. `vectors`: whole vectors of a
// run lie in `out` (and the residual, if any), aligned, or not at all. The loop over the groups is not unrolled, for
// its body holds the code of every activation.
template <bool AlongRows, class Element, class Tiling, class Sums, class Rows, class Columns>
FC_DEVICE void store_lines(const Sums& sums, Element* out, const Epilogue<Element>& epilogue, bool vectors, Rows rows,
                           Columns columns) {
  constexpr int length = AlongRows ? Tiling::warp_rows : Tiling::warp_columns;
  using Scratch = LineScratch<Element, AlongRows, length>;
  constexpr int vector = Scratch::vector, groups = AlongRows ? Sums::across : Sums::down;
  constexpr int vectors_a_lane = Scratch::lines * Scratch::line_vectors / 32;
  using Elements = Vec<Element, vector>;
  static_assert(32 % Scratch::line_vectors == 0, "a lane keeps its place in a run");
  static_assert(vectors_a_lane * 32 == Scratch::lines * Scratch::line_vectors);
  static_assert(length <= 32 ? 32 % length == 0 : AlongRows);
  const int lane = int(threadIdx.x) % 32, first = lane % Scratch::line_vectors * vector;
  const Shared<float> scratch = dynamic_shared<float>() + int(threadIdx.x) / 32 * Scratch::elements;
  const Element* const bias = epilogue.bias;
  const auto of_line = [&](int line) { return AlongRows ? columns(line) : rows(line); };
  const auto of_run = [&](int i) { return AlongRows ? rows(i) : columns(i); };
  // Finding a position divides, so it is done once: a lane keeps its place in a run of 32.
  const int64_t in_run = of_run(vectors ? first : lane % length);
  const Elements run_biases = load_if(AlongRows && bias && vectors && in_run >= 0, as<Elements>(bias + first));
  FC_NO_UNROLL
  for (int group = 0; group < groups; ++group) {
    // The residual is on its way while the sums go through scratch.
    int64_t to[vectors_a_lane];
    Elements added[vectors_a_lane];
    FC_UNROLL
    for (int v = 0; v < vectors_a_lane; ++v) {
      to[v] = vectors ? of_line(group * Scratch::lines + Scratch::line(lane + 32 * v)) : int64_t(-1);
      if (in_run < 0) to[v] = -1;
      if (to[v] >= 0) to[v] += in_run;
      added[v] = load_if(epilogue.residual && to[v] >= 0, as<Elements>(epilogue.residual + to[v]));
    }
    FC_UNROLL
    for (int g = 0; g < groups; ++g)
      if (g == group) put_lines<AlongRows, Scratch>(sums, scratch, g);  // an index known when compiling
    sync_warp();
    if (vectors) {
      FC_UNROLL
      for (int v = 0; v < vectors_a_lane; ++v) {
        const int line = Scratch::line(lane + 32 * v);
        Elements biases = run_biases;
        if constexpr (!AlongRows) {
          const Element one = load_if(bias && to[v] >= 0, bias + group * Scratch::lines + line);
          FC_UNROLL
          for (int e = 0; e < vector; ++e) biases[e] = one;
        }
        Vec<float, vector> values;
        FC_UNROLL
        for (int e = 0; e < vector; e += 4) {
          const auto four = scratch.template load_as<Vec<float, 4>>(Scratch::at(line, first + e));
          FC_UNROLL
          for (int i = 0; i < 4; ++i) values[e + i] = four[i] + widen(biases[e + i]);
        }
        store_if(to[v] >= 0, as<Elements>(out + to[v]), epilogue.finish(values, added[v]));
      }
    } else {
      FC_NO_UNROLL
      for (int q = lane; q < Scratch::lines * length; q += 32) {
        const int line = q / length, i = q % length;
        const int64_t at = of_line(group * Scratch::lines + line), in = length > 32 ? of_run(i) : in_run;
        const int row = AlongRows ? i : group * Scratch::lines + line;
        const bool on = at >= 0 && in >= 0;
        const Vec<float, 1> sum{{scratch.load(Scratch::at(line, i))}};
        store_if(on, out + at + in, epilogue.finish(sum, on, row, 1, at + in)[0]);
      }
    }
    sync_warp();
  }
}

}  // namespace fastconv::kernels
