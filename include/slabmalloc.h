/* slabmalloc: a malloc for multithreaded servers on Linux.
 *
 * Link with -lslabmalloc (pkg-config slabmalloc), or put libslabmalloc.so into LD_PRELOAD: malloc, free and their
 * whole family, C++'s operator new and delete included, are then this library's. This header declares what it offers
 * beyond libc's names. C and C++ can include it. */
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

/* The version of the library that is loaded, as "0.1.0"; a static string. Any thread, any time. */
const char *slab_version(void);

/* -- objects --------------------------------------------------------------------------------------------------- */

/* Free n objects, as free() does one by one; NULL among them is nothing. `ptrs` is read only. errno is kept.
 * Any thread. */
void slab_free_bulk(size_t n, void *const ptrs[]);

/* As malloc, from NUMA node `node`'s memory, 0 to slab_stats.nodes less 1; -1: malloc, which prefers the node that
 * the calling thread runs on. NULL and EINVAL for other nodes, NULL and ENOMEM when there is no memory; errno is kept
 * otherwise. Pages are the node's while it has free ones that this process may use, else another's; a policy that the
 * process was started with (numactl(8)) is kept to, and an object that has no page yet may share one that came with
 * others'. Takes the lock of that node's depot, about 50 ns. Any thread. The kernel's kmalloc_node. */
void *slab_alloc_node(size_t size, int node);

/* At least `size` bytes (0 is taken for 1), aligned as malloc's, from this thread's own stock alone: no lock, no
 * system call. Legal in a signal handler, even one that interrupts malloc or free. NULL when the stock is dry, and
 * for sizes over 32 KiB: expect that, and go without; errno is kept. The first call of a size in a thread finds
 * nothing; the thread's next ordinary malloc or free that takes a slow path (the very next one does) brings a
 * handful. Freed by free, outside of handlers, or slab_free_nolock. After the kernel's kmalloc_nolock and
 * __GFP_NO_LOCKS. Any thread. */
void *slab_alloc_nolock(size_t size);

/* As free, legal wherever slab_alloc_nolock is: no lock, no system call, and not a byte of the object is written, so
 * that constructed and type-safe objects may come too. Any pointer that free takes, NULL among them. What is freed so
 * becomes available to ordinary calls at once, and goes back to the system at some thread's next slow path. */
void slab_free_nolock(void *ptr);

/* -- caches -------------------------------------------------------------------------------------------------------
 * Named caches of objects of one type, as the kernel's kmem_cache: per thread a magazine of free objects, per NUMA
 * node a depot of full magazines, below them slabs of objects of exactly that size (Bonwick, "The Slab Allocator",
 * USENIX 1994; Bonwick and Adams, "Magazines and Vmem", USENIX 2001). An allocation takes no lock while the thread's
 * magazine has rounds. Caches of the same size and alignment share their slabs unless something tells them apart:
 * see slab_cache_create. */

typedef struct slab_cache slab_cache;

enum slab_cache_flags {
    /* A freed object's memory keeps this type: inside an epoch section a pointer to an object that has been freed
     * still points to an object of this cache, perhaps another one by now, and its slab is not given back before the
     * grace period after it became vacant has passed (the kernel's SLAB_TYPESAFE_BY_RCU). The library writes nothing
     * into its free objects; with a constructor they stay as it and the last owner left them. */
    SLAB_TYPESAFE_BY_EPOCH = 1u << 0,
    /* Slabs of its own, whatever other caches there are. */
    SLAB_NO_MERGE = 1u << 1,
    /* Allocated objects read as zero, each time. Not together with a constructor or SLAB_TYPESAFE_BY_EPOCH. */
    SLAB_ZERO = 1u << 2,
    /* Objects start on cache lines of 64 bytes; those of at most half a line share one, and none straddles two (the
     * kernel's SLAB_HWCACHE_ALIGN). */
    SLAB_CACHELINE_ALIGN = 1u << 3,
    /* Count the cache's live objects exactly, whoever frees them: slab_cache_stats.active_objects lacks nothing and
     * has nothing too much as soon as no call is under way. */
    SLAB_ACCOUNT = 1u << 4,
};

/* What is not said is 0. */
typedef struct slab_cache_attr {
    size_t align; /* a power of two up to 1 MiB, less than 8 counts as 8; 0: the largest up to 16 that divides size */
    unsigned flags;           /* of slab_cache_flags */
    unsigned magazine_rounds; /* objects a thread's magazine holds (it has two), 1 to 254; 0: automatic, adapting */
    size_t limit_bytes;       /* at most so many bytes of live objects, implies SLAB_ACCOUNT; 0: no limit */
    /* Called once for each object when its slab is made, and again before the slab is given back: in between an
     * object keeps its constructed state over free and alloc, so whoever frees it leaves it as the constructor did
     * (Bonwick 1994). They run in whatever thread makes a call about this cache, or frees an object of it, when a
     * slab is made or has become vacant; the destructor in the library's worker, too, whose stack is 512 KiB; the
     * constructor also behind some malloc or free of a thread whose signal handler has asked for objects without a
     * lock. No lock of the library's is held, and they may call anything, malloc and other caches included; they must
     * return: no longjmp, no exception, no cancellation. A constructor that allocates from its own cache gets what is
     * free there; a new slab is refused it: NULL, EDEADLK, and a line on standard error once. */
    void (*ctor)(void *object, void *context);
    void (*dtor)(void *object, void *context);
    void *context; /* handed to both */
} slab_cache_attr;

typedef struct slab_cache_stats {
    char name[64];
    size_t object_size; /* bytes from one object to the next: the size rounded up to the alignment */
    size_t objects_per_slab;
    size_t bytes_per_slab;
    uint64_t active_objects; /* handed out: taken from slabs less those in magazines and depots; exact when quiet */
    uint64_t total_objects;  /* that the slabs have room for */
    uint64_t slabs;
    uint64_t magazine_rounds;    /* free objects in threads' magazines and reserves */
    uint64_t depot_rounds;       /* free objects in the depots' full magazines */
    uint64_t limit_bytes;        /* 0: none */
    uint64_t allocations, frees; /* rounds that passed the depot, up to threads and down from them */
    uint64_t refills, drains;    /* in so many trips */
} slab_cache_stats;

/* A cache of objects of `size` bytes (1 to 1 MiB), named for tables and messages: a copy of the first 63 characters;
 * names need not be unique. `attr` may be NULL. Until its first object the cache costs some hundred bytes and no
 * system call. NULL and EINVAL: a name that is NULL or empty, a size, alignment, flag, combination or magazine_rounds
 * that is none; NULL and ENOMEM: no memory, or over 10,000 caches that share with none.
 *
 * Merging: caches of the same rounded size and alignment are names of one and the same, as in Linux's SLUB, unless
 * they have SLAB_NO_MERGE, SLAB_TYPESAFE_BY_EPOCH or SLAB_ACCOUNT, a constructor or destructor, a limit, or
 * magazine_rounds. Then figures, tuning and shrinking are those of all together, and freeing to another name is no
 * error. SLAB_ZERO does not tell caches apart. Any thread, not in signal handlers; takes the cache mutex. */
slab_cache *slab_cache_create(const char *name, size_t size, const slab_cache_attr *attr);

/* Destroy a cache: its objects are all free, and nobody uses it any more. 0; or -1 and EBUSY, with one line that says
 * how many objects live, and the cache goes on as before. A name of a merged cache is always dropped with 0, the last
 * one looks for live objects. NULL is nothing. Using a destroyed cache, and destroying it again, end the process with
 * a message while its handle has not been given out anew (which takes at least 256 further destructions). Any thread,
 * not in signal handlers; takes free objects out of other threads' magazines (see slab_cache_shrink).
 *
 * When it has returned 0 the cache's destructors have run, and the context may go; it waits for those that run in
 * other threads, and, where the cache is SLAB_TYPESAFE_BY_EPOCH too, for a grace period, so hold no lock that they
 * want. Exceptions: called from a destructor or inside an epoch section it does not wait, nor for what a fork has
 * lost, or a thread has in its hands that is stopped in the middle of a call. Where objects of any cache are retired
 * (slab_free_deferred) it waits for a grace period, too, as slab_epoch_barrier does for freeing; inside a section,
 * and in a function of slab_epoch_call, retired objects count as live. */
int slab_cache_destroy(slab_cache *cache);

/* An object; NULL and ENOMEM when there is no memory or the cache's limit is reached. errno is kept otherwise.
 * Any thread. */
void *slab_cache_alloc(slab_cache *cache);

/* The same from a NUMA node's slabs, 0 to the number of nodes less 1 (slab_stats.nodes); -1 is the calling thread's.
 * NULL and EINVAL for other nodes. Memory is the node's as far as the kernel has any there. */
void *slab_cache_alloc_node(slab_cache *cache, int node);

/* An object from the calling thread's own stock, as slab_alloc_nolock, which see. */
void *slab_cache_alloc_nolock(slab_cache *cache);

/* Give an object back to the cache that it came from, whatever thread allocated it; NULL is nothing. free() does as
 * well, a few instructions dearer for accounted caches. An object of another cache, unless they are merged, ends the
 * process with a line that names both. A pointer into one, and one that is freed twice, are seen late or not at all,
 * as free's are (README, Limits). errno is kept. Any thread. */
void slab_cache_free(slab_cache *cache, void *object);

/* n objects into out[0] to out[n - 1]: returns n; or 0 with ENOMEM and nothing taken, `out` undefined. Whole
 * magazines are copied where they can. Any thread. */
size_t slab_cache_alloc_bulk(slab_cache *cache, size_t n, void *out[]);

/* Free n objects of the cache, NULL among them is nothing; `objects` is read only. Any thread. */
void slab_cache_free_bulk(slab_cache *cache, size_t n, void *const objects[]);

/* Give back what the cache does not need: the free objects in all threads' magazines (all but at most one of each
 * thread, at one membarrier(2) for all of them, without waiting for anybody), the depots' stock, and every vacant
 * slab. Returns the bytes of the slabs given back, which other caches can have from then on; slab_purge gives them to
 * the kernel. Any thread, not in signal handlers; takes the cache mutex. */
size_t slab_cache_shrink(slab_cache *cache);

/* Give a live cache magazines of another size, 1 to 254 rounds (0: automatic, adapting), and let each depot keep at
 * most so many full ones (0: automatic, by bytes). All threads' magazines are marked at once and exchanged by their
 * owners at their next slow path; the rounds in them are handed on to the depots. Exactly one membarrier(2). 0, or -1
 * and EINVAL. Any thread, not in signal handlers; takes the cache mutex. */
int slab_cache_tune(slab_cache *cache, unsigned magazine_rounds, unsigned depot_magazines);

/* The cache's figures; those of all names together where it is merged. 0, or -1 and EINVAL when either is NULL. Any
 * thread; takes locks. */
int slab_cache_get_stats(slab_cache *cache, slab_cache_stats *out);

/* Call `visit` for each cache in the order of creation, the size classes of malloc first ("size-16" and so on),
 * until it returns anything but 0; returns that, else 0, or -1 and EINVAL when it is NULL. No lock is held
 * meanwhile: `visit` may create and destroy caches, even its own; those that others destroy in between are left out.
 * Any thread. */
int slab_cache_foreach(int (*visit)(slab_cache *cache, void *context), void *context);

/* Print the table of caches in the columns of Linux's /proc/slabinfo, version 2.1: name, active objects, objects,
 * size, objects a slab, pages a slab; tunables: rounds of a magazine, rounds of a first one, magazines a depot keeps;
 * slabdata: slabs with live objects, slabs, rounds in depots. A name of a merged cache has the figures of all, and "
 * : alias NAME" behind the columns, the first such cache's name. White space in names is printed as '_'. On machines
 * of several NUMA nodes a row is followed by one for each node that has slabs of it, a comment to programs that read
 * such tables: "# node N" in front of the name, then objects that are live or in threads' magazines, objects, slabs,
 * rounds in its depot. 0, or -1 when the stream has an error (errno from stdio) or is NULL (EINVAL).
 * Any thread. */
int slab_info(FILE *out);

/* -- epochs -------------------------------------------------------------------------------------------------------
 * Read sections, as the kernel's rcu_read_lock: what a thread finds inside one stays what it is until the thread has
 * left it, if whoever takes it away waits for a grace period first, or leaves the waiting to us: slab_free_deferred.
 * A grace period has passed when all sections that were open at its start have been left (McKenney and Slingwine,
 * "Read-Copy Update", 1998; Fraser's epochs, 2004). Objects of a SLAB_TYPESAFE_BY_EPOCH cache may be freed at once;
 * what waits is their slabs. */

/* Enter a section. Plain stores to memory of the thread's own: no lock, no atomic read-modify-write, no fence (where
 * the kernel lacks membarrier(2): a fence). Sections nest, up to 16,383 deep. Any thread; the first in a thread's
 * life registers it, with a lock and gettid(2), and the first in the process with further system calls. Legal in
 * signal handlers of threads that have entered a section before; a handler leaves what it enters. errno is kept.
 *
 * A section that stays open keeps everything that is retired meanwhile from being freed, and the slabs of all
 * type-safe caches from going back: keep it short, do not wait in it. After `epoch_stall_ms` (SLABMALLOC_OPTIONS)
 * its thread is named on standard error, once, if anybody waits for it. It ends at the latest with its thread
 * (but for one entered in its last destructors, or where there is no memory to know a thread by: leave those), and
 * goes on in the child of a fork, on the thread that called fork. A sandbox that a program enters after its first
 * section has to allow membarrier(2); where it answers with an error, memory waits until each thread has entered
 * another section. */
void slab_epoch_enter(void);

/* Leave the section that was entered last. Leaving once too often ends the process at the thread's next entry. */
void slab_epoch_leave(void);

/* How both are compiled into their callers, together eight instructions; SLAB_NO_INLINE makes them calls. What
 * follows is no program's business, but it stays as it is for programs that have it in them. */
struct slab_epoch_reader {
    uint64_t section;        /* 0 in its lower 16 bits: outside, and the next entry need only copy *started */
    const uint64_t *started; /* the latest grace period's number, and depth 1 */
};
void slab_epoch_enter_slow(void);
void slab_epoch_leave_slow(void);
#if defined(__GNUC__) && !defined(SLAB_NO_INLINE)
#define SLAB_THREAD_SANITIZER 0
#ifdef __SANITIZE_THREAD__ /* gcc's; clang has a feature */
#undef SLAB_THREAD_SANITIZER
#define SLAB_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#undef SLAB_THREAD_SANITIZER
#define SLAB_THREAD_SANITIZER 1
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
#if defined(__x86_64__) && !SLAB_THREAD_SANITIZER
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

/* Wait for a grace period: until all sections that other threads are in have been left. Microseconds when there are
 * none; but while there are other threads that have entered one, fewer than 1,000 grace periods that need a
 * membarrier(2) begin in a second, so that each call of a loop takes a millisecond. Called inside a section it ends
 * the process. Any thread, not in signal handlers, nor with a lock held that somebody inside a section may want.
 * errno is kept. */
void slab_epoch_synchronize(void);

/* Help time along without waiting for anybody: begin or end a grace period where one is wanted, retire what has
 * stood in threads' partly filled magazines for a while, free what has become free, and run the functions of
 * slab_epoch_call, and the destructors, that are due. True: a grace period has ended meanwhile. What a process with
 * several threads leaves to the worker, one with a single thread may do here, now and then; called inside a section
 * it runs neither. Any thread, not in signal handlers; errno is kept. */
bool slab_epoch_poll(void);

/* Wait until everything that was retired before this call, by any thread, has been freed, and all functions given to
 * slab_epoch_call before it have run: before a library that owns such a function is unloaded, or its cache destroyed
 * (the kernel's rcu_barrier). Takes what stands in other threads' magazines, at one membarrier(2) or a few. Called
 * inside a section, or in a function of slab_epoch_call, it ends the process. Any thread, not in signal handlers, nor
 * with a lock held that such a function, or somebody inside a section, may want. errno is kept. */
void slab_epoch_barrier(void);

/* What slab_epoch_call and slab_free_deferred_head are given: two words that lie inside an object of the caller's and
 * are the library's from then on, until the function is called, or the object freed. */
typedef struct slab_epoch_head {
    void *opaque[2];
} slab_epoch_head;

/* Call `function` with `head` after a grace period, once: in some thread's slab_epoch_poll or slab_epoch_barrier, or
 * in the library's worker (whose stack is 512 KiB); never inside this or any other call, nor under a lock of the
 * library. It may do anything, slab_epoch_call with the same head included, but slab_epoch_barrier, longjmp,
 * exceptions and cancellation. Functions run in the order in which one thread has given them, one after the other. In
 * a process without a worker (one thread, or worker=0) they wait for a poll or barrier. In the child of a fork those
 * that no other thread had begun with are called, too. They are best quick: while one runs in the worker, what has
 * aged in other threads' magazines waits. When the process exits, those that have not been called are dropped; the
 * worker may still call some while exit handlers run. NULL for either ends the process. Any thread, not in signal
 * handlers; inside a section, too. Needs no memory, and waits for nobody. The kernel's call_rcu. */
void slab_epoch_call(slab_epoch_head *head, void (*function)(slab_epoch_head *head));

/* Retire an object: free it after a grace period. Any pointer that free takes, of malloc's or a named cache's; NULL
 * is nothing. The caller has made it unreachable for readers that enter a section from now on. The kernel's
 * kfree_rcu with one argument.
 *
 * Costs about as much as free: the pointer goes into a magazine of the thread's own and of the object's size, which
 * becomes an ordinary full one when its grace period has passed, and never touches its objects. What is partly
 * filled is retired with the rest when it has stood for `deferred_max_delay_ms`, by the worker, or by some thread's
 * slab_epoch_poll; when its thread ends, at once. Where no other thread reads, retiring frees at once.
 *
 * The bytes that wait are bounded by `deferred_max_bytes` (what is in magazines that are not full yet does not count
 * for it). Beyond it this call waits for a grace period, 10 ms at most, and inside a section not at all: then more
 * wait, as slab_stats tells. Where there is no memory for a magazine this call waits for a grace period, however
 * long, and frees the object; but inside a section it cannot wait, and leaves the object unfreed, counted
 * (slab_stats.deferred_unfreed) and told on standard error once. Objects that wait count as live, in limits and for
 * slab_cache_destroy too.
 *
 * The first call in a process registers it for membarrier(2): in a sandbox that has to be allowed before.
 *
 * Retiring twice, or freeing what is retired, is a double free, seen as late as one, or not at all (README, Limits).
 * errno is kept. Any thread, not in signal handlers. */
void slab_free_deferred(void *ptr);

/* The same, with a head that lies inside the object and that no reader looks at: this form never waits, and never
 * fails; where there is no memory the object waits by its head. The kernel's kfree_rcu with two arguments. */
void slab_free_deferred_head(void *ptr, slab_epoch_head *head);

/* Retire n objects, as slab_free_deferred does one by one; NULL among them is nothing. `ptrs` is read only. */
void slab_free_deferred_bulk(size_t n, void *const ptrs[]);

/* -- per-CPU memory -----------------------------------------------------------------------------------------------
 * One object, a copy of it for every CPU that this machine may ever have: counters that all threads bump and anybody
 * can add up, free lists, statistics. As the kernel's alloc_percpu: one offset is valid on every CPU, a copy's
 * address is a shift and an addition, objects of all sizes lie side by side in the same cache lines, the pages of a
 * CPU's copies are its NUMA node's, and come with their first use (the kernel's alloc_percpu as Thirumalai wrote it
 * anew in 2005; Desnoyers, "Restartable sequences", 2015). */

/* A per-CPU object: no address, and no program can dereference it; slab_percpu_ptr and slab_percpu_this tell where
 * its copies lie. Sparse sees an address space of its own. */
#ifdef __CHECKER__
#define SLAB_PERCPU __attribute__((noderef, address_space(__slab_percpu)))
#else
#define SLAB_PERCPU
#endif
typedef struct slab_percpu_object SLAB_PERCPU *slab_percpu;

/* An object of `size` bytes, 1 to 32 KiB, zero on every CPU, its copies aligned to `align`: a power of two up to the
 * system's page (4 bytes at least are had). Copies of different objects may share a cache line: those of one CPU are
 * its own. NULL and EINVAL: no such size or alignment; NULL and ENOMEM: no memory, nothing is half-allocated. What
 * takes memory are the pages of copies that somebody writes to, 64 KiB of addresses a CPU are mapped at a time. errno
 * is kept otherwise. Any thread, not in signal handlers; takes a lock. The first call reads a file of /sys. */
slab_percpu slab_percpu_alloc(size_t size, size_t align);

/* Free it on all CPUs; NULL is nothing. What is no per-CPU object, or none any more, ends the process with a
 * message. The caller has seen to it that nobody uses any copy. errno is kept. Any thread, not in signal handlers;
 * takes a lock. */
void slab_percpu_free(slab_percpu object);

/* A field of an object that is a structure, for the calls below (not to be freed):
 * slab_percpu_add_long(slab_percpu_field(object, struct hits, misses), 1). */
#define slab_percpu_field(object, type, field) ((slab_percpu)((uintptr_t)(object) + offsetof(type, field)))

/* How many copies there are: for possible CPUs, whether they are online or not. Valid numbers are 0 to that less 1.
 * The same in the whole life of a process; 0 where the system does not tell, and allocating fails. Any thread, signal
 * handlers of processes that have allocated too. */
int slab_percpu_cpus(void);

/* The copy of CPU `cpu` (with the option percpu_cid: of whoever has that concurrency id). Any thread; the copy may be
 * another's, who does not wait. */
void *slab_percpu_ptr(slab_percpu object, int cpu);

/* The copy of the CPU that the calling thread is on just now. The thread may be on another CPU before it looks at the
 * copy: the pointer stays good, but what lies there may then be changed by two threads at once. Good for reading, for
 * atomic operations, and for what need not be exact; the calls below are exact. Any thread, signal handlers too. */
void *slab_percpu_this(slab_percpu object);

/* Changes of this CPU's copy, each whole on one CPU, whatever interrupts or moves the thread: nothing is lost. Where
 * the C library has registered restartable sequences (glibc 2.35 and later; Linux on x86-64 and arm64) they take a
 * few instructions, none of them atomic; elsewhere an atomic operation on the copy of the CPU that the thread was on
 * (GLIBC_TUNABLES=glibc.pthread.rseq=0 has it everywhere). A process uses the one or the other throughout. Another
 * CPU's copy may be read at the same time, atomically; whoever changes one through slab_percpu_ptr meanwhile loses
 * changes, atomic or not. Not ordered against other CPUs. errno is kept. Any thread, signal handlers too; but not
 * threads that were made without the C library, or have taken restartable sequences away from it, nor the child of a
 * vfork: the kernel does not know their sequences. A debugger that steps through one instruction by instruction
 * interrupts it each time, and never comes to its end: step over it, or turn sequences off as above.
 *
 * The object begins with a long, and so on: of that size at least, and so aligned. */
void slab_percpu_add_long(slab_percpu object, long value);
void slab_percpu_add_u64(slab_percpu object, uint64_t value);

/* Put `value` there; what was there. */
uintptr_t slab_percpu_xchg(slab_percpu object, uintptr_t value);

/* Put `value` there if `expected` is there; what was there: `expected`, if it was done. */
uintptr_t slab_percpu_cmpxchg(slab_percpu object, uintptr_t expected, uintptr_t value);

/* A stack for each CPU. The object is its head, a pointer, and begins as an empty one: NULL. Nodes are the caller's,
 * and lie in what he pushes. Pop takes the node that was pushed last on this CPU (without sequences: as a rule);
 * NULL: there is none here, or not just now. A popped node may be freed at once; unmapped only where its page cannot
 * be away (swapped, or marked by NUMA balancing). Visiting other CPUs' stacks: when nobody pushes or pops. */
typedef struct slab_percpu_node {
    struct slab_percpu_node *next;
} slab_percpu_node;
void slab_percpu_list_push(slab_percpu head, slab_percpu_node *node);
slab_percpu_node *slab_percpu_list_pop(slab_percpu head);

/* All copies added up, each read at a time of its own: exact when nobody adds; at any time not less than what had
 * been added before the call, if nothing is ever subtracted. Any thread, signal handlers too. */
long slab_percpu_sum_long(slab_percpu object);
uint64_t slab_percpu_sum_u64(slab_percpu object);

/* For all CPUs: `copy`, a pointer of the caller's, to each one's copy, and `cpu` its number.
 *
 *     struct hits *hits;
 *     slab_percpu_for_each(cpu, hits, object)
 *         total += hits->misses;
 */
#define slab_percpu_for_each(cpu, copy, object)                                                                      \
    for (int cpu = 0, cpu##_end = slab_percpu_cpus(); /* NOLINT(bugprone-macro-parentheses): a name */               \
         (cpu) < cpu##_end && ((copy) = (__typeof__(copy))slab_percpu_ptr((object), (cpu)), 1); (cpu)++)

/* How they are compiled into their callers; SLAB_NO_INLINE makes them calls (as gcc's -masm=intel wants). What
 * follows is no program's business, but it stays as it is for programs that have it in them. A copy lies 64 KiB
 * behind that of the CPU before; the place for CPU -1, which the object itself points to, is never mapped. */
#define SLAB_PERCPU_SHIFT 16
struct slab_percpu_here {
    ptrdiff_t sequence; /* from the thread's pointer: where the thread's sequence is announced; 0: no such thing */
    ptrdiff_t index;    /* and the number of its copy, 32 bits */
};
extern struct slab_percpu_here slab_percpu_here;
void slab_percpu_add_slow(slab_percpu object, uint64_t value);
void *slab_percpu_this_slow(slab_percpu object);

#if defined(__GNUC__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))
#define SLAB_PERCPU_SEQUENCES 1
/* A restartable sequence: announced, its instructions from 772 to 773 run undisturbed on one CPU, or the kernel
 * sends the thread to 774, and it begins anew. 771 is what it is announced by (struct rseq_cs of linux/rseq.h). The
 * kernel looks at that whenever it has interrupted the thread, so it is taken back at the end: what contains it may
 * be unloaded. */
#define SLAB_PERCPU_DESCRIPTOR                                                                                       \
    ".pushsection __rseq_cs, \"aw?\"\n\t.balign 32\n771:\t.long 0, 0\n\t.quad 772f, 773f - 772f, 774f\n\t"           \
    ".popsection\n770:\t"
#ifdef __x86_64__
#define SLAB_PERCPU_BEGIN SLAB_PERCPU_DESCRIPTOR "leaq 771b(%%rip), %%rax\n\tmovq %%rax, %%fs:(%[sequence])\n772:\t"
#define SLAB_PERCPU_INDEX "movl %%fs:(%[index]), %%eax\n\tshlq $16, %%rax\n\t"
#define SLAB_PERCPU_COPY "65536(%[object],%%rax)"
#define SLAB_PERCPU_END                                                                                              \
    "773:\tmovq $0, %%fs:(%[sequence])\n\t"                                                                          \
    ".subsection 1\n\t.byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n774:\tjmp 770b\n\t.previous\n"
#define SLAB_PERCPU_INPUTS [object] "r"(object), [sequence] "r"(sequence), [index] "r"(index)
#define SLAB_PERCPU_LOAD(to, offset)                                                                                 \
    __asm__("movq " offset "(%1), %0" : "=r"(to) : "r"(&slab_percpu_here), "r"(object))
#define SLAB_PERCPU_CLOBBERS "rax", "cc", "memory"
#else
#define SLAB_PERCPU_BEGIN                                                                                            \
    SLAB_PERCPU_DESCRIPTOR "adrp x16, 771b\n\tadd x16, x16, :lo12:771b\n\tstr x16, %[sequence]\n772:\t"
#define SLAB_PERCPU_INDEX "ldr w16, %[index]\n\tadd x16, %[object], x16, lsl #16\n\tadd x16, x16, #16, lsl #12\n\t"
#define SLAB_PERCPU_COPY "[x16]"
#define SLAB_PERCPU_END "773:\tstr xzr, %[sequence]\n\t.subsection 1\n\t.inst 0xd428bc00\n774:\tb 770b\n\t.previous\n"
#define SLAB_PERCPU_INPUTS                                                                                           \
    [object] "r"(object), [sequence] "Q"(*(void **)slab_percpu_at(sequence)),                                        \
        [index] "Q"(*(unsigned *)slab_percpu_at(index))
#define SLAB_PERCPU_LOAD(to, offset)                                                                                 \
    __asm__("ldr %0, [%1, #" offset "]" : "=r"(to) : "r"(&slab_percpu_here), "r"(object))
#define SLAB_PERCPU_CLOBBERS "x16", "x17", "cc", "memory"
extern __inline__ __attribute__((gnu_inline, always_inline)) void *slab_percpu_at(ptrdiff_t offset)
{
    return (char *)__builtin_thread_pointer() + offset;
}
#endif

/* What slab_percpu_here says has been settled since there was an object, so loops may read it once, before them: no
 * "memory" is named, but the object. */
#define SLAB_PERCPU_SETTLED                                                                                          \
    ptrdiff_t sequence, index;                                                                                       \
    SLAB_PERCPU_LOAD(sequence, "0");                                                                                 \
    SLAB_PERCPU_LOAD(index, "8")

extern __inline__ __attribute__((gnu_inline, always_inline)) unsigned slab_percpu_index(void)
{
    unsigned index;
#ifdef __x86_64__
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(index) : "r"(slab_percpu_here.index));
#else
    index = *(volatile unsigned *)slab_percpu_at(slab_percpu_here.index);
#endif
    return index;
}

extern __inline__ __attribute__((gnu_inline, always_inline)) void slab_percpu_add_word(slab_percpu object,
                                                                                       uint64_t value)
{
    SLAB_PERCPU_SETTLED;
    if (__builtin_expect(sequence == 0, 0)) {
        slab_percpu_add_slow(object, value);
        return;
    }
#ifdef __x86_64__
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX "addq %[value], " SLAB_PERCPU_COPY "\n" SLAB_PERCPU_END
                     :
                     : SLAB_PERCPU_INPUTS, [value] "er"(value)
                     : SLAB_PERCPU_CLOBBERS);
#else
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX "ldr x17, " SLAB_PERCPU_COPY
                                                         "\n\tadd x17, x17, %[value]\n\tstr x17, " SLAB_PERCPU_COPY
                                                         "\n" SLAB_PERCPU_END
                     :
                     : SLAB_PERCPU_INPUTS, [value] "r"(value)
                     : SLAB_PERCPU_CLOBBERS);
#endif
}
#endif

#if defined(SLAB_PERCPU_SEQUENCES) && !defined(SLAB_NO_INLINE)
extern __inline__ __attribute__((gnu_inline)) void *slab_percpu_ptr(slab_percpu object, int cpu)
{
    return (char *)(uintptr_t)object + (((size_t)cpu + 1) << SLAB_PERCPU_SHIFT);
}

extern __inline__ __attribute__((gnu_inline)) void *slab_percpu_this(slab_percpu object)
{
    if (__builtin_expect(slab_percpu_here.sequence == 0, 0))
        return slab_percpu_this_slow(object);
    return slab_percpu_ptr(object, (int)slab_percpu_index());
}

extern __inline__ __attribute__((gnu_inline)) void slab_percpu_add_long(slab_percpu object, long value)
{
    slab_percpu_add_word(object, (uint64_t)value);
}

extern __inline__ __attribute__((gnu_inline)) void slab_percpu_add_u64(slab_percpu object, uint64_t value)
{
    slab_percpu_add_word(object, value);
}
#endif

/* -- the process ----------------------------------------------------------------------------------------------- */

/* Figures of the whole process, in bytes or counts since its start. They are read one after the other while threads
 * go on: exact when the process is quiet. Fields are only ever appended. */
typedef struct slab_stats {
    uint64_t live_bytes;     /* handed out: sizes of the objects' classes, and of large objects in whole pages */
    uint64_t cached_bytes;   /* free objects in threads' magazines and depots' stock */
    uint64_t dirty_bytes;    /* free spans whose RAM has not been given back yet */
    uint64_t purged_bytes;   /* given back to the kernel since start */
    uint64_t reserved_bytes; /* addresses mapped for objects */
    uint64_t metadata_bytes; /* addresses mapped for the library's own structures */
    uint64_t deferred_bytes, deferred_objects; /* retired and not freed yet; they count as live, too */
    uint64_t grace_periods;                    /* of epochs, that have ended */
    uint64_t membarriers;     /* calls of membarrier(2): for grace periods, and as a rule one for each time that a
                                 cache is tuned, shrunk or destroyed, or a limit met */
    uint64_t refills, drains; /* trips of threads' magazines to the depots */
    uint64_t depot_locks;     /* how often a depot's lock was taken */
    uint64_t depot_contended; /* of these, how often it was found held */
    uint64_t slabs_made, slabs_released, purges;
    uint64_t threads, nodes;
    uint64_t caches;            /* that share slabs with none: size classes, and named ones that are no alias */
    uint64_t deferred_waits;    /* for a grace period, of threads that retired more than may wait */
    uint64_t deferred_excesses; /* magazines and heads retired although more waited than may, without waiting */
    uint64_t deferred_unfreed;  /* objects left unfreed for want of memory, inside sections */
    uint64_t epoch_stalls;      /* sections that were named for staying open too long */
    uint64_t percpu_objects, percpu_bytes; /* live per-CPU objects, and their bytes in one copy */
    uint64_t percpu_mapped_bytes;          /* addresses mapped for all copies together */
    uint64_t percpu_metadata_bytes;        /* of metadata_bytes, theirs */
    uint64_t remote_frees;                 /* of small objects of another node than the freeing thread's */
} slab_stats;

/* Fill the first size_of_out bytes of a slab_stats: pass sizeof *out, so that a program keeps working with a library
 * that knows of more. 0, or -1 and EINVAL when `out` is NULL or the size 0. Any thread; takes locks. */
int slab_get_stats(slab_stats *out, size_t size_of_out);

/* Figures of one NUMA node. What threads have in magazines counts for the node that they ran on at their last trip to
 * a depot, large objects for the node they were asked of, else that of the thread that allocated them. */
typedef struct slab_node_stats {
    uint64_t live_bytes, cached_bytes, dirty_bytes, purged_bytes, reserved_bytes; /* as in slab_stats */
    uint64_t slabs_made, slabs_released, purges;
    uint64_t depot_locks, depot_contended;
    uint64_t remote_frees; /* of other nodes' small objects by this node's threads */
    uint64_t threads;
} slab_node_stats;

/* The same for a node, 0 to slab_stats.nodes less 1; -1 and EINVAL for others. */
int slab_get_node_stats(int node, slab_node_stats *out, size_t size_of_out);

/* Give back to the kernel all that can go: the calling thread's magazines, the depots' stock, vacant slabs, free
 * spans. Returns the bytes purged. Any thread; takes as long as the kernel needs. */
size_t slab_purge(void);

#ifdef __cplusplus
}
#endif

#endif
