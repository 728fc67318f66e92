/* Each way is made, run once to warm up, and timed over three runs, of which the fastest counts; a
 * long convolution is timed once. Another way must be 3 % faster than the best so far, so that
 * noise does not decide between equals, and one that takes twice as long in its first run is
 * dropped. What a way leaves to the caller (addition, activation) is timed with it.
 *
 * In a network the input was just written, and the weights have not been used for a frame: they are
 * driven out of the caches before a run is timed, for ways differ in how well they fetch them. With
 * 512 channels at 7x7 a run of oneDNN's takes 1.1 ms in a row and 1.7 in ResNet-50.
 *
 * A way that packs weights into more bytes (Winograd: 16/9 or 4 times as many, which conv_lines.h
 * cannot read) must be worth them, 15 % faster; that keeps Winograd where maps are large, and where
 * it halves the time. Where the gradient usually takes the short way of conv_kept.h, which would then
 * need a copy of the weights besides, they are not worth it at all (`lean`).
 *
 * With one thread the clock is the thread's processor time, which other programs disturb less. */
#include "kernels/conv_tune.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kernels/channel_ops.h"
#include "kernels/conv_path.h"
#include "kernels/mem.h"

enum { RUNS = 3, LONG_NS = 10000000 };
static const double FASTER = 0.97, WORTH_MEMORY = 0.85, HOPELESS = 2;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(omp_get_max_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- choices ---- */

struct pg_conv_choice {
    char key[PG_CONV_KEY_MAX]; /* direction, shape and what is fused: small letters, digits, ' ' */
    const pg_conv_way *way;
};
typedef struct pg_conv_choice pg_conv_choice;

/* What Winograd is for. */
static bool may_transform(const pg_conv_geometry *g) {
    return g->k_h == 3 && g->k_w == 3 && g->dnnl.strides[0] == 1 && g->dnnl.strides[1] == 1 &&
           g->groups == 1;
}

static void write_key(const pg_conv_path_spec *spec, char key[PG_CONV_KEY_MAX]) {
    const pg_conv_geometry *g = spec->geometry;
    const int64_t n[] = {g->groups,
                         g->in_c,
                         g->in_h,
                         g->in_w,
                         g->out_c,
                         g->out_h,
                         g->out_w,
                         g->k_h,
                         g->k_w,
                         g->dnnl.strides[0],
                         g->dnnl.strides[1],
                         g->dnnl.dilates[0],
                         g->dnnl.dilates[1],
                         g->dnnl.pad_begin[0],
                         g->dnnl.pad_begin[1]};
    int used = snprintf(key, PG_CONV_KEY_MAX, "%s", spec->backward ? "backward" : "forward");
    for (size_t i = 0; i < sizeof n / sizeof n[0] && used < PG_CONV_KEY_MAX; i++)
        used += snprintf(key + used, PG_CONV_KEY_MAX - (size_t)used, " %lld", (long long)n[i]);
    if (pg_conv_path_is_sparse(spec) && used < PG_CONV_KEY_MAX)
        used += snprintf(key + used, PG_CONV_KEY_MAX - (size_t)used, " sparse");
    if (spec->lean && used < PG_CONV_KEY_MAX)
        used += snprintf(key + used, PG_CONV_KEY_MAX - (size_t)used, " lean");
    if (spec->exact && may_transform(g) && used < PG_CONV_KEY_MAX)
        used += snprintf(key + used, PG_CONV_KEY_MAX - (size_t)used, " exact");
    if (spec->library_only && used < PG_CONV_KEY_MAX)
        used += snprintf(key + used, PG_CONV_KEY_MAX - (size_t)used, " library");
    if (!spec->backward && used < PG_CONV_KEY_MAX)
        snprintf(key + used, PG_CONV_KEY_MAX - (size_t)used, "%s%s", spec->add ? " add" : "",
                 spec->act == PG_ACT_RELU   ? " relu"
                 : spec->act == PG_ACT_CLIP ? " clip"
                                            : "");
}

static pg_conv_choice *find(const pg_conv_tuner *tuner, const char *key) {
    for (int i = 0; i < tuner->count; i++)
        if (strcmp(tuner->choices[i].key, key) == 0)
            return &tuner->choices[i];
    return NULL;
}

/* Without memory for it, the choice is not remembered. */
static bool remember(pg_conv_tuner *tuner, const char *key, const pg_conv_way *way) {
    if (tuner->count == tuner->room) {
        int room = tuner->room ? 2 * tuner->room : 64;
        pg_conv_choice *more = room <= PG_CONV_CHOICES_MAX
                                   ? pg_realloc(tuner->choices, (size_t)room * sizeof *more)
                                   : NULL;
        if (!more)
            return false;
        tuner->choices = more;
        tuner->room = room;
    }
    pg_conv_choice *choice = &tuner->choices[tuner->count++];
    snprintf(choice->key, sizeof choice->key, "%s", key);
    choice->way = way;
    return true;
}

bool pg_conv_tuner_know(pg_conv_tuner *tuner, const char *key, const char *way) {
    size_t length = strlen(key);
    if (length == 0 || length >= PG_CONV_KEY_MAX ||
        strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789 ") != length || find(tuner, key))
        return false;
    for (int i = 0; i < PG_CONV_WAYS; i++)
        if (strcmp(pg_conv_ways[i].name, way) == 0)
            return remember(tuner, key, &pg_conv_ways[i]);
    return false;
}

void pg_conv_tuner_entry(const pg_conv_tuner *tuner, int index, const char **key,
                         const char **way) {
    *key = tuner->choices[index].key;
    *way = tuner->choices[index].way->name;
}

void pg_conv_tuner_library(char text[PG_CONV_KEY_MAX]) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, PG_CONV_KEY_MAX, "oneDNN %d.%d.%d %.40s isa %d threads %d", v->major, v->minor,
             v->patch, v->hash, (int)dnnl_get_effective_cpu_isa(), omp_get_max_threads());
}

void pg_conv_tuner_free(pg_conv_tuner *tuner) {
    if (tuner->changed) /* the code of those that lost: 20 MB after DenseNet's layers */
        pg_dnnl_forget();
    pg_free(tuner->choices);
    memset(tuner, 0, sizeof *tuner);
}

/* ---- measuring ---- */

typedef struct bench {
    int64_t positions, channels; /* of the output */
    float *in, *out, *skip;
} bench;

static float *zeros(int64_t count) { /* written to, so that the pages are there */
    float *v = pg_malloc((size_t)count * sizeof *v);
    for (int64_t i = 0; v && i < count; i++)
        v[i] = 0;
    return v;
}

static void close_bench(bench *b) {
    pg_free(b->in);
    pg_free(b->out);
    pg_free(b->skip);
}

static bool open_bench(const pg_conv_path_spec *spec, bench *b) {
    const pg_conv_geometry *g = spec->geometry;
    int64_t src = g->in_c * g->in_h * g->in_w, dst = g->out_c * g->out_h * g->out_w;
    *b = (bench){.positions = g->out_h * g->out_w,
                 .channels = g->out_c,
                 .in = zeros(spec->backward ? dst : src),
                 .out = zeros(spec->backward ? src : dst),
                 .skip = spec->add ? zeros(dst) : NULL};
    int64_t count = spec->backward ? dst : src; /* half of them zeros, without a pattern */
    for (int64_t i = 0; spec->sparse && b->in && i < count; i++)
        b->in[i] = (float)((uint32_t)i * 2654435761u >> 31);
    if (b->in && b->out && (b->skip || !spec->add))
        return true;
    close_bench(b);
    return false;
}

static bool run(const bench *b, const pg_conv_path *path, const pg_conv_run *run, uint64_t *ns) {
    const pg_act_range relu = {0, INFINITY};
    uint64_t start = now_ns();
    if (pg_conv_run_execute(path, run) != PG_OK)
        return false;
    if (!path->whole)
        pg_channel_add_act(b->positions, b->channels, b->out, b->skip, relu);
    *ns = now_ns() - start;
    return true;
}

/* Drives [from, from + bytes) out of the caches, on processors that have the instruction. */
#if defined(__x86_64__)
__attribute__((target("clflushopt"))) static void flush(const char *from, size_t bytes) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_CLFLUSHOPT))
        return;
    for (size_t i = 0; i < bytes; i += PG_MEM_ALIGN)
        __builtin_ia32_clflushopt(from + i);
    __builtin_ia32_mfence();
}
#else
static void flush(const char *from, size_t bytes) { (void)from, (void)bytes; }
#endif

/* Nanoseconds of the path; UINT64_MAX: it failed, or is hopeless against `best`. */
static uint64_t time_path(const bench *b, const pg_conv_path *path, uint64_t best) {
    pg_conv_run handles = {0};
    uint64_t least = UINT64_MAX, ns = 0;
    void *scratch = pg_malloc(path->scratch_bytes + 1);
    if (scratch)
        memset(scratch, 0, path->scratch_bytes);
    bool ok = scratch && !pg_conv_run_make(path, b->in, b->out, scratch, &handles, NULL) &&
              (!path->adds || !pg_conv_run_add(path, &handles, b->skip, NULL)) &&
              run(b, path, &handles, &ns) && (double)ns < HOPELESS * (double)best;
    for (int i = 0; ok && i < (ns > LONG_NS ? 1 : RUNS); i++) {
        uint64_t once = 0;
        if (path->weights)
            flush(path->weights, path->packed_bytes);
        ok = run(b, path, &handles, &once);
        least = once < least ? once : least;
    }
    pg_conv_run_free(&handles);
    pg_free(scratch);
    return ok ? least : UINT64_MAX;
}

/* What the way cannot be faster at is not tried, nor the library's choice where that is the default. */
static bool worth_trying(const pg_conv_path_spec *spec, const pg_conv_way *way, bool own) {
    const pg_conv_geometry *g = spec->geometry;
    if (way == pg_conv_ways + 1 && !own)
        return false;
    if (way->winograd && (!may_transform(g) || (!way->own && way->flipped != spec->backward)))
        return false;
    return way->flipped ? spec->backward : !way->apart || spec->add;
}

/* *path is the default one; takes the place of the fastest. */
static const pg_conv_way *measure(const pg_conv_path_spec *spec, const bench *b,
                                  pg_conv_path *path) {
    const pg_conv_way *chosen = pg_conv_ways;
    const bool own = path->own != NULL;
    uint64_t best = time_path(b, path, UINT64_MAX);
    for (int i = 1; i < PG_CONV_WAYS; i++) {
        pg_conv_path_spec other = *spec;
        pg_conv_path candidate = {0};
        other.way = &pg_conv_ways[i];
        if (!worth_trying(spec, other.way, own) ||
            pg_conv_path_make(&other, &candidate, NULL) != PG_OK)
            continue;
        bool tried = strcmp(candidate.impl, path->impl) != 0 &&
                     !(spec->lean && candidate.packed_bytes > path->packed_bytes);
        uint64_t ns = tried ? time_path(b, &candidate, best) : UINT64_MAX;
        double needed = candidate.packed_bytes > path->packed_bytes ? WORTH_MEMORY : FASTER;
        bool faster = (double)ns < needed * (double)best;
        pg_conv_path loser = faster ? *path : candidate;
        if (faster) {
            *path = candidate;
            best = ns;
            chosen = other.way;
        }
        pg_conv_path_free(&loser);
    }
    return chosen;
}

static bool try_known(pg_conv_tuner *tuner, const char *key, const pg_conv_path_spec *spec,
                      pg_conv_path *path) {
    const pg_conv_choice *known = find(tuner, key);
    pg_conv_path_spec way = *spec;
    if (!known || known->way == pg_conv_ways)
        return false;
    way.way = known->way;
    return pg_conv_path_make(&way, path, NULL) == PG_OK;
}

pg_err pg_conv_tuner_make(pg_conv_tuner *tuner, const pg_conv_path_spec *spec, pg_conv_path *path,
                          pg_diag *diag) {
    char key[PG_CONV_KEY_MAX];
    pg_conv_path_spec first = *spec;
    first.way = NULL;
    if (!tuner || !tuner->active || spec->bf16 || spec->in_bf16 || spec->out_bf16)
        return pg_conv_path_make(&first, path, diag);
    write_key(spec, key);
    if (try_known(tuner, key, spec, path))
        return PG_OK;
    uint64_t start = now_ns();
    pg_err err = pg_conv_path_make(&first, path, diag);
    bench b;
    if (err || find(tuner, key) || tuner->budget_ns == 0 || !open_bench(spec, &b))
        return err;
    tuner->changed = remember(tuner, key, measure(spec, &b, path)) || tuner->changed;
    close_bench(&b);
    uint64_t used = now_ns() - start;
    tuner->budget_ns -= used < tuner->budget_ns ? used : tuner->budget_ns;
    return PG_OK;
}
