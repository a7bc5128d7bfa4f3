/* Pages from the kernel: map, purge, move. Addresses and lengths are multiples of slm_page_size. All functions keep
 * errno except slm_vm_map and slm_vm_map_as, which leave the kernel's. */
#pragma once

#include "base/compiler.h"

extern slm_hidden size_t slm_page_size; /* of the running kernel; set by slm_vm_start */

/* No lock is held, as it asks libc. Threads may come at once, and a thread again. */
void slm_vm_start(void);

/* True if RLIMIT_AS is finite; and what it was at the last call. */
bool slm_vm_addresses_limited(void);
extern slm_hidden uint64_t slm_vm_address_limit;

/* Addresses for `size` bytes that nothing else is likely to use, on a multiple of 2 MiB; nothing is mapped. NULL
 * where the address space has no room. The choice is random, and new for each attempt. */
void *slm_vm_pick_range(size_t size, unsigned attempt);

/* Such addresses held by an inaccessible mapping; NULL if the kernel grants none of that size. */
void *slm_vm_reserve_range(size_t size);

/* How memory is mapped. */
enum {
    SLM_VM_RESERVED = 1,    /* inside a range from slm_vm_reserve_range */
    SLM_VM_SMALL_PAGES = 2, /* of the ordinary size: with huge ones a small heap's first write would cost 2 MiB */
};

/* Zeroed, readable and writable memory at exactly this address, which is free or reserved. False with the kernel's
 * errno, EEXIST where another mapping is in the way. One system call, from Linux 6.7 on with small pages too. */
bool slm_vm_map(void *address, size_t size, unsigned how);

/* Zeroed memory somewhere, for a call that gives it back before it returns (slm_vm_unmap); NULL: there is none. Legal
 * in signal handlers. */
void *slm_vm_map_anywhere(size_t size);

/* As slm_vm_map outside a reserved range, with the memory policy of the two pages at `model`, never touched. One
 * thread at a time for each model. */
bool slm_vm_map_as(void *model, void *address, size_t size, unsigned how);

/* Undo slm_vm_map. False when the kernel refuses (its limit of mappings). */
bool slm_vm_unmap(void *address, size_t size, bool reserved);

/* False: nothing is mapped at this address. */
bool slm_vm_is_mapped(const void *address);

/* Make the whole pages of a range read-only. */
void slm_vm_read_only(void *address, size_t size);

/* Make pages inaccessible, with what they contain, or accessible again. False: the kernel refuses, as there would be
 * too many mappings. */
bool slm_vm_protect(void *address, size_t size, bool accessible);

/* Give the RAM back and keep the addresses. True: the pages read as zero now, and are locked when they are touched if
 * they were; false: not all do (before Linux 5.18 locked ones). */
bool slm_vm_purge(void *address, size_t size);

/* Make pages resident that nobody has written to, as a write to each would. False: the kernel, or a sandbox, knows no
 * such call. Without memory the pages are as they were. */
bool slm_vm_populate(void *address, size_t size);

/* Has a purge met memory that was all locked? Then new memory may be, too, and resident as soon as it is mapped. */
bool slm_vm_locked(void);

/* Bind a range to a node, preferred from then on, and move there the pages that are resident already (under mlockall
 * all are). `node` is the machine's number, whatever a control group allows. False: the kernel refuses. */
bool slm_vm_bind(void *address, size_t size, unsigned node);

/* A page that reads as zero in every child of a fork; NULL where the kernel has none (before Linux 4.14). */
void *slm_vm_page_wiped_on_fork(void);

/* Move the pages of one mapped range to another, which may be longer (the rest then reads as zero), without a copy,
 * and unmap the old addresses. False: the kernel refuses; the old range is as it was, the new one may have been
 * unmapped. errno may change. */
bool slm_vm_move(void *from, void *to, size_t size, size_t to_size);

/* Huge pages, where ordinary ones have 4 KiB. */
#define SLM_VM_HUGE_PAGE ((size_t)2 << 20)

/* Does the kernel make them for this process, at the moment? A range of other addresses is mapped to see. */
bool slm_vm_has_huge_pages(void);

/* How many pages are resident of these bytes, at most those of a huge page; 0 if not all is mapped. */
unsigned slm_vm_resident(const void *address, size_t bytes);

/* From now on the kernel may make huge pages there. */
void slm_vm_expect_huge(void *address, size_t size);

/* Have a huge page there, with what the small ones hold; before Linux 6.1 the kernel is asked to see to it some time.
 * False: there is none, and the kernel makes none by itself. */
bool slm_vm_make_huge(void *address);

/* From now on the kernel makes no huge pages there; those that there are stay. */
void slm_vm_keep_small(void *address, size_t size);

/* Split the huge page that the address lies in, so that a purge of a part of it frees RAM at once, not only when the
 * kernel runs out of it. */
void slm_vm_split(void *address);
