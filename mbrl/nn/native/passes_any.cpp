namespace mbrl {
namespace {
constexpr int kBytes = 16, kWide = 2;
}
}  // namespace mbrl

#include "passes.h"

namespace mbrl {
const Variant kAny{"any", kPasses<float>, kPasses<double>};
}
