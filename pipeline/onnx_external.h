/* Initialisers that lie in files beside the model ("external data"): what torch writes beyond
 * protobuf's 2 GB, and onnx.save on request.
 *
 * The file names come out of the model, so they are hostile. A location is a path below the model's
 * own folder: not absolute, no component empty, "." or "..", none a symbolic link; the file is a
 * regular one without a second name. (onnx itself had to be patched for each of these:
 * CVE-2022-25882, CVE-2024-27318, CVE-2026-27489.) Each file is read once, whole, into memory: what
 * has been hashed is what is used, and a file cut short later cannot hurt.
 *
 * The model's digest covers them: SHA-256 of the model file's bytes, then for each external file,
 * in order of first use, its size as eight bytes (little-endian) and its bytes. Without the sizes,
 * bytes could move from one file to the next unnoticed. Without external files it is the plain
 * SHA-256 of the model file.
 */
#ifndef PG_PIPELINE_ONNX_EXTERNAL_H
#define PG_PIPELINE_ONNX_EXTERNAL_H

#include "kernels/err.h"
#include "pipeline/names.h"
#include "pipeline/onnx_wire.h"
#include "pipeline/sha256.h"

/* The memory that loading a model may take beside its files: so many times their bytes, and a base
 * (pg_model_options.max_load_bytes). A 4-bit weight becomes an int64, then a folded float, then two
 * packed copies: 32 times; a convolution of a few channels takes 12 KB wherever its weights are. */
enum { PG_ONNX_LOAD_FACTOR = 32 };

typedef struct pg_onnx_external {
    bool open;
    int folder;      /* descriptor of the model's folder, -1: none */
    uint64_t limit;  /* bytes of all files that may still be read */
    uint64_t bytes;  /* of all files that were */
    pg_sha256 sha;   /* the model's digest so far */
    pg_names names;  /* locations */
    pg_span *files;  /* [names.count], owned */
    size_t room;
} pg_onnx_external;

/* `path` names the model file (NULL: it has no folder, and every location is refused), `model` is
 * its bytes, `limit` what all external files together may hold; names go to `load`. Always
 * succeeds; a folder that cannot be opened shows when a location is read. */
void pg_onnx_external_open(pg_onnx_external *external, const char *path, pg_span model,
                           uint64_t limit, pg_pool *load);

/* What a TensorProto says about its external data, as it stands in the file. */
typedef struct pg_onnx_location {
    pg_span path, offset, length; /* the latter two decimal, or empty: 0, up to the file's end */
} pg_onnx_location;

/* The bytes meant; valid until close. Raises the running memory budget by PG_ONNX_LOAD_FACTOR times
 * the size of a file it reads, and by the file. PG_EMODEL with a sentence that names the location but not the
 * tensor. */
pg_err pg_onnx_external_read(pg_onnx_external *external, const pg_onnx_location *location,
                             pg_span *out, pg_diag *diag);

/* The digest of everything read. Once, after the last read. */
void pg_onnx_external_digest(pg_onnx_external *external, uint8_t digest[PG_SHA256_BYTES]);

/* Gives everything back. Allowed twice, and on zeroed memory. */
void pg_onnx_external_close(pg_onnx_external *external);

#endif
