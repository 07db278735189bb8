// A small quadratic program with bounds: minimise d'Hd/2 + g'd subject to low <= d <= high.

#pragma once

#include <vector>

namespace mbrl {

// The algorithm of mbrl/planning/box_qp.py, which gives its sources; one problem at a time, with
// buffers that serve all problems of n entries.
class BoxQp {
 public:
  explicit BoxQp(int n);

  // H is symmetric, both triangles given; false if it is not positive definite beyond rounding,
  // or if no solution is found. Afterwards d(), free_entries() and solve_free() speak of it.
  bool solve(const double* H, const double* g, const double* low, const double* high,
             const double* start);

  const double* d() const { return d_.data(); }

  // Indices of the entries not held by a bound, ascending.
  const std::vector<int>& free_entries() const { return factored_; }

  // Overwrite R, one row for each free entry, by the inverse of H restricted to them times R.
  void solve_free(double* R, int columns) const;

 private:
  enum class At { kInside, kLow, kHigh, kBoth };

  At place(int i) const;
  void examine(bool hasty, const double* g, bool* solved);
  void factor();
  void head_for_minimiser(const double* g);
  void search();
  void follow_bends();
  void times(const double* x, double* y) const;

  int n_;
  const double *H_ = nullptr, *low_ = nullptr, *high_ = nullptr;
  std::vector<double> d_, root_, gradient_, target_, direction_, change_, breaks_, L_, right_;
  std::vector<char> free_, released_;
  std::vector<int> factored_;  // the entries whose factor L_ is
};

}  // namespace mbrl
