/* What publisher and rpc endpoint share: a result slot as the parts of a message. */
#ifndef PG_DAEMON_PUBLISH_H
#define PG_DAEMON_PUBLISH_H

#include "daemon/queue.h"

/* Writes age and publish time into the slot's header and returns the age, in ns. Just before
 * sending, and only for slots that were explained. */
uint64_t pg_publish_stamp(pg_result *slot);

/* The parts to send, borrowed from the slot; returns how many. */
int pg_publish_parts(const pg_result *slot, bool overlay, pg_bytes parts[4]);

#endif
