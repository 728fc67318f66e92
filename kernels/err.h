/* Errors, diagnostics and assertions: the bottom of the program.
 *
 * Every function that can fail returns pg_err and takes a pg_diag * (which may be NULL) for the
 * sentence that explains the failure. Lower layers never log; the layer that decides what happens
 * next reads the sentence and logs it once.
 *
 * Three kinds of trouble, three answers (design rule):
 *   our own bug               pg_assert: stays on in release builds, aborts with file and line
 *   bad configuration, model  PG_ECONFIG / PG_EMODEL: refuse to start, naming line or node
 *   bad or late frame         PG_EINPUT: drop, count, go on
 */
#ifndef PG_KERNELS_ERR_H
#define PG_KERNELS_ERR_H

#include <stdarg.h>
#include <stddef.h>

typedef enum pg_err {
    PG_OK = 0,
    PG_EFAIL,   /* failed while running: I/O, a library call, an interrupted job */
    PG_ENOMEM,  /* memory could not be had, or a size would exceed a limit */
    PG_ECONFIG, /* usage or configuration is wrong */
    PG_EMODEL,  /* the model (or its statistics) is refused */
    PG_EINPUT,  /* the input (image, frame, array) is refused */
} pg_err;

enum { PG_DIAG_MAX = 4096 };

/* The sentence that explains an error. Zero-initialise; text is always NUL-terminated. */
typedef struct pg_diag {
    char text[PG_DIAG_MAX];
} pg_diag;

/* Writes the formatted sentence into `diag` (ignored when NULL) and returns `code`, so that a
 * failure is one line: `return pg_fail(diag, PG_EMODEL, "node '%s': ...", name);`. */
pg_err pg_fail(pg_diag *diag, pg_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the sentence already in `diag`, and returns `code` unchanged: how a caller
 * adds where (file, node, stream) to what a callee said. */
pg_err pg_fail_in(pg_diag *diag, pg_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends text to the sentence in `diag`; silently truncates at PG_DIAG_MAX. */
void pg_diag_append(pg_diag *diag, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The exit status contract of the command line: 0 done, 1 failed while running, 2 usage or
 * configuration, 3 model refused, 4 input refused. */
int pg_err_exit_status(pg_err err);

/* Our own bug: prints the condition with its place on stderr and aborts. Never compiled out. */
#define pg_assert(condition)                                                                       \
    ((condition) ? (void)0 : pg_assert_failed(#condition, __FILE__, __LINE__, __func__))
_Noreturn void pg_assert_failed(const char *condition, const char *file, int line,
                                const char *function);

#endif
