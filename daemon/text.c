#include "daemon/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "kernels/mem.h"

void pg_text_clear(pg_text *text) {
    text->size = 0;
    text->failed = false;
}

void pg_text_free(pg_text *text) {
    pg_free(text->data);
    *text = (pg_text){0};
}

static bool reserve(pg_text *text, size_t more) {
    size_t need = text->size + more + 1;
    if (need <= text->capacity)
        return true;
    size_t capacity = need < 4096 ? 4096 : 2 * need;
    char *data = text->failed ? NULL : pg_realloc(text->data, capacity);
    if (data == NULL) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void pg_text_add(pg_text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(text, (size_t)n))
        return;
    va_start(args, format);
    vsnprintf(text->data + text->size, (size_t)n + 1, format, args);
    va_end(args);
    text->size += (size_t)n;
}

void pg_text_add_json(pg_text *text, const char *string) {
    size_t worst = 6 * strlen(string) + 2;
    if (!reserve(text, worst + 1))
        return;
    text->data[text->size++] = '"';
    text->size += pg_log_json_escape(string, text->data + text->size, worst);
    text->data[text->size++] = '"';
    text->data[text->size] = '\0';
}
