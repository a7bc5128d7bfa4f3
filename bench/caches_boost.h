/* Boost's pools for C. */
#ifndef BENCH_CACHES_BOOST_H
#define BENCH_CACHES_BOOST_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct boost_pool;

struct boost_pool *boost_pool_open(size_t bytes);
void boost_pool_close(struct boost_pool *pool); /* with whatever objects are left */

/* Under a mutex, as boost::singleton_pool and boost::fast_pool_allocator do it. */
void *boost_pool_get(struct boost_pool *pool);
void boost_pool_put(struct boost_pool *pool, void *object);

/* Without one, for a pool that one thread has to itself. */
void *boost_pool_get_unlocked(struct boost_pool *pool);
void boost_pool_put_unlocked(struct boost_pool *pool, void *object);

#ifdef __cplusplus
}
#endif

#endif
