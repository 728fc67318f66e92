/* What only several keys together, or the file system, can tell. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config_impl.h"
#include "pipeline/compat.h"
#include "pipeline/saliency.h"

static pg_err at(const pg_config_impl *impl, const char *key, pg_diag *diag, const char *sentence) {
    return pg_fail(diag, PG_ECONFIG, "%s: %s", pg_config_where(&impl->config, key), sentence);
}

static pg_err check_method(const pg_config_impl *impl, const char *key, const char *method,
                           pg_diag *diag) {
    if (pg_saliency_find(method) != NULL)
        return PG_OK;
    char quoted[PG_YAML_QUOTE];
    pg_fail(diag, PG_ECONFIG, "%s: %s: there is no method %s; there are",
            pg_config_where(&impl->config, key), key, pg_yaml_quote(method, quoted));
    for (int i = 0; pg_saliency_at(i) != NULL; i++)
        pg_diag_append(diag, "%s %s", i == 0 ? "" : ",", pg_saliency_at(i)->name);
    return PG_ECONFIG;
}

static pg_err check_stream(const pg_config_impl *impl, const pg_stream_config *stream,
                           pg_diag *diag) {
    char key[PG_YAML_QUOTE + 160];
    const char *id = stream->id == NULL ? "default" : stream->id;
    snprintf(key, sizeof key, "streams.%s.method", id);
    pg_err err = stream->method[0] == '\0' ? PG_OK : check_method(impl, key, stream->method, diag);
    if (err != PG_OK || stream->policy != PG_POLICY_BLOCK)
        return err;
    snprintf(key, sizeof key, "streams.%s.policy", id);
    if (pg_config_find(impl, key) == NULL)
        strcpy(key, "streams.default.policy");
    for (int i = 0; i < impl->config.n_ingest; i++) {
        if (impl->config.ingest[i].type != PG_INGEST_PULL)
            return pg_fail(diag, PG_ECONFIG,
                           "%s: policy block works with ingest type pull only, and ingest[%d] is "
                           "another",
                           pg_config_where(&impl->config, key), i);
    }
    return PG_OK;
}

/* explain.methods, and after them what streams ask for. */
static pg_err gather_methods(pg_config_impl *impl, pg_diag *diag) {
    pg_config *c = &impl->config;
    const pg_string_list named = c->explain.methods;
    const char **all =
        pg_pool_array(&impl->pool, (size_t)(named.count + c->n_streams + 1), sizeof *all);
    if (all == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory while reading the configuration");
    int n = 0;
    for (int i = 0; i < named.count; i++) {
        pg_err err = check_method(impl, "explain.methods", named.items[i], diag);
        if (err != PG_OK)
            return err;
        all[n++] = named.items[i];
    }
    for (int i = -1; i < c->n_streams; i++) {
        const char *method = i < 0 ? c->stream_default.method : c->streams[i].method;
        if (method[0] != '\0')
            all[n++] = method;
    }
    c->explain.methods = (pg_string_list){all, n};
    return PG_OK;
}

pg_err pg_config_check(pg_config_impl *impl, pg_diag *diag) {
    pg_config *c = &impl->config;
    c->explain.max_pixels = c->limits.pixels;
    c->explain.max_file_bytes = c->limits.model_bytes;
    c->explain.max_session_bytes = c->limits.session_bytes;
    if (c->explain.threads == 0 && c->workers > 1) {
        int share = pg_team_processors() / c->workers;
        c->explain.threads = share < 1 ? 1 : share;
    }
    if (c->explain.prune.select == PG_SELECT_LIST && c->explain.prune.n_lists == 0)
        return at(impl, "parchgrad.select", diag,
                  "parchgrad.select is list, but parchgrad.list names no channels");
    if (c->explain.prune.compat != PG_COMPAT_NONE && isfinite(c->explain.prune.gamma))
        return at(impl, "parchgrad.compat", diag,
                  "parchgrad.compat follows code that fails for a finite parchgrad.gamma: set "
                  "compat to none, or gamma to inf");
    if (c->explain.prune.compat != PG_COMPAT_NONE && c->explain.prune.conserve == PG_CONSERVE_EXACT)
        return at(impl, "parchgrad.compat", diag,
                  "parchgrad.compat follows code that has no parchgrad.conserve: exact: set "
                  "compat to none, or conserve to approx");
    if (c->n_streams > c->limits.streams)
        return at(impl, "limits.streams", diag, "limits.streams is less than the streams named");
    pg_err err = check_method(impl, "explain.method", c->explain.method, diag);
    if (err == PG_OK)
        err = check_stream(impl, &c->stream_default, diag);
    for (int i = 0; i < c->n_streams && err == PG_OK; i++)
        err = check_stream(impl, &c->streams[i], diag);
    return err == PG_OK ? gather_methods(impl, diag) : err;
}

static pg_err check_file(const pg_config *config, const char *key, const char *path,
                         pg_diag *diag) {
    char quoted[PG_YAML_QUOTE];
    if (path[0] == '\0')
        return PG_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool regular = fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    int why = fd < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (regular)
        return PG_OK;
    return pg_fail(diag, PG_ECONFIG, "%s: %s: cannot read %s: %s", pg_config_where(config, key),
                   key, pg_yaml_quote(path, quoted), why != 0 ? strerror(why) : "not a file");
}

pg_err pg_config_check_files(const pg_config *config, pg_diag *diag) {
    if (config->explain.model_path[0] == '\0')
        return pg_fail(diag, PG_ECONFIG, "%s%smodel.path is not set: which ONNX file?",
                       config->file[0] != '\0' ? config->file : "",
                       config->file[0] != '\0' ? ":1:1: " : "");
    pg_err err = check_file(config, "model.path", config->explain.model_path, diag);
    if (err == PG_OK)
        err = check_file(config, "model.labels", config->explain.labels_path, diag);
    if (err == PG_OK)
        err = check_file(config, "parchgrad.stats", config->explain.prune.stats_path, diag);
    return err;
}

pg_err pg_config_check_serve(const pg_config *config, pg_diag *diag) {
    if (config->n_ingest == 0 && config->rpc.bind[0] == '\0')
        return pg_fail(diag, PG_ECONFIG,
                       "%s%snowhere for frames to come from: set ingest or rpc.bind", config->file,
                       config->file[0] != '\0' ? ":1:1: " : "");
    return PG_OK;
}
