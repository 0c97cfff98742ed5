/* Products of each member's own matrices, which are too small for a library's loops, and the steps of a dense network
   that are made of them: see products.py and walk.py.

   Tiles of 5 rows stay in registers. A number of a product is added up in one order, whoever else is in the batch: an
   edge takes its last row several times and keeps one of them. Operations may be fused (-ffp-contract=fast). */

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

/* Whether a tile fits into registers: else a library's product is the better one. */
int lepton_is_wide(void)
{
#if defined(LEPTON_COPIES) && defined(__x86_64__)
    return __builtin_cpu_supports("x86-64-v4") != 0;
#else
    return 0;
#endif
}

enum { LANES = 16, TILE = 5, WIDE = 4, PANEL = 64 };
#pragma GCC diagnostic ignored "-Wpsabi" /* no vector goes through a call that is not inlined */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t picks __attribute__((vector_size(4 * LANES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define LOAD(place) (*(const lanes *)(place))
#define STORE(place, values) (*(lanes *)(place) = (values))
#define ONLY(values, mask) ((lanes)((picks)(values) & (mask)))
#define CHOSEN(mask, yes, no) ((lanes)(((picks)(mask) & (picks)(yes)) | (~(picks)(mask) & (picks)(no))))
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (picks){__VA_ARGS__})
#endif

/* Blocks of 16, 8, 4 or 2 numbers of a and of b, each with its two halves added up, side by side. */
#define FOLD_16(a, b) (PICK(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) + \
                       PICK(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD_8(a, b) (PICK(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) + \
                      PICK(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#define FOLD_4(a, b) (PICK(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) + \
                      PICK(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#define FOLD_2(a, b) (PICK(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) + \
                      PICK(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))

/* sums[i] = all 16 numbers of each[i] */
INLINE void add_up(lanes each[16], float *sums)
{
    UNROLL for (int i = 0; i < 8; i++) each[i] = FOLD_16(each[i], each[i + 8]);
    UNROLL for (int i = 0; i < 4; i++) each[i] = FOLD_8(each[i], each[i + 4]);
    UNROLL for (int i = 0; i < 2; i++) each[i] = FOLD_4(each[i], each[i + 2]);
    STORE(sums, FOLD_2(each[0], each[1]));
}

/* sums[TILE * i + j] = row i of a times row j of b; beyond[l] is -1 for the last lanes that are beyond whole vectors */
INLINE void dots(const float *const a[TILE], const float *const b[TILE], size_t depth, const picks *beyond, float sums[32])
{
    lanes each[32], left, right[TILE];
    UNROLL for (int i = 0; i < 32; i++) each[i] = (lanes){0};
    size_t k = 0;
    for (; k + LANES <= depth; k += LANES) {
        UNROLL for (int j = 0; j < TILE; j++) right[j] = LOAD(b[j] + k);
        UNROLL for (int i = 0; i < TILE; i++) {
            left = LOAD(a[i] + k);
            UNROLL for (int j = 0; j < TILE; j++) each[TILE * i + j] += left * right[j];
        }
    }
    if (k < depth) { /* the last whole vector once more, and of it what was not there yet */
        UNROLL for (int j = 0; j < TILE; j++) right[j] = ONLY(LOAD(b[j] + depth - LANES), *beyond);
        UNROLL for (int i = 0; i < TILE; i++) {
            left = ONLY(LOAD(a[i] + depth - LANES), *beyond);
            UNROLL for (int j = 0; j < TILE; j++) each[TILE * i + j] += left * right[j];
        }
    }
    add_up(each, sums);
    add_up(each + 16, sums + 16);
}

/* of rows shorter than a vector */
INLINE void short_dots(const float *const a[TILE], const float *const b[TILE], size_t depth, float sums[32])
{
    for (int i = 0; i < TILE * TILE; i++) {
        sums[i] = 0;
        for (size_t k = 0; k < depth; k++)
            sums[i] += a[i / TILE][k] * b[i % TILE][k];
    }
}

/* A matrix by how far apart its rows and columns are. */
typedef struct {
    const float *at;
    size_t row, column;
} matrix;
typedef struct {
    float *at;
    size_t row, column;
} target;

/* out = a @ b.T + start in every row + more; columns of a and b follow one another; start may be NULL */
EACH_WIDTH static void times_transposed(size_t rows, size_t columns, size_t depth, matrix a, matrix b, const float *start,
                                        float more, target out)
{
    picks beyond;
    for (size_t lane = 0; lane < LANES; lane++)
        beyond[lane] = lane >= LANES - depth % LANES ? -1 : 0;
    for (size_t j = 0; j < columns; j += TILE)
        for (size_t i = 0; i < rows; i += TILE) {
            const float *left[TILE], *right[TILE];
            float sums[32];
            for (size_t t = 0; t < TILE; t++) {
                left[t] = a.at + (i + t < rows ? i + t : rows - 1) * a.row;
                right[t] = b.at + (j + t < columns ? j + t : columns - 1) * b.row;
            }
            if (depth < LANES)
                short_dots(left, right, depth, sums);
            else
                dots(left, right, depth, &beyond, sums);
            for (size_t r = 0; r < TILE && i + r < rows; r++)
                for (size_t c = 0; c < TILE && j + c < columns; c++)
                    out.at[(i + r) * out.row + (j + c) * out.column] =
                        sums[TILE * r + c] + (start == NULL ? more : more + start[j + c]);
        }
}

/* A tile of out = keep * before + scale * a @ b, so many vectors wide; keep = 0: `before` is not read. */
#define TILE_OF(NAME, VECTORS)                                                                                         \
    INLINE void NAME(size_t rows, size_t depth, matrix a, matrix b, matrix before, target out, float keep, float scale) \
    {                                                                                                                  \
        lanes sums[TILE * VECTORS], right[VECTORS];                                                                    \
        const float *left[TILE];                                                                                       \
        UNROLL for (int i = 0; i < TILE * VECTORS; i++) sums[i] = (lanes){0};                                          \
        for (size_t i = 0; i < TILE; i++)                                                                              \
            left[i] = a.at + (i < rows ? i : rows - 1) * a.row;                                                        \
        for (size_t k = 0; k < depth; k++) {                                                                           \
            UNROLL for (int j = 0; j < VECTORS; j++) right[j] = LOAD(b.at + k * b.row + j * LANES);                    \
            UNROLL for (int i = 0; i < TILE; i++)                                                                      \
            {                                                                                                          \
                float one = left[i][k * a.column];                                                                     \
                UNROLL for (int j = 0; j < VECTORS; j++) sums[VECTORS * i + j] += one * right[j];                      \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (size_t i = 0; i < TILE; i++)                                                                       \
        {                                                                                                              \
            UNROLL for (int j = 0; j < VECTORS && i < rows; j++)                                                       \
            {                                                                                                          \
                lanes made = scale * sums[VECTORS * i + j];                                                            \
                if (keep != 0)                                                                                         \
                    made += keep * LOAD(before.at + i * before.row + j * LANES);                                       \
                STORE(out.at + i * out.row + j * LANES, made);                                                         \
            }                                                                                                          \
        }                                                                                                              \
    }
TILE_OF(wide_tile, WIDE)
TILE_OF(narrow_tile, 1)

INLINE matrix moved(matrix one, size_t row, size_t column)
{
    return (matrix){one.at + row * one.row + column * one.column, one.row, one.column};
}
INLINE target moved_to(target one, size_t row, size_t column)
{
    return (target){one.at + row * one.row + column, one.row, 1};
}

/* Columns that fill no vector: through memory where they are followed by zeros. */
INLINE void last_columns(size_t rows, size_t columns, size_t depth, matrix a, matrix b, matrix before, target out, float keep,
                         float scale)
{
    float panel[PANEL][LANES], tile[TILE][LANES];
    memset(panel, 0, sizeof panel);
    memset(tile, 0, sizeof tile);
    for (size_t k = 0; k < depth || k == 0; k += PANEL) {
        size_t deep = depth - k < PANEL ? depth - k : PANEL;
        matrix held = k ? (matrix){out.at, out.row, 1} : before;
        for (size_t p = 0; p < deep; p++)
            memcpy(panel[p], b.at + (k + p) * b.row, columns * sizeof(float));
        for (size_t i = 0; i < rows; i += TILE) {
            size_t here = rows - i < TILE ? rows - i : TILE;
            for (size_t r = 0; r < here && (k || keep != 0); r++)
                memcpy(tile[r], held.at + (i + r) * held.row, columns * sizeof(float));
            narrow_tile(here, deep, moved(a, i, k), (matrix){panel[0], LANES, 1}, (matrix){tile[0], LANES, 1},
                        (target){tile[0], LANES, 1}, k ? 1 : keep, scale);
            for (size_t r = 0; r < here; r++)
                memcpy(out.at + (i + r) * out.row, tile[r], columns * sizeof(float));
        }
    }
}

/* out = keep * before + scale * a @ b; columns of b, before and out follow one another; before may be out */
EACH_WIDTH static void add_product(size_t rows, size_t columns, size_t depth, matrix a, matrix b, matrix before, target out,
                                   float keep, float scale)
{
    size_t j = 0;
    for (; columns - j >= WIDE * LANES; j += WIDE * LANES)
        for (size_t i = 0; i < rows; i += TILE)
            wide_tile(rows - i, depth, moved(a, i, 0), moved(b, 0, j), moved(before, i, j), moved_to(out, i, j), keep, scale);
    for (; columns - j >= LANES; j += LANES)
        for (size_t i = 0; i < rows; i += TILE)
            narrow_tile(rows - i, depth, moved(a, i, 0), moved(b, 0, j), moved(before, i, j), moved_to(out, i, j), keep, scale);
    if (j < columns)
        last_columns(rows, columns - j, depth, a, moved(b, 0, j), moved(before, 0, j), moved_to(out, 0, j), keep, scale);
}

void lepton_times_transposed(size_t members, size_t rows, size_t columns, size_t depth, const float *a, size_t a_member,
                             size_t a_row, const float *b, size_t b_member, size_t b_row, const float *start,
                             size_t start_member, float more, float *out, size_t out_member, size_t out_row,
                             size_t out_column)
{
    for (size_t m = 0; m < members; m++)
        times_transposed(rows, columns, depth, (matrix){a + m * a_member, a_row, 1}, (matrix){b + m * b_member, b_row, 1},
                         start == NULL ? NULL : start + m * start_member, more,
                         (target){out + m * out_member, out_row, out_column});
}

void lepton_add_product(size_t members, size_t rows, size_t columns, size_t depth, const float *a, size_t a_member,
                        size_t a_row, size_t a_column, const float *b, size_t b_member, size_t b_row, const float *before,
                        size_t before_member, size_t before_row, float *out, size_t out_member, size_t out_row, float keep,
                        float scale)
{
    for (size_t m = 0; m < members; m++)
        add_product(rows, columns, depth, (matrix){a + m * a_member, a_row, a_column}, (matrix){b + m * b_member, b_row, 1},
                    (matrix){before + m * before_member, before_row, 1}, (target){out + m * out_member, out_row, 1}, keep,
                    scale);
}

/* -- the walk of walk.py: all steps of one member after another, for what it needs to stay in a core's cache -- */

enum { NONE, RELU, TANH, SIGMOID };

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
} walk;

/* A layer of one member in one step. */
typedef struct {
    layer of;
    size_t step, before, rows; /* records of earlier steps, and of this one */
    matrix weight, seen, slopes;
    const float *bias;
    float *own, *own_bias, *seen_now, *slopes_now;
} stand;

INLINE matrix rows_of(const float *values, size_t width)
{
    return (matrix){values, width, 1};
}
INLINE target rows_to(float *values, size_t width)
{
    return (target){values, width, 1};
}

static stand at(const walk *all, const layer *of, size_t member, size_t step)
{
    stand here = {.of = *of, .step = step, .before = all->ends[step], .rows = all->ends[step + 1] - all->ends[step]};
    float *seen = of->seen + member * of->seen_member, *slopes = of->slopes + member * of->slopes_member;
    here.seen = rows_of(seen, of->inputs), here.seen_now = seen + here.before * of->inputs;
    here.slopes = rows_of(slopes, of->outputs), here.slopes_now = slopes + here.before * of->outputs;
    here.weight = rows_of(of->weight, of->inputs), here.bias = of->bias;
    if (of->own != NULL) {
        here.own = of->own + member * of->outputs * of->inputs;
        here.own_bias = of->bias == NULL ? NULL : of->own_bias + member * of->outputs;
        if (step)
            here.weight.at = here.own, here.bias = here.own_bias;
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

/* Numbers of a row's end, followed by zeros; and all that there is room for. */
INLINE lanes some(const float *from, size_t count)
{
    lanes found = {0};
    if (count >= LANES)
        return LOAD(from);
    memcpy(&found, from, count * sizeof(float));
    return found;
}
INLINE void put(float *to, lanes values, size_t count)
{
    if (count >= LANES)
        STORE(to, values);
    else
        memcpy(to, &values, count * sizeof(float));
}

/* e to each number, to some 1e-7 of it: 2^n times the series of what is left, which is below 0.35 */
INLINE lanes powers(lanes x)
{
    const lanes most = (lanes){0} + 88, least = (lanes){0} - 87, round = (lanes){0} + 12582912; /* 1.5 * 2^23 */
    x = CHOSEN(x > most, most, x);
    x = CHOSEN(x < least, least, x);
    lanes n = (x * 1.44269504f + round) - round, left = x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes series = (lanes){0} + 1;
    UNROLL for (int k = 7; k > 0; k--) series = 1 + series * left * (1.0f / k);
    return series * (lanes)((__builtin_convertvector(n, picks) + 127) << 23);
}

INLINE lanes bent(size_t bend, lanes x)
{
    const lanes none = {0};
    if (bend == RELU)
        return CHOSEN(x < none, none, x); /* NaN stays */
    if (bend == SIGMOID)
        return 1 / (1 + powers(-x));
    if (bend == TANH) {
        lanes power = powers(-2 * CHOSEN(x < none, -x, x)), size = (1 - power) / (1 + power);
        return CHOSEN(x < none, -size, size);
    }
    return x;
}

/* The gradient by what was bent, of the one by the outcome y. */
INLINE lanes unbent(size_t bend, lanes y, lanes g)
{
    const lanes none = {0};
    if (bend == RELU)
        return CHOSEN(y <= none, none, g);
    if (bend == SIGMOID)
        return g * y * (1 - y);
    if (bend == TANH)
        return g * (1 - y * y);
    return g;
}

EACH_WIDTH static void bend_all(size_t bend, size_t count, const float *x, float *y)
{
    for (size_t i = 0; i < count; i += LANES)
        put(y + i, bent(bend, some(x + i, count - i)), count - i);
}

EACH_WIDTH static void unbend_all(size_t bend, size_t count, const float *y, const float *g, float *out)
{
    for (size_t i = 0; i < count; i += LANES)
        put(out + i, unbent(bend, some(y + i, count - i), some(g + i, count - i)), count - i);
}

/* slopes = what the step's loss changes by with each output */
EACH_WIDTH static void slopes_of(size_t rows, size_t outputs, const float *made, const int64_t *labels, const float *shares,
                                 float *slopes)
{
    for (size_t i = 0; outputs > 1 && i < rows; i++) {
        const float *row = made + i * outputs;
        float most = row[0];
        for (size_t j = 1; j < outputs; j++)
            most = row[j] > most ? row[j] : most;
        for (size_t j = 0; j < outputs; j++)
            slopes[i * outputs + j] = row[j] - most;
    }
    for (size_t i = 0; i < rows * outputs; i += LANES) {
        size_t count = rows * outputs - i;
        put(slopes + i, outputs > 1 ? powers(some(slopes + i, count)) : bent(SIGMOID, some(made + i, count)), count);
    }
    for (size_t i = 0; i < rows; i++) {
        float *row = slopes + i * outputs, total = outputs > 1 ? 0 : 1;
        for (size_t j = 0; outputs > 1 && j < outputs; j++)
            total += row[j];
        for (size_t j = 0; j < outputs; j++)
            row[j] = shares[i] * (row[j] / total);
        if (outputs > 1)
            row[labels[i]] -= shares[i];
        else
            row[0] -= shares[i] * (float)labels[i];
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
        float *bent = number < last ? at(all, &layers[number + 1], member, step).seen_now : made;
        bend_all(layers[number].bend, here.rows * layers[number].outputs, made, bent);
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

/* Whether every label is one of the outputs; else nothing was done. */
int lepton_walk(const walk *all, const layer *layers)
{
    int64_t classes = (int64_t)layers[all->layers - 1].outputs;
    for (size_t i = 0; i < all->members * all->records; i++)
        if (all->labels[i] < 0 || all->labels[i] >= (classes > 1 ? classes : 2))
            return 0;
    for (size_t member = 0; member < all->members; member++) {
        stand first = at(all, &layers[0], member, 0);
        times_transposed(all->records, first.of.outputs, first.of.inputs, first.seen, first.weight, first.bias, 0,
                         rows_to(all->first, first.of.outputs));
        for (size_t step = 0; step < all->steps; step++)
            take_step(all, layers, member, step);
    }
    return 1;
}
