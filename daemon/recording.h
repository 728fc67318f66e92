/* Reads a recording: frames as they came, in one file (clients/WIRE.md). */
#ifndef PG_DAEMON_RECORDING_H
#define PG_DAEMON_RECORDING_H

#include "daemon/wire.h"

typedef struct pg_recording pg_recording;

/* Opens the file and walks it once without reading pixels, so that one that is cut off or damaged
 * is refused before any work. Only frames of `stream` count; NULL: of the only stream there is.
 * PG_ECONFIG: it cannot be opened, no such stream, or several and none chosen. PG_EINPUT: no
 * recording, damaged, cut off, or empty. PG_EFAIL, PG_ENOMEM. */
pg_err pg_recording_open(const char *path, const char *stream, const pg_wire_limits *limits,
                         pg_recording **out, pg_diag *diag);
void pg_recording_close(pg_recording **recording); /* accepts NULL */

/* Frames of the stream. */
size_t pg_recording_count(const pg_recording *recording);

/* Frame `index`, in the order of the file; what it points to is valid until the next. PG_EINPUT:
 * its header or sizes are not what WIRE.md wants. PG_EFAIL: the file cannot be read any more. */
pg_err pg_recording_read(pg_recording *recording, size_t index, pg_frame *frame, pg_diag *diag);

#endif
