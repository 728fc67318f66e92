/* By default oneDNN is asked twice. First for channels-last input and output, which is what
 * everything around a convolution uses; on any processor with vector units there is a good
 * implementation for that. If the answer is the reference loop (a thousand times slower), it is
 * asked again to choose its own layouts, and the two reorders this takes become part of the path.
 * If that is the reference loop too, it is accepted, and its name shows in `inspect`.
 *
 * Weights are handed over in whatever layout the library asks for: forward and backward want
 * different ones, so each path packs its own copy.
 *
 * There are other ways (pg_conv_ways), and which is the fastest depends on shape, processor and
 * library version: conv_tune.h measures. */
#include "kernels/conv_path.h"

#include <stdio.h>
#include <string.h>

#include "kernels/conv_kernel.h"
#include "kernels/mem.h"

/* The first that takes a convolution has it. */
static const pg_conv_kernel *const own_kernels[] = {&pg_conv_first,        &pg_conv_depthwise,
                                                    &pg_conv_few_winograd, &pg_conv_few,
                                                    &pg_conv_sparse,       &pg_conv_small};

const pg_conv_way pg_conv_ways[PG_CONV_WAYS] = {
    {.name = "default"},
    {.name = "library"},              /* its first choice, where the default is our own */
    {.name = "apart", .apart = true}, /* some implementations cannot add: 2.6's brgconv_1x1 */
    {.name = "blocked", .any = true},
    {.name = "winograd", .winograd = true, .any = true},
    {.name = "winograd-second", .winograd = true, .any = true, .nth = 1},
    {.name = "flip", .flipped = true},
    {.name = "flip-blocked", .flipped = true, .any = true},
    {.name = "flip-winograd", .flipped = true, .winograd = true, .any = true},
    {.name = "flip-winograd-second", .flipped = true, .winograd = true, .any = true, .nth = 1},
    {.name = "small", .own = &pg_conv_small},
    {.name = "own-winograd", .winograd = true, .own = &pg_conv_winograd},
};

static size_t round_up(size_t bytes) {
    return (bytes + PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
}

/* ---- describing ---- */

/* Descriptors of one attempt, in terms of the forward direction. */
typedef struct mds {
    pg_md src, dst, weights, bias;
} mds;

static void free_mds(mds *m) {
    pg_md_free(&m->src);
    pg_md_free(&m->dst);
    pg_md_free(&m->weights);
    pg_md_free(&m->bias);
}

static dnnl_data_type_t type_of(bool bf16) { return bf16 ? dnnl_bf16 : dnnl_f32; }

static pg_md weights_md(const pg_conv_geometry *g, bool plain, bool bf16) {
    int64_t grouped[5] = {g->groups, g->out_c / g->groups, g->in_c / g->groups, g->k_h, g->k_w};
    int64_t dense[4] = {g->out_c, g->in_c, g->k_h, g->k_w};
    if (g->groups > 1)
        return pg_md_create_of(type_of(bf16), 5, grouped, plain ? dnnl_goihw : dnnl_format_tag_any);
    return pg_md_create_of(type_of(bf16), 4, dense, plain ? dnnl_oihw : dnnl_format_tag_any);
}

static bool make_mds(const pg_conv_path_spec *spec, dnnl_format_tag_t tag, mds *m) {
    const pg_conv_geometry *g = spec->geometry;
    int64_t src[4] = {1, g->in_c, g->in_h, g->in_w}, dst[4] = {1, g->out_c, g->out_h, g->out_w};
    dnnl_data_type_t in = type_of(spec->bf16), out = type_of(spec->bf16 && spec->out_bf16);
    *m = (mds){.src = pg_md_create_of(spec->backward ? out : in, 4, src, tag),
               .dst = pg_md_create_of(spec->backward ? in : out, 4, dst, tag),
               .weights = weights_md(g, false, spec->bf16),
               .bias = spec->bias ? pg_md_create(1, &g->out_c, dnnl_a) : NULL};
    if (m->src && m->dst && m->weights && (!spec->bias || m->bias))
        return true;
    free_mds(m);
    return false;
}

static const char *impl_of(const_dnnl_primitive_desc_t pd) {
    const char *name = NULL;
    if (dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) || name == NULL)
        return "unknown";
    return name;
}

/* oneDNN 3.7.2's brgemm convolutions compute NaN or crash where the input is narrower than a kernel
 * and one stride (found by tests/kernel/test_conv.c; e.g. 4x1 and 3 columns with stride 3). */
static bool is_broken(const pg_conv_geometry *g, const_dnnl_primitive_desc_t pd) {
    int64_t reach = (g->k_w - 1) * (g->dnnl.dilates[1] + 1) + 1;
    return strncmp(impl_of(pd), "brg", 3) == 0 && g->in_w < reach + g->dnnl.strides[1];
}

static void skip_broken(const pg_conv_geometry *g, dnnl_primitive_desc_t *pd) {
    while (is_broken(g, *pd) && pg_dnnl_next(pd))
        continue;
}

/* Describes the path with `tag` for input and output. A backward description wants the forward one
 * as a hint. */
static dnnl_status_t describe(const pg_conv_path_spec *spec, dnnl_format_tag_t tag,
                              dnnl_primitive_desc_t *out) {
    const pg_dnnl_conv *conv = &spec->geometry->dnnl;
    const bool winograd = spec->way->winograd;
    const int nth = spec->way->nth;
    dnnl_primitive_attr_t attr = NULL;
    mds m = {0};
    *out = NULL;
    if (!make_mds(spec, tag, &m))
        return dnnl_out_of_memory;
    dnnl_status_t status =
        pg_dnnl_attr(spec->add ? m.dst : NULL, spec->act, spec->lo, spec->hi, &attr);
    if (!status && !spec->backward)
        status =
            pg_dnnl_conv_forward(conv, winograd, nth, m.src, m.weights, m.bias, m.dst, attr, out);
    if (!status && !spec->backward)
        skip_broken(spec->geometry, out);
    if (!status && spec->backward) {
        const pg_conv_path_spec forward = {.geometry = spec->geometry,
                                           .bf16 = spec->bf16,
                                           .out_bf16 = spec->bf16,
                                           .way = pg_conv_ways};
        dnnl_primitive_desc_t hint = NULL;
        status = describe(&forward, tag, &hint);
        if (!status)
            status = pg_dnnl_conv_backward(conv, winograd, nth, m.src, m.weights, m.dst, hint, attr,
                                           out);
        if (!status) /* while the hint lives: the library asks it again */
            skip_broken(spec->geometry, out);
        if (hint)
            dnnl_primitive_desc_destroy(hint);
    }
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    free_mds(&m);
    return status;
}

static bool is_slow(const_dnnl_primitive_desc_t pd) { return strstr(impl_of(pd), "ref") != NULL; }

static dnnl_status_t choose_plain(const pg_conv_path_spec *spec, dnnl_primitive_desc_t *out) {
    dnnl_primitive_desc_t ours = NULL, theirs = NULL;
    dnnl_status_t status = describe(spec, dnnl_nhwc, &ours);
    if (!status && !is_slow(ours)) {
        *out = ours;
        return status;
    }
    dnnl_status_t second = describe(spec, dnnl_format_tag_any, &theirs);
    if (!second && (status || !is_slow(theirs))) {
        if (ours)
            dnnl_primitive_desc_destroy(ours);
        *out = theirs;
        return second;
    }
    if (theirs)
        dnnl_primitive_desc_destroy(theirs);
    *out = ours;
    return status;
}

/* oneDNN 2.6.3's convolutions by gemm add a tensor wrongly (found by tests/kernel/test_conv.c). */
static bool adds_well(const_dnnl_primitive_desc_t pd) {
    return !is_slow(pd) && strstr(impl_of(pd), "gemm") == NULL;
}

static void give_up(dnnl_primitive_desc_t *pd) {
    if (*pd)
        dnnl_primitive_desc_destroy(*pd);
    *pd = NULL;
}

/* Just this way, at speed or not at all. oneDNN 2.6.3's own backward Winograd is wrong where
 * padding is uneven (found by tests/kernel/test_conv_tune.c); flipped it is right. */
static dnnl_status_t choose_way(const pg_conv_path_spec *spec, dnnl_primitive_desc_t *out) {
    if (spec->backward && spec->way->winograd)
        return dnnl_unimplemented;
    dnnl_status_t status = describe(spec, spec->way->any ? dnnl_format_tag_any : dnnl_nhwc, out);
    if (status || !is_slow(*out))
        return status;
    give_up(out);
    return dnnl_unimplemented;
}

/* An addition is done by the library only where that costs no reorders: channels-last. */
static dnnl_status_t choose_sum(pg_conv_path_spec spec, bool *whole, dnnl_primitive_desc_t *out) {
    bool first = spec.way == pg_conv_ways;
    dnnl_status_t status = dnnl_unimplemented;
    *whole = true;
    *out = NULL;
    if (spec.add && !spec.way->apart && !spec.way->any)
        status = describe(&spec, dnnl_nhwc, out);
    if (spec.add && !status && adds_well(*out))
        return status;
    give_up(out);
    if (!spec.add && !spec.way->apart && first)
        return choose_plain(&spec, out);
    if (!spec.add && !spec.way->apart && (status = choose_way(&spec, out)) == dnnl_success)
        return status;
    if (!spec.add && spec.act == PG_ACT_NONE)
        return status;
    *whole = spec.add = false;
    spec.act = PG_ACT_NONE;
    return first ? choose_plain(&spec, out) : choose_way(&spec, out);
}

static dnnl_status_t choose(const pg_conv_path_spec *spec, bool *whole,
                            dnnl_primitive_desc_t *out) {
    pg_conv_path_spec in_float = *spec;
    in_float.bf16 = false;
    dnnl_status_t status = choose_sum(*spec, whole, out);
    if (!spec->bf16 || (!status && !is_slow(*out)))
        return status;
    give_up(out);
    return choose_sum(in_float, whole, out);
}

/* ---- backward as a forward convolution ---- */

/* d_src is the convolution of d_dst with the weights turned by half a turn, inputs and outputs
 * exchanged, padded by what the kernel reaches beyond the forward one's padding. */
static bool flip_geometry(const pg_conv_geometry *g, pg_conv_geometry *out) {
    *out = *g;
    out->in_c = g->out_c, out->in_h = g->out_h, out->in_w = g->out_w;
    out->out_c = g->in_c, out->out_h = g->in_h, out->out_w = g->in_w;
    const int64_t k[2] = {g->k_h, g->k_w}, in[2] = {g->out_h, g->out_w};
    const int64_t dst[2] = {g->in_h, g->in_w};
    for (int i = 0; i < 2; i++) {
        int64_t reach = (k[i] - 1) * (g->dnnl.dilates[i] + 1);
        int64_t begin = reach - g->dnnl.pad_begin[i], end = dst[i] + reach - in[i] - begin;
        if (g->groups != 1 || g->dnnl.strides[i] != 1 || begin < 0 || end < 0)
            return false;
        out->dnnl.pad_begin[i] = begin;
        out->dnnl.pad_end[i] = end;
    }
    return true;
}

/* [out_c, in_c, taps] -> [in_c, out_c, taps backwards] */
static float *flip_weights(const pg_conv_geometry *g, const float *weights) {
    int64_t taps = g->k_h * g->k_w;
    float *flipped = pg_malloc((size_t)(g->out_c * g->in_c * taps) * sizeof *flipped);
    for (int64_t i = 0; flipped && i < g->in_c; i++)
        for (int64_t o = 0; o < g->out_c; o++)
            for (int64_t t = 0; t < taps; t++)
                flipped[(i * g->out_c + o) * taps + t] =
                    weights[(o * g->in_c + i) * taps + taps - 1 - t];
    return flipped;
}

bool pg_conv_pays_bf16(const pg_conv_geometry *g) { return g->groups == 1 && g->in_c >= 16; }

/* ---- making ---- */

/* Reorders without scales need no scratch memory, so the default attributes do. */
static dnnl_status_t make_reorder(pg_const_md from, pg_const_md to, dnnl_primitive_t *out) {
    dnnl_primitive_desc_t pd = NULL;
    dnnl_engine_t engine = pg_dnnl_engine();
    dnnl_status_t status = dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, NULL);
    if (!status)
        status = dnnl_primitive_create(out, pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

/* Runs `reorder` once between two arrays. Both descriptors outlive the call. */
static dnnl_status_t reorder_once(dnnl_primitive_t reorder, pg_const_md from_md, const void *from,
                                  pg_const_md to_md, void *to) {
    dnnl_stream_t stream = NULL;
    dnnl_memory_t src = NULL, dst = NULL;
    dnnl_engine_t engine = pg_dnnl_engine();
    dnnl_status_t status = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    if (!status)
        status = dnnl_memory_create(&src, from_md, engine, (void *)from);
    if (!status)
        status = dnnl_memory_create(&dst, to_md, engine, to);
    if (!status) {
        dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
        status = dnnl_primitive_execute(reorder, stream, 2, args);
    }
    if (!status)
        status = dnnl_stream_wait(stream);
    if (src)
        dnnl_memory_destroy(src);
    if (dst)
        dnnl_memory_destroy(dst);
    if (stream)
        dnnl_stream_destroy(stream);
    return status;
}

/* The way from plain weights to packed ones stays with paths whose weights come later. */
static dnnl_status_t pack_weights(const pg_conv_path_spec *spec, pg_conv_path *path) {
    path->packed_bytes = dnnl_memory_desc_get_size(path->weights_md);
    path->plain_md = weights_md(spec->geometry, true, spec->bf16 && !spec->weights);
    if (!path->plain_md)
        return dnnl_out_of_memory;
    dnnl_status_t status = make_reorder(path->plain_md, path->weights_md, &path->pack);
    if (status || !spec->weights)
        return status;
    path->weight_bytes = path->packed_bytes;
    path->weights = pg_malloc(path->packed_bytes);
    if (!path->weights)
        return dnnl_out_of_memory;
    status =
        reorder_once(path->pack, path->plain_md, spec->weights, path->weights_md, path->weights);
    dnnl_primitive_destroy(path->pack);
    path->pack = NULL;
    return status;
}

static dnnl_status_t copy_bias(const pg_conv_path_spec *spec, pg_conv_path *path) {
    if (!spec->bias || spec->backward)
        return dnnl_success;
    size_t bytes = (size_t)spec->geometry->out_c * sizeof(float);
    path->bias = pg_malloc(bytes);
    path->bias_md = pg_md_create(1, &spec->geometry->out_c, dnnl_a);
    if (!path->bias || !path->bias_md)
        return dnnl_out_of_memory;
    memcpy(path->bias, spec->bias, bytes);
    path->weight_bytes += bytes;
    return dnnl_success;
}

static dnnl_status_t copy_descriptors(const pg_conv_path_spec *spec, dnnl_primitive_desc_t pd,
                                      pg_conv_path *path) {
    const pg_conv_geometry *g = spec->geometry;
    int64_t src[4] = {1, g->in_c, g->in_h, g->in_w}, dst[4] = {1, g->out_c, g->out_h, g->out_w};
    bool back = spec->backward;
    path->backward = back;
    path->our_in = pg_md_create_of(type_of(spec->in_bf16), 4, back ? dst : src, dnnl_nhwc);
    path->our_out = pg_md_create_of(type_of(spec->out_bf16), 4, back ? src : dst, dnnl_nhwc);
    path->in = pg_md_clone(
        dnnl_primitive_desc_query_md(pd, back ? dnnl_query_diff_dst_md : dnnl_query_src_md, 0));
    path->out = pg_md_clone(
        dnnl_primitive_desc_query_md(pd, back ? dnnl_query_diff_src_md : dnnl_query_dst_md, 0));
    path->weights_md = pg_md_clone(dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
    path->scratchpad_md =
        pg_md_clone(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    bool all = path->our_in && path->our_out && path->in && path->out && path->weights_md &&
               path->scratchpad_md;
    return all ? dnnl_success : dnnl_out_of_memory;
}

static dnnl_status_t make_reorders(pg_conv_path *path) {
    dnnl_status_t status = dnnl_success;
    if (!dnnl_memory_desc_equal(path->our_in, path->in)) {
        path->in_bytes = round_up(dnnl_memory_desc_get_size(path->in));
        status = make_reorder(path->our_in, path->in, &path->reorder_in);
    }
    if (!status && !dnnl_memory_desc_equal(path->our_out, path->out)) {
        path->out_bytes = round_up(dnnl_memory_desc_get_size(path->out));
        status = make_reorder(path->out, path->our_out, &path->reorder_out);
    }
    path->scratch_bytes =
        path->in_bytes + path->out_bytes + round_up(dnnl_memory_desc_get_size(path->scratchpad_md));
    return status;
}

static const pg_conv_kernel *own_kernel(const pg_conv_path_spec *spec) {
    if (spec->library_only || spec->bf16)
        return NULL;
    if (spec->way->own && spec->way->own->can(spec))
        return spec->way->own;
    if (spec->way != pg_conv_ways)
        return NULL;
    for (size_t i = 0; i < sizeof own_kernels / sizeof own_kernels[0]; i++)
        if (own_kernels[i]->takes(spec))
            return own_kernels[i];
    return NULL;
}

bool pg_conv_path_is_sparse(const pg_conv_path_spec *spec) {
    pg_conv_path_spec first = *spec;
    first.way = pg_conv_ways;
    return own_kernel(&first) == &pg_conv_sparse;
}

static pg_err make_own(const pg_conv_path_spec *spec, pg_conv_path *path, pg_diag *diag) {
    path->backward = spec->backward;
    path->geometry = *spec->geometry;
    path->adds = spec->add && path->own->adds;
    path->whole = path->adds || !spec->add;
    path->act = path->whole ? spec->act : PG_ACT_NONE;
    path->lo = spec->lo;
    path->hi = spec->hi;
    path->scratch_bytes = round_up(path->own->scratch_bytes(spec->geometry, spec->backward));
    path->packed_bytes = path->own->packed_bytes(spec->geometry, spec->backward);
    snprintf(path->impl, sizeof path->impl, "%s", path->own->name);
    dnnl_status_t status = copy_bias(spec, path);
    if (!status && spec->weights) {
        path->weight_bytes += path->packed_bytes;
        path->weights = pg_malloc(path->packed_bytes);
        if (path->weights)
            path->own->pack(spec->geometry, spec->backward, spec->weights, path->weights);
        else
            status = dnnl_out_of_memory;
    }
    if (status)
        pg_conv_path_free(path);
    return pg_dnnl_check(status, "convolution", diag);
}

static dnnl_status_t make(const pg_conv_path_spec *spec, pg_conv_path *path) {
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status = choose(spec, &path->whole, &pd);
    path->adds = spec->add && path->whole;
    if (!status)
        status = copy_descriptors(spec, pd, path);
    if (!status)
        status = dnnl_primitive_create(&path->primitive, pd);
    if (!status)
        status = make_reorders(path);
    if (!status)
        status = pack_weights(spec, path);
    if (!status)
        status = copy_bias(spec, path);
    if (!status)
        snprintf(path->impl, sizeof path->impl, "%s%s", impl_of(pd),
                 path->in_bytes || path->out_bytes ? "+reorder" : "");
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

static dnnl_status_t make_flipped(const pg_conv_path_spec *spec, pg_conv_path *path) {
    pg_conv_geometry turned;
    if (!spec->backward || !spec->weights || spec->bf16 || spec->in_bf16 || spec->out_bf16 ||
        !flip_geometry(spec->geometry, &turned))
        return dnnl_unimplemented;
    float *weights = flip_weights(spec->geometry, spec->weights);
    pg_conv_path_spec forward = {.geometry = &turned, .weights = weights, .way = spec->way};
    dnnl_status_t status = weights ? make(&forward, path) : dnnl_out_of_memory;
    pg_free(weights);
    path->flipped = true;
    size_t length = strlen(path->impl);
    snprintf(path->impl + length, sizeof path->impl - length, "+flip");
    return status;
}

pg_err pg_conv_path_make(const pg_conv_path_spec *wish, pg_conv_path *path, pg_diag *diag) {
    pg_conv_path_spec spec = *wish;
    if (spec.way == NULL)
        spec.way = pg_conv_ways;
    if (spec.backward)
        spec.add = false, spec.act = PG_ACT_NONE;
    if (spec.exact && spec.way->winograd)
        return pg_fail(diag, PG_EFAIL, "convolution: Winograd's sums are not exact where small");
    path->own = own_kernel(&spec);
    if (path->own)
        return make_own(&spec, path, diag);
    if (spec.way->own)
        return pg_fail(diag, PG_EFAIL, "convolution: not for %s", spec.way->own->name);
    if (pg_dnnl_engine() == NULL)
        return pg_fail(diag, PG_EFAIL, "oneDNN %d was built against, but version %d is installed",
                       DNNL_VERSION_MAJOR, dnnl_version()->major);
    dnnl_status_t status = spec.way->flipped ? make_flipped(&spec, path) : make(&spec, path);
    if (status)
        pg_conv_path_free(path);
    return pg_dnnl_check(status, spec.backward ? "convolution, backward" : "convolution", diag);
}

void pg_conv_path_free(pg_conv_path *path) {
    dnnl_primitive_t *primitives[] = {&path->primitive, &path->reorder_in, &path->reorder_out,
                                      &path->pack};
    for (int i = 0; i < 4; i++)
        if (*primitives[i])
            dnnl_primitive_destroy(*primitives[i]);
    pg_md *descriptors[] = {&path->our_in,  &path->our_out,      &path->in,
                            &path->out,     &path->plain_md,     &path->weights_md,
                            &path->bias_md, &path->scratchpad_md};
    for (int i = 0; i < 8; i++)
        pg_md_free(descriptors[i]);
    pg_free(path->weights);
    pg_free(path->bias);
    memset(path, 0, sizeof *path);
}
