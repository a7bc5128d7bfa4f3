/* slabmalloc: a malloc for multithreaded servers on Linux.
 *
 * Link with -lslabmalloc (pkg-config slabmalloc), or put libslabmalloc.so into LD_PRELOAD: malloc, free and their
 * whole family, C++'s operator new and delete included, are then provided by this library. This header declares what
 * it offers beyond libc's names. It can be included from C and C++. A call that does not fail keeps errno, unless it
 * prints or calls a visitor. free and all calls that take an object end the process with one line on standard error
 * if they see a second free, or a pointer that is not the start of an object (docs/reliability.md has the cases). So
 * do calls that take a cache or a per-CPU object and get NULL, where nothing else is said of it. Those that consist
 * of a few instructions do not look, and end in a SIGSEGV: slab_cache_alloc, slab_cache_free, and what is compiled
 * into programs. No call is a cancellation point. */
#ifndef SLABMALLOC_H
#define SLABMALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLAB_VERSION_MAJOR 0
#define SLAB_VERSION_MINOR 1

/* The version of the loaded library, such as "0.1.0"; a static string. Any thread, any time. */
const char *slab_version(void);

/* -- objects --------------------------------------------------------------------------------------------------- */

/* This library's free, by a name that no other malloc has: for any object of this library, NULL is ignored. A plug-in
 * needs it that is linked with the library while its program runs on another malloc: there malloc and free are the
 * program's, and what slab_alloc_node(size, -1) has given goes back by this call. Any thread. */
void slab_free(void *ptr);

/* Free n objects, as slab_free does one by one; NULL entries are ignored. `ptrs` is not modified. Any thread. */
void slab_free_bulk(size_t n, void *const ptrs[]);

/* Like malloc, but from the memory of NUMA node `node`, 0 to slab_stats.nodes - 1; -1: plain malloc, which prefers
 * the node that the calling thread runs on. NULL and EINVAL for other nodes, NULL and ENOMEM when there is no memory.
 * Pages come from that node while it has free ones that this process may use, otherwise from another. A policy that
 * the process was started with (numactl(8)) is respected, and a page may have been placed for another object before.
 * Takes the lock of that node's depot, about 50 ns. Any thread. The kernel's kmalloc_node. */
void *slab_alloc_node(size_t size, int node);

/* At least `size` bytes (0 counts as 1), aligned like malloc's, from the calling thread's own stock only: no lock,
 * no system call. Allowed in a signal handler, even one that interrupts malloc or free. Returns NULL if the stock
 * is empty, and for sizes over 32 KiB: callers must be prepared to do without. errno is kept. A thread's first
 * call of a size finds nothing; the thread's next ordinary malloc or free that takes a slow path (the very next
 * one does) fetches a handful. Free it with free, outside of handlers, or slab_free_nolock. Any thread. The
 * kernel's kmalloc_nolock. */
void *slab_alloc_nolock(size_t size);

/* Like free, but allowed wherever slab_alloc_nolock is: no lock, no system call, and not a byte of a constructed or
 * type-safe object is written. Takes any pointer that free takes, NULL included. The object becomes available to
 * ordinary calls at once; its memory goes back to the system at some thread's next slow path. Any thread. */
void slab_free_nolock(void *ptr);

/* -- caches -------------------------------------------------------------------------------------------------------
 * Named caches of objects of one type, as the kernel's kmem_cache: for each thread a magazine of free objects, for
 * each NUMA node a depot of full magazines, below them slabs of objects of exactly that size (Bonwick, "The Slab
 * Allocator", USENIX 1994; Bonwick and Adams, "Magazines and Vmem", USENIX 2001). An allocation takes no lock while
 * the thread's magazine is not empty. Caches of the same size and alignment share their slabs unless one of their
 * attributes forbids it: see slab_cache_create. */

typedef struct slab_cache slab_cache;

enum slab_cache_flags {
    /* A freed object's memory keeps its type: inside an epoch section a pointer to a freed object still points to an
     * object of this cache, perhaps another one by now. A vacant slab is given back only after a grace period (the
     * kernel's SLAB_TYPESAFE_BY_RCU). The library writes nothing into free objects of such a cache; with a
     * constructor they stay as the constructor and the last owner left them. */
    SLAB_TYPESAFE_BY_EPOCH = 1u << 0,
    /* Never share slabs with another cache. */
    SLAB_NO_MERGE = 1u << 1,
    /* Every allocated object reads as zero. Cannot be combined with a constructor or SLAB_TYPESAFE_BY_EPOCH. */
    SLAB_ZERO = 1u << 2,
    /* Objects start on cache lines of 64 bytes. Objects of at most half a line share one, and none straddles two (the
     * kernel's SLAB_HWCACHE_ALIGN). */
    SLAB_CACHELINE_ALIGN = 1u << 3,
    /* Keep the cache apart from others, so that slab_cache_stats.active_objects counts its own live objects, whatever
     * call frees them: exactly while no call is under way. Calls cost no more for it. */
    SLAB_ACCOUNT = 1u << 4,
};

/* Members that an initialiser leaves out are 0, the default. */
typedef struct slab_cache_attr {
    size_t align; /* a power of two up to 1 MiB, less than 8 counts as 8; 0: the largest up to 16 that divides size */
    unsigned flags;           /* bits of enum slab_cache_flags */
    unsigned magazine_rounds; /* objects in a magazine, of which a thread has two: 1 to 254; 0: automatic, adapting */
    /* The most bytes of live objects, counted by object_size; implies SLAB_ACCOUNT; 0: no limit. Charged where
     * objects leave slabs: never more than the limit is handed out, and a call is refused only when no free object of
     * the cache is left in any thread or depot, other threads' reserves for calls without a lock apart, which do not
     * count against the limit. (Several bulk calls at the limit at once may all be refused.) At the limit an
     * allocation may take free objects out of other threads' magazines, at one membarrier(2), and may wait for
     * threads in the middle of a call, up to about 100 ms. A small limit makes small magazines, and slab_cache_alloc
     * costs a few instructions more. Without membarrier(2) threads keep no magazines of limited caches: each call
     * takes a lock. */
    size_t limit_bytes;
    /* The constructor is called once for each object when its slab is made, the destructor before the slab is given
     * back. In the meantime an object keeps its constructed state over free and alloc: free it in the state in which
     * the constructor left it (Bonwick 1994). Both run in any thread that makes a call about this cache or frees an
     * object of it; the destructor also in the library's worker, whose stack is 512 KiB; the constructor also at the
     * end of some malloc or free of a thread whose signal handler has asked for objects without a lock. No lock of
     * the library is held, and they may call anything, malloc and other caches included. They must return. If an
     * exception leaves one, or pthread_exit, the process ends with a line on standard error. A cancellation of the
     * thread waits until they have returned. After a longjmp out of a constructor the thread gets no new slab of the
     * cache any more. A constructor that allocates from its own cache gets an object that is already free, but no new
     * slab: then the call returns NULL with EDEADLK, and warns once on standard error. */
    void (*ctor)(void *object, void *context);
    void (*dtor)(void *object, void *context);
    void *context; /* passed to both */
} slab_cache_attr;

typedef struct slab_cache_stats {
    char name[64];
    size_t object_size; /* bytes from one object to the next: the size rounded up to the alignment */
    size_t objects_per_slab;
    size_t bytes_per_slab;
    uint64_t active_objects; /* live: out of slabs less magazine_rounds and depot_rounds; exact when no call runs */
    uint64_t total_objects;  /* capacity of the slabs */
    uint64_t slabs;
    uint64_t magazine_rounds;    /* free, in threads' magazines and reserves */
    uint64_t depot_rounds;       /* free objects in the depots' full magazines */
    uint64_t limit_bytes;        /* 0: none */
    uint64_t allocations, frees; /* objects that passed the depots, to threads and from threads */
    uint64_t refills, drains;    /* the number of trips in which they did */
} slab_cache_stats;

/* A cache of objects of `size` bytes (1 to 1 MiB), named for tables and messages: the first 63 characters are copied;
 * names need not be unique. `attr` may be NULL. Until its first object the cache costs a few hundred bytes and no
 * system call. NULL and EINVAL: the name is NULL or empty, or the size, alignment, flags, their combination or
 * magazine_rounds are invalid. NULL and ENOMEM: no memory, or too many caches that share no slabs (10,000 are
 * promised, about 10,800 possible).
 *
 * Merging: caches of the same rounded size and alignment are names of one cache, as in Linux's SLUB, unless they have
 * SLAB_NO_MERGE, SLAB_TYPESAFE_BY_EPOCH or SLAB_ACCOUNT, a constructor or destructor, a limit, or magazine_rounds.
 * Statistics, tuning and shrinking then apply to all of them together, and freeing to another name is no error.
 * SLAB_ZERO does not prevent merging. Any thread, not in signal handlers; takes the cache mutex. */
slab_cache *slab_cache_create(const char *name, size_t size, const slab_cache_attr *attr);

/* Destroy a cache: all its objects must be free, and no thread may use it any more. Returns 0; or -1 and EBUSY with a
 * line on standard error that says how many objects are live, and the cache goes on as before. Dropping a name of a
 * merged cache always returns 0; only the last name checks for live objects. NULL is ignored. Using a destroyed
 * cache, or destroying it again, ends the process with a message until its handle is reused (after at least 256
 * further destructions). Any thread, not in signal handlers; takes free objects out of other threads' magazines.
 *
 * When it returns 0 the cache's destructors have run, and the context may go. It waits for those that run in other
 * threads, and for a grace period if the cache is SLAB_TYPESAFE_BY_EPOCH too: hold no lock that they want.
 * Exceptions: called from a destructor or inside an epoch section it does not wait; nor does it wait for objects that
 * a fork has lost, or that a thread stopped in the middle of a call holds. If objects of any cache are
 * retired (slab_free_deferred) it also waits for a grace period, as slab_epoch_barrier does for freeing; inside a
 * section, and in a function of slab_epoch_call, retired objects count as live. */
int slab_cache_destroy(slab_cache *cache);

/* An object; NULL and ENOMEM when there is no memory or the cache's limit is reached (see limit_bytes).
 * Any thread. */
void *slab_cache_alloc(slab_cache *cache);

/* The same from a NUMA node's slabs, 0 to slab_stats.nodes - 1; -1 is the calling thread's. NULL and EINVAL for other
 * nodes. Memory is the node's as far as the kernel has any there. Takes the lock of the node's depot. Any thread. */
void *slab_cache_alloc_node(slab_cache *cache, int node);

/* An object from the calling thread's own stock: see slab_alloc_nolock. */
void *slab_cache_alloc_nolock(slab_cache *cache);

/* Give an object back to the cache that it came from, whatever thread allocated it; NULL is ignored. free() works as
 * well. An object of another cache that it is not merged with ends the process with a line that names both; a pointer
 * into an object ends it, too, and so does a double free: at once, or later if the object has a constructor, a
 * destructor or type safety, or 8 bytes (docs/reliability.md). Any thread. */
void slab_cache_free(slab_cache *cache, void *object);

/* n objects into out[0] to out[n - 1]: returns n; or 0 with ENOMEM, then nothing is allocated, and `out` is
 * undefined. Whole magazines are copied where possible. Any thread. */
size_t slab_cache_alloc_bulk(slab_cache *cache, size_t n, void *out[]);

/* Free n objects of the cache; NULL entries are ignored. `objects` is not modified. Any thread. */
void slab_cache_free_bulk(slab_cache *cache, size_t n, void *const objects[]);

/* Give back what the cache does not need: the free objects in all threads' magazines (except at most one of each
 * thread; at one membarrier(2) for all of them, without waiting for any thread), the depots' stock, and every vacant
 * slab. Returns the bytes of the slabs given back, which other caches can use from then on; slab_purge returns them
 * to the kernel. 0 and EINVAL for NULL. Any thread, not in signal handlers; takes the cache mutex. */
size_t slab_cache_shrink(slab_cache *cache);

/* Give a live cache magazines of another size, 1 to 254 rounds (0: automatic, adapting), and let each depot keep at
 * most this many full ones (0: automatic, by bytes). Owners exchange their magazines at their next slow path; the
 * free objects in all of them go to the depots. Exactly one membarrier(2). Returns 0, or -1 and EINVAL. Any thread,
 * not in signal handlers; takes the cache mutex. */
int slab_cache_tune(slab_cache *cache, unsigned magazine_rounds, unsigned depot_magazines);

/* The cache's statistics; those of all names together where it is merged. Returns 0, or -1 and EINVAL when either
 * pointer is NULL. Any thread, not in signal handlers; takes locks. */
int slab_cache_get_stats(slab_cache *cache, slab_cache_stats *out);

/* Call `visit` for each cache in the order of creation, the size classes of malloc first ("size-16" and so on;
 * what is sampled lies in a larger one than others of its size, and counts there), until it returns anything but
 * 0. Returns that, else 0; -1 and EINVAL when `visit` is NULL. No lock is held during a visit: it may create and
 * destroy caches, even the one it visits; those that other threads destroy in the meantime are skipped. Any
 * thread, not in signal handlers. */
int slab_cache_foreach(int (*visit)(slab_cache *cache, void *context), void *context);

/* Print the table of caches in the columns of Linux's /proc/slabinfo, version 2.1: name, active objects, objects,
 * size, objects per slab, pages per slab; tunables: rounds of a magazine, rounds of a first one, magazines that a
 * depot keeps; slabdata: slabs with live objects, slabs, rounds in depots. A name of a merged cache has the figures
 * of all, then ": alias NAME", the first such cache's. White space in names is printed as '_'. On machines of several
 * NUMA nodes a row follows for each node that has slabs of the cache, a comment to programs that read such tables: "#
 * node N", the name, objects that are live or in magazines, objects, slabs, rounds in its depot. Returns 0, or -1
 * when the stream has an error (errno from stdio) or is NULL (EINVAL). Any thread, not in signal handlers. */
int slab_info(FILE *out);

/* -- epochs -------------------------------------------------------------------------------------------------------
 * Read sections, as the kernel's rcu_read_lock: an object that a thread finds inside one stays valid until the thread
 * has left it, if the thread that removes the object first waits for a grace period, or leaves that to the library:
 * slab_free_deferred. A grace period has passed when all sections that were open at its start have been left
 * (McKenney and Slingwine, "Read-Copy Update", 1998; Fraser's epochs, 2004). Objects of a SLAB_TYPESAFE_BY_EPOCH
 * cache may be freed at once; only their slabs wait. */

/* Enter a section. Plain stores to memory of the thread's own: no lock, no atomic read-modify-write, no fence (where
 * the kernel lacks membarrier(2): a fence). Sections nest, up to 16,383 deep. Any thread; the first entry in a
 * thread's life registers it, with a lock and gettid(2), and the first in the process with further system calls.
 * Allowed in signal handlers of threads that have entered a section before; a handler must leave what it enters.
 *
 * A section that stays open keeps everything that is retired meanwhile from being freed, and the slabs of all
 * type-safe caches from being given back: keep sections short, and do not block inside them. After
 * `epoch_stall_ms` (SLABMALLOC_OPTIONS) its thread is named on standard error, once, if anybody waits for it;
 * after PR_SET_NO_NEW_PRIVS or PR_SET_SECCOMP it is only counted (epoch_stalls). A section ends at the latest with
 * its thread (except one entered in its last destructors, or when there was no memory to register the thread:
 * leave those explicitly), and continues in the child of a fork, on the thread that called fork. A sandbox that a
 * program enters after its first section has to allow membarrier(2); if the call fails there, memory waits until
 * each thread has entered another section. */
void slab_epoch_enter(void);

/* Leave the section entered last. One leave too many ends the process at the thread's next entry. Else as above. */
void slab_epoch_leave(void);

/* Inline versions of both calls, eight instructions together; define SLAB_NO_INLINE for real calls. What follows is
 * not part of the interface, but stays as it is for programs that were compiled with it. */
struct slab_epoch_reader {
    uint64_t section;        /* 0 in its lower 16 bits: outside, and the next entry need only copy *started */
    const uint64_t *started; /* the latest grace period's number, and depth 1 */
};
void slab_epoch_enter_slow(void);
void slab_epoch_leave_slow(void);
#if defined(__GNUC__) && !defined(SLAB_NO_INLINE)
#ifdef __SANITIZE_THREAD__ /* gcc's; clang has a feature */
#define SLAB_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLAB_THREAD_SANITIZER
#endif
#endif
__extension__ extern __thread struct slab_epoch_reader slab_epoch_reader __attribute__((tls_model("initial-exec")));

extern __inline__ __attribute__((gnu_inline)) void slab_epoch_enter(void)
{
    struct slab_epoch_reader *reader = &slab_epoch_reader;
    if (__builtin_expect((__atomic_load_n(&reader->section, __ATOMIC_RELAXED) & 0xffffu) != 0, 0)) {
        slab_epoch_enter_slow();
        return;
    }
    __atomic_store_n(&reader->section, __atomic_load_n(reader->started, __ATOMIC_ACQUIRE), __ATOMIC_RELAXED);
    __asm__ volatile("" ::: "memory"); /* pairs with membarrier(2) */
}

extern __inline__ __attribute__((gnu_inline)) void slab_epoch_leave(void)
{
    struct slab_epoch_reader *reader = &slab_epoch_reader;
    bool visitor;
#if defined(__x86_64__) && !defined(SLAB_THREAD_SANITIZER)
    __asm__ volatile("decq %0" : "+m"(reader->section), "=@ccs"(visitor) : : "memory"); /* a store is a release */
#else
    const uint64_t section = __atomic_load_n(&reader->section, __ATOMIC_RELAXED) - 1;
    __atomic_store_n(&reader->section, section, __ATOMIC_RELEASE);
    visitor = section >> 63;
#endif
    if (__builtin_expect(visitor, 0))
        slab_epoch_leave_slow();
}
#endif

/* Wait for a grace period: until all sections that other threads are in have been left. Takes microseconds when there
 * are none. But if other threads have ever entered one, fewer than 1,000 grace periods that need a membarrier(2)
 * begin in a second, so that in a loop each call takes a millisecond. Called inside a section it ends the process.
 * Any thread, not in signal handlers, nor with a lock held that a thread inside a section may want. */
void slab_epoch_synchronize(void);

/* Make progress without waiting for any thread: begin or end a grace period where one is wanted, retire objects that
 * have been in threads' partly filled magazines for a while, free objects whose grace period has passed, and run the
 * functions of slab_epoch_call, and the destructors, that are due. True: a grace period has ended in the meantime.
 * The worker does the same in a process with several threads; with a single thread call this now and then. Inside a
 * section it runs neither functions nor destructors. Any thread, not in signal handlers. */
bool slab_epoch_poll(void);

/* Wait until everything that was retired before this call, by any thread, has been freed, and all functions given to
 * slab_epoch_call before it have run: before a library that contains such a function is unloaded, or its cache
 * destroyed (the kernel's rcu_barrier). Collects the objects in other threads' magazines, at one membarrier(2) or a
 * few. Called inside a section, or in a function of slab_epoch_call, it ends the process. Any thread, not in signal
 * handlers, nor with a lock held that such a function, or a thread inside a section, may want. */
void slab_epoch_barrier(void);

/* For slab_epoch_call and slab_free_deferred_head: two words inside one of the caller's objects. They belong to the
 * library from that call on, until the function is called, or the object freed. */
typedef struct slab_epoch_head {
    void *opaque[2];
} slab_epoch_head;

/* Call `function` with `head` after a grace period, once: in some thread's slab_epoch_poll or slab_epoch_barrier, or
 * in the library's worker (whose stack is 512 KiB); never inside this or any other call, nor under a lock of the
 * library. It may do anything, slab_epoch_call with the same head included, except slab_epoch_barrier and longjmp. If
 * an exception leaves it, or pthread_exit, the process ends with a line on standard error; cancellation waits until
 * it has returned. Functions run one after the other; those that one thread passed run in that order. In a process
 * without a worker (one thread, or worker=0, or one after many that have come and gone within milliseconds) they wait
 * for a poll or barrier. In the child of a fork those that no other thread had started are called, too. Keep them
 * short: while one runs in the worker, objects that have aged in other threads' magazines wait. When the process
 * exits, those that have not been called are dropped; the worker may still call some while exit handlers run. NULL
 * for either argument ends the process. Needs no memory, and waits for no thread. Any thread, inside a section too,
 * not in signal handlers. The kernel's call_rcu. */
void slab_epoch_call(slab_epoch_head *head, void (*function)(slab_epoch_head *head));

/* Retire an object: free it after a grace period. Takes any pointer that free takes, of malloc's or a named cache's;
 * NULL is ignored. The caller must have made it unreachable for readers that enter a section from now on. The
 * kernel's kfree_rcu with one argument.
 *
 * Costs about as much as free: the pointer goes into a magazine of the thread's own for the object's size, which
 * becomes an ordinary full one when its grace period has passed; until then the objects are not written. A partly
 * filled magazine is retired after `deferred_max_delay_ms`, by the worker, or by some thread's slab_epoch_poll; when
 * its thread ends, at once. Where no other thread reads, the object is freed at once.
 *
 * The bytes that wait are bounded by `deferred_max_bytes` (objects in magazines that are not full yet do not count).
 * Beyond it this call waits for a grace period, 10 ms at most, and inside a section not at all: then more bytes wait,
 * as slab_stats shows. If there is no memory for a magazine, this call waits for a grace period, however long it
 * takes, and frees the object; inside a section it cannot wait, leaves the object unfreed, counts it
 * (slab_stats.deferred_unfreed) and warns once on standard error. They count as live until then.
 *
 * The first call in a process registers it for membarrier(2): a sandbox must have allowed that before. Retiring a
 * freed object ends the process at once, as free does. Retiring an object twice, or freeing a retired one, ends it
 * after the grace period, in the name of this call (docs/reliability.md). Any thread, not in signal handlers. */
void slab_free_deferred(void *ptr);

/* The same, with a head inside the object that no reader looks at. This form never waits and never fails: where there
 * is no memory, the object is queued by its head. The kernel's kfree_rcu with two arguments. */
void slab_free_deferred_head(void *ptr, slab_epoch_head *head);

/* Retire n objects, as slab_free_deferred does one by one; NULL entries are ignored. `ptrs` is not modified. */
void slab_free_deferred_bulk(size_t n, void *const ptrs[]);

/* -- the process ----------------------------------------------------------------------------------------------- */

/* Statistics of the whole process, in bytes, or as counts since its start. They are read one after the other while
 * threads go on: exact when the process is quiet. Fields are only ever appended. */
typedef struct slab_stats {
    uint64_t live_bytes;     /* handed out: sizes of the objects' classes, and of large objects in whole pages */
    uint64_t cached_bytes;   /* free objects in threads' magazines and depots' stock */
    uint64_t dirty_bytes;    /* free spans whose RAM has not been given back yet */
    uint64_t purged_bytes;   /* given back to the kernel since start */
    uint64_t reserved_bytes; /* addresses mapped for objects */
    uint64_t metadata_bytes; /* addresses mapped for the library's own structures */
    uint64_t deferred_bytes, deferred_objects; /* retired and not freed yet; also counted as live */
    uint64_t grace_periods;                    /* of epochs, completed */
    uint64_t membarriers;     /* calls of membarrier(2): for grace periods, and usually one each time that a cache is
                                 tuned, shrunk or destroyed, or a limit is met */
    uint64_t refills, drains; /* trips of threads' magazines to the depots */
    uint64_t depot_locks;     /* how often a depot's lock was taken */
    uint64_t depot_contended; /* of these, how often it was found held */
    uint64_t slabs_made, slabs_released, purges;
    uint64_t threads, nodes;
    uint64_t caches;                       /* distinct ones: size classes, and named ones that are not aliases */
    uint64_t deferred_waits;               /* times that a thread waited because it had retired more than may wait */
    uint64_t deferred_excesses;            /* magazines and heads retired beyond the bound without waiting */
    uint64_t deferred_unfreed;             /* objects left unfreed inside sections, for lack of memory */
    uint64_t epoch_stalls;                 /* sections that were reported for staying open too long */
    uint64_t percpu_objects, percpu_bytes; /* live per-CPU objects, and their bytes in one copy */
    uint64_t percpu_mapped_bytes;          /* addresses mapped for all copies together */
    uint64_t percpu_metadata_bytes;        /* the part of metadata_bytes that is theirs */
    uint64_t remote_frees;                 /* of small objects of another node than the freeing thread's */
    uint64_t purged_idle_bytes; /* the parts of purged_bytes: nobody needed it; use had fallen, or addresses
                                              were scarce; a cgroup stalled; the program asked; a limit was near */
    uint64_t purged_bound_bytes, purged_pressure_bytes, purged_trim_bytes, purged_limit_bytes;
    uint64_t charged_bytes;                 /* of the library's memory, what may be resident: this is limited */
    uint64_t limit_bytes, soft_limit_bytes; /* in force at the moment; 0: none */
    uint64_t limit_refusals;                /* calls left without memory under a limit */
    uint64_t purged_growth_bytes;           /* of purged_bytes: what was free in pieces while others grew */
    uint64_t metadata_charged_bytes;        /* of charged_bytes: descriptors, bits, page map, magazines, blocks */
    uint64_t touched_again_bytes;           /* pages among live objects that were purged and then handed out */
} slab_stats;

/* Fill the first size_of_out bytes of a slab_stats: pass sizeof *out, so that a program keeps working with a library
 * that has more fields. Returns 0, or -1 and EINVAL when `out` is NULL or the size 0. Any thread, not in signal
 * handlers; takes locks. */
int slab_get_stats(slab_stats *out, size_t size_of_out);

/* Statistics of one NUMA node. Objects in a thread's magazines count for the node on which the thread made its last
 * trip to a depot, large objects for the node that was requested, or else that of the allocating thread. */
typedef struct slab_node_stats {
    uint64_t live_bytes, cached_bytes, dirty_bytes, purged_bytes, reserved_bytes; /* as in slab_stats */
    uint64_t slabs_made, slabs_released, purges;
    uint64_t depot_locks, depot_contended;
    uint64_t remote_frees; /* of other nodes' small objects by this node's threads */
    uint64_t threads;
} slab_node_stats;

/* The same for a node, 0 to slab_stats.nodes - 1; -1 and EINVAL for others. */
int slab_get_node_stats(int node, slab_node_stats *out, size_t size_of_out);

/* Give everything that is free back to the kernel: threads' magazines (but one object of each named cache), the
 * depots' stock, vacant slabs, free spans. A thread in the middle of a call is waited for, an eighth of a second at
 * most; else its magazines stay. Returns the bytes given back. Any thread, not in signal handlers; takes as long as
 * the kernel needs. */
size_t slab_purge(void);

/* Write a profile of what holds memory to a descriptor, from its position on: the samples (`sample_bytes` in
 * SLABMALLOC_OPTIONS says how many there are), their call stacks, and which files are mapped where. It is an ELF core
 * dump that holds nothing else, so `slabctl --core FILE top`, `profile` and the like read it, later and elsewhere:
 * where the program's and the libraries' files are at the same paths, functions have their names. It takes 64 bytes
 * for each sample and some hundred for each stack. Nothing of what objects contain is in it; of threads' stacks there
 * are return addresses, and words that look like them or like places in the stack.
 *
 * Returns 0; or -1 and errno, and what was written is of no use: as write(2) sets it (EBADF; ENOSPC; EAGAIN where a
 * descriptor that does not block is full; EPIPE, which comes with SIGPIPE), ENOMEM when there are no 128 KiB of
 * addresses to work in, ENOENT when /proc/self/maps cannot be read. The descriptor may be a pipe or a stream
 * socket. Any thread, signal handlers too, even one that interrupts malloc or free: it takes no lock, allocates
 * nothing from the heap, and needs 4 KiB of stack. Other threads go on meanwhile: what they allocate in that time
 * may be in it or not. */
int slab_profile_dump(int fd);

#ifdef __cplusplus
}
#endif

#include "slabmalloc_percpu.h"

#endif
