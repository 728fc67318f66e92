/* The pictures that `evaluate` measures methods on: files of a folder, or frames of a recording. */
#ifndef PG_DAEMON_PICTURES_H
#define PG_DAEMON_PICTURES_H

#include "daemon/wire.h"

/* Of the command line; strings are borrowed, NULL: not given. */
typedef struct pg_pictures_options {
    const char *data;   /* a folder or a recording */
    const char *labels; /* "folder", "predicted" */
    const char *boxes;  /* file of lines name,x,y,width,height */
    const char *stream; /* of a recording */
    pg_wire_limits limits;
} pg_pictures_options;

typedef struct pg_picture {
    pg_frame frame;    /* asks for no target and no method of its own; pixels are borrowed */
    char name[256];    /* the file's, or the frame's seq */
    int64_t label;     /* -1: unknown, or not to be used */
    const double *box; /* x, y, width, height of the object in its pixels; NULL: unknown */
    double place[4];   /* where box points */
} pg_picture;

typedef struct pg_pictures pg_pictures;

/* PG_ECONFIG: usage, or nothing can be read there. PG_EINPUT: no pictures, or a damaged recording.
 */
pg_err pg_pictures_open(const pg_pictures_options *options, pg_pictures **out, pg_diag *diag);
void pg_pictures_close(pg_pictures **pictures); /* accepts NULL */

size_t pg_pictures_count(const pg_pictures *pictures);
/* Whether they follow each other in time. */
bool pg_pictures_are_frames(const pg_pictures *pictures);

/* Picture `index`, in the order of names or of time; *out and what it points to is valid until the
 * next. PG_EINPUT: this one cannot be used, and out->name says which it is. PG_ECONFIG: its folder
 * names no class. Others: trouble of our own. */
pg_err pg_pictures_read(pg_pictures *pictures, size_t index, const pg_explainer *explainer,
                        pg_picture *out, pg_diag *diag);

#endif
