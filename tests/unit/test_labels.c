#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/labels.h"

static char path[64];
static pg_labels *labels;
static pg_diag diag;

static void set_up(void) { snprintf(path, sizeof path, "/tmp/test_labels.%d", (int)getpid()); }
static void tear_down(void) {
    unlink(path);
    pg_labels_destroy(&labels);
}
TestSuite(labels, .init = set_up, .fini = tear_down);

static pg_err load(const char *text, size_t size, int64_t classes) {
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(text, 1, size, f) == size && fclose(f) == 0);
    pg_labels_destroy(&labels);
    return pg_labels_load(path, classes, &labels, &diag);
}

Test(labels, one_name_per_line) {
    static const char *const texts[] = {"cat\n\nMärz é\ncat\n", "cat\r\n\r\nMärz é\r\ncat",
                                        "\357\273\277cat\n\nMärz é\ncat"};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(load(texts[i], strlen(texts[i]), 4), PG_OK, "%s", diag.text);
        cr_assert_str_eq(pg_labels_name(labels, 0), "cat");
        cr_assert_null(pg_labels_name(labels, 1));
        cr_assert_str_eq(pg_labels_name(labels, 2), "März é");
        cr_assert_null(pg_labels_name(labels, 4));
        cr_assert_null(pg_labels_name(labels, -1));
        cr_assert_eq(pg_labels_find(labels, "cat"), 0);
        cr_assert_eq(pg_labels_find(labels, "März é"), 2);
        cr_assert_eq(pg_labels_find(labels, ""), -1);
        cr_assert_eq(pg_labels_find(labels, "dog"), -1);
    }
    cr_assert_eq(pg_labels_find(NULL, "cat"), -1);
    cr_assert_null(pg_labels_name(NULL, 0));
}

Test(labels, refuses_naming_the_line) {
    static const struct {
        const char *text;
        size_t size;
        const char *part;
    } cases[] = {
        {"a\nb\n", 4, "2 lines"}, {"a\nb\x01\nc\n", 7, ":2:"},  {"a\n\xff\nc\n", 6, ":2:"},
        {"a\nb\n\xc3", 5, ":3:"}, {"a\nb\n\xc0\x80", 6, ":3:"}, {"\xed\xa0\x80\nb\nc", 7, ":1:"},
        {"a\nb\0\nc", 6, ":2:"},  {"", 0, "0 lines"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(load(cases[i].text, cases[i].size, 3), PG_ECONFIG, "case %zu", i);
        cr_assert(strstr(diag.text, cases[i].part), "case %zu: %s", i, diag.text);
    }
    cr_assert_eq(pg_labels_load("/nonexistent/labels", 3, &labels, &diag), PG_ECONFIG);
}
