/* One session's handles on a path, and running it: reorder, primitive, reorder, or a kernel of our
 * own. The library's memory objects are made once, on fixed pointers; only what is read and packed
 * weights may change place. */
#include <string.h>

#include "kernels/conv_kernel.h"
#include "kernels/conv_path.h"
#include "kernels/mem.h"

static void add_arg(pg_conv_run *run, int id, dnnl_memory_t memory) {
    pg_assert(run->n_args < PG_CONV_RUN_ARGS);
    run->args[run->n_args++] = (dnnl_exec_arg_t){id, memory};
}

static dnnl_status_t make_memories(const pg_conv_path *path, const void *in, void *out,
                                   char *scratch, pg_conv_run *run) {
    struct {
        bool wanted;
        pg_const_md md;
        void *data;
        dnnl_memory_t *memory;
    } list[] = {
        {true, path->our_in, (void *)in, &run->our_in},
        {true, path->our_out, out, &run->our_out},
        {path->pack, path->plain_md, NULL, &run->plain},
        {true, path->weights_md, path->weights, &run->weights},
        {path->bias, path->bias_md, path->bias, &run->bias},
        {path->in_bytes, path->in, scratch, &run->in},
        {path->out_bytes, path->out, scratch + path->in_bytes, &run->out},
        {dnnl_memory_desc_get_size(path->scratchpad_md), path->scratchpad_md,
         scratch + path->in_bytes + path->out_bytes, &run->scratchpad},
    };
    dnnl_status_t status = dnnl_success;
    for (size_t i = 0; !status && i < sizeof list / sizeof list[0]; i++)
        if (list[i].wanted)
            status = dnnl_memory_create(list[i].memory, list[i].md, pg_dnnl_engine(), list[i].data);
    return status;
}

pg_err pg_conv_run_make(const pg_conv_path *path, const void *in, void *out, void *scratch,
                        pg_conv_run *run, pg_diag *diag) {
    if (path->own) {
        run->own_in = in;
        run->own_out = out;
        run->own_scratch = scratch;
        run->own_weights = path->weights;
        run->own_channels = path->backward ? path->geometry.out_c : path->geometry.in_c;
        return PG_OK;
    }
    dnnl_status_t status =
        dnnl_stream_create(&run->stream, pg_dnnl_engine(), dnnl_stream_default_flags);
    if (!status)
        status = make_memories(path, in, out, scratch, run);
    if (status) {
        pg_conv_run_free(run);
        return pg_dnnl_check(status, "convolution", diag);
    }
    add_arg(run, path->backward ? DNNL_ARG_DIFF_DST : DNNL_ARG_SRC,
            run->in ? run->in : run->our_in);
    add_arg(run, path->backward ? DNNL_ARG_DIFF_SRC : DNNL_ARG_DST,
            run->out ? run->out : run->our_out);
    add_arg(run, DNNL_ARG_WEIGHTS, run->weights);
    if (run->bias)
        add_arg(run, DNNL_ARG_BIAS, run->bias);
    if (run->scratchpad)
        add_arg(run, DNNL_ARG_SCRATCHPAD, run->scratchpad);
    return PG_OK;
}

void pg_conv_run_free(pg_conv_run *run) {
    dnnl_memory_t *memories[] = {&run->our_in, &run->our_out, &run->in,
                                 &run->out,    &run->plain,   &run->weights,
                                 &run->bias,   &run->addend,  &run->scratchpad};
    for (int i = 0; i < 9; i++)
        if (*memories[i])
            dnnl_memory_destroy(*memories[i]);
    if (run->stream)
        dnnl_stream_destroy(run->stream);
    memset(run, 0, sizeof *run);
}

pg_err pg_conv_run_add(const pg_conv_path *path, pg_conv_run *run, const float *addend,
                       pg_diag *diag) {
    pg_assert(path->adds && !run->addend);
    if (path->own) {
        run->own_skip = addend;
        return PG_OK;
    }
    dnnl_status_t status =
        dnnl_memory_create(&run->addend, path->our_out, pg_dnnl_engine(), (void *)addend);
    if (status)
        return pg_dnnl_check(status, "convolution", diag);
    add_arg(run, PG_DNNL_ARG_ADDEND, run->addend);
    return PG_OK;
}

static dnnl_status_t reorder(dnnl_primitive_t primitive, dnnl_stream_t stream, dnnl_memory_t from,
                             dnnl_memory_t to) {
    dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return dnnl_primitive_execute(primitive, stream, 2, args);
}

/* Pointing a memory somewhere makes the library clear the padding there: only when it changes. */
static dnnl_status_t point(dnnl_memory_t memory, const void *data) {
    void *now = NULL;
    dnnl_status_t status = dnnl_memory_get_data_handle(memory, &now);
    return status || now == data ? status : dnnl_memory_set_data_handle(memory, (void *)data);
}

pg_err pg_conv_run_read(pg_conv_run *run, const void *in, int64_t channels) {
    run->own_in = in;
    run->own_channels = channels;
    if (!run->our_in)
        return PG_OK;
    return pg_dnnl_check(point(run->our_in, in), "convolution", NULL);
}

pg_err pg_conv_run_use(pg_conv_run *run, void *packed) {
    run->own_weights = packed;
    if (!run->weights)
        return PG_OK;
    return pg_dnnl_check(point(run->weights, packed), "convolution", NULL);
}

pg_err pg_conv_run_pack(const pg_conv_path *path, pg_conv_run *run, const void *plain,
                        void *packed) {
    if (path->own) {
        path->own->pack(&path->geometry, path->backward, plain, packed);
        return pg_conv_run_use(run, packed);
    }
    dnnl_status_t status = point(run->plain, plain);
    if (!status)
        status = point(run->weights, packed);
    if (!status)
        status = reorder(path->pack, run->stream, run->plain, run->weights);
    if (!status)
        status = dnnl_stream_wait(run->stream);
    return pg_dnnl_check(status, "convolution", NULL);
}

static pg_conv_call call_of(const pg_conv_run *run) {
    return (pg_conv_call){.weights = run->own_weights,
                          .in = run->own_in,
                          .channels = run->own_channels,
                          .out = run->own_out,
                          .scratch = run->own_scratch,
                          .skip = run->own_skip};
}

bool pg_conv_path_sinks(const pg_conv_path *path) {
    return path->backward && path->own && path->own->sinks && path->own->sinks(&path->geometry);
}

void pg_conv_run_feed(const pg_conv_path *path, const pg_conv_run *run, const float *skip,
                      const pg_conv_sink *sink) {
    pg_conv_call call = call_of(run);
    call.skip = skip;
    call.sink = sink;
    path->own->run(path, &call);
}

pg_err pg_conv_run_execute(const pg_conv_path *path, const pg_conv_run *run) {
    if (path->own) {
        const pg_conv_call call = call_of(run);
        path->own->run(path, &call);
        return PG_OK;
    }
    dnnl_status_t status = dnnl_success;
    if (path->reorder_in)
        status = reorder(path->reorder_in, run->stream, run->our_in, run->in);
    if (!status)
        status = dnnl_primitive_execute(path->primitive, run->stream, run->n_args, run->args);
    if (!status && path->reorder_out)
        status = reorder(path->reorder_out, run->stream, run->out, run->our_out);
    if (!status)
        status = dnnl_stream_wait(run->stream);
    return pg_dnnl_check(status, "convolution", NULL);
}

/* ---- operators that are nothing but two paths ---- */

void pg_conv_pair_unbind(const pg_op *op, void **state) {
    (void)op;
    pg_conv_pair *pair = *state;
    if (pair == NULL)
        return;
    pg_conv_run_free(&pair->forward);
    pg_conv_run_free(&pair->backward);
    pg_free(pair);
    *state = NULL;
}

static bool made(const pg_conv_path *path) { return path->primitive || path->own; }

pg_err pg_conv_pair_bind(const pg_op *op, const pg_conv_path *forward, const pg_conv_path *backward,
                         const pg_op_io *io, void **state, pg_diag *diag) {
    if (!made(forward) && !made(backward))
        return PG_OK;
    pg_conv_pair *pair = *state = pg_calloc(1, sizeof *pair);
    if (pair == NULL)
        return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", op->node);
    pg_err err = PG_OK;
    if (made(forward))
        err = pg_conv_run_make(forward, io->src[0], io->dst[0], io->scratch, &pair->forward, diag);
    if (!err && made(backward) && io->d_src && io->d_src[0])
        err = pg_conv_run_make(backward, io->d_dst[0], io->d_src[0], io->scratch, &pair->backward,
                               diag);
    if (err) {
        pg_conv_pair_unbind(op, state);
        return pg_fail_in(diag, err, "node '%s'", op->node);
    }
    return PG_OK;
}
