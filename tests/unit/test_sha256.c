/* The examples of FIPS 180-4 and of NIST's example values; whatever the pieces, one digest. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/sha256.h"

static const char *hex_of(const void *data, size_t size) {
    static char hex[PG_SHA256_HEX];
    uint8_t digest[PG_SHA256_BYTES];
    pg_sha256_of(data, size, digest);
    pg_sha256_hex(digest, hex);
    return hex;
}

Test(sha256, published_examples) {
    cr_assert_str_eq(hex_of(NULL, 0),
                     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    cr_assert_str_eq(hex_of("abc", 3),
                     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    cr_assert_str_eq(hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56),
                     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    cr_assert_str_eq(hex_of(million, 1000000),
                     "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

Test(sha256, pieces_of_any_size_make_the_same_digest) {
    uint8_t data[1000], whole[PG_SHA256_BYTES], digest[PG_SHA256_BYTES];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + i / 64);
    pg_sha256_of(data, sizeof data, whole);
    for (size_t step = 1; step < 200; step++) {
        pg_sha256 sha;
        pg_sha256_init(&sha);
        for (size_t at = 0; at < sizeof data; at += step)
            pg_sha256_update(&sha, data + at, at + step < sizeof data ? step : sizeof data - at);
        pg_sha256_final(&sha, digest);
        cr_assert_arr_eq(digest, whole, sizeof whole, "pieces of %zu bytes", step);
    }
}
