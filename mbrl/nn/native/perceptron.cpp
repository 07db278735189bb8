#include "perceptron.h"

#include <algorithm>
#include <numeric>

namespace mbrl {

int Network::hidden() const {
  return std::accumulate(widths.begin() + 1, widths.end() - 1, 0);
}

int Network::widest() const { return *std::max_element(widths.begin(), widths.end()); }

std::ptrdiff_t Network::size() const {
  std::ptrdiff_t sum = 0;
  for (int i = 0; i < layers(); i++) {
    sum += (widths[i] + std::ptrdiff_t{1}) * widths[i + 1];
  }
  return sum;
}

std::vector<const Variant*> variants() {
  std::vector<const Variant*> found;
#if defined(MBRL_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(&kAvx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kAvx2);
#endif
  found.push_back(&kAny);
  return found;
}

}  // namespace mbrl
