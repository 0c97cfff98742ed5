/* Products of each member's own matrices, which are too small for a library's loops: see products.py. */

#include "tiles.h"

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
