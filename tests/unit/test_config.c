/* The configuration: what is refused and where, that conf/parchgradd.yaml is config.def, and that
 * no mutation of it does worse than a sentence. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/config_impl.h"
#include "kernels/mem.h"
#include "pipeline/compat.h"
#include "pipeline/file_io.h"

static pg_diag diag;

static const pg_config *parse_set(const char *text, const pg_config_set *sets, int n) {
    const pg_config *config = NULL;
    diag.text[0] = '\0';
    pg_err err = pg_config_parse("c.yaml", text, strlen(text), sets, n, &config, &diag);
    cr_assert((err == PG_OK) == (config != NULL));
    cr_assert(err == PG_OK || err == PG_ECONFIG, "%s", diag.text);
    return config;
}

static const pg_config *parse(const char *text) { return parse_set(text, NULL, 0); }

/* ---- refusals ---- */

static const struct {
    const char *yaml, *message; /* how the message begins */
} refused[] = {
    {"modle:\n  path: a\n", "c.yaml:1:1: unknown key 'modle'; did you mean 'model'?"},
    {"model:\n  pth: a\n", "c.yaml:2:3: unknown key 'model.pth'; did you mean 'model.path'?"},
    {"quantile: 0.1\n", "c.yaml:1:1: unknown key 'quantile'; did you mean 'parchgrad.quantile'?"},
    {"zzzzzzzz: 1\n", "c.yaml:1:1: unknown key 'zzzzzzzz'"},
    {"grads:\n  layer: a\n", "c.yaml:1:1: unknown key 'grads'"},
    {"workers: 1\nworkers: 2\n",
     "c.yaml:2:1: duplicate key 'workers'; it is already set at c.yaml:1:1"},
    {"model: {path: a, path: b}\n", "c.yaml:1:18: duplicate key 'path'"},
    {"workers: many\n", "c.yaml:1:10: workers must be a whole number, not 'many'"},
    {"workers: '2'\n", "c.yaml:1:10: workers must be a whole number, not the string '2'"},
    {"workers: 2.5\n", "c.yaml:1:10: workers must be a whole number, not '2.5'"},
    {"workers: [2]\n", "c.yaml:1:10: workers must be a whole number, not a list"},
    {"workers: 0\n", "c.yaml:1:10: workers must be between 1 and 256 workers, not 0"},
    {"workers: -1\n", "c.yaml:1:10: workers must be between 1 and 256 workers, not -1"},
    {"workers: 99999999999999999999\n", "c.yaml:1:10: workers must be between"},
    {"workers:\n", "c.yaml:1:1: key 'workers' has no value"},
    {"workers: ~\n", "c.yaml:1:1: key 'workers' has no value"},
    {"workers: null\n", "c.yaml:1:1: key 'workers' has no value"},
    {"ingest:\n  -\n", "c.yaml:2:4: there is no value here"},
    {"publish: {overlay: yes}\n", "c.yaml:1:20: publish.overlay must be true or false, not 'yes'"},
    {"model: {path: 5}\n", "c.yaml:1:15: model.path must be a string (in quotes), not '5'"},
    {"model: {path: [a]}\n", "c.yaml:1:15: model.path must be a string, not a list"},
    {"model: a.onnx\n", "c.yaml:1:8: model must be a map of keys to values"},
    {"- model\n", "c.yaml:1:1: a configuration is a map of keys to values"},
    {"parchgrad:\n  quantile: 1.5\n", "c.yaml:2:13: parchgrad.quantile must be between"},
    {"parchgrad: {quantile: .nan}\n", "c.yaml:1:23: parchgrad.quantile must be a number"},
    {"parchgrad: {gamma: 0}\n", "c.yaml:1:20: parchgrad.gamma must be between"},
    {"parchgrad: {level: 2}\n", "c.yaml:1:20: parchgrad.level must be none, or a number"},
    {"parchgrad: {layers: 1.5}\n", "c.yaml:1:21: parchgrad.layers must be default, a ratio"},
    {"parchgrad: {layers: []}\n", "c.yaml:1:21: parchgrad.layers must be default, a ratio"},
    {"parchgrad: {select: clas}\n", "c.yaml:1:21: parchgrad.select must be one of class, instance, "
                                    "list, random, none, not 'clas'"},
    {"parchgrad: {select: list}\n", "c.yaml:1:21: parchgrad.select is list, but parchgrad.list"},
    {"parchgrad: {list: {a: [x]}}\n", "c.yaml:1:23: parchgrad.list must list channel numbers"},
    {"parchgrad: {compat: all}\n", "c.yaml:1:21: parchgrad.compat must be none, reference or a list "
                                   "of width, floor, student, strict, seed"},
    {"parchgrad: {compat: [floor, leak]}\n", "c.yaml:1:21: parchgrad.compat must be none, reference"},
    {"parchgrad: {compat: {a: floor}}\n", "c.yaml:1:21: parchgrad.compat must be none, reference"},
    {"parchgrad: {compat: [floor], gamma: 2}\n",
     "c.yaml:1:21: parchgrad.compat follows code that fails for a finite parchgrad.gamma"},
    {"parchgrad: {compat: reference, conserve: exact}\n",
     "c.yaml:1:21: parchgrad.compat follows code that has no parchgrad.conserve: exact"},
    {"explain: {method: magic}\n", "c.yaml:1:19: explain.method: there is no method 'magic'"},
    {"model: {precision: f16}\n",
     "c.yaml:1:20: model.precision must be one of auto, f32, bf16, bf16-backward, not 'f16'"},
    {"model: {input: {mean: [1, 2]}}\n", "c.yaml:1:23: model.input.mean must be three numbers"},
    {"model: {input: {std: 0}}\n", "c.yaml:1:22: model.input.std must be three numbers"},
    {"model: {input: {size: [0, 5]}}\n", "c.yaml:1:23: model.input.size must be a side"},
    {"ingest:\n- type: pull\n", "c.yaml:2:3: ingest[0] has neither bind nor connect"},
    {"ingest:\n- bind: tcp://*:1\n  connect: tcp://a:1\n",
     "c.yaml:3:3: a socket has bind or connect, not both"},
    {"ingest: [{bind: 'http://a:1'}]\n", "c.yaml:1:17: ingest[0].bind must be an endpoint"},
    {"ingest: [{connect: 'tcp://*:1'}]\n", "c.yaml:1:20: ingest[0].connect must be an endpoint"},
    {"ingest: [{bind: 'tcp://*:70000'}]\n", "c.yaml:1:17: ingest[0].bind must be an endpoint"},
    {"ingest: [{bind: 'tcp://*:1', hwn: 3}]\n",
     "c.yaml:1:30: unknown key 'ingest[0].hwn'; did you mean 'ingest[0].hwm'?"},
    {"ingest: [{bind: 'tcp://*:1', type: pull, topics: [a]}]\n",
     "c.yaml:1:42: only type sub has topics"},
    {"ingest: [{bind: 'tcp://*:1', dialect: imagezmq}]\n",
     "c.yaml:1:39: ingest[0].dialect must be native"},
    {"ingest: [5]\n", "c.yaml:1:10: ingest[0] must be a map"},
    {"ingest: [{bind: 'tcp://*:1'}]\nstreams:\n  default: {policy: block}\n",
     "c.yaml:3:21: policy block works with ingest type pull only"},
    {"streams: {_x: {}}\n", "c.yaml:1:11: '_x' cannot be a stream id"},
    {"streams: {status: {}}\n", "c.yaml:1:11: 'status' cannot be a stream id"},
    {"streams: {cam0: {polcy: fifo}}\n",
     "c.yaml:1:18: unknown key 'streams.cam0.polcy'; did you mean 'streams.cam0.policy'?"},
    {"streams: {cam0: {max_age: -1}}\n", "c.yaml:1:27: streams.cam0.max_age must be between"},
    {"streams: {a: {}, b: {}}\nlimits: {streams: 1}\n", "c.yaml:2:19: limits.streams is less"},
    {"http: {listen: 9090}\n", "c.yaml:1:16: http.listen must be host:port"},
    {"http: {listen: 'a:99999'}\n", "c.yaml:1:16: http.listen must be host:port"},
    {"a: &x 1\n", "c.yaml:1:4: anchors are not read"},
    {"a: *x\n", "c.yaml:1:4: aliases are not read"},
    {"workers: !!int 3\n", "c.yaml:1:10: tags are not read"},
    {"<<: {workers: 2}\n", "c.yaml:1:1: merge keys are not read"},
    {"workers: 1\n---\nworkers: 2\n", "c.yaml:2:1: a second document is not read"},
    {"[a]: 1\n", "c.yaml:1:1: a key must be a plain word"},
    {"model: {path: \"a\\0b\"}\n", "c.yaml:1:15: a string contains a NUL byte"},
    {"workers: 1\n\tmodel: 2\n", "c.yaml:2:1: not YAML"},
    {"model: {path: a\n", "c.yaml:2:1: not YAML"},
    {"workers: 1\nmodel: \x01\n", "c.yaml:2:8: not YAML"},
    {"workers: 1 # caf\xc3\xa9\nmodel: \xff\n", "c.yaml:2:8: not YAML"},
    {"a: [[[[[[[[1]]]]]]]]\n", "c.yaml:1:11: nested deeper than 8 levels"},
};

Test(config, refuses_with_line_and_column) {
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const pg_config *config = parse(refused[i].yaml);
        cr_expect(config == NULL, "accepted: %s", refused[i].yaml);
        cr_expect(strncmp(diag.text, refused[i].message, strlen(refused[i].message)) == 0,
                  "for: %s  wanted: %s\n     got: %s", refused[i].yaml, refused[i].message,
                  diag.text);
        pg_config_destroy(&config);
    }
    cr_expect(pg_mem_get_stats().live_blocks == 0);
}

Test(config, bounds_size_depth_and_count) {
    enum { SIZE = PG_CONFIG_MAX_BYTES + 1 };
    char *text = pg_malloc(SIZE + 1);
    memset(text, '#', SIZE);
    text[SIZE] = '\0';
    cr_expect(parse(text) == NULL);
    cr_expect(strstr(diag.text, "larger than 256 KiB") != NULL, "%s", diag.text);
    memset(text, '[', 40000);
    text[40000] = '\0';
    cr_expect(parse(text) == NULL);
    cr_expect(strstr(diag.text, "deeper") != NULL, "%s", diag.text);
    strcpy(text, "a: [");
    for (int i = 0; i < 12000; i++)
        strcpy(text + 4 + 2 * i, "1,");
    cr_expect(parse(text) == NULL);
    cr_expect(strstr(diag.text, "too many values") != NULL, "%s", diag.text);
    pg_free(text);
}

/* ---- values ---- */

Test(config, an_empty_file_is_all_defaults) {
    const pg_config *c = parse("# nothing\n");
    cr_assert(c != NULL, "%s", diag.text);
    cr_expect_str_eq(c->explain.model_path, "");
    cr_expect_str_eq(c->explain.method, "parchgrad");
    cr_expect_str_eq(c->explain.target, "top1");
    cr_expect_float_eq(c->explain.input.mean[1], 0.456f, 1e-7);
    cr_expect_float_eq(c->explain.input.scale, 1.0f / 255, 1e-9);
    cr_expect(c->explain.input.crop && !c->explain.input.bgr);
    cr_expect(isinf(c->explain.prune.gamma) && c->explain.prune.quantile == 0.1);
    cr_expect(c->explain.prune.layers_default && !c->explain.prune.use_level);
    cr_expect(c->explain.max_pixels == c->limits.pixels);
    cr_expect(c->n_ingest == 0 && c->publish.hwm == 8 && c->publish.send_buffer == 65536);
    cr_expect(c->rpc.depth == 64 && c->limits.streams == 1024 && c->limits.stream_idle == 600);
    cr_expect(c->stream_default.policy == PG_POLICY_NEWEST && c->stream_default.depth == 8);
    cr_expect_str_eq(pg_config_where(c, "workers"), "default");
    pg_config_destroy(&c);
    cr_expect(c == NULL);
}

Test(config, tells_values_by_key) {
    const pg_config *c = parse("ig: {steps: 7, baseline: blur}\nsmoothgrad: {sigma: 0.5}\n");
    cr_assert(c != NULL, "%s", diag.text);
    const char *text;
    double number;
    cr_expect(pg_config_scalar(c, "ig.steps", &text, &number) && number == 7);
    cr_expect(pg_config_scalar(c, "ig.baseline", &text, &number) && isnan(number));
    cr_expect_str_eq(text, "blur");
    cr_expect(pg_config_scalar(c, "smoothgrad.sigma", &text, &number) && number == 0.5);
    cr_expect(pg_config_scalar(c, "smoothgrad.samples", &text, &number) && number == 25);
    cr_expect(pg_config_scalar(c, "parchgrad.gamma", &text, &number) && isinf(number));
    cr_expect(pg_config_scalar(c, "model.labels", &text, &number) && text[0] == '\0');
    cr_expect_not(pg_config_scalar(c, "model.input.mean", &text, &number));
    cr_expect_not(pg_config_scalar(c, "no.such", &text, &number));
    cr_expect(c->explain.ig.baseline == PG_BASELINE_BLUR && c->explain.ig.steps == 7);
    pg_config_destroy(&c);
    c = parse("ig: {baseline: -0.5}\nstreams: {a: {deadline: 0.2}}\n");
    cr_assert(c != NULL, "%s", diag.text);
    cr_expect(c->explain.ig.baseline == PG_BASELINE_VALUE && c->explain.ig.value == -0.5);
    cr_expect(pg_config_stream(c, "a")->deadline == 0.2);
    cr_expect(pg_config_stream(c, "b")->deadline == 0);
    pg_config_destroy(&c);
}

Test(config, reads_every_kind_of_value) {
    const pg_config *c = parse(
        "model: {path: m.onnx, input: {layout: bgr, size: [224, 320], std: 0.5}}\n"
        "explain: {target: 281, reduce: sum, smooth: 2.5}\n"
        "parchgrad: {select: list, level: 0.05, gamma: 3, conserve: exact, layers: [a, 'b*'],\n"
        "  list: {conv1: [0, 7]}}\n"
        "ingest:\n- {bind: 'tcp://*:5555', type: pull, hwm: 3}\n- {connect: 'ipc:///tmp/x', "
        "topics: [cam]}\n"
        "streams: {default: {depth: 5}, b: {policy: fifo}, a.1: {max_age: 0.5}}\n"
        "http: {listen: '[::1]:9090'}\nlog: {level: debug}\n");
    cr_assert(c != NULL, "%s", diag.text);
    cr_expect(c->explain.input.bgr && c->explain.input.height == 224 &&
              c->explain.input.width == 320);
    cr_expect(c->explain.input.std[2] == 0.5f);
    cr_expect_str_eq(c->explain.target, "281");
    cr_expect(c->explain.reduce == PG_REDUCE_SUM && c->explain.smooth == 2.5);
    const pg_prune_options *p = &c->explain.prune;
    cr_expect(p->select == PG_SELECT_LIST && p->use_level && p->level == 0.05 && p->gamma == 3);
    cr_expect(p->conserve == PG_CONSERVE_EXACT && !p->layers_default && p->layers.count == 2);
    cr_expect_str_eq(p->layers.items[1], "b*");
    cr_assert(p->n_lists == 1 && p->lists[0].count == 2 && p->lists[0].channels[1] == 7);
    cr_assert_eq(c->n_ingest, 2);
    cr_expect(c->ingest[0].bind && c->ingest[0].type == PG_INGEST_PULL && c->ingest[0].hwm == 3);
    cr_expect(!c->ingest[1].bind && c->ingest[1].type == PG_INGEST_SUB && c->ingest[1].hwm == 8);
    cr_expect_str_eq(c->ingest[0].topics.items[0], "");
    cr_expect_str_eq(c->ingest[1].topics.items[0], "cam");
    cr_assert_eq(c->n_streams, 2);
    const pg_stream_config *a = pg_config_stream(c, "a.1"), *b = pg_config_stream(c, "b");
    cr_expect(a->max_age == 0.5 && a->depth == 5 && a->policy == PG_POLICY_NEWEST);
    cr_expect(b->policy == PG_POLICY_FIFO && b->depth == 5);
    cr_expect(pg_config_stream(c, "c")->id == NULL);
    cr_expect_str_eq(c->http.host, "::1");
    cr_expect_eq(c->http.port, 9090);
    cr_expect_eq(c->log_level, PG_VERBOSITY_DEBUG);
    cr_expect_str_eq(pg_config_where(c, "model.path"), "c.yaml:1:15");
    cr_expect_str_eq(pg_config_where(c, "ingest[0].hwm"), "c.yaml:6:43");
    cr_expect_str_eq(pg_config_where(c, "streams.a.1.max_age"), "c.yaml:8:66");
    pg_config_destroy(&c);
}

/* ---- --set ---- */

Test(config, compat_is_none_all_or_a_list) {
    static const struct {
        const char *yaml;
        unsigned set;
    } cases[] = {
        {"parchgrad: {compat: none}\n", PG_COMPAT_NONE},
        {"parchgrad: {compat: []}\n", PG_COMPAT_NONE},
        {"parchgrad: {compat: reference}\n", PG_COMPAT_REFERENCE},
        {"parchgrad: {compat: [seed, floor]}\n", PG_COMPAT_seed | PG_COMPAT_floor},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const pg_config *c = parse(cases[i].yaml);
        cr_assert(c != NULL, "%s", diag.text);
        cr_expect_eq(c->explain.prune.compat, cases[i].set);
        pg_config_destroy(&c);
    }
}

Test(config, set_replaces_one_value) {
    const pg_config_set sets[] = {
        {"--set workers", "workers", "3", false},
        {"--set model.threads", "model.threads", "2", false},
        {"--model", "model.path", "a: b #c.onnx", true},
        {"--set streams.cam.1.policy", "streams.cam.1.policy", "fifo", false},
        {"--set streams.cam.2", "streams.cam.2", "{depth: 2}", false},
        {"--set ingest[0].hwm", "ingest[0].hwm", "5", false},
        {"--set ingest[1].connect", "ingest[1].connect", "tcp://a:1", false},
        {"--set parchgrad.list./a/b.1", "parchgrad.list./a/b.1", "[4]", false},
    };
    const pg_config *c = parse_set("workers: 1\ningest: [{bind: 'tcp://*:1'}]\n", sets, 8);
    cr_assert(c != NULL, "%s", diag.text);
    cr_expect(c->workers == 3 && c->explain.threads == 2 && c->n_ingest == 2);
    cr_expect_str_eq(c->explain.model_path, "a: b #c.onnx");
    cr_expect_eq(pg_config_stream(c, "cam.1")->policy, PG_POLICY_FIFO);
    cr_expect_eq(pg_config_stream(c, "cam.2")->depth, 2);
    cr_expect(c->ingest[0].hwm == 5 && c->ingest[0].bind && !c->ingest[1].bind);
    cr_assert_eq(c->explain.prune.n_lists, 1);
    cr_expect_str_eq(c->explain.prune.lists[0].layer, "/a/b.1");
    cr_expect_str_eq(pg_config_where(c, "workers"), "--set workers");
    pg_config_destroy(&c);
}

Test(config, set_errors_name_the_option) {
    static const struct {
        const char *key, *value, *message;
    } cases[] = {
        {"workers", "x", "--set K: workers must be a whole number, not 'x'"},
        {"workers", "", "--set K: "},
        {"wokers", "1", "--set K: unknown key 'wokers'; did you mean 'workers'?"},
        {"workers.x", "1", "--set K: workers must be a whole number, not a map"},
        {"ingest[3].hwm", "1", "--set K: the list has no entry before this one"},
        {"ingest[x].hwm", "1", "--set K: not the path of a key"},
        {".workers", "1", "--set K: not the path of a key"},
        {"explain.top", "[1", "--set K: not YAML"},
        {"explain.top", "*a", "--set K: aliases are not read"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pg_config_set set = {"--set K", cases[i].key, cases[i].value, false};
        cr_expect(parse_set("", &set, 1) == NULL, "%s", cases[i].key);
        cr_expect(strncmp(diag.text, cases[i].message, strlen(cases[i].message)) == 0, "%s=%s: %s",
                  cases[i].key, cases[i].value, diag.text);
    }
}

/* ---- conf/parchgradd.yaml ---- */

static char *read_conf(const char *name, size_t *size) {
    uint8_t *text = NULL;
    char path[512];
    snprintf(path, sizeof path, "conf/%s", name);
    cr_assert_eq(pg_file_read(path, PG_CONFIG_MAX_BYTES, &text, size, &diag), PG_OK, "%s",
                 diag.text);
    return (char *)text;
}

static bool same(const pg_yaml *a, const pg_yaml *b) {
    if (a->kind != b->kind || a->count != b->count || strcmp(a->text, b->text) != 0)
        return false;
    for (a = a->first, b = b->first; a != NULL && b != NULL; a = a->next, b = b->next) {
        if (!same(a, b))
            return false;
    }
    return true;
}

/* Takes the "# " off the example of `ingest`, so that its keys are compared too. */
static void uncomment_ingest(char *text) {
    char *at = strstr(text, "ingest: []\n# ingest:\n");
    cr_assert(at != NULL);
    memset(at, '#', strlen("ingest: []"));
    for (char *line = at + strlen("ingest: []\n"); line[0] == '#'; line = strchr(line, '\n') + 1)
        memmove(line, line + 2, strlen(line + 2) + 1);
}

Test(config, the_shipped_file_shows_every_key_with_its_default) {
    size_t size;
    char *text = read_conf("parchgradd.yaml", &size);
    const pg_config *c = NULL;
    cr_assert_eq(pg_config_parse("conf", text, size, NULL, 0, &c, &diag), PG_OK, "%s", diag.text);
    pg_config_destroy(&c);
    char *copy = pg_calloc(1, size + 1);
    memcpy(copy, text, size);
    uncomment_ingest(copy);
    cr_assert_eq(pg_config_parse("conf", copy, strlen(copy), NULL, 0, &c, &diag), PG_OK, "%s",
                 diag.text);
    pg_config_impl *impl = (pg_config_impl *)(uintptr_t)c;
    for (int i = 0; pg_config_row_at(i) != NULL; i++) {
        const pg_config_row *row = pg_config_row_at(i);
        char key[128] = "";
        cr_expect(row->prose[0] != '\0', "%s has no prose", row->path);
        if (strncmp(row->path, "ingest[].", 9) == 0)
            snprintf(key, sizeof key, "ingest[0].%s", row->path + 9);
        else if (strncmp(row->path, "streams.*.", 10) == 0)
            snprintf(key, sizeof key, "streams.default.%s", row->path + 10);
        else
            snprintf(key, sizeof key, "%s", row->path);
        if (strcmp(key, "ingest[0].connect") == 0) {
            cr_expect(strstr(text, "# connect:") != NULL);
            continue;
        }
        const pg_yaml *node = pg_config_find(impl, key);
        cr_expect(node != NULL, "conf/parchgradd.yaml lacks %s", key);
        if (node == NULL || row->fallback == NULL || strcmp(key, "ingest") == 0 ||
            strcmp(key, "streams") == 0)
            continue;
        pg_yaml *fallback = NULL;
        cr_assert_eq(pg_yaml_parse_option(&impl->pool, "x", row->fallback, &fallback, &diag),
                     PG_OK);
        cr_expect(same(node, fallback), "%s: the file's value is not the default %s", key,
                  row->fallback);
        /* the beginning of the prose stands in the file, however it is wrapped */
        char words[24];
        snprintf(words, sizeof words, "%.20s", row->prose);
        cr_expect(strstr(text, words) != NULL, "conf/parchgradd.yaml lacks the prose of %s", key);
    }
    pg_config_destroy(&c);
    pg_free(copy);
    pg_free(text);
}

Test(config, the_demo_file_is_good) {
    size_t size;
    char *text = read_conf("demo.yaml", &size);
    const pg_config *c = NULL;
    cr_expect_eq(pg_config_parse("conf/demo.yaml", text, size, NULL, 0, &c, &diag), PG_OK, "%s",
                 diag.text);
    pg_config_destroy(&c);
    pg_free(text);
}

/* ---- mutations ---- */

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

Test(config, mutations_end_in_a_sentence) {
    static const char bits[] = "[]{}:,#&*!|>'\"%@`-? \n\t\x00\x80\xff"
                               "aA09.~<";
    size_t size;
    char *text = read_conf("parchgradd.yaml", &size), *copy = pg_malloc(size + 1);
    uint32_t state = 2023;
    int refusals = 0;
    for (int i = 0; i < 3000; i++) {
        memcpy(copy, text, size);
        size_t length = size;
        for (uint32_t n = 1 + next_random(&state) % 4; n > 0; n--) {
            size_t at = next_random(&state) % length;
            if (next_random(&state) % 8 == 0)
                length = 1 + at;
            else
                copy[at] = bits[next_random(&state) % (sizeof bits - 1)];
        }
        const pg_config *c = NULL;
        diag.text[0] = '\0';
        pg_err err = pg_config_parse("m", copy, length, NULL, 0, &c, &diag);
        cr_assert(err == PG_OK || (err == PG_ECONFIG && strncmp(diag.text, "m:", 2) == 0),
                  "mutation %d: %d %s", i, (int)err, diag.text);
        refusals += err != PG_OK;
        pg_config_destroy(&c);
    }
    cr_expect(refusals > 300, "only %d refusals: the loop does not reach the keys", refusals);
    pg_free(copy);
    pg_free(text);
    cr_expect_eq(pg_mem_get_stats().live_blocks, 0);
}

Test(config, out_of_memory_is_an_error_at_every_allocation) {
    const char *text = "streams: {a: {depth: 2}}\ningest: [{bind: 'tcp://*:1'}]\n";
    pg_err err = PG_ENOMEM;
    for (int n = 0; err == PG_ENOMEM && n < 200; n++) {
        const pg_config *c = NULL;
        pg_mem_fail(n, -1);
        err = pg_config_parse("c.yaml", text, strlen(text), NULL, 0, &c, &diag);
        pg_mem_fail(0, 0);
        cr_assert((err == PG_OK) == (c != NULL));
        pg_config_destroy(&c);
        cr_assert_eq(pg_mem_get_stats().live_blocks, 0);
    }
    cr_expect_eq(err, PG_OK);
}
