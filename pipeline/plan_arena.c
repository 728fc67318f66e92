#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/plan.h"

/* So many holes are remembered, the smallest are forgotten: real networks have some dozens, and a
 * hostile one must not make every look-up long. */
enum { MAX_HOLES = 1024 };

/* A free stretch of the arena; the list is sorted by offset and never has two that touch. */
typedef struct hole {
    size_t offset, bytes;
} hole;

typedef struct packer {
    pg_block *blocks;
    int *by_first, *by_last; /* block numbers in order of birth, of death */
    hole holes[MAX_HOLES];
    int n_holes;
    size_t top;              /* bytes of the arena so far */
} packer;

static int compare_first(const void *a, const void *b, void *blocks) {
    const pg_block *x = (const pg_block *)blocks + *(const int *)a;
    const pg_block *y = (const pg_block *)blocks + *(const int *)b;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    if (x->bytes != y->bytes) /* large ones first: they are the hardest to place */
        return x->bytes > y->bytes ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int compare_last(const void *a, const void *b, void *blocks) {
    const pg_block *x = (const pg_block *)blocks + *(const int *)a;
    const pg_block *y = (const pg_block *)blocks + *(const int *)b;
    return x->last != y->last ? (x->last < y->last ? -1 : 1) : x < y ? -1 : x > y;
}

static size_t rounded(size_t bytes) {
    return (bytes + PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
}

static void remove_hole(packer *p, int at) {
    p->n_holes--;
    memmove(&p->holes[at], &p->holes[at + 1], (size_t)(p->n_holes - at) * sizeof *p->holes);
}

/* A new hole before number `at`; if there is no room, the smallest of all goes. */
static void add_hole(packer *p, int at, hole new) {
    if (p->n_holes == MAX_HOLES) {
        int least = 0;
        for (int i = 1; i < p->n_holes; i++)
            least = p->holes[i].bytes < p->holes[least].bytes ? i : least;
        if (new.bytes <= p->holes[least].bytes)
            return;
        remove_hole(p, least);
        at -= least < at;
    }
    memmove(&p->holes[at + 1], &p->holes[at], (size_t)(p->n_holes - at) * sizeof *p->holes);
    p->holes[at] = new;
    p->n_holes++;
}

static void give_back(packer *p, size_t offset, size_t bytes) {
    int at = 0;
    while (at < p->n_holes && p->holes[at].offset < offset)
        at++;
    bool joins_left = at > 0 && p->holes[at - 1].offset + p->holes[at - 1].bytes == offset;
    bool joins_right = at < p->n_holes && offset + bytes == p->holes[at].offset;
    if (joins_left && joins_right) {
        p->holes[at - 1].bytes += bytes + p->holes[at].bytes;
        remove_hole(p, at);
    } else if (joins_left) {
        p->holes[at - 1].bytes += bytes;
    } else if (joins_right) {
        p->holes[at] = (hole){offset, bytes + p->holes[at].bytes};
    } else {
        add_hole(p, at, (hole){offset, bytes});
    }
}

static size_t take(packer *p, size_t bytes) {
    int best = -1;
    for (int i = 0; i < p->n_holes; i++)
        if (p->holes[i].bytes >= bytes && (best < 0 || p->holes[i].bytes < p->holes[best].bytes))
            best = i;
    if (best < 0) { /* at the top, starting in the last hole if that is where the arena ends */
        hole *last = p->n_holes > 0 ? &p->holes[p->n_holes - 1] : NULL;
        size_t offset = p->top;
        if (last != NULL && last->offset + last->bytes == p->top) {
            offset = last->offset;
            p->n_holes--;
        }
        p->top = offset + bytes;
        return offset;
    }
    size_t offset = p->holes[best].offset;
    p->holes[best].offset += bytes;
    p->holes[best].bytes -= bytes;
    if (p->holes[best].bytes == 0)
        remove_hole(p, best);
    return offset;
}

static void pack(packer *p, int count) {
    for (int i = 0, dead = 0; i < count; i++) {
        pg_block *block = &p->blocks[p->by_first[i]];
        for (; p->blocks[p->by_last[dead]].last < block->first; dead++) {
            const pg_block *gone = &p->blocks[p->by_last[dead]];
            if (gone->bytes > 0)
                give_back(p, gone->offset, rounded(gone->bytes));
        }
        block->offset = block->bytes > 0 ? take(p, rounded(block->bytes)) : 0;
    }
}

size_t pg_plan_offsets(pg_block *blocks, int count) {
    size_t n = (size_t)count;
    packer p = {.blocks = blocks, .by_first = pg_malloc(n * sizeof(int)),
                .by_last = pg_malloc(n * sizeof(int))};
    bool ok = p.by_first != NULL && p.by_last != NULL;
    if (ok) {
        for (int i = 0; i < count; i++)
            p.by_first[i] = p.by_last[i] = i;
        qsort_r(p.by_first, n, sizeof(int), compare_first, blocks);
        qsort_r(p.by_last, n, sizeof(int), compare_last, blocks);
        pack(&p, count);
    }
    pg_free(p.by_first);
    pg_free(p.by_last);
    return ok ? p.top : SIZE_MAX;
}
