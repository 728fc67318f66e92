/* SHA-256 (FIPS 180-4): the identity of models and statistics files. */
#ifndef PG_PIPELINE_SHA256_H
#define PG_PIPELINE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { PG_SHA256_BYTES = 32, PG_SHA256_HEX = 65 };

typedef struct pg_sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes taken in so far */
    uint8_t block[64];
} pg_sha256;

void pg_sha256_init(pg_sha256 *sha);
void pg_sha256_update(pg_sha256 *sha, const void *data, size_t size);
void pg_sha256_final(pg_sha256 *sha, uint8_t digest[PG_SHA256_BYTES]);

/* All three in one call. */
void pg_sha256_of(const void *data, size_t size, uint8_t digest[PG_SHA256_BYTES]);

/* 64 lower-case hex digits and a NUL. */
void pg_sha256_hex(const uint8_t digest[PG_SHA256_BYTES], char hex[PG_SHA256_HEX]);

#endif
