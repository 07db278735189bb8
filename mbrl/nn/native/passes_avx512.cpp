#include "perceptron.h"

#if defined(MBRL_VARIANTS)

#include <cstring>
#include <utility>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

namespace mbrl {
namespace {
constexpr int kBytes = 64, kWide = 4;
}
}  // namespace mbrl

#include "passes.h"

namespace mbrl {
const Variant kAvx512{"avx512", kPasses<float>, kPasses<double>};
}

#endif
