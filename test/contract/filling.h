/* Filling memory up to a limit, and emptying it; for tests that set limits. */
#pragma once

#include "common.h"

/* Where raising a limit is not allowed, as far as it goes. */
static inline void set_limit(__rlimit_resource_t resource, size_t bytes)
{
    struct rlimit limit;
    require(getrlimit(resource, &limit) == 0);
    limit.rlim_cur = bytes;
    if (bytes > limit.rlim_max)
        limit.rlim_cur = limit.rlim_max;
    limit.rlim_max = limit.rlim_cur;
    require(setrlimit(resource, &limit) == 0);
}

struct link {
    struct link *next;
    size_t size;
};

/* Puts blocks of the size in front of the list until there is no more memory, or most blocks. Returns how many. */
static inline size_t fill(struct link **list, size_t size, size_t most)
{
    size_t count = 0;
    struct link *block;
    errno = 0;
    while (count < most && (block = malloc(size)) != NULL) {
        block->next = *list;
        block->size = size;
        *list = block;
        count++;
    }
    require(count == most || errno == ENOMEM);
    return count;
}

/* Frees the whole list. */
static inline void empty(struct link **list, size_t size)
{
    errno = EDOM;
    while (*list != NULL) {
        struct link *next = (*list)->next;
        require((*list)->size == size);
        free(*list);
        *list = next;
    }
    require(errno == EDOM);
}
