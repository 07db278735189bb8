// Two-point differences that stay inside bounds.

#pragma once

#include <cmath>

namespace mbrl {

// Sizes of two differences that never straddle a bound: inward at it, outward beyond it.
inline void difference_sizes(double value, double low, double high, double eps, double* h1,
                             double* h2) {
  const bool below = value < low, above = value > high;
  *h1 = eps;
  *h2 = -eps;
  if (below || (!above && value + eps > high)) {
    *h1 = -eps;
    *h2 = -2 * eps;
  } else if (above || value - eps < low) {
    *h2 = 2 * eps;
  }
}

// Slope at 0 of the parabola through (0, y0), (h1, y1), (h2, y2).
inline double parabola_slope(double y0, double y1, double y2, double h1, double h2) {
  return ((y1 - y0) * (h2 / h1) - (y2 - y0) * (h1 / h2)) / (h2 - h1);
}

// Whether the two one-sided slopes disagree beyond curvature and rounding.
inline bool bends(double y0, double y1, double y2, double h1, double h2) {
  const double a = (y1 - y0) / h1, b = (y2 - y0) / h2;
  const double size = std::fabs(a) + std::fabs(b), noise = 1e-9 * (1 + std::fabs(y0));
  return std::fabs(a - b) > 1e-2 * size && std::fabs(a - b) * std::fabs(h1) > noise;
}

}  // namespace mbrl
