#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/plan.h"

/* A free stretch of the arena; the list is sorted by offset and never has two that touch. */
typedef struct hole {
    size_t offset, bytes;
} hole;

typedef struct packer {
    pg_block *blocks;
    int *by_first, *by_last; /* block numbers in order of birth, of death */
    hole *holes;             /* room for one per block and one more */
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

static void give_back(packer *p, size_t offset, size_t bytes) {
    int at = 0;
    while (at < p->n_holes && p->holes[at].offset < offset)
        at++;
    bool joins_left = at > 0 && p->holes[at - 1].offset + p->holes[at - 1].bytes == offset;
    bool joins_right = at < p->n_holes && offset + bytes == p->holes[at].offset;
    if (joins_left)
        p->holes[at - 1].bytes += bytes;
    if (joins_left && joins_right)
        p->holes[at - 1].bytes += p->holes[at].bytes;
    else if (joins_right)
        p->holes[at] = (hole){offset, bytes + p->holes[at].bytes};
    int shift = joins_left && joins_right ? -1 : joins_left || joins_right ? 0 : 1;
    if (shift == 0)
        return;
    int from = shift < 0 ? at + 1 : at;
    memmove(&p->holes[from + shift], &p->holes[from],
            (size_t)(p->n_holes - from) * sizeof *p->holes);
    p->n_holes += shift;
    if (shift > 0)
        p->holes[at] = (hole){offset, bytes};
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
    if (p->holes[best].bytes == 0) {
        memmove(&p->holes[best], &p->holes[best + 1],
                (size_t)(p->n_holes - best - 1) * sizeof *p->holes);
        p->n_holes--;
    }
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
                .by_last = pg_malloc(n * sizeof(int)), .holes = pg_malloc((n + 1) * sizeof(hole))};
    bool ok = p.by_first != NULL && p.by_last != NULL && p.holes != NULL;
    if (ok) {
        for (int i = 0; i < count; i++)
            p.by_first[i] = p.by_last[i] = i;
        qsort_r(p.by_first, n, sizeof(int), compare_first, blocks);
        qsort_r(p.by_last, n, sizeof(int), compare_last, blocks);
        pack(&p, count);
    }
    pg_free(p.by_first);
    pg_free(p.by_last);
    pg_free(p.holes);
    return ok ? p.top : SIZE_MAX;
}
