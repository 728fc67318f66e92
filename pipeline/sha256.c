#include "pipeline/sha256.h"

void pg_sha256_init(pg_sha256 *sha) { sha256_init(sha); }

void pg_sha256_update(pg_sha256 *sha, const void *data, size_t size) {
    if (size > 0)
        sha256_update(sha, size, data);
}

void pg_sha256_final(pg_sha256 *sha, uint8_t digest[PG_SHA256_BYTES]) {
    sha256_digest(sha, PG_SHA256_BYTES, digest);
}

void pg_sha256_of(const void *data, size_t size, uint8_t digest[PG_SHA256_BYTES]) {
    pg_sha256 sha;
    pg_sha256_init(&sha);
    pg_sha256_update(&sha, data, size);
    pg_sha256_final(&sha, digest);
}

void pg_sha256_hex(const uint8_t digest[PG_SHA256_BYTES], char hex[PG_SHA256_HEX]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < PG_SHA256_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[2 * PG_SHA256_BYTES] = '\0';
}
