// Perceptrons with ReLUs, several seeds and copies at once: passes forward and back, and Adam's step.
// What they compute is said in mbrl/nn/flat_mlp.py and mbrl/nn/flat_adam.py.

#pragma once

#include <cstddef>
#include <vector>

// Compiled once more for newer processors, which is chosen between when the library is loaded.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(MBRL_NO_CLONES)
#define MBRL_VARIANTS
#endif

namespace mbrl {

// Rows of a batch are handled in blocks, each kept as a panel: one line of kBlock numbers per unit,
// so that the lanes of vectors are rows and no width is too odd for them.
constexpr int kBlock = 64;

struct Network {
  int copies, layers;
  const int* widths;            // of the input, the hidden layers and the output
  int inputs, hidden, outputs;  // units, of all hidden layers
  int widest;                   // layer
  std::ptrdiff_t size;          // parameters of one copy
};

inline int blocks_of(int batch) { return (batch + kBlock - 1) / kBlock; }

template <class T>
struct Rows {  // parameters of one seed after the other
  T* at;
  std::ptrdiff_t seed;
};

template <class T>
struct Cube {  // [leading, batch, columns], anyhow in memory
  T* at;
  std::ptrdiff_t leading, row, column;
};

struct AdamStep {
  double lr, first_decay, second_decay, eps;
  bool is_first;
  double rate, scale;  // lr and the root of the second moment, their bias removed
};

// Tapes are panels: inputs [seeds, blocks, inputs, kBlock] and hidden [seeds * copies, blocks,
// hidden units, kBlock]; forward leaves none where both are null. What is written is [.., columns,
// batch].
template <class T>
struct Passes {
  void (*forward)(const Network&, int seeds, int batch, Rows<const T> theta, Cube<const T> value,
                  T* inputs, T* hidden, T* output, T* scratch);
  void (*gradient)(const Network&, int seeds, int batch, Rows<const T> theta, const T* inputs,
                   const T* hidden, Cube<const T> cotangent, Rows<T> out, T* scratch);
  void (*input_gradient)(const Network&, int seeds, int batch, Rows<const T> theta,
                         const T* hidden, Cube<const T> cotangent, T* out, T* scratch);
  void (*derivative)(const Network&, int seeds, int batch, Rows<const T> theta, const T* inputs,
                     const T* hidden, Rows<const T> tangent, T* out, T* scratch);
  void (*adam)(std::ptrdiff_t count, const AdamStep&, const T* gradient, T* value, T* first,
               T* second);
};

constexpr int kScratchPanels = 8;  // of the widest layer: what scratch has room for

struct Variant {
  const char* name;
  Passes<float> single;
  Passes<double> twofold;
};

extern const Variant kAvx512, kAvx2, kAny;

std::vector<const Variant*> variants();  // that run on this processor, the fastest first

}  // namespace mbrl
