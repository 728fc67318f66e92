#include "pipeline/frame_file.h"

#include "pipeline/decode.h"
#include "pipeline/npy.h"

pg_err pg_frame_of_file(const uint8_t *data, size_t size, pg_frame *frame, pg_diag *diag) {
    *frame = (pg_frame){.pixels = {data, size}, .target_class = -1, .label = -1};
    if (pg_bytes_are_jpeg(frame->pixels)) {
        frame->format = PG_FMT_JPEG;
        return PG_OK;
    }
    if (pg_bytes_are_png(frame->pixels)) {
        frame->format = PG_FMT_PNG;
        return PG_OK;
    }
    if (!pg_npy_is(data, size))
        return pg_fail(diag, PG_EINPUT, "is neither JPEG, PNG nor .npy");
    pg_npy array;
    pg_err err = pg_npy_parse_input(data, size, &array, diag);
    if (err)
        return err;
    frame->format = PG_FMT_F32CHW;
    frame->height = array.shape.dims[1];
    frame->width = array.shape.dims[2];
    frame->pixels = (pg_bytes){array.values, array.bytes};
    return PG_OK;
}
