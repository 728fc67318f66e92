/* What systemd is told (Type=notify). All calls are harmless where no service manager listens. */
#ifndef PG_DAEMON_NOTIFY_H
#define PG_DAEMON_NOTIFY_H

#include <stdint.h>

void pg_notify_ready(const char *status);
void pg_notify_stopping(void);
void pg_notify_status(const char *status);

/* The watchdog's period in nanoseconds, 0: it is off. */
uint64_t pg_notify_watchdog_period(void);
void pg_notify_alive(void);
/* Something hangs: the manager shall act now (abort with a core, and restart). */
void pg_notify_trigger(void);

#endif
