/* What a session needs to see of a model. For model.c and session.c only. */
#ifndef PG_PIPELINE_MODEL_PRIVATE_H
#define PG_PIPELINE_MODEL_PRIVATE_H

#include "pipeline/graph.h"
#include "pipeline/lrp.h"
#include "pipeline/model.h"
#include "pipeline/onnx_external.h"
#include "pipeline/plan.h"

struct pg_model {
    pg_model_info info;
    pg_pool pool;       /* names, value lists, the plan: the model's life */
    pg_pool load;       /* definitions and constants: until prepare */
    uint8_t *file;      /* until prepare: constants point into it */
    pg_onnx_external external;     /* the same for files beside it */
    uint64_t max_session_bytes, kept_bytes;
    size_t budget;      /* what loading may still take (pg_mem_budget_begin) */
    pg_graph graph;
    pg_plan plan;
    int *conv_node;     /* [n_convs] node that runs it, -1: none */
    pg_lrp lrp;         /* nodes NULL: not wanted */
    int threads;
    pg_tune_mode tune;
    const char *cache_dir;
    bool library_only, fuse_split, skip_zeros, prepared, backward;
};

#endif
