/* A balanced tree of the C library's, ordered by length and then by bytes. */
#include "intern.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

static int order(const void *left, const void *right)
{
    const struct interned *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    return a->count ? memcmp(a->bytes, b->bytes, a->count) : 0;
}

bool intern_find(const struct intern *set, const void *bytes, size_t count, size_t *number)
{
    struct interned key = {.bytes = bytes, .count = count};
    void *const *found = tfind(&key, &set->tree, order);
    if (!found)
        return false;
    *number = ((const struct interned *)*found)->number;
    return true;
}

size_t intern(struct intern *set, const void *bytes, size_t count, bool *is_new)
{
    size_t number;
    bool found = intern_find(set, bytes, count, &number);
    if (is_new)
        *is_new = !found;
    if (found)
        return number;
    set->entries = array_grow(set->entries, &set->room, set->count + 1, sizeof(struct interned *));
    struct interned *entry = memory(NULL, 1, sizeof *entry + count);
    if (count)
        memcpy(entry + 1, bytes, count);
    *entry = (struct interned){entry + 1, count, set->count};
    if (!tsearch(entry, &set->tree, order))
        fail("no memory");
    set->entries[set->count] = entry;
    return set->count++;
}

size_t intern_text(struct intern *set, const char *text)
{
    return intern(set, text, strlen(text) + 1, NULL);
}

static void nothing(void *entry)
{
    (void)entry;
}

void intern_free(struct intern *set)
{
    tdestroy(set->tree, nothing);
    for (size_t i = 0; i < set->count; i++)
        free(set->entries[i]);
    free(set->entries);
    *set = (struct intern){0};
}
