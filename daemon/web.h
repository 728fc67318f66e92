/* The live page, built into the program (web/index.html). */
#ifndef PG_DAEMON_WEB_H
#define PG_DAEMON_WEB_H

#include <stddef.h>

extern const char pg_web_page[], pg_web_page_end[];

static inline size_t pg_web_page_size(void) { return (size_t)(pg_web_page_end - pg_web_page); }

#endif
