#include "kernels/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pg_err pg_fail(pg_diag *diag, pg_err code, const char *format, ...) {
    if (diag == NULL)
        return code;
    va_list args;
    va_start(args, format);
    vsnprintf(diag->text, sizeof diag->text, format, args);
    va_end(args);
    return code;
}

pg_err pg_fail_in(pg_diag *diag, pg_err code, const char *format, ...) {
    if (diag == NULL)
        return code;
    char inner[PG_DIAG_MAX];
    memcpy(inner, diag->text, sizeof inner);
    va_list args;
    va_start(args, format);
    int used = vsnprintf(diag->text, sizeof diag->text, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof diag->text)
        pg_diag_append(diag, ": %s", inner);
    return code;
}

void pg_diag_append(pg_diag *diag, const char *format, ...) {
    if (diag == NULL)
        return;
    size_t used = strlen(diag->text);
    va_list args;
    va_start(args, format);
    vsnprintf(diag->text + used, sizeof diag->text - used, format, args);
    va_end(args);
}

int pg_err_exit_status(pg_err err) {
    switch (err) {
    case PG_OK:
        return 0;
    case PG_ECONFIG:
        return 2;
    case PG_EMODEL:
        return 3;
    case PG_EINPUT:
        return 4;
    case PG_EFAIL:
    case PG_ENOMEM:
        break;
    }
    return 1;
}

_Noreturn void pg_assert_failed(const char *condition, const char *file, int line,
                                const char *function) {
    fprintf(stderr, "parchgradd: bug: assertion '%s' failed in %s (%s:%d)\n", condition, function,
            file, line);
    abort();
}
