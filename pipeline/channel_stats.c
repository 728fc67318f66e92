#include "pipeline/channel_stats.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/defect.h"
#include "kernels/mem.h"
#include "pipeline/channel_stats_file.h"

static double *row_mean(const pg_stats_row *row) { return row->values; }
static double *row_m2(const pg_channel_stats *s, const pg_stats_row *row) {
    return row->values + s->channels;
}

pg_stats_row *pg_stats_row_of(pg_channel_stats *s, int64_t klass) {
    pg_stats_row *row = &s->rows[klass];
    if (!row->values)
        row->values = pg_calloc((size_t)s->channels * 2, sizeof(double));
    return row->values ? row : NULL;
}

pg_err pg_stats_alloc(int n_convs, int64_t classes, const uint8_t sha256[32],
                      pg_channel_stats **out, pg_diag *diag) {
    *out = NULL;
    pg_channel_stats *s = pg_calloc(1, sizeof *s);
    if (!s)
        return pg_fail(diag, PG_ENOMEM, "no memory for channel statistics");
    s->n_convs = n_convs;
    s->classes = classes;
    memcpy(s->model_sha256, sha256, sizeof s->model_sha256);
    s->convs = pg_calloc((size_t)n_convs + 1, sizeof *s->convs);
    s->rows = pg_calloc((size_t)classes + 1, sizeof *s->rows);
    if (!s->convs || !s->rows) {
        pg_channel_stats_destroy(&s);
        return pg_fail(diag, PG_ENOMEM, "no memory for channel statistics");
    }
    *out = s;
    return PG_OK;
}

pg_err pg_channel_stats_create(const pg_conv_info *convs, int n_convs, int64_t classes,
                               const uint8_t model_sha256[32], pg_channel_stats **out,
                               pg_diag *diag) {
    pg_err err = pg_stats_alloc(n_convs, classes, model_sha256, out, diag);
    if (err)
        return err;
    pg_channel_stats *s = *out;
    for (int i = 0; i < n_convs; i++) {
        s->convs[i].name = pg_strdup(convs[i].name ? convs[i].name : "");
        s->convs[i].channels = convs[i].channels;
        s->convs[i].offset = s->channels;
        s->channels += convs[i].channels;
        if (!s->convs[i].name) {
            pg_channel_stats_destroy(out);
            return pg_fail(diag, PG_ENOMEM, "no memory for channel statistics");
        }
    }
    return PG_OK;
}

void pg_channel_stats_destroy(pg_channel_stats **stats) {
    pg_channel_stats *s = *stats;
    if (!s)
        return;
    for (int i = 0; s->convs && i < s->n_convs; i++)
        pg_free(s->convs[i].name);
    for (int64_t k = 0; s->rows && k <= s->classes; k++)
        pg_free(s->rows[k].values);
    pg_free(s->convs);
    pg_free(s->rows);
    pg_free(s);
    *stats = NULL;
}

static bool all_finite(const pg_channel_stats *s, const float *const *gaps) {
    for (int i = 0; i < s->n_convs; i++)
        for (int64_t c = 0; c < s->convs[i].channels; c++)
            if (!isfinite(gaps[i][c]))
                return false;
    return true;
}

pg_err pg_channel_stats_add(pg_channel_stats *s, int64_t klass, const float *const *gaps,
                            pg_diag *diag) {
    pg_assert(klass >= 0 && klass < s->classes);
    if (!all_finite(s, gaps))
        return pg_fail(diag, PG_EINPUT, "a channel statistic is not finite");
    pg_stats_row *row = pg_stats_row_of(s, klass);
    if (!row)
        return pg_fail(diag, PG_ENOMEM, "no memory for the statistics of class %" PRId64, klass);
    double n = (double)++row->count;
    double *mean = row_mean(row), *m2 = row_m2(s, row);
    for (int i = 0; i < s->n_convs; i++)
        for (int64_t c = 0; c < s->convs[i].channels; c++, mean++, m2++) {
            double x = (double)gaps[i][c], step = x - *mean;
            *mean += step / n;
            *m2 += step * (x - *mean);
        }
    return PG_OK;
}

/* Chan's formula: (n, mean, m2) of two disjoint groups together. */
static void merge_channel(double na, double *mean, double *m2, double nb, double mean_b,
                          double m2_b) {
    double n = na + nb, delta = mean_b - *mean;
    *m2 += m2_b + delta * delta * (na / n) * nb;
    *mean += delta * (nb / n);
}

static void merge_row(const pg_channel_stats *s, pg_stats_row *into, const pg_stats_row *from) {
    for (int64_t j = 0; j < s->channels; j++)
        merge_channel((double)into->count, into->values + j, row_m2(s, into) + j,
                      (double)from->count, from->values[j], row_m2(s, from)[j]);
    into->count += from->count;
}

static bool same_model(const pg_channel_stats *a, const pg_channel_stats *b) {
    if (a->n_convs != b->n_convs || a->classes != b->classes || a->channels != b->channels ||
        memcmp(a->model_sha256, b->model_sha256, sizeof a->model_sha256) != 0)
        return false;
    for (int i = 0; i < a->n_convs; i++)
        if (a->convs[i].channels != b->convs[i].channels)
            return false;
    return true;
}

pg_err pg_channel_stats_merge(pg_channel_stats *s, const pg_channel_stats *from, pg_diag *diag) {
    if (!same_model(s, from))
        return pg_fail(diag, PG_EMODEL, "the statistics belong to another model");
    for (int64_t k = 0; k < s->classes; k++) {
        if (from->rows[k].count == 0)
            continue;
        pg_stats_row *row = pg_stats_row_of(s, k);
        if (!row)
            return pg_fail(diag, PG_ENOMEM, "no memory for the statistics of class %" PRId64, k);
        merge_row(s, row, &from->rows[k]);
    }
    return PG_OK;
}

/* The row behind the last class holds all samples. */
pg_err pg_channel_stats_seal(pg_channel_stats *s, pg_diag *diag) {
    pg_stats_row *all = pg_stats_row_of(s, s->classes);
    if (!all)
        return pg_fail(diag, PG_ENOMEM, "no memory for channel statistics");
    memset(all->values, 0, (size_t)s->channels * 2 * sizeof(double));
    all->count = 0;
    for (int64_t k = 0; k < s->classes; k++)
        if (s->rows[k].count)
            merge_row(s, all, &s->rows[k]);
    return PG_OK;
}

int pg_channel_stats_convs(const pg_channel_stats *s) { return s->n_convs; }
int64_t pg_channel_stats_classes(const pg_channel_stats *s) { return s->classes; }

uint64_t pg_channel_stats_count(const pg_channel_stats *s, int64_t klass) {
    if (klass >= 0 && klass < s->classes)
        return s->rows[klass].count;
    uint64_t sum = 0;
    for (int64_t k = 0; k < s->classes; k++)
        sum += s->rows[k].count;
    return sum;
}

static pg_sample sample_of(double count, double mean, double m2) {
    double divisor = pg_defect("population-variance") ? count : count - 1;
    return (pg_sample){count, mean, count > 1 ? m2 / divisor : 0};
}

static pg_sample row_sample(const pg_channel_stats *s, int64_t row, int conv, int64_t channel) {
    const pg_stats_row *r = &s->rows[row];
    if (!r->values)
        return (pg_sample){0, 0, 0};
    int64_t j = s->convs[conv].offset + channel;
    return sample_of((double)r->count, row_mean(r)[j], row_m2(s, r)[j]);
}

pg_sample pg_channel_stats_class(const pg_channel_stats *s, int64_t klass, int conv,
                                 int64_t channel) {
    return row_sample(s, klass, conv, channel);
}

pg_sample pg_channel_stats_all(const pg_channel_stats *s, int conv, int64_t channel) {
    return row_sample(s, s->classes, conv, channel);
}

/* The others one by one: exact, but as slow as there are classes. */
static pg_sample rest_by_merging(const pg_channel_stats *s, int64_t klass, int64_t j) {
    double n = 0, mean = 0, m2 = 0;
    for (int64_t k = 0; k < s->classes; k++) {
        const pg_stats_row *r = &s->rows[k];
        if (k == klass || r->count == 0)
            continue;
        merge_channel(n, &mean, &m2, (double)r->count, r->values[j], row_m2(s, r)[j]);
        n += (double)r->count;
    }
    return sample_of(n, mean, m2);
}

/* All minus the class, which is one subtraction; where that would cancel more than half of the
 * digits, the others are merged instead. */
pg_sample pg_channel_stats_rest(const pg_channel_stats *s, int64_t klass, int conv,
                                int64_t channel) {
    const pg_stats_row *all = &s->rows[s->classes], *own = &s->rows[klass];
    pg_assert(all->values);
    int64_t j = s->convs[conv].offset + channel;
    if (own->count == 0)
        return pg_channel_stats_all(s, conv, channel);
    double n = (double)all->count, nk = (double)own->count, nr = n - nk;
    if (nr < 1)
        return (pg_sample){0, 0, 0};
    double m2 = row_m2(s, all)[j], m2_own = row_m2(s, own)[j];
    double mean = (n * row_mean(all)[j] - nk * row_mean(own)[j]) / nr;
    double delta = row_mean(own)[j] - mean;
    double rest = m2 - m2_own - delta * delta * nk * (nr / n);
    if (rest < 1e-6 * m2 || fabs(mean) < 1e-6 * fabs(row_mean(all)[j]))
        return rest_by_merging(s, klass, j);
    return sample_of(nr, mean, rest);
}

pg_err pg_channel_stats_check_model(const pg_channel_stats *s, const pg_model_info *model,
                                    pg_diag *diag) {
    if (memcmp(s->model_sha256, model->sha256, sizeof s->model_sha256) != 0) {
        char theirs[PG_SHA256_HEX];
        pg_sha256_hex(s->model_sha256, theirs);
        return pg_fail(diag, PG_EMODEL,
                       "the statistics belong to another model (sha256 %.16s..., this one is "
                       "%.16s...): run `parchgradd calibrate` with this model",
                       theirs, model->sha256_hex);
    }
    bool fits = s->n_convs == model->n_convs && s->classes == model->classes;
    for (int i = 0; fits && i < s->n_convs; i++)
        fits = s->convs[i].channels == model->convs[i].channels;
    if (!fits)
        return pg_fail(diag, PG_EMODEL,
                       "the statistics do not fit the model's convolutions and classes (another "
                       "output?): run `parchgradd calibrate` again");
    return PG_OK;
}
