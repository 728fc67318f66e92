#include "pipeline/refusals.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *type, *advice;
} advices[] = {
#define PG_UNSUPPORTED(type, advice) {type, advice},
#include "pipeline/unsupported.def"
#undef PG_UNSUPPORTED
};

const char *pg_refusals_advice(const char *type) {
    for (size_t i = 0; i < sizeof advices / sizeof advices[0]; i++) {
        size_t length = strlen(advices[i].type);
        bool domain = length > 2 && strcmp(advices[i].type + length - 2, "::") == 0;
        if (strncmp(advices[i].type, type, domain ? length : length + 1) == 0)
            return advices[i].advice;
    }
    return "";
}

/* The sentence behind "node 'n' (Type): ". */
static const char *without_prefix(const char *reason, const char *node, const char *type) {
    char prefix[PG_DIAG_MAX];
    snprintf(prefix, sizeof prefix, "node '%s' (%s): ", node, type);
    size_t length = strlen(prefix);
    return strncmp(reason, prefix, length) == 0 ? reason + length : reason;
}

static bool copy(pg_pool *pool, const char *text, const char **out) {
    *out = pg_pool_text(pool, text, strlen(text));
    return *out != NULL;
}

bool pg_refusals_add(pg_refusals *r, const char *node, const char *type, const char *reason,
                     const char *advice) {
    r->count++;
    if (r->kept == PG_REFUSALS_KEPT)
        return true;
    if (r->items == NULL)
        r->items = pg_pool_array(&r->pool, PG_REFUSALS_KEPT, sizeof *r->items);
    if (r->items == NULL)
        return false;
    pg_refusal *item = &r->items[r->kept];
    if (!copy(&r->pool, node, &item->node) || !copy(&r->pool, type, &item->type) ||
        !copy(&r->pool, without_prefix(reason, node, type), &item->reason) ||
        !copy(&r->pool, advice != NULL ? advice : pg_refusals_advice(type), &item->advice))
        return false;
    r->kept++;
    return true;
}

pg_err pg_refusals_fail(const pg_refusals *r, pg_diag *diag) {
    char list[PG_DIAG_MAX / 2] = "";
    size_t used = 0;
    int i = 0;
    for (; i < r->kept; i++) {
        char text[1024];
        const pg_refusal *item = &r->items[i];
        int length = snprintf(text, sizeof text, "%snode '%.200s' (%.100s): %.600s",
                              i > 0 ? "; " : "", item->node, item->type, item->reason);
        if (used + (size_t)length + 1 > sizeof list)
            break;
        memcpy(list + used, text, (size_t)length + 1);
        used += (size_t)length;
    }
    pg_fail(diag, PG_EMODEL, "%d node%s not supported: %s", r->count,
            r->count == 1 ? " is" : "s are", list);
    if (i < r->count)
        pg_diag_append(diag, "; and %d more (`parchgradd inspect` lists them)", r->count - i);
    return PG_EMODEL;
}

void pg_refusals_clear(pg_refusals *r) {
    pg_pool_clear(&r->pool);
    *r = (pg_refusals){.count = 0};
}
