#include "daemon/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void set_state(pg_thread *t, pg_thread_state state, pg_err err) {
    pthread_mutex_lock(&t->lock);
    t->state = state;
    t->err = err;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

/* struct sched_attr of sched_setattr(2), for which the C library has no declaration. */
typedef struct sched_words {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
} sched_words;

void pg_thread_work_in_short_slices(void) {
    sched_words words = {.size = sizeof words};
    if (syscall(SYS_sched_getattr, 0, &words, sizeof words, 0) != 0 || words.policy != SCHED_OTHER)
        return;
    words.runtime = 100000;                   /* ns: the shortest there is */
    syscall(SYS_sched_setattr, 0, &words, 0); /* a kernel that cannot is as good as before */
}

static void *run(void *argument) {
    pg_thread *t = argument;
    pthread_setname_np(pthread_self(), t->name);
    pg_err err = t->body(t);
    set_state(t, PG_THREAD_OVER, err);
    return NULL;
}

void pg_thread_ready(pg_thread *t) { set_state(t, PG_THREAD_READY, PG_OK); }

static int create(pg_thread *t) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&t->id, NULL, run, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

pg_err pg_thread_start(pg_thread *t, const char *name, int index, pg_thread_body body,
                       void *context, pg_diag *diag) {
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->index = index;
    t->body = body;
    t->context = context;
    t->state = PG_THREAD_STARTING;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    int failed = create(t);
    if (failed)
        return pg_fail(diag, PG_EFAIL, "cannot start thread %s: %s", name, strerror(failed));
    t->joinable = true;
    pthread_mutex_lock(&t->lock);
    while (t->state == PG_THREAD_STARTING)
        pthread_cond_wait(&t->changed, &t->lock);
    pg_err err = t->state == PG_THREAD_OVER ? t->err : PG_OK;
    pthread_mutex_unlock(&t->lock);
    if (err != PG_OK && diag != NULL)
        *diag = t->diag;
    return err;
}

bool pg_thread_join(pg_thread *t, int64_t deadline) {
    if (!t->joinable)
        return true;
    struct timespec until = {(time_t)(deadline / 1000000000), (long)(deadline % 1000000000)};
    if (pthread_timedjoin_np(t->id, NULL, &until) != 0)
        return false;
    t->joinable = false;
    return true;
}

bool pg_thread_is_stuck(pg_thread *t, uint64_t now, uint64_t limit_ns) {
    uint64_t beat = atomic_load(&t->beat);
    if (beat != t->seen_beat || t->seen_at == 0) {
        t->seen_beat = beat;
        t->seen_at = now;
    }
    return now - t->seen_at > limit_ns;
}
