#include "kernels/gemv.h"

#include <string.h>

#include "kernels/simd.h"

/* LANES running sums hide the latency of an addition (4 cycles, 2 per cycle, 8 floats each). BLOCK
 * columns of d_x stay in the first-level cache while the rows stream by. */
enum { LANES = 64, ROWS = 16, BLOCK = 2048, SMALL = 32768 };

PG_CLONES static void dot_rows(int64_t first, int64_t last, int64_t cols, const float *w,
                               const float *x, const float *bias, float *y) {
    for (int64_t n = first; n < last; n++) {
        const float *row = w + n * cols;
        float sum[LANES] = {0};
        int64_t k = 0;
        for (; k + LANES <= cols; k += LANES)
            for (int j = 0; j < LANES; j++)
                sum[j] += row[k + j] * x[k + j];
        for (; k < cols; k++)
            sum[k % LANES] += row[k] * x[k];
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++)
                sum[j] += sum[j + half];
        y[n] = sum[0] + (bias ? bias[n] : 0.0f);
    }
}

void pg_gemv(int64_t rows, int64_t cols, const float *w, const float *x, const float *bias,
             float *y) {
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t n = 0; n < rows; n += ROWS)
        dot_rows(n, n + ROWS < rows ? n + ROWS : rows, cols, w, x, bias, y);
}

/* Two rows at a time halve the traffic on d_x. */
PG_CLONES static void add_rows(int64_t count, float d0, const float *w0, float d1, const float *w1,
                               float *d_x) {
    for (int64_t k = 0; k < count; k++)
        d_x[k] += d0 * w0[k] + d1 * w1[k];
}

PG_CLONES static void add_row(int64_t count, float d, const float *w, float *d_x) {
    for (int64_t k = 0; k < count; k++)
        d_x[k] += d * w[k];
}

static void transposed_block(int64_t rows, int64_t cols, int64_t first, int64_t count,
                             const float *w, const float *d_y, float *d_x) {
    int64_t waiting = -1; /* a row that still looks for its partner */
    memset(d_x + first, 0, (size_t)count * sizeof *d_x);
    for (int64_t n = 0; n < rows; n++) {
        if (d_y[n] == 0.0f)
            continue;
        if (waiting < 0) {
            waiting = n;
            continue;
        }
        add_rows(count, d_y[waiting], w + waiting * cols + first, d_y[n], w + n * cols + first,
                 d_x + first);
        waiting = -1;
    }
    if (waiting >= 0)
        add_row(count, d_y[waiting], w + waiting * cols + first, d_x + first);
}

void pg_gemv_transposed(int64_t rows, int64_t cols, const float *w, const float *d_y, float *d_x) {
    /* Small layers get narrower blocks, so that every thread has some. */
    int64_t block = cols >= 8 * BLOCK ? BLOCK : 256;
#pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t k = 0; k < cols; k += block)
        transposed_block(rows, cols, k, k + block < cols ? block : cols - k, w, d_y, d_x);
}
