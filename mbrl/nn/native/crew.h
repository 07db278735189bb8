// Threads that share a loop, kept from one loop to the next.

#pragma once

#include <functional>

namespace mbrl {

// Call work(part) for part = 0 to parts - 1, each on a thread of its own, the first on this one;
// return when all have. One loop at a time: another that begins meanwhile, on another thread of the
// caller's, runs its parts one after another, as does all where threads cannot be made. What is
// called must not throw.
void share(int parts, const std::function<void(int)>& work);

}  // namespace mbrl
