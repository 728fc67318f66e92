#include <criterion/criterion.h>

#include "kernels/mem.h"

Test(mem_budget, counts_what_is_held_and_ends) {
    bool exceeded;
    pg_mem_budget_begin(1000);
    void *a = pg_malloc(600);
    cr_assert(a != NULL && pg_malloc(600) == NULL);
    pg_free(a);
    a = pg_malloc(900);
    cr_assert_not_null(a, "what was given back may be taken again");
    pg_mem_budget_more(500);
    void *b = pg_calloc(1, 600);
    cr_assert_not_null(b);
    cr_assert_eq(pg_mem_budget_end(&exceeded), 0);
    cr_assert(exceeded);
    void *c = pg_malloc(1 << 20);
    cr_assert_not_null(c, "no budget, no limit");
    pg_free(a);
    pg_free(b);
    pg_free(c);
    pg_mem_budget_begin(10);
    cr_assert_eq(pg_mem_budget_end(&exceeded), 10);
    cr_assert_not(exceeded);
}
