// Adam's step, for whatever instructions the file that includes this compiles for.

#pragma once

#if !defined(__GNUC__)
#include <cmath>
#endif

#include "perceptron.h"

namespace mbrl {
namespace {

// GCC's own is no function of a library; see passes.h.
#if defined(__GNUC__)
inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }
#else
template <class T>
T root(T x) {
  return std::sqrt(x);
}
#endif

template <class T>
void adam(std::ptrdiff_t count, const AdamStep& step, const T* gradient, T* value, T* first,
          T* second) {
  const T keep = static_cast<T>(step.first_decay), mix = static_cast<T>(1 - step.first_decay);
  const T hold = static_cast<T>(step.second_decay), add = static_cast<T>(1 - step.second_decay);
  const T rate = static_cast<T>(step.rate), scale = static_cast<T>(step.scale);
  const T eps = static_cast<T>(step.eps);
  if (step.is_first) {
    // Without their bias both moments are the gradient's own: nothing is read, no root is taken.
    for (std::ptrdiff_t i = 0; i < count; i++) {
      const T g = gradient[i], size = g < 0 ? -g : g;
      first[i] = mix * g;
      second[i] = add * g * g;
      value[i] -= static_cast<T>(step.lr) * g / (size + eps);
    }
    return;
  }
  for (std::ptrdiff_t i = 0; i < count; i++) {
    const T g = gradient[i], m = keep * first[i] + mix * g, v = hold * second[i] + add * g * g;
    first[i] = m;
    second[i] = v;
    value[i] -= rate * m / (root(v) * scale + eps);
  }
}

}  // namespace
}  // namespace mbrl
