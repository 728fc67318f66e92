/* Inside of an explainer: what one configuration generation shares between its workers. Constant
 * after create. */
#ifndef PG_PIPELINE_EXPLAINER_H
#define PG_PIPELINE_EXPLAINER_H

#include "pipeline/labels.h"
#include "pipeline/lrp.h"
#include "pipeline/pipeline.h"
#include "pipeline/saliency.h"

struct pg_explainer {
    const pg_explain_options *options; /* borrowed */
    pg_model *model;
    const pg_model_info *info;
    pg_labels *labels;       /* NULL: none */
    pg_channel_stats *stats; /* NULL: none */
    char stats_sha256[65];   /* "" without */
    pg_layers layers;
    pg_select_source source;
    bool can_prune;
    char cannot_prune[512]; /* why not */
    const pg_saliency *method;
    pg_lrp_options lrp;   /* with the box of the input */
    pg_crp_layer crp;     /* node -1: cannot_crp says why */
    char cannot_crp[512];
    pg_head head;
    int64_t target; /* -1: top1 */
};

/* Opens the model of these options; shared with calibration, bench and inspect. `refusals`: NULL, or
 * filled with every node that is not supported. */
pg_err pg_explainer_open_model(const pg_explain_options *options, pg_refusals *refusals,
                               pg_model **out, pg_diag *diag);

/* Between open and prepare, for inspect too, which shows what both take: how many channels pruned
 * convolutions will keep, for which no statistics are needed; and, where the methods ask for it,
 * relevance by *lrp, which is filled and outlives the model (PG_ECONFIG: cannot pass this network).
 */
void pg_explainer_expect_kept(const pg_explain_options *options, const pg_select_source *source,
                              pg_model *model);
pg_err pg_explainer_want_relevance(const pg_explain_options *options, pg_lrp_options *lrp,
                                   pg_model *model, pg_diag *diag);

/* The preprocessing in force: the configured one, or none (pixels 0 .. 255 as they are) for a file
 * whose own input is bytes. */
pg_input_options pg_explainer_input(const pg_explain_options *options, const pg_model_info *info);

/* "top1", an index or a label -> class or -1. False: unknown or out of range. */
bool pg_target_parse(const char *text, int64_t classes, const pg_labels *labels, int64_t *klass);

#endif
