/* Random numbers that can be asked for by number: value i of a sequence is a function of i and of a
 * name for the sequence, and there is no state to carry along. So a replay gives the same bytes,
 * and threads may share the work.
 *
 * Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
 * 2011.
 */
#ifndef PG_KERNELS_PHILOX_H
#define PG_KERNELS_PHILOX_H

#include <stdint.h>

/* Ten rounds over one counter: four words that look like nothing. */
void pg_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Which of the 2^160 sequences: a key, and three words of the counter; the fourth counts. */
typedef struct pg_sequence {
    uint32_t key[2], name[3];
} pg_sequence;

/* Independent standard normal numbers, the first `count` <= 2^34 of the sequence. The same bytes on
 * every machine: only additions, multiplications, divisions and square roots of doubles are used,
 * whose results IEEE 754 leaves no choice about. */
void pg_normal_fill(const pg_sequence *sequence, int64_t count, float *values);

#endif
