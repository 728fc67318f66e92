/* The file that keeps what tuning chose: what is written comes back, and nothing else does. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/mem.h"
#include "pipeline/tune.h"

static const char *const MODEL = "0123abcd";
static char dir[64];

static void setup(void) {
    snprintf(dir, sizeof dir, "/tmp/test_tune_XXXXXX");
    cr_assert(mkdtemp(dir));
}

static pg_tune begin(pg_tune_mode mode, const char *where, const char *model) {
    pg_tune tune = {0};
    pg_tune_begin(&tune, mode, where, model);
    return tune;
}

/* Leaves a file with two choices and returns its path. */
static void fill(char path[PG_TUNE_PATH_MAX]) {
    pg_tune tune = begin(PG_TUNE_CACHED, dir, MODEL);
    cr_assert(tune.tuner.active && tune.tuner.count == 0);
    cr_assert(pg_conv_tuner_know(&tune.tuner, "forward 1 2 relu", "winograd"));
    cr_assert(pg_conv_tuner_know(&tune.tuner, "backward 3", "flip"));
    tune.tuner.changed = true;
    memcpy(path, tune.path, sizeof tune.path);
    pg_tune_end(&tune);
}

static int count_read(pg_tune_mode mode, const char *model) {
    pg_tune tune = begin(mode, dir, model);
    int count = tune.tuner.count;
    pg_tune_end(&tune);
    return count;
}

Test(tune, comes_back_for_the_same_model_only, .init = setup) {
    char path[PG_TUNE_PATH_MAX];
    fill(path);
    pg_tune tune = begin(PG_TUNE_CACHED, dir, MODEL);
    const char *key, *way;
    cr_assert_eq(tune.tuner.count, 2);
    pg_conv_tuner_entry(&tune.tuner, 1, &key, &way);
    cr_assert_str_eq(key, "backward 3");
    cr_assert_str_eq(way, "flip");
    pg_tune_end(&tune);
    cr_assert_eq(count_read(PG_TUNE_CACHED, "another"), 0);
    cr_assert_eq(count_read(PG_TUNE_ALWAYS, MODEL), 0);
    tune = begin(PG_TUNE_OFF, dir, MODEL);
    cr_assert(!tune.tuner.active);
    pg_tune_end(&tune);
    unlink(path);
    cr_assert_eq(rmdir(dir), 0, "a temporary file was left");
}

/* Every cut, every changed byte: all of it, or nothing, or what still reads as choices. */
Test(tune, damaged_files_are_forgotten, .init = setup) {
    char path[PG_TUNE_PATH_MAX], text[2048];
    fill(path);
    FILE *f = fopen(path, "r");
    size_t size = fread(text, 1, sizeof text, f);
    fclose(f);
    cr_assert(size > 0 && size < sizeof text);
    for (size_t at = 0; at < size; at++)
        for (int how = 0; how < 3; how++) { /* cut, zero, another byte */
            char other[sizeof text];
            memcpy(other, text, size);
            other[at] = how == 1 ? '\0' : (char)(text[at] ^ 0x80);
            f = fopen(path, "w");
            fwrite(other, 1, how == 0 ? at : size, f);
            fclose(f);
            int count = count_read(PG_TUNE_CACHED, MODEL);
            cr_assert(count == 0 || (count == 1 && how == 0), "byte %zu, %d: %d choices", at, how,
                      count);
        }
    unlink(path);
    rmdir(dir);
}

Test(tune, a_folder_that_is_none_hurts_nobody, .init = setup) {
    char far[PG_TUNE_PATH_MAX * 2];
    memset(far, 'x', sizeof far);
    far[sizeof far - 1] = '\0';
    const char *places[] = {"/proc/none/such", "/dev/null", far};
    for (int i = 0; i < 3; i++) {
        pg_tune tune = begin(PG_TUNE_CACHED, places[i], MODEL);
        cr_assert(tune.tuner.active);
        cr_assert(pg_conv_tuner_know(&tune.tuner, "forward", "default"));
        tune.tuner.changed = true;
        pg_tune_end(&tune);
    }
    rmdir(dir);
}

Test(tune, the_environment_says_where, .init = setup) {
    char cache[128], list[256];
    snprintf(cache, sizeof cache, "%s/sub", dir);
    snprintf(list, sizeof list, "%s:/elsewhere", dir);
    setenv("CACHE_DIRECTORY", list, 1);
    pg_tune tune = begin(PG_TUNE_CACHED, "", MODEL);
    cr_assert(strncmp(tune.path, dir, strlen(dir)) == 0 && tune.path[strlen(dir)] == '/');
    pg_tune_end(&tune);
    unsetenv("CACHE_DIRECTORY");
    setenv("XDG_CACHE_HOME", cache, 1);
    tune = begin(PG_TUNE_CACHED, NULL, MODEL);
    strcat(cache, "/parchgradd");
    cr_assert(strncmp(tune.path, cache, strlen(cache)) == 0);
    struct stat st;
    cr_assert(stat(cache, &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 077) == 0);
    pg_tune_end(&tune);
    rmdir(cache);
    *strrchr(cache, '/') = '\0';
    rmdir(cache);
    rmdir(dir);
}
