/* Signals, as events that one thread waits for. */
#ifndef PG_DAEMON_SIGNALS_H
#define PG_DAEMON_SIGNALS_H

typedef enum pg_signal { PG_SIGNAL_NONE, PG_SIGNAL_STOP, PG_SIGNAL_RELOAD } pg_signal;

/* Blocks SIGTERM, SIGINT and SIGHUP in this thread and in all it starts; ignores SIGPIPE. */
void pg_signals_block(void);

/* Waits for one of them, at most `timeout_ms`. */
pg_signal pg_signals_wait(int timeout_ms);

#endif
