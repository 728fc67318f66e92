#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/npy.h"

static uint8_t file[4096];

/* Puts a version 1 file with this header text and `values` floats 0, 1, 2.. into `file`. */
static size_t make(const char *header, int values) {
    size_t length = strlen(header);
    memcpy(file, "\x93NUMPY\x01\x00", 8);
    file[8] = (uint8_t)length;
    file[9] = (uint8_t)(length >> 8);
    memcpy(file + 10, header, length);
    for (int i = 0; i < values; i++) {
        float v = (float)i;
        memcpy(file + 10 + length + 4 * (size_t)i, &v, 4);
    }
    return 10 + length + 4 * (size_t)values;
}

Test(npy, reads_what_numpy_writes) {
    pg_npy a;
    size_t size =
        make("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2, 2), }     \n", 12);
    cr_assert_eq(pg_npy_parse(file, size, &a, NULL), PG_OK);
    cr_assert_eq(a.shape.rank, 4);
    cr_assert_eq(a.bytes, 48);
    cr_assert_eq(pg_npy_parse_input(file, size, &a, NULL), PG_OK);
    cr_assert_eq(a.shape.rank, 3);
    cr_assert_eq(a.shape.dims[0], 3);
    float last;
    memcpy(&last, a.values + 44, 4);
    cr_assert_eq(last, 11);
}

Test(npy, refuses_with_a_reason) {
    static const struct {
        const char *header, *part;
    } cases[] = {
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2, 2), }\n", "float32"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (3, 2, 2), }\n", "float32"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 2, 2), }\n", "float32"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2, 2), }\n", "Fortran"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2, 3), }\n", "48 bytes"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", "bounds"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }\n",
         "bounds"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999,), }\n",
         "malformed"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,12), }\n", "malformed"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2, 2), }\n", "malformed"},
        {"{'descr': '<f4', 'fortran_order': False, }\n", "malformed"},
        {"{'descr': '<f4', 'shape': (3, 2, 2), 'fortran_order': False, 'x': 1}\n", "malformed"},
        {"{'descr': '<f4", "malformed"},
        {"{'descr':", "float32"},
        {"", "malformed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pg_npy a;
        pg_diag diag = {""};
        size_t size = make(cases[i].header, 12);
        cr_assert_eq(pg_npy_parse(file, size, &a, &diag), PG_EINPUT, "%s", cases[i].header);
        if (cases[i].header[0] == '{' && strlen(cases[i].header) > 16)
            cr_assert(strstr(diag.text, cases[i].part), "'%s' for %s", diag.text, cases[i].header);
    }
    pg_npy a;
    size_t size = make("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }\n", 12);
    cr_assert_eq(pg_npy_parse(file, size, &a, NULL), PG_OK);
    cr_assert_eq(pg_npy_parse_input(file, size, &a, NULL), PG_EINPUT);
}

Test(npy, cut_anywhere) {
    size_t size = make("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2, 2), }\n", 12);
    for (size_t n = 0; n < size; n++) {
        uint8_t *copy = pg_malloc(n); /* its own block, so that a sanitizer sees the end */
        memcpy(copy, file, n);
        pg_npy a;
        cr_assert_eq(pg_npy_parse(copy, n, &a, NULL), PG_EINPUT, "cut at %zu", n);
        pg_free(copy);
    }
}

Test(npy, writes_what_it_reads) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/test_npy.%d.npy", (int)getpid());
    const float values[6] = {1.5f, -2, 0, 3e-9f, 4, 5e20f};
    const pg_shape shapes[2] = {{.rank = 2, .dims = {2, 3}}, {.rank = 1, .dims = {6}}};
    for (int i = 0; i < 2; i++) {
        uint8_t *data = NULL;
        size_t size = 0;
        pg_npy a;
        cr_assert_eq(pg_npy_save(path, &shapes[i], values, NULL), PG_OK);
        cr_assert_eq(pg_file_read(path, 4096, &data, &size, NULL), PG_OK);
        cr_assert_eq(pg_npy_parse(data, size, &a, NULL), PG_OK);
        cr_assert(pg_shape_equal(&a.shape, &shapes[i]));
        cr_assert_eq(memcmp(a.values, values, sizeof values), 0);
        cr_assert_eq((a.values - data) % 64, 0);
        pg_free(data);
    }
    unlink(path);
}
