#include "pipeline/names.h"

#include <string.h>
#include <unistd.h>

#include "kernels/err.h"
#include "kernels/mem.h"

void pg_names_init(pg_names *names, pg_pool *pool) {
    *names = (pg_names){.pool = pool};
    if (getentropy(&names->seed, sizeof names->seed) != 0)
        names->seed = (uint64_t)(uintptr_t)names; /* address randomisation has to do */
}

void pg_names_clear(pg_names *names) {
    pg_free(names->texts);
    pg_free(names->hashes);
    pg_free(names->slots);
    *names = (pg_names){0};
}

/* FNV-1a over the bytes, then a finaliser that spreads the low bits. */
static uint64_t hash(uint64_t seed, const char *text, size_t length) {
    uint64_t h = seed ^ 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    h = (h ^ (h >> 32) ^ seed) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

/* The slot that holds the name or the free one where it belongs. There is always a free one. */
static size_t probe(const pg_names *names, uint64_t h, const char *text, size_t length) {
    size_t at = (size_t)h & (names->n_slots - 1);
    for (;; at = (at + 1) & (names->n_slots - 1)) {
        int id = names->slots[at] - 1;
        if (id < 0)
            return at;
        const char *other = names->texts[id];
        if (names->hashes[id] == h && strncmp(other, text, length) == 0 && other[length] == '\0')
            return at;
    }
}

static int grow(pg_names *names) {
    size_t room = names->room == 0 ? 256 : names->room * 2;
    if (room > (size_t)1 << 28)
        return -1;
    const char **texts = pg_realloc(names->texts, room * sizeof *texts);
    if (texts == NULL)
        return -1;
    names->texts = texts;
    uint64_t *hashes = pg_realloc(names->hashes, room * sizeof *hashes);
    if (hashes == NULL)
        return -1;
    names->hashes = hashes;
    int *slots = pg_calloc(room * 2, sizeof *slots);
    if (slots == NULL)
        return -1;
    pg_free(names->slots);
    names->slots = slots;
    names->room = room;
    names->n_slots = room * 2;
    for (size_t id = 0; id < names->count; id++) {
        size_t at = (size_t)hashes[id] & (names->n_slots - 1);
        while (slots[at] != 0)
            at = (at + 1) & (names->n_slots - 1);
        slots[at] = (int)id + 1;
    }
    return 0;
}

int pg_names_enter(pg_names *names, const char *text, size_t length) {
    if (names->count == names->room && grow(names) != 0)
        return -1;
    uint64_t h = hash(names->seed, text, length);
    size_t at = probe(names, h, text, length);
    if (names->slots[at] != 0)
        return names->slots[at] - 1;
    const char *copy = pg_pool_text(names->pool, text, length);
    if (copy == NULL)
        return -1;
    names->texts[names->count] = copy;
    names->hashes[names->count] = h;
    names->slots[at] = (int)names->count + 1;
    return (int)names->count++;
}

int pg_names_find(const pg_names *names, const char *text, size_t length) {
    if (names->n_slots == 0)
        return -1;
    return names->slots[probe(names, hash(names->seed, text, length), text, length)] - 1;
}

const char *pg_names_text(const pg_names *names, int id) {
    pg_assert(id >= 0 && (size_t)id < names->count);
    return names->texts[id];
}
