#include "daemon/notify.h"

#include <systemd/sd-daemon.h>

void pg_notify_ready(const char *status) { sd_notifyf(0, "READY=1\nSTATUS=%s", status); }
void pg_notify_stopping(void) { sd_notify(0, "STOPPING=1\nSTATUS=draining"); }
void pg_notify_status(const char *status) { sd_notifyf(0, "STATUS=%s", status); }

uint64_t pg_notify_watchdog_period(void) {
    uint64_t microseconds = 0;
    return sd_watchdog_enabled(0, &microseconds) > 0 ? microseconds * 1000 : 0;
}

void pg_notify_alive(void) { sd_notify(0, "WATCHDOG=1"); }
void pg_notify_trigger(void) { sd_notify(0, "WATCHDOG=trigger"); }
