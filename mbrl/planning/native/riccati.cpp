#include "riccati.h"

#include <algorithm>

#include "dense.h"

namespace mbrl {
namespace {

size_t area(int rows, int columns) { return static_cast<size_t>(rows) * columns; }

// The first n rows and columns of an upper triangle, as a full matrix.
void mirror(const double* upper, int stride, double* full, int n) {
  for (int i = 0; i < n; i++) {
    for (int j = i; j < n; j++) full[i * n + j] = full[j * n + i] = upper[i * stride + j];
  }
}

}  // namespace

Riccati::Riccati(int ndx, int nu)
    : ndx_(ndx),
      nu_(nu),
      n_(nu + ndx),
      v_x_(ndx),
      v_xx_(area(ndx, ndx)),
      f_(area(ndx, n_)),
      vf_(area(ndx, n_)),
      q_(n_),
      qq_(area(n_, n_)),
      uu_(area(nu, nu)),
      scaled_b_(area(ndx, nu)),
      tilde_(area(nu, n_)),
      tilde_uu_(area(nu, nu)),
      km_(area(2 * nu, ndx)),
      mk_(area(2 * nu, ndx)),
      uu_free_(area(nu, nu)),
      slope_(nu),
      box_(nu) {}

void Riccati::begin(const double* final_x, const double* final_xx) {
  std::copy(final_x, final_x + ndx_, v_x_.begin());
  mirror(final_xx, ndx_, v_xx_.data(), ndx_);
}

bool Riccati::back(const Step& step, double mu, bool of_state, double* k, double* gains,
                   double* linear, double* quadratic) {
  expand(step);
  regularise(mu, of_state);
  if (!box_.solve(tilde_uu_.data(), q_.data(), step.low, step.high, step.start)) return false;
  std::copy(box_.d(), box_.d() + nu_, k);
  find_gains(gains);
  update(k, linear, quadratic);
  return true;
}

// Gradient and Hessian of Q by (u, x).
void Riccati::expand(const Step& step) {
  for (int i = 0; i < ndx_; i++) {
    std::copy(step.b + i * nu_, step.b + (i + 1) * nu_, &f_[i * n_]);
    std::copy(step.a + i * ndx_, step.a + (i + 1) * ndx_, &f_[i * n_ + nu_]);
  }
  std::copy(step.u, step.u + nu_, q_.begin());
  std::copy(step.x, step.x + ndx_, q_.begin() + nu_);
  multiply_add_transposed(q_.data(), n_, v_x_.data(), 1, f_.data(), n_, 1, ndx_, n_, false);
  for (int i = 0; i < nu_; i++) {
    std::copy(step.uu + i * nu_ + i, step.uu + (i + 1) * nu_, &qq_[i * n_ + i]);
    std::copy(step.ux + i * ndx_, step.ux + (i + 1) * ndx_, &qq_[i * n_ + nu_]);
  }
  for (int i = 0; i < ndx_; i++) {
    std::copy(step.xx + i * ndx_ + i, step.xx + (i + 1) * ndx_, &qq_[(nu_ + i) * n_ + nu_ + i]);
  }
  std::fill(vf_.begin(), vf_.end(), 0);
  multiply_add_transposed(vf_.data(), n_, v_xx_.data(), ndx_, f_.data(), n_, ndx_, ndx_, n_,
                          false);
  multiply_add_transposed(qq_.data(), n_, f_.data(), n_, vf_.data(), n_, n_, ndx_, n_, true);
  mirror(qq_.data(), n_, uu_.data(), nu_);
}

// Q_uu and Q_ux with mu, which leave Q_uu and Q_ux themselves as they are.
void Riccati::regularise(double mu, bool of_state) {
  std::copy(qq_.begin(), qq_.begin() + area(nu_, n_), tilde_.begin());
  if (of_state && mu != 0) {
    for (int i = 0; i < ndx_; i++) {
      for (int j = 0; j < nu_; j++) scaled_b_[i * nu_ + j] = mu * f_[i * n_ + j];
    }
    multiply_add_transposed(tilde_.data(), n_, scaled_b_.data(), nu_, f_.data(), n_, nu_, ndx_,
                            n_, true);
  }
  for (int i = 0; !of_state && i < nu_; i++) tilde_[i * n_ + i] += mu;
  mirror(tilde_.data(), n_, tilde_uu_.data(), nu_);
}

// K on the free entries, into the first rows of km and into its places.
void Riccati::find_gains(double* gains) {
  const std::vector<int>& free = box_.free_entries();
  const int count = static_cast<int>(free.size());
  for (int i = 0; i < count; i++) {
    const double* row = &tilde_[free[i] * n_ + nu_];
    for (int j = 0; j < ndx_; j++) km_[i * ndx_ + j] = -row[j];
  }
  box_.solve_free(km_.data(), ndx_);
  for (int i = 0; i < count; i++) {
    std::copy(&km_[i * ndx_], &km_[i * ndx_] + ndx_, gains + free[i] * ndx_);
  }
}

// The value one step earlier; V_xx = Q_xx + K' M + M' K with M = Q_ux + Q_uu K / 2.
void Riccati::update(const double* k, double* linear, double* quadratic) {
  const std::vector<int>& free = box_.free_entries();
  const int count = static_cast<int>(free.size());
  std::fill(slope_.begin(), slope_.end(), 0);
  multiply_add_transposed(slope_.data(), nu_, k, 1, uu_.data(), nu_, 1, nu_, nu_, false);
  for (int i = 0; i < nu_; i++) {
    *linear += k[i] * q_[i];
    *quadratic += k[i] * slope_[i];
    slope_[i] += q_[i];
  }
  std::copy(q_.begin() + nu_, q_.end(), v_x_.begin());
  multiply_add_transposed(v_x_.data(), ndx_, k, 1, &qq_[nu_], n_, 1, nu_, ndx_, false);
  double* m = km_.data() + area(count, ndx_);
  for (int i = 0; i < count; i++) {
    for (int j = 0; j < ndx_; j++) v_x_[j] += slope_[free[i]] * km_[i * ndx_ + j];
    for (int j = 0; j < count; j++) uu_free_[i * count + j] = 0.5 * uu_[free[i] * nu_ + free[j]];
    std::copy(&qq_[free[i] * n_ + nu_], &qq_[free[i] * n_ + nu_] + ndx_, m + i * ndx_);
  }
  multiply_add_transposed(m, ndx_, uu_free_.data(), count, km_.data(), ndx_, count, count, ndx_,
                          false);
  std::copy(m, m + area(count, ndx_), mk_.begin());
  std::copy(km_.begin(), km_.begin() + area(count, ndx_), mk_.begin() + area(count, ndx_));
  double* q_xx = &qq_[nu_ * n_ + nu_];
  multiply_add_transposed(q_xx, n_, km_.data(), ndx_, mk_.data(), ndx_, ndx_, 2 * count, ndx_,
                          true);
  mirror(q_xx, n_, v_xx_.data(), ndx_);
}

}  // namespace mbrl
