/* What it takes: a gather of the kept columns of the gradient (a pass over it that also scales),
 * and the kept rows of the weights in the library's layout. The number of channels is fixed when
 * the primitive is made; masks that keep fewer are filled up with zero columns and rows, which
 * change no sum.
 *
 * Packing rows reads and writes them about twice, which for the small maps of late layers is not
 * little beside the convolution itself. A class's mask is the same for every frame, so packed rows
 * are remembered: the key is the mask itself, compared byte by byte, and the one used longest ago
 * gives way. Masks of single frames are packed each time, where that pays, and give way first. */
#include "kernels/conv_kept.h"

#include <string.h>

#include "kernels/channel_bf16.h"
#include "kernels/channel_ops.h"
#include "kernels/mem.h"

enum {
    BLOCK = 16,      /* channels the library works on at a time */
    ENTRIES_MAX = 4, /* masks remembered, if they fit into */
    CACHE_BYTES = 8 << 20,
    PACK_FLOPS = 200, /* what convolution computes while one weight is packed: 70 to 240 measured
                         on layers of ResNet-50 and VGG16, one thread and two */
    PARALLEL_ROWS = 16384 /* weights that are copied in the time a second thread takes to start */
};

typedef struct entry {
    uint8_t *keep;  /* [channels] */
    void *weights;  /* [path.packed_bytes] */
    uint64_t used;  /* when: 0 of a mask that will not come again */
    bool filled;
} entry;

struct pg_conv_kept_state {
    pg_conv_run run;
    char *scratch;
    int32_t *index; /* [capacity] channels kept */
    uint64_t clock;
    int n_entries;
    entry entries[ENTRIES_MAX];
};

static size_t take(size_t *end, size_t bytes) {
    size_t start = *end;
    *end += (bytes + PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
    return start;
}

static int64_t blocks(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

/* ---- shared ---- */

static size_t element(const pg_conv_kept *kept) {
    return kept->bf16 ? sizeof(pg_bf16) : sizeof(float);
}

static bool copy_rows(pg_conv_kept *kept, const float *weights) {
    int64_t count = kept->channels * kept->row;
    kept->weight_bytes = (size_t)count * element(kept);
    kept->rows = pg_malloc(kept->weight_bytes);
    if (kept->rows && kept->bf16)
        pg_bf16_round_all(count, weights, kept->rows);
    else if (kept->rows)
        memcpy(kept->rows, weights, kept->weight_bytes);
    return kept->rows != NULL;
}

static void plan(pg_conv_kept *kept) {
    size_t capacity = (size_t)kept->capacity, fit = CACHE_BYTES / kept->path.packed_bytes;
    kept->entries = fit < 1 ? 1 : fit > ENTRIES_MAX ? ENTRIES_MAX : (int)fit;
    kept->state_bytes = (size_t)kept->entries * kept->path.packed_bytes;
    size_t *end = &kept->scratch_bytes;
    kept->gradient = take(end, (size_t)kept->positions * capacity * element(kept));
    kept->staging = take(end, capacity * (size_t)kept->row * element(kept));
    kept->scratch = take(end, kept->path.scratch_bytes);
}

pg_err pg_conv_kept_make(const pg_conv_path_spec *full, int64_t most, pg_conv_kept *out,
                         pg_diag *diag) {
    pg_conv_geometry g = *full->geometry;
    *out = (pg_conv_kept){.channels = g.out_c,
                           .positions = g.out_h * g.out_w,
                           .row = g.in_c * g.k_h * g.k_w,
                           .bf16 = full->bf16};
    if (g.groups != 1 || most < 1 || blocks(most) >= blocks(g.out_c))
        return PG_OK;
    g.out_c = blocks(most) * BLOCK;
    const pg_conv_path_spec spec = {.geometry = &g,
                                    .backward = true,
                                    .library_only = full->library_only,
                                    .bf16 = full->bf16,
                                    .in_bf16 = full->bf16};
    pg_err err = pg_conv_path_make(&spec, &out->path, diag);
    if (!err && !copy_rows(out, full->weights))
        err = pg_fail(diag, PG_ENOMEM, "out of memory");
    if (err || strstr(out->path.impl, "ref")) { /* the library's slow loop: nothing gained */
        pg_conv_kept_free(out);
        return err;
    }
    out->capacity = g.out_c;
    plan(out);
    return PG_OK;
}

void pg_conv_kept_free(pg_conv_kept *kept) {
    pg_conv_path_free(&kept->path);
    pg_free(kept->rows);
    memset(kept, 0, sizeof *kept);
}

/* ---- a session's ---- */

static bool alloc_entry(const pg_conv_kept *kept, entry *e) {
    e->keep = pg_calloc((size_t)kept->channels, 1);
    e->weights = pg_malloc(kept->path.packed_bytes);
    return e->keep && e->weights;
}

pg_err pg_conv_kept_bind(const pg_conv_kept *kept, float *d_src, void *scratch,
                         pg_conv_kept_state **out, pg_diag *diag) {
    pg_conv_kept_state *s = *out = pg_calloc(1, sizeof *s);
    if (s == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    s->scratch = scratch;
    s->index = pg_calloc((size_t)kept->capacity, sizeof *s->index);
    s->n_entries = kept->entries;
    bool ok = s->index != NULL;
    for (int i = 0; i < kept->entries; i++)
        ok = alloc_entry(kept, &s->entries[i]) && ok;
    const void *gradient = s->scratch + kept->gradient;
    pg_err err = ok ? pg_conv_run_make(&kept->path, gradient, d_src, s->scratch + kept->scratch,
                                       &s->run, diag)
                    : pg_fail(diag, PG_ENOMEM, "out of memory");
    if (err)
        pg_conv_kept_unbind(out);
    return err;
}

void pg_conv_kept_unbind(pg_conv_kept_state **state) {
    pg_conv_kept_state *s = *state;
    if (s == NULL)
        return;
    pg_conv_run_free(&s->run);
    for (int i = 0; i < ENTRIES_MAX; i++) {
        pg_free(s->entries[i].keep);
        pg_free(s->entries[i].weights);
    }
    pg_free(s->index);
    pg_free(s);
    *state = NULL;
}

/* Place of the mask among the entries, -1: not there. */
static int find(const pg_conv_kept *kept, const pg_conv_kept_state *s, const uint8_t *keep) {
    for (int i = 0; i < s->n_entries; i++)
        if (s->entries[i].filled && memcmp(s->entries[i].keep, keep, (size_t)kept->channels) == 0)
            return i;
    return -1;
}

bool pg_conv_kept_pays(const pg_conv_kept *kept, const pg_conv_kept_state *s, const uint8_t *keep,
                       int64_t count, bool lasting) {
    if (count > kept->capacity)
        return false;
    if (lasting || find(kept, s, keep) >= 0)
        return true;
    int64_t dropped = blocks(kept->channels) - kept->capacity / BLOCK;
    return 2 * kept->positions * dropped > PACK_FLOPS * (kept->capacity / BLOCK);
}

/* ---- execute ---- */

static pg_err pack(const pg_conv_kept *kept, pg_conv_kept_state *s, const uint8_t *keep,
                   int64_t count, entry *e) {
    char *staging = s->scratch + kept->staging;
    const char *rows = kept->rows;
    size_t bytes = (size_t)kept->row * element(kept);
    e->filled = false; /* until it is whole */
#pragma omp parallel for schedule(static) if (kept->capacity * kept->row > PARALLEL_ROWS)
    for (int64_t k = 0; k < kept->capacity; k++)
        if (k < count)
            memcpy(staging + (size_t)k * bytes, rows + (size_t)s->index[k] * bytes, bytes);
        else
            memset(staging + (size_t)k * bytes, 0, bytes);
    pg_err err = pg_conv_run_pack(&kept->path, &s->run, staging, e->weights);
    if (err)
        return err;
    memcpy(e->keep, keep, (size_t)kept->channels);
    e->filled = true;
    return PG_OK;
}

/* Makes the run use the rows of this mask. */
static pg_err use(const pg_conv_kept *kept, pg_conv_kept_state *s, const uint8_t *keep,
                  int64_t count, bool lasting) {
    int at = find(kept, s, keep);
    bool known = at >= 0;
    if (!known)
        at = 0;
    for (int i = 1; !known && i < s->n_entries; i++)
        if (s->entries[i].used < s->entries[at].used)
            at = i;
    entry *e = &s->entries[at];
    e->used = lasting ? ++s->clock : 0;
    return known ? pg_conv_run_use(&s->run, e->weights) : pack(kept, s, keep, count, e);
}

pg_err pg_conv_kept_execute(const pg_conv_kept *kept, pg_conv_kept_state *s, const uint8_t *keep,
                            int64_t count, bool lasting, float scale, const void *gradient) {
    int64_t k = 0;
    pg_assert(count <= kept->capacity);
    for (int64_t c = 0; c < kept->channels; c++)
        if (keep[c])
            s->index[k++] = (int32_t)c;
    pg_assert(k == count);
    pg_err err = use(kept, s, keep, count, lasting);
    if (err)
        return err;
    void *gathered = s->scratch + kept->gradient;
    if (kept->bf16)
        pg_channel_gather_bf16(kept->positions, kept->channels, gradient, s->index, count,
                               kept->capacity, scale, gathered);
    else
        pg_channel_gather(kept->positions, kept->channels, gradient, s->index, count,
                          kept->capacity, scale, gathered);
    return pg_conv_run_execute(&kept->path, &s->run);
}
