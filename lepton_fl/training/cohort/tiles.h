/* Two products of small matrices, in tiles that stay in registers: for the loops of products.c, walk.c and clipped.c.

   A number of a product is added up in one order, whoever else is in the batch: an edge takes its last row several times
   and keeps one of them. Operations may be fused (-ffp-contract=fast). */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef LEPTON_SOURCE /* hatch_build.py tells both */
#define LEPTON_SOURCE "" /* SHA-256 of the source and of the headers beside it */
#define EACH_WIDTH       /* what makes a copy of a loop for each width of registers */
#endif
extern const char *const lepton_source;
const char *const lepton_source = LEPTON_SOURCE;

/* Whether a tile fits into registers: else a library's product is the better one. */
int lepton_is_wide(void);
int lepton_is_wide(void)
{
#if defined(LEPTON_COPIES) && defined(__x86_64__)
    return __builtin_cpu_supports("x86-64-v4") != 0;
#else
    return 0;
#endif
}

enum { LANES = 16, TILE = 5, WIDE = 4, DEEP = 128 };
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

/* The last columns, which fill no vector: of a whole one that ends with them, or through memory where there is none. */
INLINE void last_columns(size_t rows, size_t columns, size_t depth, matrix a, matrix b, matrix before, target out, float keep,
                         float scale)
{
    size_t left = columns % LANES, back = columns < LANES ? 0 : LANES - left, start = columns - left - back;
    float panel[DEEP][LANES], tile[TILE][LANES];
    memset(tile, 0, sizeof tile);
    if (!back) {
        memset(panel, 0, sizeof panel);
        for (size_t k = 0; k < depth; k++)
            memcpy(panel[k], b.at + k * b.row, columns * sizeof(float));
    }
    matrix right = back ? moved(b, 0, start) : (matrix){panel[0], LANES, 1};
    for (size_t i = 0; i < rows; i += TILE) {
        size_t here = rows - i < TILE ? rows - i : TILE;
        for (size_t r = 0; r < here && keep != 0; r++)
            memcpy(tile[r] + back, before.at + (i + r) * before.row + start + back, left * sizeof(float));
        narrow_tile(here, depth, moved(a, i, 0), right, (matrix){tile[0], LANES, 1}, (target){tile[0], LANES, 1}, keep, scale);
        for (size_t r = 0; r < here; r++)
            memcpy(out.at + (i + r) * out.row + start + back, tile[r] + back, left * sizeof(float));
    }
}

/* out = keep * before + scale * a @ b; columns of b, before and out follow one another; before may be out */
EACH_WIDTH static void add_product(size_t rows, size_t columns, size_t depth, matrix a, matrix b, matrix before, target out,
                                   float keep, float scale)
{
    /* So many rows of b at a time that what a tile needs of them stays in the first cache. */
    for (size_t k = 0; k < depth || k == 0; k += DEEP) {
        size_t deep = depth - k < DEEP ? depth - k : DEEP, j = 0;
        for (; columns - j >= WIDE * LANES; j += WIDE * LANES)
            for (size_t i = 0; i < rows; i += TILE)
                wide_tile(rows - i, deep, moved(a, i, k), moved(b, k, j), moved(before, i, j), moved_to(out, i, j), keep, scale);
        for (; columns - j >= LANES; j += LANES)
            for (size_t i = 0; i < rows; i += TILE)
                narrow_tile(rows - i, deep, moved(a, i, k), moved(b, k, j), moved(before, i, j), moved_to(out, i, j), keep,
                            scale);
        if (j < columns)
            last_columns(rows, columns, deep, moved(a, 0, k), moved(b, k, 0), before, out, keep, scale);
        keep = 1;
        before = (matrix){out.at, out.row, 1};
    }
}

INLINE matrix rows_of(const float *values, size_t width)
{
    return (matrix){values, width, 1};
}
INLINE target rows_to(float *values, size_t width)
{
    return (target){values, width, 1};
}
