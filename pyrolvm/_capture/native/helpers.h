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
    shift = -M_PI / tan(M_PI * (x - rint(x))); /* exact beside zero, where x - floor(x) is not */
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
    double s = sin(M_PI * (x - rint(x)));
    return M_PI * M_PI / (s * s) - trigamma(1 - x);
  }
  for (; x < 10; x += 1) sum += 1 / (x * x);
  double z = 1 / (x * x);
  return sum + 1 / x + z / 2
       + z / x * (1. / 6 - z * (1. / 30 - z * (1. / 42 - z * (1. / 30 - z * (5. / 66 - z * (691. / 2730 - z * 7 / 6))))));
}

/* How a Gamma draw x moves with its concentration: -(dF/da) / f of its distribution function and density, by torch's own approximations,
   so that every engine takes the same step: a series, Rice's saddle point about and away from the mean, a ratio of polynomials. */
static double gamma_slope(double a, double x) {
  if (x < 0.8) {
    double term = 1, sum = 1 / a, squares = 1 / (a * a);
    for (int i = 1; i < 6; i++) {
      term *= -x / i;
      sum += term / (a + i);
      squares += term / ((a + i) * (a + i));
    }
    const double slope = x * exp(x) * (squares - (log(x) - digamma(a)) * sum);
    return isfinite(slope) ? slope : 0;
  }
  if (a > 8 && 0.9 * a <= x && x <= 1.1 * a) {
    const double middle = 1440 * a * a + 6 * x * (53 - 120 * x) - 65 * x * x / a + a * (107 + 3600 * x);
    return (1 + 24 * a * (1 + 12 * a)) * middle / (1244160 * a * a * a * a);
  }
  if (a > 8) {
    const double width = sqrt(8 * a), near = width / (a - x), far = pow(x - a - a * log(x / a), -1.5);
    const double both = x < a ? near - far : near + far;
    const double sum = log(x / a) * both - sqrt(2 / a) * (a + x) / ((a - x) * (a - x));
    return -(1 + (1 + 1 / (24 * a)) / (12 * a)) * x * sum / width;
  }
  static const double table[3][8] = {
    {0.16009398, -0.094634809, 0.025146376, -0.0030648343, 1, 0.32668115, 0.10406089, 0.0014179084},
    {0.53487893, 0.1298071, 0.065735949, -0.0015649758, 0.16639465, 0.020070113, -0.0035938915, -0.00058392623},
    {0.040121004, -0.0065914022, -0.0026286047, -0.0013441777, 0.017050642, -0.0021309326, 0.00085092367, -1.5247877e-07},
  };
  const double u = log(x / a), v = log(a);
  double top = 0, bottom = 0;
  for (int i = 3; i >= 0; i--) {
    top = top * v + table[0][i] + u * (table[1][i] + u * table[2][i]);
    bottom = bottom * v + table[0][i + 4] + u * (table[1][i + 4] + u * table[2][i + 4]);
  }
  return exp(top / bottom);
}

/* exp(x^2) erfc(x); far out, where its factors leave the range of numbers, by its asymptotic series (Abramowitz & Stegun 7.1.23). */
static double erfcx(double x) {
  if (x < 25) return exp(x * x) * erfc(x);
  const double z = 0.5 / (x * x);
  return (1 - z * (1 - 3 * z * (1 - 5 * z * (1 - 7 * z)))) / (x * sqrt(M_PI));
}

/* The x whose erfc is q, for q from 0 to 1: a rational guess, made exact by Halley's method. */
static double erfc_inverse(double q) {
  if (!(q > 0)) return q == 0 ? INFINITY : NAN;
  const double t = sqrt(-2 * log(q / 2));
  double x = (t - (2.30753 + t * 0.27061) / (1 + t * (0.99229 + t * 0.04481))) * M_SQRT1_2;
  for (int k = 0; k < 3; k++) {
    const double gap = erfc(x) - q;
    x += gap / (M_2_SQRTPI * exp(-x * x) - x * gap);
  }
  return x;
}

static double erf_inv(double y) {
  const double size = fabs(y);
  double x = size / M_2_SQRTPI;
  if (!(size <= 1)) return NAN;
  if (size > 0.5) x = erfc_inverse(1 - size);
  else for (int k = 0; k < 4 && size > 1e-8; k++) {
    const double slope = M_2_SQRTPI * exp(-x * x), gap = (erf(x) - size) / slope;
    x -= gap / (1 + x * gap);
  }
  return copysign(x, y);
}

static double ndtri(double p) {
  return p < 0.5 ? -M_SQRT2 * erfc_inverse(2 * p) : p == 0.5 ? 0 : M_SQRT2 * erfc_inverse(2 * (1 - p));
}

/* The remainder with the sign of y, and the quotient that goes with it, as Python and torch have them. */
static double modulo(double x, double y) {
  const double rest = fmod(x, y);
  return rest != 0 && (y < 0) != (rest < 0) ? rest + y : rest;
}

static double floor_divided(double x, double y) {
  if (y == 0) return x / y;
  const double rest = fmod(x, y), quotient = (x - rest) / y - (rest != 0 && (y < 0) != (rest < 0));
  if (quotient == 0) return copysign(0, x / y);
  const double whole = floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

static integer whole_modulo(integer x, integer y) {
  const integer rest = x % y;
  return rest != 0 && (y < 0) != (rest < 0) ? rest + y : rest;
}

static integer whole_floor_divided(integer x, integer y) { return (x - whole_modulo(x, y)) / y; }

/* log(exp(x) + exp(y)); of infinities, that of the larger. */
static double log_add(double x, double y) {
  const double top = LARGER(x, y), gap = -fabs(x - y);
  return isinf(top) || top != top ? top : top + log1p(exp(gap));
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
