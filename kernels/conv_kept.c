/* What it takes: the kept columns of the gradient side by side, as the pass that measures the
 * groups leaves them (channel_split.h), and the kept rows of the weights in the layout of the
 * library or of a kernel of our own, whichever runs.
 * The number of channels is fixed when the primitive is made; masks that keep fewer are filled up
 * with rows of zeros, which change no sum and which our own kernels leave out.
 *
 * It is an ordinary path (conv_path.h) of fewer output channels, for a depthwise convolution of
 * fewer channels on both sides.
 *
 * Packing rows reads and writes them about twice, which for the small maps of late layers is not
 * little beside the convolution itself. A class's mask is the same for every frame, so packed rows
 * are remembered: the key is the mask itself, compared byte by byte, and the one used longest ago
 * gives way. Masks of single frames are packed each time, where that pays, and give way first. */
#include "kernels/conv_kept.h"

#include <string.h>

#include "kernels/channel_bf16.h"
#include "kernels/conv_kernel.h"
#include "kernels/mem.h"

enum {
    BLOCK = 16,       /* channels the library works on at a time */
    PACK_FLOPS = 200, /* what convolution computes while one weight is packed: 70 to 240 measured
                         on layers of ResNet-50 and VGG16, one thread and two; */
    OWN_PACK_FLOPS = 120, /* by a kernel of our own: 80 to 140 on ResNet-50's last */
    PARALLEL_ROWS = 16384 /* weights that are copied in the time a second thread takes to start */
};

typedef struct entry {
    uint8_t *keep; /* [channels] */
    void *weights; /* [packed_bytes] */
    uint64_t used; /* when: 0 of a mask that will not come again */
    bool filled;
} entry;

struct pg_conv_kept_state {
    pg_conv_run run;
    char *scratch;
    float *d_src;
    pg_live *live;           /* NULL: d_src is dense */
    int32_t *channel, *from; /* [capacity] the columns */
    int64_t count;           /* of them that are no filling */
    uint64_t clock;
    int n_entries;
    entry *entries; /* [n_entries] */
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

/* The kernel that takes rows out of what it has packed itself; NULL: another way. */
static const pg_conv_kernel *picker(const pg_conv_kept *kept) {
    return kept->path.own && kept->path.own->tiles ? kept->path.own : NULL;
}

/* All weights in the kernel's tiles. */
static bool copy_packed(const pg_conv_kernel *own, const pg_conv_path_spec *full,
                        pg_conv_kept *kept) {
    const pg_tiles tiles = own->tiles(full->geometry, true);
    kept->weight_bytes = pg_tiles_bytes(&tiles, kept->channels);
    kept->rows = pg_malloc(kept->weight_bytes);
    kept->packed = kept->rows;
    if (kept->rows)
        pg_tiles_pack(&tiles, full->geometry, true, full->weights, kept->rows);
    return kept->rows != NULL;
}

/* Lines can be taken from what the full path has packed, and fill what this one wants wholly, or a
 * kernel of our own picks what it wants. */
static bool share_lines(const pg_conv_path_spec *full, const pg_conv_path *path, int64_t capacity,
                        pg_conv_kept *kept) {
    pg_conv_geometry g = *full->geometry;
    pg_conv_lines from = {0}, to = {0};
    bool both = pg_conv_lines_make(path, &g, &from);
    if (both && picker(kept)) {
        kept->packed = path->weights;
        kept->from = from;
        return true;
    }
    g.out_c = capacity;
    both = both && pg_conv_lines_make(&kept->path, &g, &to);
    size_t bytes = (size_t)(capacity * to.n_in * to.n_taps) * PG_CONV_LINE * sizeof(float);
    if (both && from.n_in >= to.n_in && bytes == kept->path.packed_bytes) {
        kept->packed = path->weights;
        kept->from = from;
        kept->to = to;
        return true;
    }
    pg_conv_lines_free(&from);
    pg_conv_lines_free(&to);
    return false;
}

static bool make_weights(const pg_conv_path_spec *full, const pg_conv_path *path, int64_t capacity,
                         pg_conv_kept *kept) {
    const pg_conv_kernel *own = picker(kept);
    bool packed = path && path->weights;
    if (packed && own && path->own == own) {
        kept->packed = path->weights;
        return true;
    }
    if (packed && share_lines(full, path, capacity, kept))
        return true;
    return own ? copy_packed(own, full, kept) : copy_rows(kept, full->weights);
}

static void plan(pg_conv_kept *kept) {
    size_t capacity = (size_t)kept->capacity;
    size_t *end = &kept->scratch_bytes,
           in_positions = kept->depthwise ? (size_t)kept->in_positions : 0;
    bool staged = !kept->packed || (picker(kept) && picker(kept)->transform);
    kept->staging = take(end, staged ? capacity * (size_t)kept->row * element(kept) : 0);
    kept->result = take(end, in_positions * capacity * sizeof(float));
    kept->scratch = take(end, kept->path.scratch_bytes);
}

static pg_err make_path(const pg_conv_path_spec *full, int64_t most, pg_conv_kept *kept,
                        pg_diag *diag) {
    pg_conv_geometry g = *full->geometry;
    int64_t capacity = blocks(most) * BLOCK;
    g.out_c = capacity;
    if (kept->depthwise)
        g.groups = g.in_c = capacity;
    const pg_conv_path_spec spec = {.geometry = &g,
                                    .backward = true,
                                    .library_only = full->library_only,
                                    .kept = most,
                                    .bf16 = full->bf16};
    return pg_conv_path_make(&spec, &kept->path, diag);
}

pg_err pg_conv_kept_make(const pg_conv_path_spec *full, const pg_conv_path *path, int64_t most,
                         pg_conv_kept *out, pg_diag *diag) {
    const pg_conv_geometry *g = full->geometry;
    *out =
        (pg_conv_kept){.channels = g->out_c,
                       .positions = g->out_h * g->out_w,
                       .in_positions = g->in_h * g->in_w,
                       .row = g->in_c / g->groups * g->k_h * g->k_w,
                       .bf16 = full->bf16,
                       .depthwise = g->groups > 1 && g->groups == g->in_c && g->in_c == g->out_c};
    if ((g->groups != 1 && !out->depthwise) || most < 1 || blocks(most) >= blocks(g->out_c))
        return PG_OK;
    pg_err err = make_path(full, most, out, diag);
    bool slow = !err && strstr(out->path.impl, "ref"); /* the library's loop: nothing gained */
    if (!err && !slow && !make_weights(full, path, blocks(most) * BLOCK, out))
        err = pg_fail(diag, PG_ENOMEM, "out of memory");
    if (err || slow) {
        pg_conv_kept_free(out);
        return err;
    }
    out->capacity = blocks(most) * BLOCK;
    plan(out);
    pg_conv_kept_remember(out, 1);
    return PG_OK;
}

void pg_conv_kept_remember(pg_conv_kept *kept, int masks) {
    kept->entries = masks;
    kept->state_bytes = (size_t)masks * kept->path.packed_bytes;
}

void pg_conv_kept_free(pg_conv_kept *kept) {
    pg_conv_path_free(&kept->path);
    pg_conv_lines_free(&kept->from);
    pg_conv_lines_free(&kept->to);
    pg_free(kept->rows);
    memset(kept, 0, sizeof *kept);
}

/* ---- a session's ---- */

static bool alloc_entry(const pg_conv_kept *kept, entry *e) {
    e->keep = pg_calloc((size_t)kept->channels, 1);
    e->weights = pg_malloc(kept->path.packed_bytes);
    return e->keep && e->weights;
}

static float *place(const pg_conv_kept_state *s, size_t offset) {
    return (float *)(void *)(s->scratch + offset);
}

pg_err pg_conv_kept_bind(const pg_conv_kept *kept, float *d_src, pg_live *live, void *scratch,
                         pg_conv_kept_state **out, pg_diag *diag) {
    pg_conv_kept_state *s = *out = pg_calloc(1, sizeof *s);
    if (s == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    s->scratch = scratch;
    s->d_src = d_src;
    s->live = kept->depthwise && live && live->most >= kept->capacity ? live : NULL;
    s->channel = pg_calloc((size_t)kept->capacity, sizeof *s->channel);
    s->from = pg_calloc((size_t)kept->capacity, sizeof *s->from);
    s->entries = pg_calloc((size_t)kept->entries, sizeof *s->entries);
    s->n_entries = s->entries ? kept->entries : 0;
    bool ok = s->channel && s->from && s->entries;
    for (int i = 0; i < s->n_entries; i++)
        ok = alloc_entry(kept, &s->entries[i]) && ok;
    pg_err err = ok ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
    bool direct = !kept->depthwise || s->live;
    if (!err)
        err = pg_conv_run_make(&kept->path, scratch, /* until there are columns */
                               direct ? d_src : place(s, kept->result), place(s, kept->scratch),
                               &s->run, diag);
    if (err)
        pg_conv_kept_unbind(out);
    return err;
}

void pg_conv_kept_unbind(pg_conv_kept_state **state) {
    pg_conv_kept_state *s = *state;
    if (s == NULL)
        return;
    pg_conv_run_free(&s->run);
    for (int i = 0; i < s->n_entries; i++) {
        pg_free(s->entries[i].keep);
        pg_free(s->entries[i].weights);
    }
    pg_free(s->entries);
    pg_free(s->channel);
    pg_free(s->from);
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
                       bool lasting) {
    int64_t count = 0;
    for (int64_t c = 0; c < kept->channels; c++)
        count += keep[c] != 0;
    if (count > kept->capacity || count == 0)
        return false;
    if (lasting || find(kept, s, keep) >= 0)
        return true;
    int64_t dropped = blocks(kept->channels) - kept->capacity / BLOCK;
    int64_t cost = picker(kept) ? OWN_PACK_FLOPS : PACK_FLOPS;
    return 2 * kept->positions * dropped > cost * (kept->capacity / BLOCK);
}

/* ---- execute ---- */

pg_conv_columns pg_conv_kept_choose(const pg_conv_kept *kept, pg_conv_kept_state *s,
                                    const uint8_t *keep) {
    int64_t k = 0;
    for (int64_t c = 0; c < kept->channels && k < kept->capacity; c++)
        if (keep[c]) {
            s->channel[k] = (int32_t)c;
            s->from[k] = (int32_t)k;
            k++;
        }
    pg_assert(k > 0);
    s->count = k;
    for (; k < kept->capacity; k++) {
        s->channel[k] = s->channel[0];
        s->from[k] = 0;
    }
    return (pg_conv_columns){s->count, s->channel, s->from};
}

/* By way of plain rows, which the library packs. */
static pg_err pack_rows(const pg_conv_kept *kept, pg_conv_kept_state *s, entry *e) {
    char *staging = s->scratch + kept->staging;
    const char *rows = kept->rows;
    size_t bytes = (size_t)kept->row * element(kept);
#pragma omp parallel for schedule(static) if (kept->capacity * kept->row > PARALLEL_ROWS)
    for (int64_t k = 0; k < kept->capacity; k++)
        if (k < s->count)
            memcpy(staging + (size_t)k * bytes, rows + (size_t)s->channel[k] * bytes, bytes);
        else
            memset(staging + (size_t)k * bytes, 0, bytes);
    return pg_conv_run_pack(&kept->path, &s->run, staging, e->weights);
}

/* Into tiles, from tiles or from lines. */
static void pick(const pg_conv_kept *kept, const pg_conv_kept_state *s, float *weights) {
    const pg_conv_kernel *own = picker(kept);
    const pg_tiles tiles = own->tiles(&kept->path.geometry, true);
    float *packed = weights;
    if (own->transform)
        weights = place(s, kept->staging);
    if (kept->from.out)
        pg_tiles_pick_lines(&tiles, &kept->from, kept->packed, s->channel, s->count, weights);
    else
        pg_tiles_pick(&tiles, kept->channels, kept->packed, s->channel, s->count, weights);
    if (own->transform)
        own->transform(&tiles, s->count, weights, packed);
}

static pg_err pack(const pg_conv_kept *kept, pg_conv_kept_state *s, const uint8_t *keep, entry *e) {
    pg_err err = PG_OK;
    e->filled = false; /* until it is whole */
    if (!kept->packed)
        err = pack_rows(kept, s, e);
    else if (picker(kept))
        pick(kept, s, e->weights);
    else
        pg_conv_lines_pick(&kept->from, kept->packed, s->channel, s->count, &kept->to, e->weights);
    if (err)
        return err;
    memcpy(e->keep, keep, (size_t)kept->channels);
    e->filled = true;
    return PG_OK;
}

/* The rows of this mask, packed. */
static pg_err find_or_pack(const pg_conv_kept *kept, pg_conv_kept_state *s, const uint8_t *keep,
                           bool lasting, entry **out) {
    int at = find(kept, s, keep);
    bool known = at >= 0;
    if (!known)
        at = 0;
    for (int i = 1; !known && i < s->n_entries; i++)
        if (s->entries[i].used < s->entries[at].used)
            at = i;
    entry *e = *out = &s->entries[at];
    e->used = lasting ? ++s->clock : 0;
    return known ? PG_OK : pack(kept, s, keep, e);
}

/* A depthwise convolution's result, for a reader who wants all channels. */
static void spread(const pg_conv_kept *kept, const pg_conv_kept_state *s) {
    const float *from = place(s, kept->result);
    int64_t channels = kept->channels, n = kept->in_positions;
#pragma omp parallel for schedule(static) if (n * channels > PARALLEL_ROWS)
    for (int64_t p = 0; p < n; p++) {
        float *row = s->d_src + p * channels;
        memset(row, 0, (size_t)channels * sizeof *row);
        for (int64_t k = 0; k < s->count; k++)
            row[s->channel[k]] = from[p * kept->capacity + k];
    }
}

/* Weights and columns are those. */
static pg_err get_ready(const pg_conv_kept *kept, pg_conv_kept_state *s, const float *columns,
                        const uint8_t *keep, bool lasting) {
    entry *e;
    pg_err err = find_or_pack(kept, s, keep, lasting, &e);
    if (!err)
        err = pg_conv_run_use(&s->run, e->weights);
    return err ? err : pg_conv_run_read(&s->run, columns, s->count);
}

pg_err pg_conv_kept_execute(const pg_conv_kept *kept, pg_conv_kept_state *s, const float *columns,
                            const uint8_t *keep, bool lasting) {
    pg_err err = get_ready(kept, s, columns, keep, lasting);
    if (!err)
        err = pg_conv_run_execute(&kept->path, &s->run);
    if (!err && s->live) {
        s->live->keep = keep;
        s->live->count = s->count;
        s->live->width = kept->capacity;
        s->live->lasting = lasting;
    } else if (!err && kept->depthwise) {
        spread(kept, s);
    }
    return err;
}

pg_err pg_conv_kept_feed(const pg_conv_kept *kept, pg_conv_kept_state *s, const float *columns,
                         const uint8_t *keep, bool lasting, const float *skip,
                         const pg_conv_sink *sink) {
    pg_err err = get_ready(kept, s, columns, keep, lasting);
    if (!err)
        pg_conv_run_feed(&kept->path, &s->run, skip, sink);
    return err;
}
