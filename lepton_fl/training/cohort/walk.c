/* All steps of a dense network's members, one member after another: see walk.py.

   What a member needs stays in a core's cache from one step to the next. */

#include "tiles.h"
#include "bends.h"

/* A dense layer of all members, and what bends its outputs; a member's memory may be that of the member before it. */
typedef struct {
    size_t inputs, outputs, bend;
    const float *weight, *bias; /* of the start: [outputs, inputs], [outputs] or NULL */
    float *seen;                /* its inputs, [members, records, inputs] */
    float *slopes;              /* scaled gradients of its outputs, [members, records, outputs] */
    size_t seen_member, slopes_member;
    float *own, *own_bias; /* where its values are written, [members, outputs, inputs] and [members, outputs]; or NULL */
} layer;

typedef struct {
    size_t members, records, steps, layers;
    const size_t *ends;    /* [steps + 1]: the records before each step, and all of them */
    const float *of_start; /* [steps]: how much of the start is in the values before a step */
    const float *taken;    /* [steps, records]: how much of each earlier record's gradient is taken off them */
    float rate, keep, back;
    const int64_t *labels; /* [members, records] */
    const float *shares;   /* [members, records]: of a record's loss in its step */
    float *first;          /* room: what the start makes of the first layer's inputs, [records, outputs] */
    float *made, *likeness; /* room: [records, most outputs or inputs], [records, records] */
    double *squares;        /* [layers, 2]: of all that was seen, and of all slopes, added up */
} walk;

/* A layer of one member in one step. */
typedef struct {
    layer of;
    size_t step, before, rows; /* records of earlier steps, and of this one */
    matrix weight, seen, slopes;
    const float *bias;
    float *own, *own_bias, *seen_now, *slopes_now;
} stand;

static stand at(const walk *all, const layer *of, size_t member, size_t step)
{
    stand here = {.of = *of, .step = step, .before = all->ends[step], .rows = all->ends[step + 1] - all->ends[step]};
    float *seen = of->seen + member * of->seen_member, *slopes = of->slopes + member * of->slopes_member;
    here.seen = rows_of(seen, of->inputs);
    here.seen_now = seen + here.before * of->inputs;
    here.slopes = rows_of(slopes, of->outputs);
    here.slopes_now = slopes + here.before * of->outputs;
    here.weight = rows_of(of->weight, of->inputs);
    here.bias = of->bias;
    if (of->own != NULL) {
        here.own = of->own + member * of->outputs * of->inputs;
        here.own_bias = of->bias == NULL ? NULL : of->own_bias + member * of->outputs;
        if (step) { /* before it, they are the start's */
            here.weight.at = here.own;
            here.bias = here.own_bias;
        }
    }
    return here;
}

/* made = of_start * made - what earlier records took off, by their likeness to these ones */
static void correct(const walk *all, const stand *here, matrix ones, matrix others, float more, matrix earlier, size_t depth,
                    size_t width, float *made)
{
    const float *taken = all->taken + here->step * all->records;
    times_transposed(here->rows, here->before, depth, ones, others, NULL, more, rows_to(all->likeness, here->before));
    for (size_t i = 0; i < here->rows; i++)
        for (size_t k = 0; k < here->before; k++)
            all->likeness[i * here->before + k] *= taken[k];
    add_product(here->rows, width, here->before, rows_of(all->likeness, here->before), earlier, rows_of(made, width),
                rows_to(made, width), all->of_start[here->step], -1);
}

static void forward(const walk *all, const stand *here, int is_first, float *made)
{
    matrix seen = rows_of(here->seen_now, here->of.inputs);
    if (!is_first)
        times_transposed(here->rows, here->of.outputs, here->of.inputs, seen, here->weight, here->bias, 0,
                         rows_to(made, here->of.outputs));
    if (here->step && here->own == NULL)
        correct(all, here, seen, here->seen, here->bias == NULL ? 0 : 1, here->slopes, here->of.inputs, here->of.outputs, made);
}

static void backward(const walk *all, const stand *here, float *below)
{
    matrix slopes = rows_of(here->slopes_now, here->of.outputs), none = rows_of(below, here->of.inputs);
    add_product(here->rows, here->of.inputs, here->of.outputs, slopes, here->weight, none, rows_to(below, here->of.inputs), 0, 1);
    if (here->step && here->own == NULL)
        correct(all, here, slopes, here->slopes, 0, here->seen, here->of.outputs, here->of.inputs, below);
}

static void descend(const walk *all, const stand *here)
{
    size_t inputs = here->of.inputs, outputs = here->of.outputs;
    add_product(outputs, inputs, here->rows, (matrix){here->slopes_now, 1, outputs}, rows_of(here->seen_now, inputs), here->weight,
                rows_to(here->own, inputs), all->keep, -all->rate);
    for (size_t i = 0; all->back != 0 && i < outputs * inputs; i++)
        here->own[i] += all->back * here->of.weight[i];
    for (size_t j = 0; here->bias != NULL && j < outputs; j++) {
        float total = 0;
        for (size_t i = 0; i < here->rows; i++)
            total += here->slopes_now[i * outputs + j];
        here->own_bias[j] = all->keep * here->bias[j] - all->rate * total + all->back * here->of.bias[j];
    }
}

static void take_step(const walk *all, const layer *layers, size_t member, size_t step)
{
    size_t last = all->layers - 1, first = member * all->records + all->ends[step];
    stand here = at(all, &layers[0], member, step);
    float *made = all->first + here.before * layers[0].outputs;
    for (size_t number = 0; number <= last; number++) {
        here = at(all, &layers[number], member, step);
        forward(all, &here, number == 0, made);
        float *outcome = number < last ? at(all, &layers[number + 1], member, step).seen_now : made;
        bend_all(layers[number].bend, here.rows * layers[number].outputs, made, outcome);
        made = number < last ? all->made : made;
    }
    slopes_of(here.rows, layers[last].outputs, made, all->labels + first, all->shares + first, here.slopes_now);
    unbend_all(layers[last].bend, here.rows * layers[last].outputs, made, here.slopes_now, here.slopes_now);
    for (size_t number = last; number > 0; number--) {
        here = at(all, &layers[number], member, step);
        backward(all, &here, all->made);
        if (here.own != NULL)
            descend(all, &here);
        unbend_all(layers[number - 1].bend, here.rows * here.of.inputs, here.seen_now, all->made,
                   at(all, &layers[number - 1], member, step).slopes_now);
    }
}

EACH_WIDTH static double square_of(size_t count, const float *values)
{
    lanes sums[4] = {0};
    double total = 0;
    size_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        UNROLL for (int j = 0; j < 4; j++) sums[j] += LOAD(values + i + j * LANES) * LOAD(values + i + j * LANES);
    for (; i < count; i += LANES)
        sums[0] += some(values + i, count - i) * some(values + i, count - i);
    sums[0] += sums[1] + sums[2] + sums[3];
    for (int lane = 0; lane < LANES; lane++)
        total += (double)sums[0][lane];
    return total;
}

/* Whether every label is one of the outputs; else nothing was done. */
int lepton_walk(const walk *all, const layer *layers)
{
    if (!are_known(all->members * all->records, all->labels, layers[all->layers - 1].outputs))
        return 0;
    for (size_t member = 0; member < all->members; member++) {
        stand first = at(all, &layers[0], member, 0);
        times_transposed(all->records, first.of.outputs, first.of.inputs, first.seen, first.weight, first.bias, 0,
                         rows_to(all->first, first.of.outputs));
        for (size_t step = 0; step < all->steps; step++)
            take_step(all, layers, member, step);
        for (size_t number = 0; number < all->layers; number++) {
            stand here = at(all, &layers[number], member, 0);
            all->squares[2 * number] += square_of(all->records * here.of.inputs, here.seen_now);
            all->squares[2 * number + 1] += square_of(all->records * here.of.outputs, here.slopes_now);
        }
    }
    return 1;
}
