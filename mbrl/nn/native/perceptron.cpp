#include "perceptron.h"

namespace mbrl {

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
