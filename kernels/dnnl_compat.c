#include "kernels/dnnl_compat.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "kernels/bf16.h"
#include "kernels/mem.h"

static dnnl_engine_t engine;
static pthread_once_t engine_once = PTHREAD_ONCE_INIT;

static void make_engine(void) {
    /* A newer library behind the same name would read our structs differently. */
    if (dnnl_version()->major != DNNL_VERSION_MAJOR ||
        dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success)
        engine = NULL;
}

dnnl_engine_t pg_dnnl_engine(void) {
    pthread_once(&engine_once, make_engine);
    return engine;
}

bool pg_bf16_native(void) {
    const unsigned wanted = dnnl_cpu_isa_avx512_core_bf16;
    return ((unsigned)dnnl_get_effective_cpu_isa() & wanted) == wanted;
}

static const char *status_text(dnnl_status_t status) {
    switch (status) {
    case dnnl_out_of_memory:
        return "out of memory";
    case dnnl_invalid_arguments:
        return "invalid arguments";
    case dnnl_unimplemented:
        return "not implemented by oneDNN";
    case dnnl_runtime_error:
        return "run-time error in oneDNN";
    default:
        return "oneDNN failed";
    }
}

pg_err pg_dnnl_check(dnnl_status_t status, const char *what, pg_diag *diag) {
    if (status == dnnl_success)
        return PG_OK;
    return pg_fail(diag, status == dnnl_out_of_memory ? PG_ENOMEM : PG_EFAIL, "%s: %s", what,
                   status_text(status));
}

/* dnnl_dims_t has twelve elements and the library's prototypes say so: a shorter array would be
 * right but warns. */
static void copy_dims(dnnl_dims_t out, int n_dims, const int64_t *dims) {
    memset(out, 0, sizeof(dnnl_dims_t));
    memcpy(out, dims, (size_t)n_dims * sizeof dims[0]);
}

static dnnl_status_t append_act(dnnl_post_ops_t ops, pg_act act, float lo, float hi) {
    bool clip = act == PG_ACT_CLIP;
    dnnl_alg_kind_t alg = clip ? dnnl_eltwise_clip : dnnl_eltwise_relu;
    float a = clip ? fmaxf(lo, -FLT_MAX) : 0.0f, b = clip ? fminf(hi, FLT_MAX) : 0.0f;
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_post_ops_append_eltwise(ops, alg, a, b);
#else
    return dnnl_post_ops_append_eltwise(ops, 1.0f, alg, a, b);
#endif
}

dnnl_status_t pg_dnnl_attr(pg_const_md addend, pg_act act, float lo, float hi,
                           dnnl_primitive_attr_t *out) {
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(&attr);
    if (!status)
        status = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!status)
        status = dnnl_post_ops_create(&ops);
    if (!status && addend)
        status = dnnl_post_ops_append_binary(ops, dnnl_binary_add, addend);
    if (!status && act != PG_ACT_NONE)
        status = append_act(ops, act, lo, hi);
    if (!status)
        status = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (status && attr) {
        dnnl_primitive_attr_destroy(attr);
        attr = NULL;
    }
    *out = attr;
    return status;
}

void pg_dnnl_forget(void) {
    int capacity = 0;
    if (dnnl_get_primitive_cache_capacity(&capacity) == dnnl_success &&
        dnnl_set_primitive_cache_capacity(0) == dnnl_success)
        (void)dnnl_set_primitive_cache_capacity(capacity);
}

static dnnl_alg_kind_t algorithm(bool winograd) {
    return winograd ? dnnl_convolution_winograd : dnnl_convolution_direct;
}

#if DNNL_VERSION_MAJOR >= 3

pg_md pg_md_create_of(dnnl_data_type_t type, int n_dims, const int64_t *dims,
                      dnnl_format_tag_t tag) {
    dnnl_dims_t padded;
    copy_dims(padded, n_dims, dims);
    pg_md md = NULL;
    return dnnl_memory_desc_create_with_tag(&md, n_dims, padded, type, tag) ? NULL : md;
}

pg_md pg_md_clone(pg_const_md md) {
    pg_md copy = NULL;
    return dnnl_memory_desc_clone(&copy, md) ? NULL : copy;
}

void pg_md_free(pg_md *md) {
    if (*md)
        dnnl_memory_desc_destroy(*md);
    *md = NULL;
}

bool pg_md_read_blocks(pg_const_md md, pg_md_blocks *out) {
    dnnl_data_type_t type = dnnl_data_type_undef;
    dnnl_format_kind_t kind = dnnl_format_kind_undef;
    const dnnl_dims_t *padded = NULL, *strides = NULL, *size = NULL, *axis = NULL;
    if (dnnl_memory_desc_query(md, dnnl_query_data_type, &type) || type != dnnl_f32 ||
        dnnl_memory_desc_query(md, dnnl_query_format_kind, &kind) || kind != dnnl_blocked ||
        dnnl_memory_desc_query(md, dnnl_query_inner_nblks_s32, &out->n_inner) ||
        dnnl_memory_desc_query(md, dnnl_query_padded_dims, &padded) ||
        dnnl_memory_desc_query(md, dnnl_query_strides, &strides) ||
        dnnl_memory_desc_query(md, dnnl_query_inner_blks, &size) ||
        dnnl_memory_desc_query(md, dnnl_query_inner_idxs, &axis))
        return false;
    out->padded = *padded;
    out->strides = *strides;
    out->size = *size;
    out->axis = *axis;
    return true;
}

/* From the first implementation on to number nth. */
static dnnl_status_t nth_of(int nth, dnnl_primitive_desc_t *pd, dnnl_status_t status) {
    for (; !status && nth > 0; nth--)
        status = dnnl_primitive_desc_next_impl(*pd) ? dnnl_unimplemented : dnnl_success;
    if (status && *pd)
        dnnl_primitive_desc_destroy(*pd);
    if (status)
        *pd = NULL;
    return status;
}

dnnl_status_t pg_dnnl_conv_forward(const pg_dnnl_conv *conv, bool winograd, int nth,
                                   pg_const_md src, pg_const_md weights, pg_const_md bias,
                                   pg_const_md dst, const_dnnl_primitive_attr_t attr,
                                   dnnl_primitive_desc_t *out) {
    return nth_of(nth, out,
                  dnnl_convolution_forward_primitive_desc_create(
                      out, pg_dnnl_engine(), dnnl_forward_inference, algorithm(winograd), src,
                      weights, bias, dst, conv->strides, conv->dilates, conv->pad_begin,
                      conv->pad_end, attr));
}

dnnl_status_t pg_dnnl_conv_backward(const pg_dnnl_conv *conv, bool winograd, int nth,
                                    pg_const_md d_src, pg_const_md weights, pg_const_md d_dst,
                                    const_dnnl_primitive_desc_t forward,
                                    const_dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *out) {
    return nth_of(nth, out,
                  dnnl_convolution_backward_data_primitive_desc_create(
                      out, pg_dnnl_engine(), algorithm(winograd), d_src, weights, d_dst,
                      conv->strides, conv->dilates, conv->pad_begin, conv->pad_end, forward, attr));
}

#else

pg_md pg_md_create_of(dnnl_data_type_t type, int n_dims, const int64_t *dims,
                      dnnl_format_tag_t tag) {
    dnnl_dims_t padded;
    copy_dims(padded, n_dims, dims);
    pg_md md = pg_malloc(sizeof *md);
    if (md && dnnl_memory_desc_init_by_tag(md, n_dims, padded, type, tag))
        pg_md_free(&md);
    return md;
}

pg_md pg_md_clone(pg_const_md md) {
    pg_md copy = pg_malloc(sizeof *copy);
    if (copy)
        *copy = *md;
    return copy;
}

void pg_md_free(pg_md *md) {
    pg_free(*md);
    *md = NULL;
}

bool pg_md_read_blocks(pg_const_md md, pg_md_blocks *out) {
    if (md->data_type != dnnl_f32 || md->format_kind != dnnl_blocked)
        return false;
    const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
    *out =
        (pg_md_blocks){md->padded_dims, b->strides, b->inner_blks, b->inner_idxs, b->inner_nblks};
    return true;
}

/* 2.6.3's iterator steps to implementations it remembers under the wrong number: asked for the
 * second of a convolution whose first has been made, it gives that one again (found by
 * tests/kernel/test_conv_tune.c). */
static dnnl_status_t nth_of(int nth, const dnnl_convolution_desc_t *desc,
                            const_dnnl_primitive_attr_t attr, const_dnnl_primitive_desc_t hint,
                            dnnl_primitive_desc_t *out) {
    dnnl_primitive_desc_iterator_t each = NULL;
    *out = NULL;
    if (nth > 0)
        pg_dnnl_forget();
    dnnl_status_t status =
        dnnl_primitive_desc_iterator_create(&each, desc, attr, pg_dnnl_engine(), hint);
    for (; !status && nth > 0; nth--)
        status = dnnl_primitive_desc_iterator_next(each) ? dnnl_unimplemented : dnnl_success;
    if (!status)
        *out = dnnl_primitive_desc_iterator_fetch(each);
    if (each)
        dnnl_primitive_desc_iterator_destroy(each);
    return !status && *out == NULL ? dnnl_out_of_memory : status;
}

dnnl_status_t pg_dnnl_conv_forward(const pg_dnnl_conv *conv, bool winograd, int nth,
                                   pg_const_md src, pg_const_md weights, pg_const_md bias,
                                   pg_const_md dst, const_dnnl_primitive_attr_t attr,
                                   dnnl_primitive_desc_t *out) {
    dnnl_convolution_desc_t desc;
    dnnl_status_t status = dnnl_dilated_convolution_forward_desc_init(
        &desc, dnnl_forward_inference, algorithm(winograd), src, weights, bias, dst, conv->strides,
        conv->dilates, conv->pad_begin, conv->pad_end);
    return status ? status : nth_of(nth, &desc, attr, NULL, out);
}

dnnl_status_t pg_dnnl_conv_backward(const pg_dnnl_conv *conv, bool winograd, int nth,
                                    pg_const_md d_src, pg_const_md weights, pg_const_md d_dst,
                                    const_dnnl_primitive_desc_t forward,
                                    const_dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *out) {
    dnnl_convolution_desc_t desc;
    dnnl_status_t status = dnnl_dilated_convolution_backward_data_desc_init(
        &desc, algorithm(winograd), d_src, weights, d_dst, conv->strides, conv->dilates,
        conv->pad_begin, conv->pad_end);
    return status ? status : nth_of(nth, &desc, attr, forward, out);
}

#endif

bool pg_dnnl_next(dnnl_primitive_desc_t *pd) {
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_primitive_desc_next_impl(*pd) == dnnl_success;
#else
    (void)pd;
    return false;
#endif
}

pg_md pg_md_create(int n_dims, const int64_t *dims, dnnl_format_tag_t tag) {
    return pg_md_create_of(dnnl_f32, n_dims, dims, tag);
}
