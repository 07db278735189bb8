#include "dense.h"

#include <cmath>
#include <utility>

namespace mbrl {

MBRL_CLONES
void multiply_add(double* __restrict C, const double* __restrict A, int lda,
                  const double* __restrict B, int rows, int inner, int n) {
  for (int i = 0; i < rows; i++) {
    double* __restrict c = C + i * n;
    const double* a = A + i * lda;
    int k = 0;
    for (; k + 4 <= inner; k += 4) {
      const double a0 = a[k], a1 = a[k + 1], a2 = a[k + 2], a3 = a[k + 3];
      if (a0 == 0 && a1 == 0 && a2 == 0 && a3 == 0) continue;
      const double *b0 = B + k * n, *b1 = b0 + n, *b2 = b1 + n, *b3 = b2 + n;
      for (int j = 0; j < n; j++) c[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
    }
    for (; k < inner; k++) {
      const double a0 = a[k];
      if (a0 == 0) continue;
      const double* b0 = B + k * n;
      for (int j = 0; j < n; j++) c[j] += a0 * b0[j];
    }
  }
}

MBRL_CLONES
void multiply_add_transposed(double* __restrict C, int ldc, const double* __restrict A, int lda,
                             const double* __restrict B, int ldb, int rows, int inner, int n,
                             bool upper) {
  for (int i = 0; i < rows; i++) {
    double* __restrict c = C + i * ldc;
    const double* a = A + i;
    const int first = upper ? i : 0;
    int k = 0;
    for (; k + 4 <= inner; k += 4) {
      const double a0 = a[k * lda], a1 = a[(k + 1) * lda], a2 = a[(k + 2) * lda],
                   a3 = a[(k + 3) * lda];
      const double *b0 = B + k * ldb, *b1 = b0 + ldb, *b2 = b1 + ldb, *b3 = b2 + ldb;
      for (int j = first; j < n; j++) {
        c[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
      }
    }
    for (; k < inner; k++) {
      const double a0 = a[k * lda];
      const double* b0 = B + k * ldb;
      for (int j = first; j < n; j++) c[j] += a0 * b0[j];
    }
  }
}

bool cholesky(double* A, int n, double least) {
  for (int j = 0; j < n; j++) {
    double* aj = A + j * n;
    double d = aj[j];
    const double bar = least * d;
    for (int k = 0; k < j; k++) d -= aj[k] * aj[k];
    if (!(d > bar)) return false;
    d = std::sqrt(d);
    aj[j] = d;
    const double inverse = 1 / d;
    for (int i = j + 1; i < n; i++) {
      double* ai = A + i * n;
      double s = ai[j];
      for (int k = 0; k < j; k++) s -= ai[k] * aj[k];
      ai[j] = s * inverse;
    }
  }
  return true;
}

MBRL_CLONES
void cholesky_solve(const double* __restrict L, double* __restrict B, int n, int columns) {
  for (int i = 0; i < n; i++) {
    double* __restrict b = B + i * columns;
    for (int k = 0; k < i; k++) {
      const double l = L[i * n + k];
      if (l == 0) continue;
      const double* c = B + k * columns;
      for (int j = 0; j < columns; j++) b[j] -= l * c[j];
    }
    const double inverse = 1 / L[i * n + i];
    for (int j = 0; j < columns; j++) b[j] *= inverse;
  }
  for (int i = n - 1; i >= 0; i--) {
    double* __restrict b = B + i * columns;
    for (int k = i + 1; k < n; k++) {
      const double l = L[k * n + i];
      if (l == 0) continue;
      const double* c = B + k * columns;
      for (int j = 0; j < columns; j++) b[j] -= l * c[j];
    }
    const double inverse = 1 / L[i * n + i];
    for (int j = 0; j < columns; j++) b[j] *= inverse;
  }
}

bool lu(double* A, int* pivot, int n) {
  for (int j = 0; j < n; j++) {
    int p = j;
    for (int i = j + 1; i < n; i++) {
      if (std::fabs(A[i * n + j]) > std::fabs(A[p * n + j])) p = i;
    }
    pivot[j] = p;
    if (!(std::fabs(A[p * n + j]) > 0)) return false;
    if (p != j) {
      for (int k = 0; k < n; k++) std::swap(A[p * n + k], A[j * n + k]);
    }
    const double inverse = 1 / A[j * n + j];
    for (int i = j + 1; i < n; i++) {
      const double l = A[i * n + j] *= inverse;
      if (l == 0) continue;
      for (int k = j + 1; k < n; k++) A[i * n + k] -= l * A[j * n + k];
    }
  }
  return true;
}

MBRL_CLONES
void lu_solve(const double* __restrict LU, const int* pivot, double* __restrict B, int n,
              int columns) {
  for (int i = 0; i < n; i++) {
    double* __restrict b = B + i * columns;
    if (pivot[i] != i) {
      double* c = B + pivot[i] * columns;
      for (int j = 0; j < columns; j++) {
        const double t = b[j];
        b[j] = c[j];
        c[j] = t;
      }
    }
  }
  for (int i = 0; i < n; i++) {
    double* __restrict b = B + i * columns;
    for (int k = 0; k < i; k++) {
      const double l = LU[i * n + k];
      if (l == 0) continue;
      const double* c = B + k * columns;
      for (int j = 0; j < columns; j++) b[j] -= l * c[j];
    }
  }
  for (int i = n - 1; i >= 0; i--) {
    double* __restrict b = B + i * columns;
    for (int k = i + 1; k < n; k++) {
      const double l = LU[i * n + k];
      if (l == 0) continue;
      const double* c = B + k * columns;
      for (int j = 0; j < columns; j++) b[j] -= l * c[j];
    }
    const double inverse = 1 / LU[i * n + i];
    for (int j = 0; j < columns; j++) b[j] *= inverse;
  }
}

}  // namespace mbrl
