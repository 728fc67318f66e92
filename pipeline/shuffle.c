#include "pipeline/shuffle.h"

#include <string.h>

#include "kernels/philox.h"

static const pg_const *weights_of(const pg_node *node) {
    static const char *const types[] = {"Conv", "ConvTranspose", "Gemm", "MatMul"};
    for (size_t i = 0; node->def != NULL && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(node->op->type, types[i]) == 0 && node->def->n_inputs > 1 &&
            node->def->inputs[1].constant != NULL && node->def->inputs[1].constant->dtype == PG_F32)
            return node->def->inputs[1].constant;
    return NULL;
}

/* Fisher-Yates. */
static void shuffle(float *values, int64_t count) {
    for (int64_t i = count - 1; i > 0; i--) {
        const uint32_t counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), 2, 0}, key[2] = {7, 7};
        uint32_t words[4];
        pg_philox(counter, key, words);
        int64_t k = (int64_t)(words[0] % (uint64_t)(i + 1));
        float kept = values[i];
        values[i] = values[k];
        values[k] = kept;
    }
}

pg_err pg_shuffle_last(pg_graph *graph, int layers, pg_pool *load, pg_diag *diag) {
    for (int i = graph->n_nodes - 1; i >= 0 && layers > 0; i--) {
        const pg_const *weights = weights_of(&graph->nodes[i]);
        if (weights == NULL)
            continue;
        int64_t count = pg_shape_count(&weights->shape);
        float *copy = pg_pool_array(load, (size_t)count, sizeof *copy);
        if (copy == NULL)
            return pg_fail(diag, PG_ENOMEM, "no memory for shuffled weights");
        memcpy(copy, weights->f, (size_t)count * sizeof *copy);
        shuffle(copy, count);
        ((pg_const *)weights)->f = copy; /* the load pool's own, read by nobody before prepare */
        layers--;
    }
    return PG_OK;
}
