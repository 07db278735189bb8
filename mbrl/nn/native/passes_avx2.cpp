#include "perceptron.h"

#if defined(MBRL_VARIANTS)

#include <cstring>
#include <utility>

#pragma GCC target("avx2,fma")

namespace mbrl {
namespace {
constexpr int kBytes = 32, kWide = 2;
}
}  // namespace mbrl

#include "passes.h"

namespace mbrl {
const Variant kAvx2{"avx2", kPasses<float>, kPasses<double>};
}

#endif
