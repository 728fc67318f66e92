#include "daemon/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>

static void fill(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

void pg_signals_block(void) {
    sigset_t set;
    fill(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

pg_signal pg_signals_wait(int timeout_ms) {
    sigset_t set;
    fill(&set);
    struct timespec t = {timeout_ms / 1000, (long)(timeout_ms % 1000) * 1000000};
    switch (sigtimedwait(&set, NULL, &t)) {
    case SIGTERM:
    case SIGINT:
        return PG_SIGNAL_STOP;
    case SIGHUP:
        return PG_SIGNAL_RELOAD;
    default:
        return PG_SIGNAL_NONE;
    }
}
