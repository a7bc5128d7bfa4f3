/* An allocator that does nothing, to find out what the bench's own loop costs. It stands in a shared library because
 * the real one does: calls go through the PLT. It is never called malloc: the C library needs a true one. */
#include <stddef.h>

void *noop_malloc(size_t size);
void *noop_calloc(size_t count, size_t size);
void *noop_realloc(void *object, size_t size);
void noop_free(void *object);
size_t noop_usable_size(void *object);

static char nothing[16];

void *noop_malloc(size_t size)
{
    (void)size;
    return nothing;
}

void *noop_calloc(size_t count, size_t size)
{
    (void)count;
    (void)size;
    return nothing;
}

void *noop_realloc(void *object, size_t size)
{
    (void)size;
    return object;
}

void noop_free(void *object)
{
    (void)object;
}

size_t noop_usable_size(void *object)
{
    (void)object;
    return 16;
}
