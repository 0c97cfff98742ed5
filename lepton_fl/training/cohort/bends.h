/* Activations, their gradients and the slopes of cross-entropy, vector by vector: for walk.c and clipped.c. */

enum { NONE, RELU, TANH, SIGMOID };

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

/* Whether every label is one of the outputs, which are two where there is one. */
static int are_known(size_t rows, const int64_t *labels, size_t outputs)
{
    int64_t classes = outputs > 1 ? (int64_t)outputs : 2;
    for (size_t i = 0; i < rows; i++)
        if (labels[i] < 0 || labels[i] >= classes)
            return 0;
    return 1;
}

/* slopes = what the loss changes by with each output; a record counts its share, or 1 where there are none */
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
        float *row = slopes + i * outputs, total = outputs > 1 ? 0 : 1, share = shares == NULL ? 1 : shares[i];
        for (size_t j = 0; outputs > 1 && j < outputs; j++)
            total += row[j];
        for (size_t j = 0; j < outputs; j++)
            row[j] = share * (row[j] / total);
        if (outputs > 1)
            row[labels[i]] -= share;
        else
            row[0] -= share * (float)labels[i];
    }
}
