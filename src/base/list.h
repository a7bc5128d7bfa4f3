/* A circular doubly linked list, its nodes inside the listed structures. An empty list's head points at itself. */
#pragma once

#include "base/compiler.h"

struct slm_list {
    struct slm_list *next, *prev;
};

#define slm_container(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

slm_inline void slm_list_init(struct slm_list *head)
{
    head->next = head->prev = head;
}

slm_inline bool slm_list_empty(const struct slm_list *head)
{
    return head->next == head;
}

slm_inline void slm_list_insert_after(struct slm_list *where, struct slm_list *node)
{
    node->next = where->next;
    node->prev = where;
    where->next->prev = node;
    where->next = node;
}

slm_inline void slm_list_insert_before(struct slm_list *where, struct slm_list *node)
{
    slm_list_insert_after(where->prev, node);
}

slm_inline void slm_list_remove(struct slm_list *node)
{
    slm_assert(node->next->prev == node && node->prev->next == node);
    node->prev->next = node->next;
    node->next->prev = node->prev;
}
