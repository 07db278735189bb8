#include "box_qp.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dense.h"

namespace mbrl {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 64 * kEpsilon;
constexpr int kIterations = 100, kHasty = 5;

}  // namespace

BoxQp::BoxQp(int n)
    : n_(n),
      d_(n),
      root_(n),
      gradient_(n),
      target_(n),
      direction_(n),
      change_(n),
      breaks_(n),
      L_(static_cast<size_t>(n) * n),
      right_(n),
      free_(n),
      released_(n) {
  factored_.reserve(n);
}

bool BoxQp::solve(const double* H, const double* g, const double* low, const double* high,
                  const double* start) {
  H_ = H;
  low_ = low;
  high_ = high;
  std::fill(free_.begin(), free_.end(), 1);
  factored_.resize(n_);
  for (int i = 0; i < n_; i++) factored_[i] = i;
  std::copy(H, H + n_ * n_, L_.begin());
  if (!cholesky(L_.data(), n_, n_ * kEpsilon)) return false;
  for (int i = 0; i < n_; i++) {
    root_[i] = std::sqrt(H[i * n_ + i]);
    d_[i] = std::min(std::max(start[i], low[i]), high[i]);
    if (!std::isfinite(g[i]) || !std::isfinite(d_[i])) return false;
  }
  for (int iteration = 0; iteration < kIterations; iteration++) {
    bool solved = false;
    examine(iteration < kHasty, g, &solved);
    factor();
    if (solved) return true;
    head_for_minimiser(g);
    search();
  }
  return false;
}

void BoxQp::solve_free(double* R, int columns) const {
  cholesky_solve(L_.data(), R, static_cast<int>(factored_.size()), columns);
}

BoxQp::At BoxQp::place(int i) const {
  const bool at_low = d_[i] <= low_[i], at_high = d_[i] >= high_[i];
  if (at_low) return at_high ? At::kBoth : At::kLow;
  return at_high ? At::kHigh : At::kInside;
}

// Which entries are free now, and whether this is the solution.
void BoxQp::examine(bool hasty, const double* g, bool* solved) {
  times(d_.data(), gradient_.data());
  double sum = 0;
  for (int i = 0; i < n_; i++) {
    gradient_[i] += g[i];
    sum += root_[i] * std::fabs(d_[i]);
  }
  bool minimal = true, complete = true;
  for (int i = 0; i < n_; i++) {
    const At at = place(i);
    const bool inward = at == At::kInside || (at == At::kLow && !(gradient_[i] > 0)) ||
                        (at == At::kHigh && !(gradient_[i] < 0));
    const bool vanishes =
        std::fabs(gradient_[i]) <= kRounding * n_ * (std::fabs(g[i]) + root_[i] * sum);
    free_[i] = hasty ? inward : free_[i] && at == At::kInside;
    released_[i] = inward && !free_[i] && !vanishes;
    minimal = minimal && (vanishes || !free_[i]);
    complete = complete && !released_[i];
  }
  *solved = minimal && complete;
  for (int i = 0; minimal && i < n_; i++) free_[i] = free_[i] || released_[i];
}

// Factor H restricted to the free entries, unless that was the last one factored.
void BoxQp::factor() {
  const size_t count = std::count(free_.begin(), free_.end(), 1);
  bool same = count == factored_.size();
  for (const int i : factored_) same = same && free_[i];
  if (same) return;
  factored_.clear();
  for (int i = 0; i < n_; i++) {
    if (free_[i]) factored_.push_back(i);
  }
  for (size_t i = 0; i < count; i++) {
    const double* row = H_ + factored_[i] * n_;
    for (size_t j = 0; j <= i; j++) L_[i * count + j] = row[factored_[j]];
  }
  cholesky(L_.data(), static_cast<int>(count));  // of a definite matrix
}

// The minimiser over the free entries, given the others.
void BoxQp::head_for_minimiser(const double* g) {
  for (int i = 0; i < n_; i++) right_[i] = free_[i] ? 0 : d_[i];
  times(right_.data(), target_.data());
  const size_t count = factored_.size();
  for (size_t i = 0; i < count; i++) right_[i] = -g[factored_[i]] - target_[factored_[i]];
  solve_free(right_.data(), 1);
  std::copy(d_.begin(), d_.end(), target_.begin());
  for (size_t i = 0; i < count; i++) target_[factored_[i]] = right_[i];
}

void BoxQp::search() {
  bool feasible = true;
  for (int i = 0; i < n_; i++) {
    feasible = feasible && target_[i] >= low_[i] && target_[i] <= high_[i];
  }
  if (feasible) {
    d_.swap(target_);
  } else {
    follow_bends();
  }
}

// To the first local minimum along the straight path to the target, clipped.
void BoxQp::follow_bends() {
  const auto bound = [&](int i) { return direction_[i] > 0 ? high_[i] : low_[i]; };
  for (int i = 0; i < n_; i++) {
    direction_[i] = target_[i] - d_[i];
    breaks_[i] = direction_[i] == 0 ? kInfinity : (bound(i) - d_[i]) / direction_[i];
  }
  double way = 0;
  for (int segment = 0; segment <= n_; segment++) {
    double bend = kInfinity, slope = 0, curvature = 0;
    for (int i = 0; i < n_; i++) {
      if (breaks_[i] > way) {
        bend = std::min(bend, breaks_[i]);
        slope += direction_[i] * gradient_[i];
      } else if (direction_[i] != 0) {
        d_[i] = bound(i);
        direction_[i] = 0;
      }
    }
    times(direction_.data(), change_.data());
    for (int i = 0; i < n_; i++) curvature += direction_[i] * change_[i];
    if (!(slope < 0 && curvature > 0)) break;
    const double lowest = -slope / curvature, length = std::min(lowest, bend - way);
    for (int i = 0; i < n_; i++) {
      d_[i] += length * direction_[i];
      gradient_[i] += length * change_[i];
    }
    if (lowest <= bend - way) break;
    way = bend;
  }
  for (int i = 0; i < n_; i++) d_[i] = std::min(std::max(d_[i], low_[i]), high_[i]);
}

// y = H x.
void BoxQp::times(const double* x, double* y) const {
  for (int i = 0; i < n_; i++) y[i] = 0;
  multiply_add_transposed(y, n_, x, 1, H_, n_, 1, n_, n_, false);
}

}  // namespace mbrl
