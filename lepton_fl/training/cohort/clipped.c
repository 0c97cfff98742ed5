/* The clipped sum of one member's records through a dense network: see clipped.py. */

#include "tiles.h"
#include "bends.h"

#include <math.h>

/* A dense layer and what bends its outputs. */
typedef struct {
    size_t inputs, outputs, bend;
    size_t weight, bias; /* where they begin in a vector of all values; a bias that there is not, nowhere */
    float *seen;         /* room for its inputs, [rows, inputs], but the first layer's; then they lie there */
    float *slopes;       /* room: [rows, outputs] */
} dense;

typedef struct {
    size_t layers, nowhere;
    double norm, most; /* to clip to; from which on a record is broken */
    float *made;       /* room: [rows, most inputs or outputs] */
    double *squares;   /* room: [rows] */
} clipping;

EACH_WIDTH static void add_squares(size_t rows, const float *g, size_t outputs, const float *x, size_t inputs, double more,
                                   double *squares)
{
    for (size_t i = 0; i < rows; i++) {
        double sums[2] = {0, more};
        for (int which = 0; which < 2; which++) {
            const float *row = which ? x + i * inputs : g + i * outputs;
            size_t width = which ? inputs : outputs, whole = width - width % LANES;
            double parts[LANES] = {0};
            for (size_t k = 0; k < whole; k += LANES)
                for (size_t lane = 0; lane < LANES; lane++)
                    parts[lane] += (double)row[k + lane] * (double)row[k + lane];
            for (size_t lane = 0; lane < LANES; lane++)
                sums[which] += parts[lane];
            for (size_t k = whole; k < width; k++)
                sums[which] += (double)row[k] * (double)row[k];
        }
        squares[i] += sums[0] * sums[1];
    }
}

/* Each record's slopes of every layer, and the squared norm of its gradient. */
static void pass(const clipping *all, const dense *layers, size_t rows, const float *values, const int64_t *labels)
{
    size_t last = all->layers - 1;
    for (size_t number = 0; number <= last; number++) {
        const dense *one = &layers[number];
        const float *bias = one->bias == all->nowhere ? NULL : values + one->bias;
        times_transposed(rows, one->outputs, one->inputs, rows_of(one->seen, one->inputs),
                         rows_of(values + one->weight, one->inputs), bias, 0, rows_to(all->made, one->outputs));
        bend_all(one->bend, rows * one->outputs, all->made, number < last ? one[1].seen : all->made);
    }
    slopes_of(rows, layers[last].outputs, all->made, labels, NULL, layers[last].slopes);
    unbend_all(layers[last].bend, rows * layers[last].outputs, all->made, layers[last].slopes, layers[last].slopes);
    memset(all->squares, 0, rows * sizeof(double));
    for (size_t number = last + 1; number-- > 0;) {
        const dense *one = &layers[number];
        add_squares(rows, one->slopes, one->outputs, one->seen, one->inputs, one->bias == all->nowhere ? 0 : 1, all->squares);
        if (!number)
            break;
        matrix none = rows_of(all->made, one->inputs);
        add_product(rows, one->inputs, one->outputs, rows_of(one->slopes, one->outputs),
                    rows_of(values + one->weight, one->inputs), none, rows_to(all->made, one->inputs), 0, 1);
        unbend_all(one[-1].bend, rows * one->inputs, one->seen, all->made, one[-1].slopes);
    }
}

/* out += the gradients of these records, or out = them */
static void add_gradients(const clipping *all, const dense *layers, size_t from, size_t rows, int is_first, float *out)
{
    for (const dense *one = layers; one < layers + all->layers; one++) {
        float *weight = out + one->weight, *bias = one->bias == all->nowhere ? NULL : out + one->bias;
        const float *slopes = one->slopes + from * one->outputs;
        add_product(one->outputs, one->inputs, rows, (matrix){slopes, 1, one->outputs},
                    rows_of(one->seen + from * one->inputs, one->inputs), rows_of(weight, one->inputs),
                    rows_to(weight, one->inputs), is_first ? 0 : 1, 1);
        for (size_t j = 0; bias != NULL && j < one->outputs; j++) {
            float total = is_first ? 0 : bias[j];
            for (size_t i = 0; i < rows; i++)
                total += slopes[i * one->outputs + j];
            bias[j] = total;
        }
    }
}

/* out = the sum of the records' gradients, each clipped, and weighed where there are weights; whether every label is one of
   the outputs: else nothing was done. */
int lepton_clipped(const clipping *all, const dense *layers, size_t rows, const float *values, const int64_t *labels,
                   const double *weights, float *out)
{
    const dense *last = &layers[all->layers - 1];
    if (!are_known(rows, labels, last->outputs))
        return 0;
    pass(all, layers, rows, values, labels);
    size_t first = 0;
    int is_first = 1;
    for (size_t i = 0; i <= rows; i++) {
        double norm = i < rows ? sqrt(all->squares[i]) : 0;
        int is_sound = i < rows && norm < all->most; /* NaN is not */
        if (is_sound) {
            double factor = (norm > all->norm ? all->norm / norm : 1) * (weights == NULL ? 1 : weights[i]);
            for (const dense *one = layers; one <= last; one++)
                for (size_t j = 0; j < one->outputs; j++)
                    one->slopes[i * one->outputs + j] *= (float)factor;
            continue;
        }
        /* Records up to a broken one, or to the end: 0 * NaN would be NaN. */
        if (i > first || (i == rows && is_first)) {
            add_gradients(all, layers, first, i - first, is_first, out);
            is_first = 0;
        }
        first = i + 1;
    }
    return 1;
}
