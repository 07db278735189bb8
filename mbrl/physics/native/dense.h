// Small dense matrices, row-major: the few kernels whose cost shows.

#pragma once

// Clones for newer processors, chosen when the library is loaded. (Clang takes the attribute
// but not on every system; without it the code is the same, only slower.)
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(MBRL_NO_CLONES)
#define MBRL_CLONES __attribute__((target_clones("arch=haswell", "default")))
#else
#define MBRL_CLONES
#endif

namespace mbrl {

// C (rows x n) += A (rows x inner, leading dimension lda) B (inner x n).
void multiply_add(double* C, const double* A, int lda, const double* B, int rows, int inner, int n);

// C (rows x n) += A' (A inner x rows) B (inner x n), each with its leading dimension; with
// ``upper`` only the entries right of and on the diagonal of C.
void multiply_add_transposed(double* C, int ldc, const double* A, int lda, const double* B, int ldb,
                             int rows, int inner, int n, bool upper);

// Factor a symmetric positive definite matrix in place, A = L L', lower triangle; false if a pivot
// is not greater than ``least`` times its diagonal entry.
bool cholesky(double* A, int n, double least = 0);

// Solve L L' X = B in place for all columns of B (n x columns).
void cholesky_solve(const double* L, double* B, int n, int columns);

// Factor P A = L U in place with partial pivoting; false if singular.
bool lu(double* A, int* pivot, int n);

// Solve A X = B in place from lu().
void lu_solve(const double* LU, const int* pivot, double* B, int n, int columns);

}  // namespace mbrl
