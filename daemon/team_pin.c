/* engine.pin. `apart` (see team_start.c for why) leaves the binding to libgomp, which knows when it
 * begins a thread: each has a share of the processors, in which it may still make way for another
 * program. libgomp counts from the same processor in every worker, which suits shares.
 *
 * `cores` binds every thread to one processor: worker i of teams of n takes the processors i n to
 * i n + n - 1 of those the process may use, a core's second hyperthread after all cores' first. On
 * two idle cores two workers of one thread did 1.00 and 1.01 times as many frames so. The worker's
 * own thread of a team of more than two is bound to all processors of its team: libgomp ends
 * threads where a loop wants fewer and begins new ones later, and these inherit what it has. */
#include "daemon/team_pin.h"

#include <omp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>

/* The lowest hyperthread of the processor's core; itself where the system does not say. */
static size_t core_of(size_t cpu) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/thread_siblings_list",
             cpu);
    FILE *file = fopen(path, "re");
    size_t first;
    bool known = file != NULL && fscanf(file, "%zu", &first) == 1 && first < CPU_SETSIZE;
    if (file != NULL)
        fclose(file);
    return known ? first : cpu;
}

/* Numbers of the processors in `allowed`, one of every core first; returns how many. */
static int in_order(const cpu_set_t *allowed, size_t cpus[CPU_SETSIZE]) {
    cpu_set_t cores, later;
    CPU_ZERO(&cores);
    CPU_ZERO(&later);
    int count = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, allowed))
            continue;
        size_t core = core_of(cpu);
        if (CPU_ISSET(core, &cores))
            CPU_SET(cpu, &later);
        else
            cpus[count++] = cpu;
        CPU_SET(core, &cores);
    }
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &later))
            cpus[count++] = cpu;
    return count;
}

/* Thread i of the team goes to cpus[i], the first of more than two to all of `own`; cpus NULL: all
 * to these. */
static bool bind_team(int n, const size_t *cpus, const cpu_set_t *own) {
    bool ok = true;
#pragma omp parallel num_threads(n) reduction(&& : ok)
    {
        int i = omp_get_thread_num();
        cpu_set_t one;
        CPU_ZERO(&one);
        if (cpus != NULL && (i > 0 || n == 2))
            CPU_SET(cpus[i], &one);
        else
            one = *own;
        ok = sched_setaffinity(0, sizeof one, &one) == 0;
    }
    return ok;
}

pg_err pg_team_pin_set(pg_team_pin pin, int index, int workers, pg_diag *diag) {
    cpu_set_t allowed, team;
    size_t cpus[CPU_SETSIZE];
    int n = omp_get_max_threads();
    if (pin != PG_TEAM_PIN_CORES)
        return PG_OK;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return pg_fail(diag, PG_ECONFIG,
                       "engine.pin: the system does not tell which processors "
                       "there are; threads stay unbound");
    int count = in_order(&allowed, cpus);
    if (workers > count / n)
        return pg_fail(diag, PG_ECONFIG,
                       "engine.pin: %d worker%s of %d thread%s each want more processors than the "
                       "%d this process may use; threads stay unbound",
                       workers, workers == 1 ? "" : "s", n, n == 1 ? "" : "s", count);
    CPU_ZERO(&team);
    for (int i = 0; i < n; i++)
        CPU_SET(cpus[index * n + i], &team);
    if (bind_team(n, cpus + index * n, &team))
        return PG_OK;
    (void)bind_team(n, NULL, &allowed);
    return pg_fail(diag, PG_ECONFIG,
                   "engine.pin: the system does not let threads be bound to processors (a "
                   "container's or a service's filter?); they stay unbound");
}

bool pg_team_places(int n, char out[PG_TEAM_PLACES_MAX]) {
    cpu_set_t allowed;
    size_t cpus[CPU_SETSIZE], used = 0;
    if (n < 2 || sched_getaffinity(0, sizeof allowed, &allowed) != 0 ||
        sched_setaffinity(0, sizeof allowed, &allowed) != 0)
        return false;
    int count = in_order(&allowed, cpus);
    if (count < n)
        return false;
    for (int share = 0; share < n; share++) {
        for (int i = share; i < count; i += n)
            used += (size_t)snprintf(out + used, PG_TEAM_PLACES_MAX - used, "%s%zu",
                                     i != share   ? ","
                                     : share == 0 ? "{"
                                                  : "},{",
                                     cpus[i]);
    }
    snprintf(out + used, PG_TEAM_PLACES_MAX - used, "}");
    return true;
}

int pg_team_processors(void) {
    int count = omp_get_num_procs(); /* not the one that OMP_PROC_BIND may have bound us to */
    return count < 1 ? 1 : count;
}

void pg_team_unbind(void) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int place = 0; place < omp_get_num_places(); place++) {
        int ids[CPU_SETSIZE], n = omp_get_place_num_procs(place);
        if (n > CPU_SETSIZE)
            continue;
        omp_get_place_proc_ids(place, ids);
        for (int i = 0; i < n; i++)
            if (ids[i] >= 0 && ids[i] < CPU_SETSIZE)
                CPU_SET((size_t)ids[i], &all);
    }
    if (CPU_COUNT(&all) > 0)
        (void)sched_setaffinity(0, sizeof all, &all);
}
