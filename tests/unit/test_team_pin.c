/* Teams on processors of their own, as far as this machine has some. */
#include <criterion/criterion.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/team_pin.h"
#include "kernels/threads.h"

enum { MOST = 64 };

static cpu_set_t where[MOST]; /* each thread of the team may run */

static void look(int n) {
#pragma omp parallel num_threads(n)
    sched_getaffinity(0, sizeof where[0], &where[omp_get_thread_num()]);
}

/* Both in processes of their own: what is bound stays so. */
Test(team_pin, each_worker_has_its_own_processors) {
    int count = pg_team_processors(), n = count >= 4 ? 2 : 1;
    cpu_set_t taken, own, both;
    CPU_ZERO(&taken);
    cr_assert_eq(sched_getaffinity(0, sizeof own, &own), 0);
    for (int worker = 0; worker < count / n && n <= MOST; worker++) {
        pg_diag diag = {""};
        sched_setaffinity(0, sizeof own, &own); /* as a new thread of the process has it */
        pg_threads_set(n);
        cr_assert_eq(pg_team_pin_set(PG_TEAM_PIN_CORES, worker, count / n, &diag), PG_OK, "%s",
                     diag.text);
        look(n);
        for (int i = 0; i < n; i++) {
            CPU_AND(&both, &taken, &where[i]);
            cr_assert_eq(CPU_COUNT(&both), 0, "worker %d, thread %d has another's processor",
                         worker, i);
            cr_assert_eq(CPU_COUNT(&where[i]), 1);
            CPU_OR(&taken, &taken, &where[i]);
        }
    }
}

/* Numbers of the processors in a list of places: all of them, and those of its i-th place. */
static void read_places(const char *text, cpu_set_t *all, cpu_set_t places[MOST], int *n) {
    CPU_ZERO(all);
    *n = 0;
    for (const char *c = text; *c != '\0';) {
        if (*c == '{')
            CPU_ZERO(&places[(*n)++]);
        if (*c >= '0' && *c <= '9') {
            char *end;
            size_t cpu = strtoul(c, &end, 10);
            cr_assert(!CPU_ISSET(cpu, all), "twice: %s", text);
            CPU_SET(cpu, all);
            CPU_SET(cpu, &places[*n - 1]);
            c = end;
        } else {
            c++;
        }
    }
}

Test(team_pin, shares_hold_every_processor_once) {
    char text[PG_TEAM_PLACES_MAX];
    cpu_set_t own, all, places[MOST];
    int count = pg_team_processors(), n;
    cr_assert_eq(sched_getaffinity(0, sizeof own, &own), 0);
    cr_assert(!pg_team_places(1, text));
    cr_assert(!pg_team_places(count + 1, text));
    for (int threads = 2; threads <= count && threads <= MOST; threads++) {
        cr_assert(pg_team_places(threads, text));
        read_places(text, &all, places, &n);
        cr_assert_eq(n, threads, "%s", text);
        cr_assert(CPU_EQUAL(&all, &own), "%s", text);
        for (int i = 0; i < n; i++) {
            int size = CPU_COUNT(&places[i]), even = count / n;
            cr_assert(size == even || size == even + 1, "%s", text);
        }
    }
}

Test(team_pin, nothing_is_bound_where_it_cannot_be) {
    int count = pg_team_processors();
    pg_diag diag = {""};
    pg_threads_set(1);
    cr_assert_eq(pg_team_pin_set(PG_TEAM_PIN_OFF, 0, count + 1, &diag), PG_OK);
    cr_assert_eq(pg_team_pin_set(PG_TEAM_PIN_CORES, 0, count + 1, &diag), PG_ECONFIG);
    cr_assert(strstr(diag.text, "engine.pin") && strstr(diag.text, "unbound"), "%s", diag.text);
    pg_threads_set(count + 1);
    cr_assert_eq(pg_team_pin_set(PG_TEAM_PIN_CORES, 0, 1, &diag), PG_ECONFIG);
    look(1);
    cr_assert_eq(CPU_COUNT(&where[0]), count);
}
