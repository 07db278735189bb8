#include "crew.h"

#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace mbrl {
namespace {

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;  // where processes do not fork
#endif
}

// Workers wait for the next loop's number; each takes the part that is its own.
class Crew {
 public:
  // False where there are not enough threads to be had.
  bool run(int parts, const std::function<void(int)>& work) {
    try {
      for (; hired_ < parts - 1; hired_++) {
        std::thread(&Crew::serve, this, hired_ + 1, loop_).detach();
      }
    } catch (const std::system_error&) {
      return false;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      parts_ = parts;
      left_ = parts - 1;
      loop_++;
    }
    begin_.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    end_.wait(lock, [&] { return left_ == 0; });
    return true;
  }

 private:
  void serve(int part, unsigned long seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      begin_.wait(lock, [&] { return loop_ != seen; });
      seen = loop_;
      if (part >= parts_) continue;
      const std::function<void(int)>& work = *work_;
      lock.unlock();
      work(part);
      lock.lock();
      if (--left_ == 0) end_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, end_;
  const std::function<void(int)>* work_ = nullptr;
  int parts_ = 0, left_ = 0, hired_ = 0;
  unsigned long loop_ = 0;
};

}  // namespace

void share(int parts, const std::function<void(int)>& work) {
  // Never freed: at exit workers may still be waiting. A forked child has none of its parent's
  // threads, and hires its own.
  static std::mutex one_at_a_time;
  static Crew* crew = nullptr;
  static long owner = -1;
  std::unique_lock<std::mutex> turn(one_at_a_time, std::try_to_lock);
  if (parts > 1 && turn.owns_lock()) {
    if (owner != process()) {
      crew = new Crew;
      owner = process();
    }
    if (crew->run(parts, work)) return;
  }
  for (int part = 0; part < parts; part++) work(part);
}

}  // namespace mbrl
