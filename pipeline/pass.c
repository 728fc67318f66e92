#include "pipeline/pass.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/compat.h"

static pg_err create(const pg_model *model, const pg_head *head, const pg_select_source *source,
                     pg_pass *pass, pg_diag *diag) {
    const pg_model_info *info = pg_model_get_info(model);
    pg_err err = pg_session_create(model, &pass->session, diag);
    if (err)
        return err;
    pass->input = pg_session_input(pass->session, &pass->layout);
    pass->input_count = pg_shape_count(&info->input);
    pass->head = head;
    pass->output = pg_session_output(pass->session);
    pass->output_count = pg_shape_count(&info->output.shape);
    pass->classes = head->classes;
    pass->scores = pg_calloc((size_t)head->classes, sizeof *pass->scores);
    pass->sums = pg_calloc((size_t)head->classes, sizeof *pass->sums);
    pass->seed = pg_calloc((size_t)pass->output_count, sizeof *pass->seed);
    if (!pass->scores || !pass->sums || !pass->seed)
        return pg_fail(diag, PG_ENOMEM, "no memory for the seed");
    if (!source)
        return PG_OK;
    err = pg_selector_create(source, &pass->selector, diag);
    if (err)
        return err;
    return pg_prune_create(source->options, source->convs, source->n_convs, source->layers,
                           &pass->prune, diag);
}

pg_err pg_pass_create(const pg_model *model, const pg_head *head, const pg_explain_options *explain,
                      const pg_select_source *source, pg_clock_fn now, pg_pass *out,
                      pg_diag *diag) {
    *out = (pg_pass){.explain = explain, .now = now, .rule = "none"};
    pg_err err = create(model, head, source, out, diag);
    if (err)
        pg_pass_destroy(out);
    return err;
}

void pg_pass_destroy(pg_pass *pass) {
    pg_prune_destroy(&pass->prune);
    pg_selector_destroy(&pass->selector);
    pg_session_destroy(&pass->session);
    pg_free(pass->scores);
    pg_free(pass->sums);
    pg_free(pass->seed);
    pg_free(pass->kept_input);
    *pass = (pg_pass){.klass = 0};
}

void pg_pass_start(pg_pass *pass) {
    for (int i = 0; i < PG_STAGE_COUNT; i++)
        pass->timing_ns[i] = 0;
    pass->output = pg_session_output(pass->session);
    pass->mark = pass->now ? pass->now() : 0;
}

void pg_pass_mark(pg_pass *pass, pg_stage stage) {
    uint64_t now = pass->now ? pass->now() : 0;
    pass->timing_ns[stage] += now - pass->mark;
    pass->mark = now;
}

/* A running mean that has forgotten nine tenths after eight passes: the first is cold, and load and
 * frequencies change. */
static void learn(double *mean, uint64_t ns) {
    *mean = *mean > 0 ? *mean + ((double)ns - *mean) / 4 : (double)ns;
}

static pg_err read_scores(pg_pass *pass, pg_diag *diag) {
    pg_head_scores(pass->head, pg_session_output(pass->session), pass->sums, pass->scores);
    for (int64_t k = 0; k < pass->classes; k++)
        if (!isfinite(pass->scores[k]))
            return pg_fail(diag, PG_EFAIL, "the score of class %" PRId64 " is not finite", k);
    pg_pass_mark(pass, PG_STAGE_FORWARD);
    return PG_OK;
}

pg_err pg_pass_forward(pg_pass *pass, pg_diag *diag) {
    uint64_t begin = pass->mark;
    pg_err err = pg_session_forward(pass->session, diag);
    if (!err)
        err = read_scores(pass, diag);
    if (!err)
        learn(&pass->forward_ns, pass->mark - begin);
    return err;
}

pg_err pg_pass_forward_tail(pg_pass *pass, pg_diag *diag) {
    pg_err err = pg_session_forward_tail(pass->session, diag);
    return err ? err : read_scores(pass, diag);
}

float pg_pass_probability(const pg_pass *pass, int64_t klass) {
    return pg_head_probability(pass->head, pg_head_scale_of(pass->head, pass->scores),
                               pass->scores[klass]);
}

static const float *gap_of(void *user, int conv) { return pg_session_gap(user, conv); }

/* The end of both ways backward, `begin` being when they set out. */
static pg_err finish_backward(pg_pass *pass, uint64_t begin, pg_err err) {
    pg_pass_mark(pass, PG_STAGE_BACKWARD);
    learn(&pass->backward_ns, pass->mark - begin);
    return err;
}

static void weigh_seed(pg_pass *pass) {
    pg_head_scale scale = pg_head_scale_of(pass->head, pass->scores);
    float p = pg_head_probability(pass->head, scale, pass->scores[pass->klass]);
    for (int64_t i = 0; i < pass->output_count; i++)
        pass->seed[i] *= p;
}

pg_err pg_pass_backward(pg_pass *pass, bool prune, pg_diag *diag) {
    uint64_t begin = pass->mark;
    const pg_conv_prune *convs = NULL;
    pass->pruned = prune && pass->explain->prune.select != PG_SELECT_NONE;
    pass->rule = "none";
    if (pass->pruned) {
        pg_assert(pass->selector && pass->prune);
        pg_selection selection;
        pg_selector_run(pass->selector, pass->klass, gap_of, pass->session, &selection);
        pass->rule = selection.rule;
        convs = pg_prune_begin(pass->prune, &selection);
    }
    pg_pass_mark(pass, PG_STAGE_SELECT);
    pg_head_seed(pass->head, pg_session_output(pass->session), pass->scores, pass->klass,
                 pass->seed);
    if (pass->pruned && pass->explain->prune.compat & PG_COMPAT_seed)
        weigh_seed(pass);
    return finish_backward(pass, begin,
                           pg_session_backward(pass->session, pass->seed, convs, diag));
}

pg_err pg_pass_backward_guided(pg_pass *pass, pg_diag *diag) {
    uint64_t begin = pass->mark;
    pass->pruned = false;
    pass->rule = "none";
    pg_head_seed(pass->head, pg_session_output(pass->session), pass->scores, pass->klass,
                 pass->seed);
    return finish_backward(pass, begin,
                           pg_session_backward_guided(pass->session, pass->seed, diag));
}

pg_err pg_pass_reserve(pg_pass *pass, pg_diag *diag) {
    if (pass->kept_input)
        return PG_OK;
    int64_t count = pass->input_count + pass->classes + pass->output_count;
    pass->kept_input = pg_calloc((size_t)count, sizeof(float));
    if (!pass->kept_input)
        return pg_fail(diag, PG_ENOMEM, "no memory for a second input");
    pass->kept_scores = pass->kept_input + pass->input_count;
    pass->kept_output = pass->kept_scores + pass->classes;
    return PG_OK;
}

void pg_pass_keep(pg_pass *pass) {
    memcpy(pass->kept_input, pass->input, (size_t)pass->input_count * sizeof(float));
    memcpy(pass->kept_scores, pass->scores, (size_t)pass->classes * sizeof(float));
    memcpy(pass->kept_output, pass->output, (size_t)pass->output_count * sizeof(float));
    pass->output = pass->kept_output;
}

void pg_pass_restore(pg_pass *pass) {
    memcpy(pass->input, pass->kept_input, (size_t)pass->input_count * sizeof(float));
    memcpy(pass->scores, pass->kept_scores, (size_t)pass->classes * sizeof(float));
}

void pg_pass_look_through(pg_pass *pass, const float *mask, int64_t stride) {
    const int64_t *in = pass->head->info->input.dims, planes = in[1];
    bool plain = pass->layout == PG_PLAIN;
    int64_t pixel = plain ? 1 : planes, plane = plain ? in[2] * in[3] : 1;
    for (int64_t y = 0; y < in[2]; y++)
        for (int64_t x = 0; x < in[3]; x++)
            for (int64_t c = 0; c < planes; c++) {
                int64_t at = (y * in[3] + x) * pixel + c * plane;
                pass->input[at] = pass->kept_input[at] * mask[y * stride + x];
            }
}

int pg_pass_fit(const pg_pass *pass, pg_cost step) {
    if (!pass->deadline || !pass->now)
        return INT_MAX;
    /* nothing has gone backward yet: about twice a forward */
    double backward = pass->backward_ns > 0 ? pass->backward_ns : 2 * pass->forward_ns;
    double one = step.forwards * pass->forward_ns + step.backwards * backward;
    uint64_t now = pass->now();
    if (now >= pass->deadline)
        return 0;
    double left = (double)(pass->deadline - now);
    return left < one * 1e9 ? (int)(left / one) : INT_MAX;
}

/* The key says which seed and stream, the counter's upper words which frame and sample. */
pg_sequence pg_pass_sequence(const pg_pass *pass, uint64_t seed, int sample) {
    uint64_t key = UINT64_C(14695981039346656037); /* FNV-1a */
    for (const char *c = pass->frame->stream; *c; c++)
        key = (key ^ (uint8_t)*c) * UINT64_C(1099511628211);
    key += seed;
    uint64_t seq = pass->frame->seq;
    return (pg_sequence){.key = {(uint32_t)key, (uint32_t)(key >> 32)},
                         .name = {(uint32_t)seq, (uint32_t)(seq >> 32), (uint32_t)sample}};
}

void pg_pass_progress(const pg_pass *pass, int done, int planned) {
    if (pass->progress)
        pass->progress(pass->progress_user, done, planned);
}

int64_t pg_pass_argmax(const float *scores, int64_t classes) {
    int64_t best = 0;
    for (int64_t k = 1; k < classes; k++)
        if (scores[k] > scores[best])
            best = k;
    return best;
}
