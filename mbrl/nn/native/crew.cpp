#include "crew.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace mbrl {
namespace {

constexpr int kMostParts = 1 << 16;

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;  // where processes do not fork
#endif
}

// To wake a thread that sleeps takes as long as a small pass: whoever waits looks for so long
// first, longer than it is from most passes to the next.
constexpr auto kLook = std::chrono::microseconds(600);
constexpr int kPauses = 32;  // between looks at the clock
// Where others have the cores, whoever is waited for may have to wait for one of them. If it takes
// so much longer than the own part, the next calls are not shared: few if it happens once in a
// while, twice as many with every time, half as many after so many calls that were in time.
constexpr auto kLate = kLook;
constexpr int kFewestAlone = 8, kMostAlone = 512, kInTime = 64;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether ``done`` comes true while it is looked at. Others that wait for the core have their turn.
template <class F>
bool seen_soon(F done) {
  const auto end = std::chrono::steady_clock::now() + kLook;
  do {
    for (int i = 0; i < kPauses; i++) {
      if (done()) return true;
      pause();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// Workers wait for the next call; each takes the part that is its own.
class Crew {
 public:
  // False where there are not enough threads to be had, or cores for them.
  bool run(int parts, const std::function<void(int)>& work) {
    if (alone_ > 0) {
      alone_--;
      return false;
    }
    try {
      for (; hired_ < parts - 1; hired_++) {
        std::thread(&Crew::serve, this, hired_ + 1, call_.load()).detach();
      }
    } catch (const std::system_error&) {
      return false;
    }
    work_ = &work;
    left_ = parts - 1;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = (call_ / kMostParts + 1) * kMostParts + parts;
    }
    begin_.notify_all();
    const auto begun = std::chrono::steady_clock::now();
    work(0);
    const auto done = std::chrono::steady_clock::now();
    const auto all_done = [&] { return left_ == 0; };
    bool late = false;
    if (!seen_soon(all_done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      end_.wait(lock, all_done);
      late = std::chrono::steady_clock::now() - done > done - begun + kLate;
    }
    if (late) {
      alone_ = next_alone_;
      next_alone_ = std::min(2 * next_alone_, kMostAlone);
      in_time_ = 0;
    } else if (++in_time_ == kInTime) {
      next_alone_ = std::max(next_alone_ / 2, kFewestAlone);
      in_time_ = 0;
    }
    return true;
  }

 private:
  void serve(int part, std::uint64_t seen) {
    const auto called = [&] { return call_ != seen; };
    for (bool idle = false;;) {
      if (idle || !seen_soon(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        begin_.wait(lock, called);
      }
      seen = call_;
      // Whoever has no part in a call may be late for it, and must not look at anything else.
      idle = part >= static_cast<int>(seen % kMostParts);
      if (idle) continue;
      (*work_)(part);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--left_ == 0) end_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<std::uint64_t> call_{0};  // its number and, in one word with it, its parts
  std::atomic<int> left_{0};
  int hired_ = 0;
  int alone_ = 0, next_alone_ = kFewestAlone;  // calls
  int in_time_ = 0;                            // calls in a row
};

}  // namespace

void share(int parts, const std::function<void(int)>& work) {
  // Never freed: at exit workers may still be waiting. A forked child has none of its parent's
  // threads, and hires its own.
  static std::mutex one_at_a_time;
  static Crew* crew = nullptr;
  static long owner = -1;
  std::unique_lock<std::mutex> turn(one_at_a_time, std::try_to_lock);
  if (parts > 1 && parts < kMostParts && turn.owns_lock()) {
    if (owner != process()) {
      crew = new Crew;
      owner = process();
    }
    if (crew->run(parts, work)) return;
  }
  for (int part = 0; part < parts; part++) work(part);
}

}  // namespace mbrl
