/* What programs call of sampler.c. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
/* Objects are numbers: nothing is allocated. */
uint64_t sampler_malloc(size_t bytes);
void sampler_free(uint64_t object);
void sampler_start(uint64_t mean, uint64_t seed, void *end_of_stack);
void sampler_off(void);
void sampler_lose(uint64_t samples, uint64_t stacks);
extern int sampler_cache; /* not 0: objects are of the named cache */
#ifdef __cplusplus
}
#endif
