/* The loops of dense_kernels.py, which says what each one does.

   Each number of a result is added up in one order, whoever else is in the batch, and no operation is fused with another
   (-ffp-contract=off). Inner loops run over what lies in a row, for the widest registers. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifndef LEPTON_SOURCE /* hatch_build.py tells both */
#define LEPTON_SOURCE "" /* SHA-256 of this file */
#define EACH_WIDTH       /* what makes a copy of a loop for each width of registers */
#endif
extern const char *const lepton_source;
const char *const lepton_source = LEPTON_SOURCE;

void lepton_lay(const float *w, const float *bias, float *turned, float *start, size_t outputs, size_t inputs, size_t wide)
{
    for (size_t i = 0; i < inputs; i++)
        for (size_t j = 0; j < outputs; j++)
            turned[i * wide + j] = w[j * inputs + i];
    for (size_t j = 0; bias != NULL && j < outputs; j++)
        start[j] = bias[j];
}

EACH_WIDTH void lepton_multiply(size_t records, const float *restrict x, size_t x_wide, const float *restrict w,
                                const float *restrict start, float *restrict out, size_t depth, size_t width)
{
    size_t whole = records - records % 2, deep = depth - depth % 4;
    for (size_t i = 0; i < records; i += 2) {
        const float *a = x + i * x_wide, *b = i < whole ? a + x_wide : a;
        float *restrict one = out + i * width, *restrict two = one + width;
        if (i < whole) {
            for (size_t j = 0; j < width; j++)
                one[j] = two[j] = start[j];
            for (size_t k = 0; k < deep; k += 4) {
                const float *w0 = w + k * width, *w1 = w0 + width, *w2 = w1 + width, *w3 = w2 + width;
                for (size_t j = 0; j < width; j++) {
                    one[j] = (((one[j] + a[k] * w0[j]) + a[k + 1] * w1[j]) + a[k + 2] * w2[j]) + a[k + 3] * w3[j];
                    two[j] = (((two[j] + b[k] * w0[j]) + b[k + 1] * w1[j]) + b[k + 2] * w2[j]) + b[k + 3] * w3[j];
                }
            }
            for (size_t k = deep; k < depth; k++)
                for (size_t j = 0; j < width; j++) {
                    one[j] += a[k] * w[k * width + j];
                    two[j] += b[k] * w[k * width + j];
                }
        } else {
            for (size_t j = 0; j < width; j++)
                one[j] = start[j];
            for (size_t k = 0; k < depth; k++)
                for (size_t j = 0; j < width; j++)
                    one[j] += a[k] * w[k * width + j];
        }
    }
}

EACH_WIDTH void lepton_measure(size_t records, const float *restrict rows, size_t wide, size_t width, double more,
                               double *restrict out)
{
    size_t whole = width - width % 16;
    for (size_t i = 0; i < records; i++) {
        const float *row = rows + i * wide;
        float lanes[16] = {0};
        double total = more;
        for (size_t k = 0; k < whole; k += 16)
            for (size_t l = 0; l < 16; l++)
                lanes[l] += row[k + l] * row[k + l];
        for (size_t l = 0; l < 16; l++)
            total += (double)lanes[l];
        for (size_t k = whole; k < width; k++)
            total += (double)row[k] * (double)row[k];
        out[i] = total;
    }
}

void lepton_slopes(size_t records, const float *outputs, size_t wide, const int64_t *labels, float *out, size_t classes)
{
    for (size_t i = 0; i < records; i++) {
        const float *row = outputs + i * wide;
        float *slopes = out + i * classes, most = row[0];
        double total = 0.0;
        if (classes == 1) {
            slopes[0] = (float)(1.0 / (1.0 + exp(-(double)row[0])) - (double)labels[i]);
            continue;
        }
        for (size_t j = 1; j < classes; j++)
            most = row[j] > most ? row[j] : most;
        for (size_t j = 0; j < classes; j++) {
            double share = exp((double)row[j] - (double)most);
            total += share;
            slopes[j] = (float)share;
        }
        for (size_t j = 0; j < classes; j++)
            slopes[j] = (float)((double)slopes[j] / total - ((int64_t)j == labels[i] ? 1.0 : 0.0));
    }
}

int lepton_clip(size_t records, const double *squared, size_t layers, size_t room, double norm, double most,
                const double *weights, float *out, double *norms)
{
    int are_sound = 1;
    for (size_t i = 0; i < records; i++) {
        double total = 0.0;
        for (size_t layer = 0; layer < layers; layer++)
            total += squared[2 * layer * room + i] * squared[(2 * layer + 1) * room + i];
        norms[i] = sqrt(total);
        are_sound = are_sound && norms[i] < most;
        double factor = norms[i] > norm ? norm / norms[i] : 1.0;
        out[i] = (float)(weights == NULL ? factor : factor * weights[i]);
    }
    return are_sound;
}

EACH_WIDTH void lepton_add_outer(size_t records, const float *restrict factors, const float *restrict x, size_t x_wide,
                                 const float *restrict y, size_t y_wide, float *restrict out, size_t rows,
                                 size_t columns)
{
    size_t many = records - records % 4;
    for (size_t i = 0; i < many; i += 4) {
        const float *f = factors + i, *y0 = y + i * y_wide, *y1 = y0 + y_wide, *y2 = y1 + y_wide, *y3 = y2 + y_wide;
        for (size_t r = 0; r < rows; r++) {
            const float *of = x + i * x_wide + r;
            float a0 = f[0] * of[0], a1 = f[1] * of[x_wide], a2 = f[2] * of[2 * x_wide], a3 = f[3] * of[3 * x_wide];
            float *restrict one = out + r * columns;
            for (size_t j = 0; j < columns; j++)
                one[j] = (((one[j] + a0 * y0[j]) + a1 * y1[j]) + a2 * y2[j]) + a3 * y3[j];
        }
    }
    for (size_t i = many; i < records; i++)
        for (size_t r = 0; r < rows; r++) {
            float a0 = factors[i] * x[i * x_wide + r];
            for (size_t j = 0; j < columns; j++)
                out[r * columns + j] += a0 * y[i * y_wide + j];
        }
}

EACH_WIDTH void lepton_add_rows(size_t records, const float *restrict factors, const float *restrict y, float *restrict out,
                                size_t columns)
{
    for (size_t i = 0; i < records; i++)
        for (size_t j = 0; j < columns; j++)
            out[j] += factors[i] * y[i * columns + j];
}

void lepton_add_turned(const float *turned, float *out, size_t rows, size_t columns)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            out[i * columns + j] += turned[j * rows + i];
}
