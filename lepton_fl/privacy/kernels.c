/* The loops of kernels.py over single numbers, which says what each one does; there the same lines stand for numpy.

   Additions, products, divisions, square roots, conversions and rint alone, in the order written: IEEE 754 rounds each
   of them alike on every processor, as long as none is fused with another (-ffp-contract=off) or left to a library. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef LEPTON_SOURCE /* hatch_build.py tells both */
#define LEPTON_SOURCE "" /* SHA-256 of this file */
#define EACH_WIDTH       /* what makes a copy of a loop for each width of registers */
#endif
extern const char *const lepton_source;
const char *const lepton_source = LEPTON_SOURCE;

#define LOG_2 0x1.62e42fefa39efp-1
#define EIGHTH_TURN (0x1.921fb54442d18p-1 * 0x1p-53)
#define ROOT_OF_HALF INT64_C(0x3fe6a09e667f3bcd)

EACH_WIDTH void lepton_box_muller(const uint64_t *restrict words, double *restrict out, size_t pairs)
{
    const uint64_t *angles = words + pairs;
    double *others = out + pairs;
    for (size_t i = 0; i < pairs; i++) {
        double u = (double)words[i] + 1.0, m;
        int64_t bits, exponent;
        memcpy(&bits, &u, sizeof bits);
        exponent = (bits - ROOT_OF_HALF) >> 52;
        bits -= exponent * (INT64_C(1) << 52);
        memcpy(&m, &bits, sizeof m);
        double s = (m - 1.0) / (m + 1.0), z = s * s;
        double p = 2.0 / 17 + z * (2.0 / 19);
        p = 2.0 / 11 + z * (2.0 / 13 + z * (2.0 / 15 + z * p));
        p = 2.0 + z * (2.0 / 3 + z * (2.0 / 5 + z * (2.0 / 7 + z * (2.0 / 9 + z * p))));
        double radius = sqrt(-2.0 * (((double)exponent - 64.0) * LOG_2 + s * p));
        uint64_t word = angles[i];
        double a = (double)((int64_t)word >> 10) * EIGHTH_TURN;
        z = a * a;
        p = 1.0 / 362880 + z * (-1.0 / 39916800 + z * (1.0 / 6227020800 + z * (-1.0 / 1307674368000)));
        double across = a * (1.0 + z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * p))));
        p = 1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600 + z * (-1.0 / 87178291200)));
        double along = 1.0 + z * (-1.0 / 2 + z * (1.0 / 24 + z * (-1.0 / 720 + z * p)));
        along = word & 2 ? -along : along;
        out[i] = radius * (word & 1 ? across : along);
        others[i] = radius * (word & 1 ? along : across);
    }
}

/* `out` may be `total` or `values`, each number of it written after it was read: that is what ivdep tells. */
#define ON_GRID(name, from, to)                                                                                     \
    EACH_WIDTH void name(const double *noise, const from *total, const to *values, to *out, size_t count,           \
                         const double *scales)                                                                      \
    {                                                                                                               \
        const double per_step = scales[0], stddev = scales[1], gain = scales[2], share = scales[3];                 \
        if (values == NULL) {                                                                                       \
            _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++)                                                 \
                out[i] = (to)(gain * rint(rint((double)total[i] * per_step) + stddev * noise[i]));                  \
        } else {                                                                                                    \
            _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++)                                                 \
                out[i] = (to)(share * (double)values[i]                                                             \
                              + gain * rint(rint((double)total[i] * per_step) + stddev * noise[i]));                \
        }                                                                                                           \
    }

ON_GRID(lepton_on_grid_float32_float32, float, float)
ON_GRID(lepton_on_grid_float32_float64, float, double)
ON_GRID(lepton_on_grid_float64_float32, double, float)
ON_GRID(lepton_on_grid_float64_float64, double, double)
