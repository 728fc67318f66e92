/* Forward reads rows through the tables, backward adds rows through them. Rows that are contiguous
 * on both sides are memory copies and vector additions; short rows are joined to longer ones first
 * (channels-last images have rows of C = 3).
 *
 * Backward in parallel: several places may read one element, so threads must not split the result
 * as they like. Along one axis, places are sorted by what they read; two groups of that order touch
 * different elements whatever the other axes say, as long as no other axis walks the same source
 * axis. Within a group the order is fixed, so sums do not depend on the number of threads. */
#include "kernels/index_map.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"

enum {
    PARALLEL_FROM = 1 << 15, /* elements; below, starting a team costs more than it saves */
    BLOCK = 1 << 12,         /* elements a thread takes at once */
    MANY = 4,                /* gradients of one element, on average, that float may add up */
    SHORT_ROW = 64,          /* below, a row costs more to find than to copy */
    TABLE_LIMIT = 1 << 24,   /* entries of one axis: 128 MB, and far above any real network */
    JOINED_ROW = 1 << 14,    /* the longest table that joining makes */
};

static pg_err out_of_memory(const char *node, pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", node);
}

pg_err pg_index_new(const pg_op_class *cls, const pg_op_def *def, const pg_shape *dst,
                    const pg_index_axis *axes, int n_axes, pg_index_op **op, pg_op **out,
                    pg_diag *diag) {
    pg_assert(n_axes <= PG_MAX_RANK);
    bool fits = dst->rank <= PG_MAX_RANK && pg_shape_count(dst) >= 0;
    for (int k = 0; k < n_axes; k++)
        fits = fits && axes[k].n <= TABLE_LIMIT;
    if (!fits)
        return pg_node_refuse(def, diag, "its result would be too large");
    pg_err err = pg_op_alloc(cls, def, sizeof(pg_index_op), 1, out, diag);
    if (err)
        return err;
    *op = (pg_index_op *)*out;
    (*out)->dst[0].shape = *dst;
    (*out)->layouts = PG_LAYOUTS_PLAIN;
    for (int k = 0; k < n_axes; k++) {
        pg_index_axis *axis = &(*op)->axes[(*op)->n_axes++];
        *axis = axes[k];
        axis->from = pg_malloc((size_t)axis->n * sizeof *axis->from);
        if (!axis->from) {
            pg_op_destroy(out);
            return out_of_memory(def->node, diag);
        }
        for (int64_t i = 0; i < axis->n; i++)
            axis->from[i] = i;
    }
    return PG_OK;
}

pg_err pg_index_new_same(const pg_op_class *cls, const pg_op_def *def, const pg_shape *dst,
                         pg_index_op **op, pg_op **out, pg_diag *diag) {
    pg_index_axis axes[PG_MAX_RANK];
    pg_assert(dst->rank <= PG_MAX_RANK);
    for (int k = 0; k < dst->rank; k++)
        axes[k] = pg_index_part(dst->dims[k], k, k, 1);
    pg_err err = pg_index_new(cls, def, dst, axes, dst->rank, op, out, diag);
    if (!err)
        (*out)->layouts = PG_LAYOUTS_SAME;
    return err;
}

/* ---- prepare ---- */

static void look_at_axis(pg_index_axis *axis) {
    bool constant = true;
    axis->run = true;
    for (int64_t i = 0; i < axis->n; i++) {
        axis->run = axis->run && axis->from[i] >= 0 && axis->from[i] == axis->from[0] + i;
        constant = constant && (axis->from[i] < 0 || axis->from[i] == axis->from[0]);
    }
    if (constant) /* the same position everywhere decides nothing */
        axis->walks = 0;
}

/* Positions to element offsets; axes in the order the result lies in memory. */
static void place_axes(pg_index_op *op) {
    int64_t src[PG_MAX_RANK], dst[PG_MAX_RANK], key[PG_MAX_RANK];
    pg_desc_strides(&op->op.src[0], src);
    pg_desc_strides(&op->op.dst[0], dst);
    for (int k = 0; k < op->n_axes; k++) {
        pg_index_axis axis = op->axes[k];
        bool flat = axis.src_axis == PG_INDEX_FLAT;
        for (int64_t i = 0; i < axis.n && !flat; i++)
            axis.from[i] = axis.from[i] < 0 ? -1 : axis.from[i] * src[axis.src_axis];
        axis.walks = flat ? ~0u : 1u << axis.src_axis;
        look_at_axis(&axis);
        int64_t unit = axis.n <= 1 || axis.dst_axis == PG_INDEX_FLAT ? 1 : dst[axis.dst_axis];
        int64_t step = axis.n <= 1 ? 0 : axis.dst_step * unit;
        int at = k;
        for (; at > 0 && key[at - 1] < step; at--)
            op->axes[at] = op->axes[at - 1], key[at] = key[at - 1];
        op->axes[at] = axis, key[at] = step;
    }
}

static int64_t offset_at(const pg_index_axis *axis, int64_t i) {
    return axis->run ? axis->from[0] + i : axis->from[i];
}

static bool joinable(const pg_index_axis *outer, const pg_index_axis *inner, bool *as_run) {
    *as_run = outer->from[0] >= 0 && inner->run;
    for (int64_t j = 0; j < outer->n && *as_run; j++)
        *as_run = offset_at(outer, j) == outer->from[0] + j * inner->n;
    return *as_run || outer->n == 1 || inner->n == 1 ||
           (inner->n < SHORT_ROW && outer->n <= JOINED_ROW / inner->n);
}

/* One axis in place of two neighbours: its table is the sum of both. Of a run only the first
 * entry is ever read. */
static bool join(pg_index_axis *outer, pg_index_axis *inner, bool as_run) {
    int64_t n = outer->n * inner->n;
    int64_t *from = pg_malloc((size_t)(as_run ? 1 : n) * sizeof *from);
    if (!from)
        return false;
    for (int64_t i = 0; i < (as_run ? 1 : n); i++) {
        int64_t a = offset_at(outer, i / inner->n), b = offset_at(inner, i % inner->n);
        from[i] = a < 0 || b < 0 ? -1 : a + b;
    }
    unsigned walks = outer->walks | inner->walks;
    pg_free(outer->from);
    pg_free(inner->from);
    *outer = (pg_index_axis){.n = n, .from = from, .run = as_run, .walks = walks};
    inner->from = NULL;
    return true;
}

static pg_err join_axes(pg_index_op *op, pg_diag *diag) {
    for (int last = op->n_axes - 1; last > 0;) {
        pg_index_axis *inner = &op->axes[last], *outer = inner - 1;
        bool row = last == op->n_axes - 1, as_run = false;
        /* outer axes: only where it costs no table */
        if (!joinable(outer, inner, &as_run) ||
            !(row || as_run || outer->n == 1 || inner->n == 1)) {
            last--;
            continue;
        }
        if (!join(outer, inner, as_run))
            return out_of_memory(op->op.node, diag);
        for (int k = last; k < op->n_axes - 1; k++)
            op->axes[k] = op->axes[k + 1];
        op->axes[--op->n_axes].from = NULL;
        if (last > op->n_axes - 1)
            last = op->n_axes - 1;
    }
    if (op->n_axes > 0)
        return PG_OK;
    op->axes[0].from = pg_calloc(1, sizeof(int64_t)); /* a scalar */
    op->axes[0].n = 1, op->axes[0].run = true;
    op->n_axes = 1;
    return op->axes[0].from ? PG_OK : out_of_memory(op->op.node, diag);
}

/* The longest outer axis that alone walks its source axes. */
static int choose_split(const pg_index_op *op) {
    int best = -1;
    for (int k = 0; k < op->n_axes - 1; k++) {
        unsigned others = 0;
        for (int j = 0; j < op->n_axes; j++)
            others |= j == k ? 0 : op->axes[j].walks;
        if ((op->axes[k].walks & others) == 0 && op->axes[k].n > 1 &&
            (best < 0 || op->axes[k].n > op->axes[best].n))
            best = k;
    }
    return best;
}

typedef struct place {
    int64_t from, i;
} place;

static int by_source(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->i < y->i ? -1 : x->i > y->i;
}

static pg_err group_places(pg_index_op *op, pg_diag *diag) {
    op->split_axis = choose_split(op);
    if (op->split_axis < 0)
        return PG_OK;
    const pg_index_axis *axis = &op->axes[op->split_axis];
    size_t n = (size_t)axis->n;
    place *places = pg_malloc(n * sizeof *places);
    op->order = pg_malloc(n * sizeof *op->order);
    op->start = pg_malloc((n + 1) * sizeof *op->start);
    if (!places || !op->order || !op->start) {
        pg_free(places);
        return out_of_memory(op->op.node, diag);
    }
    int64_t used = 0;
    for (int64_t i = 0; i < axis->n; i++)
        if (offset_at(axis, i) >= 0)
            places[used++] = (place){offset_at(axis, i), i};
    qsort(places, (size_t)used, sizeof *places, by_source);
    for (int64_t i = 0; i < used; i++) {
        if (i == 0 || places[i].from != places[i - 1].from)
            op->start[op->n_groups++] = i;
        op->order[i] = places[i].i;
    }
    op->start[op->n_groups] = used;
    pg_free(places);
    return PG_OK;
}

pg_err pg_index_prepare(pg_op *base, pg_diag *diag) {
    pg_index_op *op = (pg_index_op *)base;
    op->split_axis = -1;
    if (pg_shape_count(&base->dst[0].shape) == 0)
        return PG_OK; /* folded constants may be empty: nothing will be read */
    int64_t elements = pg_shape_count(&base->src[0].shape);
    op->sums = pg_shape_count(&base->dst[0].shape) / MANY > elements;
    base->scratch_bytes = op->sums ? (size_t)elements * sizeof(double) : 0;
    place_axes(op);
    pg_err err = join_axes(op, diag);
    return err ? err : group_places(op, diag);
}

/* ---- rows ---- */

PG_CLONES static void pick_row(int64_t n, const int64_t *from, const float *src, float fill,
                               float *dst) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = from[i] < 0 ? fill : src[from[i]];
}

static void fill_row(int64_t n, float fill, float *dst) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = fill;
}

PG_CLONES static void add_row(int64_t n, const float *d_dst, float *d_src) {
    for (int64_t i = 0; i < n; i++)
        d_src[i] += d_dst[i];
}

PG_CLONES static void add_row_in_double(int64_t n, const float *d_dst, double *d_src) {
    for (int64_t i = 0; i < n; i++)
        d_src[i] += (double)d_dst[i];
}

static void add_picked_row(int64_t n, const int64_t *from, const float *d_dst, float *d_src) {
    for (int64_t i = 0; i < n; i++)
        if (from[i] >= 0)
            d_src[from[i]] += d_dst[i];
}

static void add_picked_row_in_double(int64_t n, const int64_t *from, const float *d_dst,
                                     double *d_src) {
    for (int64_t i = 0; i < n; i++)
        if (from[i] >= 0)
            d_src[from[i]] += (double)d_dst[i];
}

/* Counts through the outer axes: at[k] is the place on axis k. */
typedef struct counter {
    int64_t at[PG_MAX_RANK];
} counter;

static counter count_from(const pg_index_op *op, int64_t row) {
    counter c = {{0}};
    for (int k = op->n_axes - 2; k >= 0; k--) {
        c.at[k] = row % op->axes[k].n;
        row /= op->axes[k].n;
    }
    return c;
}

static void count_on(const pg_index_op *op, counter *c) {
    for (int k = op->n_axes - 2; k >= 0 && ++c->at[k] == op->axes[k].n; k--)
        c->at[k] = 0;
}

/* Where the row reads from, -1: it is padding. */
static int64_t row_offset(const pg_index_op *op, const counter *c) {
    int64_t sum = 0;
    for (int k = 0; k < op->n_axes - 1; k++) {
        int64_t part = offset_at(&op->axes[k], c->at[k]);
        if (part < 0)
            return -1;
        sum += part;
    }
    return sum;
}

pg_err pg_index_forward(const pg_op *base, const pg_op_io *io) {
    const pg_index_op *op = (const pg_index_op *)base;
    int64_t count = pg_shape_count(&base->dst[0].shape);
    if (count == 0)
        return PG_OK;
    const pg_index_axis *last = &op->axes[op->n_axes - 1];
    int64_t n = last->n, rows = count / n, block = n < BLOCK ? BLOCK / n : 1;
#pragma omp parallel for schedule(static) if (count >= PARALLEL_FROM)
    for (int64_t first = 0; first < rows; first += block) {
        int64_t end = rows - first < block ? rows : first + block;
        counter c = count_from(op, first);
        for (int64_t row = first; row < end; row++, count_on(op, &c)) {
            int64_t at = row_offset(op, &c);
            float *y = io->dst[0] + row * n;
            if (at < 0)
                fill_row(n, op->fill, y);
            else if (last->run)
                memcpy(y, io->src[0] + at + last->from[0], (size_t)n * sizeof *y);
            else
                pick_row(n, last->from, io->src[0] + at, op->fill, y);
        }
    }
    return PG_OK;
}

/* What backward adds to: d_src itself, or sums in double that become it. */
typedef struct target {
    float *d_x;
    double *sums;
} target;

static void add_one_row(const pg_index_op *op, const counter *c, const float *d_dst, target to) {
    const pg_index_axis *last = &op->axes[op->n_axes - 1];
    int64_t at = row_offset(op, c), row = 0, n = last->n;
    if (at < 0)
        return;
    for (int k = 0; k < op->n_axes - 1; k++)
        row = row * op->axes[k].n + c->at[k];
    const float *d_y = d_dst + row * n;
    if (last->run && to.sums)
        add_row_in_double(n, d_y, to.sums + at + last->from[0]);
    else if (last->run)
        add_row(n, d_y, to.d_x + at + last->from[0]);
    else if (to.sums)
        add_picked_row_in_double(n, last->from, d_y, to.sums + at);
    else
        add_picked_row(n, last->from, d_y, to.d_x + at);
}

/* All rows at one place of the split axis. */
static void add_rows(const pg_index_op *op, int64_t place_on_axis, const float *d_dst, target to) {
    counter c = {{0}};
    int split = op->split_axis;
    for (int k = 0; k >= 0;) {
        c.at[split] = place_on_axis;
        add_one_row(op, &c, d_dst, to);
        for (k = op->n_axes - 2; k >= 0; k--) {
            if (k == split)
                continue;
            if (++c.at[k] < op->axes[k].n)
                break;
            c.at[k] = 0;
        }
    }
}

static void add_all(const pg_index_op *op, int64_t count, const float *d_dst, target to) {
    if (op->split_axis >= 0) {
#pragma omp parallel for schedule(static) if (count >= PARALLEL_FROM)
        for (int64_t g = 0; g < op->n_groups; g++)
            for (int64_t i = op->start[g]; i < op->start[g + 1]; i++)
                add_rows(op, op->order[i], d_dst, to);
        return;
    }
    counter c = {{0}};
    for (int64_t row = 0; row < count / op->axes[op->n_axes - 1].n; row++, count_on(op, &c))
        add_one_row(op, &c, d_dst, to);
}

pg_err pg_index_backward(const pg_op *base, const pg_op_io *io) {
    const pg_index_op *op = (const pg_index_op *)base;
    target to = {.d_x = io->d_src[0], .sums = op->sums ? io->scratch : NULL};
    if (!to.d_x)
        return PG_OK;
    int64_t n = pg_shape_count(&base->src[0].shape);
    if (to.sums)
        memset(to.sums, 0, (size_t)n * sizeof *to.sums);
    else
        memset(to.d_x, 0, (size_t)n * sizeof *to.d_x);
    add_all(op, pg_shape_count(&base->dst[0].shape), io->d_dst[0], to);
    for (int64_t i = 0; i < n && to.sums; i++)
        to.d_x[i] = (float)to.sums[i];
    return PG_OK;
}

void pg_index_destroy(pg_op *base) {
    pg_index_op *op = (pg_index_op *)base;
    for (int k = 0; k < op->n_axes; k++)
        pg_free(op->axes[k].from);
    pg_free(op->order);
    pg_free(op->start);
}
