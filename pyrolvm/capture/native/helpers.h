/* What generated code calls. The vector forms of glibc's functions err by at most 4 units in the last place. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t integer;
typedef unsigned char boolean;

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTOR __attribute__((const, simd("notinbranch")))
VECTOR double exp(double);
VECTOR double log(double);
VECTOR double sin(double);
VECTOR double cos(double);
#if __GLIBC_PREREQ(2, 35)
VECTOR double log1p(double);
VECTOR double expm1(double);
VECTOR double tanh(double);
VECTOR double erf(double);
#endif
#endif

/* One expression each, so that loops around them become vector code. NaN goes through. */
#define SIGN(x) ((double)((x) > 0) - (double)((x) < 0))
#define LARGER(x, y) ((x) > (y) || (x) != (x) ? (x) : (y))
#define SMALLER(x, y) ((x) < (y) || (x) != (x) ? (x) : (y))

static double log_gamma(double x) {
  int sign;
  return lgamma_r(x, &sign);
}

/* Reflection, upward recurrence to x >= 10, asymptotic series (Abramowitz & Stegun 6.3.18). */
static double digamma(double x) {
  double shift = 0;
  if (x == 0) return copysign(INFINITY, -x);
  if (x < 0) {
    if (x == floor(x)) return NAN;
    shift = -M_PI / tan(M_PI * (x - floor(x)));
    x = 1 - x;
  }
  for (; x < 10; x += 1) shift -= 1 / x;
  double z = 1 / (x * x);
  double series = z * (1. / 12 - z * (1. / 120 - z * (1. / 252 - z * (1. / 240 - z * (1. / 132 - z * (691. / 32760 - z / 12))))));
  return shift + log(x) - 0.5 / x - series;
}

/* The same for its derivative (6.4.12). */
static double trigamma(double x) {
  double sum = 0;
  if (x <= 0) {
    double s = sin(M_PI * x);
    return M_PI * M_PI / (s * s) - trigamma(1 - x);
  }
  for (; x < 10; x += 1) sum += 1 / (x * x);
  double z = 1 / (x * x);
  return sum + 1 / x + z / 2
       + z / x * (1. / 6 - z * (1. / 30 - z * (1. / 42 - z * (1. / 30 - z * (5. / 66 - z * (691. / 2730 - z * 7 / 6))))));
}

/* Lower triangle of a row-major matrix to its Cholesky factor, in place; zeros above. Returns 0 unless it has none. */
static int cholesky(integer n, double *restrict a) {
  for (integer j = 0; j < n; j++) {
    double *row = a + j * n;
    for (integer k = 0; k < j; k++) {
      const double *other = a + k * n;
      double sum = row[k];
#pragma omp simd reduction(- : sum)
      for (integer l = 0; l < k; l++) sum -= row[l] * other[l];
      row[k] = sum / other[k];
    }
    double sum = row[j];
#pragma omp simd reduction(- : sum)
    for (integer l = 0; l < j; l++) sum -= row[l] * row[l];
    if (!(sum > 0)) return (int)j + 1;
    row[j] = sqrt(sum);
    for (integer k = j + 1; k < n; k++) row[k] = 0;
  }
  return 0;
}

/* Solves A X = B in place of B, with A of size n x n at strides (row, column) and triangular, B of n x m. */
static void solve_triangular(integer n, integer m, const double *restrict a, integer row, integer column, int upper,
                             int unit, double *restrict b) {
  for (integer step = 0; step < n; step++) {
    const integer i = upper ? n - 1 - step : step;
    const double *line = a + i * row;
    double *target = b + i * m;
    const integer low = upper ? i + 1 : 0, high = upper ? n : i;
    if (m == 1) {
      double sum = target[0];
#pragma omp simd reduction(- : sum)
      for (integer k = low; k < high; k++) sum -= line[k * column] * b[k];
      target[0] = sum;
    } else {
      for (integer k = low; k < high; k++) {
        const double factor = line[k * column], *source = b + k * m;
#pragma omp simd
        for (integer j = 0; j < m; j++) target[j] -= factor * source[j];
      }
    }
    if (!unit)
      for (integer j = 0; j < m; j++) target[j] /= line[i * column];
  }
}
