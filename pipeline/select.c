#include "pipeline/select.h"

#include "kernels/mem.h"

enum { CLASS_CACHE = 32 }; /* classes whose masks one worker remembers */

typedef struct cached {
    int64_t klass; /* -1: empty */
    uint8_t *keep;
    int64_t *kept;
} cached;

struct pg_selector {
    pg_select_source source;
    pg_rank *ranks; /* of all layers' channels */
    cached now;     /* of the last frame; of all frames for list and random */
    cached classes[CLASS_CACHE];
    int next; /* the entry to be replaced next */
};

bool pg_select_wants_gap(pg_select select) {
    return select == PG_SELECT_CLASS || select == PG_SELECT_INSTANCE;
}

bool pg_select_reads_gap(const pg_select_source *source, int64_t classes) {
    bool testable = source->options->select == PG_SELECT_CLASS;
    for (int64_t k = 0; testable && k < classes; k++)
        testable = pg_select_class_testable(source->stats, k);
    return pg_select_wants_gap(source->options->select) && !testable;
}

static bool alloc_masks(const pg_layers *layers, cached *entry) {
    entry->klass = -1;
    entry->keep = pg_calloc((size_t)layers->channels + 1, 1);
    entry->kept = pg_calloc((size_t)layers->count + 1, sizeof *entry->kept);
    return entry->keep && entry->kept;
}

static bool alloc_all(pg_selector *s) {
    const pg_layers *layers = s->source.layers;
    s->ranks = pg_calloc((size_t)layers->channels + 1, sizeof *s->ranks);
    bool ok = s->ranks && alloc_masks(layers, &s->now);
    if (s->source.options->select == PG_SELECT_CLASS)
        for (int i = 0; i < CLASS_CACHE; i++)
            ok = ok && alloc_masks(layers, &s->classes[i]);
    return ok;
}

static pg_err check(const pg_select_source *source, pg_diag *diag) {
    pg_select select = source->options->select;
    if (pg_select_wants_gap(select) && !source->stats)
        return pg_fail(diag, PG_ECONFIG,
                       "parchgrad.select is '%s', which needs channel statistics: make them with "
                       "`parchgradd calibrate --model M.onnx --data DIR --out FILE` and name the "
                       "file in parchgrad.stats (--stats), or choose parchgrad.select: random, "
                       "list or none",
                       select == PG_SELECT_CLASS ? "class" : "instance");
    if (select == PG_SELECT_LIST)
        return pg_select_list_check(source, diag);
    return PG_OK;
}

static void select_all(pg_selector *s, pg_select_rule rule, int64_t klass, pg_gap_fn gap,
                       void *user, cached *into) {
    const pg_layers *layers = s->source.layers;
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < layers->count; i++)
        into->kept[i] = rule(&s->source, i, klass, gap ? gap(user, layers->convs[i]) : NULL,
                             s->ranks + layers->offset[i], into->keep + layers->offset[i]);
    into->klass = klass;
}

pg_err pg_selector_create(const pg_select_source *source, pg_selector **out, pg_diag *diag) {
    *out = NULL;
    pg_err err = check(source, diag);
    if (err)
        return err;
    pg_selector *s = pg_calloc(1, sizeof *s);
    if (!s)
        return pg_fail(diag, PG_ENOMEM, "no memory for channel masks");
    s->source = *source;
    if (!alloc_all(s)) {
        pg_selector_destroy(&s);
        return pg_fail(diag, PG_ENOMEM, "no memory for channel masks");
    }
    if (source->options->select == PG_SELECT_LIST)
        select_all(s, pg_select_by_list, -1, NULL, NULL, &s->now);
    if (source->options->select == PG_SELECT_RANDOM)
        select_all(s, pg_select_at_random, -1, NULL, NULL, &s->now);
    *out = s;
    return PG_OK;
}

int64_t pg_select_expects(const pg_select_source *source, int layer) {
    const pg_prune_options *o = source->options;
    int64_t channels = source->convs[source->layers->convs[layer]].channels;
    switch (o->select) {
    case PG_SELECT_LIST:
        return pg_select_list_most(source, layer);
    case PG_SELECT_RANDOM:
        return pg_select_quota(o->quantile, channels);
    case PG_SELECT_CLASS:
    case PG_SELECT_INSTANCE:
        return o->use_level ? (channels + 3) / 4 : pg_select_quota(o->quantile, channels);
    case PG_SELECT_NONE:
        break;
    }
    return channels;
}

static void free_masks(cached *entry) {
    pg_free(entry->keep);
    pg_free(entry->kept);
}

void pg_selector_destroy(pg_selector **selector) {
    pg_selector *s = *selector;
    if (!s)
        return;
    free_masks(&s->now);
    for (int i = 0; i < CLASS_CACHE; i++)
        free_masks(&s->classes[i]);
    pg_free(s->ranks);
    pg_free(s);
    *selector = NULL;
}

/* Thousands of t-tests per class: worth remembering, since a camera sees the same few classes. */
static const cached *class_masks(pg_selector *s, int64_t klass) {
    for (int i = 0; i < CLASS_CACHE; i++)
        if (s->classes[i].klass == klass)
            return &s->classes[i];
    cached *entry = &s->classes[s->next];
    s->next = (s->next + 1) % CLASS_CACHE;
    select_all(s, pg_select_by_class, klass, NULL, NULL, entry);
    return entry;
}

void pg_selector_run(pg_selector *s, int64_t klass, pg_gap_fn gap, void *user, pg_selection *out) {
    const cached *masks = &s->now;
    const char *rule = "none";
    bool lasting = true;
    switch (s->source.options->select) {
    case PG_SELECT_CLASS:
        if (pg_select_class_testable(s->source.stats, klass)) {
            masks = class_masks(s, klass);
            rule = "class";
            break;
        }
        /* fall through */
    case PG_SELECT_INSTANCE:
        select_all(s, pg_select_by_instance, klass, gap, user, &s->now);
        rule = "instance";
        lasting = false;
        break;
    case PG_SELECT_LIST:
        rule = "list";
        break;
    case PG_SELECT_RANDOM:
        rule = "random";
        break;
    case PG_SELECT_NONE:
        break;
    }
    *out = (pg_selection){masks->keep, masks->kept, rule, lasting};
}
