// The passes, for vectors of kBytes bytes and tiles of kWide of them.
//
// A file sets these two, and what to compile for, and includes this. All is in an unnamed namespace
// and calls no function of a library, so that nothing compiled for one processor is linked into
// what runs on another.

#pragma once

#include "adam.h"
#include "lanes.h"
#include "perceptron.h"

namespace mbrl {
namespace {

constexpr int kTile = 4;  // lines of a panel that are made together

template <int N>
struct Count {
  static constexpr int value = N;
};

// Call f(Count<n>()) for n = count, 1 to kTile.
template <class F>
MBRL_INLINE void counted(int count, F f) {
  switch (count) {
    case 1: return f(Count<1>());
    case 2: return f(Count<2>());
    case 3: return f(Count<3>());
    default: return f(Count<4>());
  }
}

MBRL_INLINE int least(int a, int b) { return a < b ? a : b; }

template <class T>
MBRL_INLINE int vectors_of(int rows) {
  return (rows + kLanes<T> - 1) / kLanes<T>;
}

// Cover lines and vectors of a panel: f(how many lines, how many vectors, first line, first one).
template <class F>
MBRL_INLINE void tiles(int lines, int vectors, F f) {
  int v = 0;
  for (; v + kWide <= vectors; v += kWide) {
    for (int i = 0; i < lines; i += kTile) {
      counted(least(kTile, lines - i), [&](auto m) { f(m, Count<kWide>(), i, v); });
    }
  }
  for (; v < vectors; v++) {
    for (int i = 0; i < lines; i += kTile) {
      counted(least(kTile, lines - i), [&](auto m) { f(m, Count<1>(), i, v); });
    }
  }
}

// A tile of M lines and L vectors, in registers.
template <class T, int M, int L>
struct Tile {
  Vector<T> sum[M][L];

  MBRL_INLINE void clear() {
    MBRL_UNROLL
    for (int m = 0; m < M; m++) {
      MBRL_UNROLL
      for (int l = 0; l < L; l++) sum[m][l] = all(T(0));
    }
  }

  MBRL_INLINE void fill(const T* value) {
    MBRL_UNROLL
    for (int m = 0; m < M; m++) {
      MBRL_UNROLL
      for (int l = 0; l < L; l++) sum[m][l] = all(value[m]);
    }
  }

  // Line m gets the sum over n of weight[m * along + n * across] times line n of the panel.
  MBRL_INLINE void add(const T* weight, std::ptrdiff_t along, std::ptrdiff_t across, const T* panel,
           int lines) {
    for (int n = 0; n < lines; n++) {
      Vector<T> x[L];
      MBRL_UNROLL
      for (int l = 0; l < L; l++) x[l] = load(panel + n * kBlock + l * kLanes<T>);
      MBRL_UNROLL
      for (int m = 0; m < M; m++) {
        const T w = weight[m * along + n * across];
        MBRL_UNROLL
        for (int l = 0; l < L; l++) sum[m][l] += w * x[l];
      }
    }
  }

  MBRL_INLINE void cut_by(const T* panel) {
    MBRL_UNROLL
    for (int m = 0; m < M; m++) {
      MBRL_UNROLL
      for (int l = 0; l < L; l++) {
        sum[m][l] = cut(sum[m][l], load(panel + m * kBlock + l * kLanes<T>));
      }
    }
  }

  MBRL_INLINE void rectify() {
    MBRL_UNROLL
    for (int m = 0; m < M; m++) {
      MBRL_UNROLL
      for (int l = 0; l < L; l++) sum[m][l] = cut(sum[m][l], sum[m][l]);
    }
  }

  MBRL_INLINE void write(T* panel) const {
    MBRL_UNROLL
    for (int m = 0; m < M; m++) {
      MBRL_UNROLL
      for (int l = 0; l < L; l++) store(panel + m * kBlock + l * kLanes<T>, sum[m][l]);
    }
  }
};

// The sums of N vectors' lanes, in a fixed order, each over Width lanes; what is written is whole
// vectors.
template <class T, int Width, int N>
MBRL_INLINE void lane_sums(const Vector<T> (&v)[N], T* out) {
  if constexpr (Width == 1) {
    MBRL_UNROLL
    for (int i = 0; i < N; i++) store(out + i * kLanes<T>, v[i]);
  } else {
    constexpr int half = (N + 1) / 2;
    Vector<T> sums[half];
    MBRL_UNROLL
    for (int i = 0; i < half; i++) sums[i] = halved<T>(v[2 * i], v[least(2 * i + 1, N - 1)]);
    lane_sums<T, Width / 2, half>(sums, out);
  }
}

// Columns of a batch's rows as the lines of a panel; lanes past the last row repeat it or are zero.
template <class T>
MBRL_INLINE void read_panel(const T* from, std::ptrdiff_t row, std::ptrdiff_t column, int rows,
                       int columns, bool repeat, T* panel) {
  const int end = vectors_of<T>(rows) * kLanes<T>;
  for (int c = 0; c < columns; c++) {
    const T* source = from + c * column;
    T* line = panel + c * kBlock;
    if (row == 1) {
      std::memcpy(line, source, rows * sizeof(T));
    } else {
      for (int r = 0; r < rows; r++) line[r] = source[r * row];
    }
    const T rest = repeat ? line[rows - 1] : T(0);
    for (int r = rows; r < end; r++) line[r] = rest;
  }
}

template <class T>
MBRL_INLINE void write_panel(const T* panel, int rows, int columns, int batch, T* out) {
  for (int c = 0; c < columns; c++) {
    std::memcpy(out + static_cast<std::ptrdiff_t>(c) * batch, panel + c * kBlock,
                rows * sizeof(T));
  }
}

// Of a layer, K units in and J out: their products' sums over rows.
template <class T, int K, int J>
MBRL_INLINE void add_products(const T* x, std::ptrdiff_t x_block, const T* d, std::ptrdiff_t d_block,
                         int rows, T* out, int outputs) {
  Vector<T> sum[K * J];
  MBRL_UNROLL
  for (int i = 0; i < K * J; i++) sum[i] = all(T(0));
  for (; rows > 0; rows -= kBlock, x += x_block, d += d_block) {
    const int vectors = vectors_of<T>(least(rows, kBlock));
    for (int v = 0; v < vectors; v++) {
      Vector<T> right[J];
      MBRL_UNROLL
      for (int j = 0; j < J; j++) right[j] = load(d + j * kBlock + v * kLanes<T>);
      MBRL_UNROLL
      for (int k = 0; k < K; k++) {
        const Vector<T> left = load(x + k * kBlock + v * kLanes<T>);
        MBRL_UNROLL
        for (int j = 0; j < J; j++) sum[k * J + j] += left * right[j];
      }
    }
  }
  T total[K * J + kLanes<T>];
  lane_sums<T, kLanes<T>, K * J>(sum, total);
  MBRL_UNROLL
  for (int k = 0; k < K; k++) {
    MBRL_UNROLL
    for (int j = 0; j < J; j++) out[k * outputs + j] += total[k * J + j];
  }
}

template <class T, int J>
MBRL_INLINE void add_sums(const T* d, std::ptrdiff_t d_block, int rows, T* out) {
  Vector<T> sum[J];
  MBRL_UNROLL
  for (int j = 0; j < J; j++) sum[j] = all(T(0));
  for (; rows > 0; rows -= kBlock, d += d_block) {
    const int vectors = vectors_of<T>(least(rows, kBlock));
    for (int v = 0; v < vectors; v++) {
      MBRL_UNROLL
      for (int j = 0; j < J; j++) sum[j] += load(d + j * kBlock + v * kLanes<T>);
    }
  }
  T total[J + kLanes<T>];
  lane_sums<T, kLanes<T>, J>(sum, total);
  MBRL_UNROLL
  for (int j = 0; j < J; j++) out[j] += total[j];
}

// The gradient of a layer's weights and biases.
template <class T>
void add_gradient(const T* x, std::ptrdiff_t x_block, const T* d, std::ptrdiff_t d_block, int rows,
                  int inputs, int outputs, T* out) {
  for (int k = 0; k < inputs; k += kTile) {
    counted(least(kTile, inputs - k), [&](auto count_k) {
      for (int j = 0; j < outputs; j += kWide) {
        counted(least(kWide, outputs - j), [&](auto count_j) {
          add_products<T, count_k.value, count_j.value>(x + k * kBlock, x_block, d + j * kBlock,
                                                        d_block, rows,
                                                        out + k * outputs + j, outputs);
        });
      }
    });
  }
  for (int j = 0; j < outputs; j += kTile) {
    counted(least(kTile, outputs - j), [&](auto count_j) {
      add_sums<T, count_j.value>(d + j * kBlock, d_block, rows, out + inputs * outputs + j);
    });
  }
}

// What a cotangent of a layer's outputs is of its inputs; ``active`` are these, null the network's.
template <class T>
void pull(const T* weight, const T* d, const T* active, int rows, int inputs, int outputs,
          T* pulled) {
  tiles(inputs, vectors_of<T>(rows), [&](auto m, auto l, int i, int v) {
    const int at = i * kBlock + v * kLanes<T>;
    Tile<T, m.value, l.value> tile;
    tile.clear();
    tile.add(weight + i * outputs, outputs, 1, d + v * kLanes<T>, outputs);
    if (active) tile.cut_by(active + at);
    tile.write(pulled + at);
  });
}

// Where things are: blocks of the tape, and networks among the parameters and in what is made.
struct Places {
  const Network& network;
  int batch, blocks = blocks_of(batch);

  int rows(int block) const { return least(kBlock, batch - block * kBlock); }

  template <class P>
  P* input_panel(P* tape, int seed, int block) const {
    return tape + (static_cast<std::ptrdiff_t>(seed) * blocks + block) * network.inputs * kBlock;
  }

  template <class P>
  P* hidden_panel(P* tape, int member, int block) const {
    return tape + (static_cast<std::ptrdiff_t>(member) * blocks + block) * network.hidden * kBlock;
  }

  template <class P>
  P* parameters(Rows<P> theta, int member) const {
    return theta.at + member / network.copies * theta.seed + member % network.copies * network.size;
  }

  template <class P>
  P* made(P* out, int leading, int columns, int block) const {
    return out + static_cast<std::ptrdiff_t>(leading) * columns * batch + block * kBlock;
  }
};

template <class T>
void forward(const Network& network, int seeds, int batch, Rows<const T> theta,
             Cube<const T> value, T* inputs, T* hidden, T* output, T* scratch) {
  const Places places{network, batch};
  const std::ptrdiff_t room = static_cast<std::ptrdiff_t>(network.widest) * kBlock;
  for (int member = 0; member < seeds * network.copies; member++) {
    const int seed = member / network.copies;
    for (int block = 0; block < places.blocks; block++) {
      const int rows = places.rows(block);
      T* x = inputs ? places.input_panel(inputs, seed, block) : scratch + room;
      if (!inputs || member % network.copies == 0) {
        read_panel(value.at + seed * value.leading + block * kBlock * value.row, value.row,
                   value.column, rows, network.inputs, true, x);
      }
      T* y = hidden ? places.hidden_panel(hidden, member, block) : scratch + 2 * room;
      const T* weight = places.parameters(theta, member);
      for (int layer = 0; layer < network.layers; layer++) {
        const int before = network.widths[layer], after = network.widths[layer + 1];
        const T* bias = weight + before * after;
        const bool last = layer == network.layers - 1;
        if (last) y = scratch;
        tiles(after, vectors_of<T>(rows), [&](auto m, auto l, int i, int v) {
          Tile<T, m.value, l.value> tile;
          tile.fill(bias + i);
          tile.add(weight + i, 1, after, x + v * kLanes<T>, before);
          if (!last) tile.rectify();
          tile.write(y + i * kBlock + v * kLanes<T>);
        });
        weight = bias + after;
        T* const free = x;
        x = y;
        y = hidden ? y + after * kBlock : free;
      }
      write_panel(scratch, rows, network.outputs, batch,
                  places.made(output, member, network.outputs, block));
    }
  }
}

template <class T>
void gradient(const Network& network, int seeds, int batch, Rows<const T> theta, const T* inputs,
              const T* hidden, Cube<const T> cotangent, Rows<T> out, T* scratch) {
  const Places places{network, batch};
  const std::ptrdiff_t room = static_cast<std::ptrdiff_t>(network.widest) * kBlock;
  // As many blocks as make 1 KB of every line: then sums over lanes cost little, and two layers
  // of some tens of units stay in the innermost cache.
  constexpr int kChunk = 1024 / (kBlock * static_cast<int>(sizeof(T)));
  for (int member = 0; member < seeds * network.copies; member++) {
    const T* weights = places.parameters(theta, member);
    T* gradients = places.parameters(out, member);
    for (std::ptrdiff_t i = 0; i < network.size; i++) gradients[i] = 0;
    for (int first = 0; first < places.blocks; first += kChunk) {
      const int end = least(first + kChunk, places.blocks);
      const int rows = least(batch - first * kBlock, kChunk * kBlock);
      T *d = scratch, *pulled = scratch + kChunk * room;
      for (int block = first; block < end; block++) {
        read_panel(cotangent.at + member * cotangent.leading + block * kBlock * cotangent.row,
                   cotangent.row, cotangent.column, places.rows(block), network.outputs, false,
                   d + (block - first) * room);
      }
      std::ptrdiff_t at = network.size, line = network.hidden;
      for (int layer = network.layers - 1; layer >= 0; layer--) {
        const int before = network.widths[layer], after = network.widths[layer + 1];
        at -= (before + 1) * static_cast<std::ptrdiff_t>(after);
        if (layer == 0) {
          add_gradient(places.input_panel(inputs, member / network.copies, first),
                       static_cast<std::ptrdiff_t>(before) * kBlock, d, room, rows, before, after,
                       gradients + at);
          break;
        }
        line -= before;
        const T* x = places.hidden_panel(hidden, member, first) + line * kBlock;
        const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(network.hidden) * kBlock;
        add_gradient(x, step, d, room, rows, before, after, gradients + at);
        for (int block = 0; block < end - first; block++) {
          pull(weights + at, d + block * room, x + block * step, places.rows(first + block),
               before, after, pulled + block * room);
        }
        T* const free = d;
        d = pulled;
        pulled = free;
      }
    }
  }
}

template <class T>
void input_gradient(const Network& network, int seeds, int batch, Rows<const T> theta,
                    const T* hidden, Cube<const T> cotangent, T* out, T* scratch) {
  const Places places{network, batch};
  const std::ptrdiff_t room = static_cast<std::ptrdiff_t>(network.widest) * kBlock;
  T* const total = scratch + 2 * room;
  for (int seed = 0; seed < seeds; seed++) {
    for (int block = 0; block < places.blocks; block++) {
      const int rows = places.rows(block);
      for (int copy = 0; copy < network.copies; copy++) {
        const int member = seed * network.copies + copy;
        T *d = scratch, *pulled = scratch + room;
        read_panel(cotangent.at + member * cotangent.leading + block * kBlock * cotangent.row,
                   cotangent.row, cotangent.column, rows, network.outputs, false, d);
        const T* weight = places.parameters(theta, member) + network.size;
        const T* active = places.hidden_panel(hidden, member, block) + network.hidden * kBlock;
        for (int layer = network.layers - 1; layer >= 0; layer--) {
          const int before = network.widths[layer], after = network.widths[layer + 1];
          weight -= (before + 1) * static_cast<std::ptrdiff_t>(after);
          if (layer) active -= before * kBlock;
          pull(weight, d, layer ? active : nullptr, rows, before, after, pulled);
          T* const free = d;
          d = pulled;
          pulled = free;
        }
        for (int i = 0; i < network.inputs * kBlock; i++) {
          total[i] = copy ? total[i] + d[i] : d[i];
        }
      }
      write_panel(total, rows, network.inputs, batch,
                  places.made(out, seed, network.inputs, block));
    }
  }
}

template <class T>
void derivative(const Network& network, int seeds, int batch, Rows<const T> theta,
                const T* inputs, const T* hidden, Rows<const T> tangent, T* out, T* scratch) {
  const Places places{network, batch};
  const std::ptrdiff_t room = static_cast<std::ptrdiff_t>(network.widest) * kBlock;
  for (int member = 0; member < seeds * network.copies; member++) {
    for (int block = 0; block < places.blocks; block++) {
      const int rows = places.rows(block);
      const T* x = places.input_panel(inputs, member / network.copies, block);
      const T* active = places.hidden_panel(hidden, member, block);
      const T *weight = places.parameters(theta, member),
              *change = places.parameters(tangent, member);
      T *moved = scratch, *made = scratch + room;
      for (int layer = 0; layer < network.layers; layer++) {
        const int before = network.widths[layer], after = network.widths[layer + 1];
        const bool last = layer == network.layers - 1;
        tiles(after, vectors_of<T>(rows), [&](auto m, auto l, int i, int v) {
          const int lane = v * kLanes<T>;
          Tile<T, m.value, l.value> tile;
          tile.fill(change + before * after + i);
          tile.add(change + i, 1, after, x + lane, before);
          if (layer) tile.add(weight + i, 1, after, moved + lane, before);
          if (!last) tile.cut_by(active + i * kBlock + lane);
          tile.write(made + i * kBlock + lane);
        });
        const std::ptrdiff_t size = (before + 1) * static_cast<std::ptrdiff_t>(after);
        weight += size;
        change += size;
        x = active;
        active += after * kBlock;
        T* const free = moved;
        moved = made;
        made = free;
      }
      write_panel(moved, rows, network.outputs, batch,
                  places.made(out, member, network.outputs, block));
    }
  }
}

template <class T>
constexpr Passes<T> kPasses{forward<T>, gradient<T>, input_gradient<T>, derivative<T>,
                              adam<T>};

}  // namespace
}  // namespace mbrl
