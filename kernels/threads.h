/* Threads of the numeric kernels (OpenMP, shared with oneDNN). */
#ifndef PG_KERNELS_THREADS_H
#define PG_KERNELS_THREADS_H

/* Sets the team size of the calling thread; 0: one per processor it may run on. OpenMP keeps this
 * per thread, so every worker calls it before it prepares or runs anything. Returns the size. */
int pg_threads_set(int count);

/* Ends the threads of the calling thread's team, until it needs them again. libgomp counts all that
 * there are, and where they are more than processors they wait asleep instead of spinning: a thread
 * that has loaded a model and will not compute any more must not keep them. */
void pg_threads_release(void);

#endif
