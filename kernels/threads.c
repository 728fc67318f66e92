#include "kernels/threads.h"

#include <omp.h>

int pg_threads_set(int count) {
    omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
    return omp_get_max_threads();
}

void pg_threads_release(void) { (void)omp_pause_resource_all(omp_pause_soft); }
