// Boost's pools for C; see caches_boost.h.
//
// boost::pool of a size that is known at run time, beside a std::mutex: that is what boost::singleton_pool consists
// of, whose size is a template's argument. Objects come from and go to the front of one list of free ones; a pool
// that is dry asks malloc for a block twice as large as the last. Nothing throws into C: where there is no memory, a
// pool gives NULL.
#include "caches_boost.h"

#include <mutex>

#include <boost/pool/pool.hpp>

struct boost_pool {
    explicit boost_pool(size_t bytes) : objects(bytes) {}

    std::mutex lock;
    boost::pool<boost::default_user_allocator_malloc_free> objects;
};

extern "C" {

struct boost_pool *boost_pool_open(size_t bytes)
{
    return new (std::nothrow) boost_pool(bytes);
}

void boost_pool_close(struct boost_pool *pool)
{
    delete pool;
}

void *boost_pool_get_unlocked(struct boost_pool *pool)
{
    return pool->objects.malloc();
}

void boost_pool_put_unlocked(struct boost_pool *pool, void *object)
{
    pool->objects.free(object);
}

void *boost_pool_get(struct boost_pool *pool)
{
    std::lock_guard<std::mutex> guard(pool->lock);
    return pool->objects.malloc();
}

void boost_pool_put(struct boost_pool *pool, void *object)
{
    std::lock_guard<std::mutex> guard(pool->lock);
    pool->objects.free(object);
}

} // extern "C"
