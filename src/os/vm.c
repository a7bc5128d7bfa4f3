/* Pages; see vm.h.
 *
 * The allocator wants one wide range of addresses. A reservation mapped PROT_NONE would count towards RLIMIT_AS, and
 * make mlockall fail under a finite RLIMIT_MEMLOCK (8 MiB is Debian's default). So nothing is mapped beforehand.
 * Instead a range is chosen where neither the kernel's own top-down or bottom-up choice nor ASan, Go, Java (ZGC) or
 * PIE binaries put anything. Pieces are mapped there as they are needed, with MAP_FIXED_NOREPLACE: a foreign mapping
 * is stepped over, never overwritten. Where no such range exists (small address spaces, ThreadSanitizer) a
 * reservation is mapped after all. */
#include "os/vm.h"

#include <link.h>
#include <linux/mempolicy.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/atomic.h"
#include "base/bits.h"
#include "base/call.h"
#include "os/sys.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

#ifndef MADV_COLD
#define MADV_COLD 20 /* Linux 5.4 */
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define TIB ((uintptr_t)1 << 40)

slm_once size_t slm_page_size = 4096;

static slm_once bool stacks_have_small_pages; /* memory that is mapped with MAP_STACK: since Linux 6.7 */

/* Returns the address, or -errno. */
static long map(void *address, size_t size, int access, int how)
{
    return slm_call(SYS_mmap, address, size, access, MAP_PRIVATE | MAP_ANONYMOUS | how, -1, 0);
}

static bool move(void *from, size_t from_size, size_t to_size, void *to)
{
    return slm_call(SYS_mremap, from, from_size, to_size, MREMAP_MAYMOVE | MREMAP_FIXED, to) >= 0;
}

/* The kernel's version, as LINUX_VERSION_CODE has it, from a note in the vDSO: no system call. 0: there is none. */
static slm_cold uint32_t kernel_version(void)
{
    const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
    if (!vdso)
        return 0;
    const ElfW(Ehdr) *header = (const void *)vdso;
    const ElfW(Phdr) *part = (const void *)(vdso + header->e_phoff), *end = part + header->e_phnum;
    while (part < end && part->p_type != PT_NOTE)
        part++;
    const struct {
        uint32_t name_bytes, bytes, type, name[2], version;
    } *note = (const void *)(vdso + part->p_offset); /* the first one */
    return part < end && note->type == 0 && note->name[0] == (uint32_t)('L' | 'i' << 8 | 'n' << 16 | 'u' << 24)
               ? note->version
               : 0;
}

/* x86 has pages of one size. Another thread may have been faster, and what was found be read-only by now. */
slm_cold void slm_vm_start(void)
{
    if (!stacks_have_small_pages && kernel_version() >= (6 << 16 | 7 << 8))
        stacks_have_small_pages = true;
#ifndef __x86_64__
    const size_t size = getauxval(AT_PAGESZ);
    if (size > 0 && size != slm_page_size)
        slm_page_size = size;
#endif
}

slm_once uint64_t slm_vm_address_limit = UINT64_MAX;

bool slm_vm_addresses_limited(void)
{
    struct {
        uint64_t soft, hard;
    } limit = {UINT64_MAX, UINT64_MAX}; /* the kernel's layout, whatever libc's rlim_t is */
    slm_call(SYS_prlimit64, 0, RLIMIT_AS, NULL, &limit);
    slm_vm_address_limit = limit.soft;
    return limit.soft != UINT64_MAX;
}

void *slm_vm_pick_range(size_t size, unsigned attempt)
{
#if UINTPTR_MAX > 0xffffffffu && !defined(__SANITIZE_THREAD__)
    const uintptr_t low = 22 * TIB, high = 42 * TIB; /* below a third of 47 bits, where bottom-up layouts start */
    if (size > high - low)
        return NULL;
    const uintptr_t slots = (high - low - size) >> 21;
    return (void *)(low + (slm_sys_entropy(attempt) % (slots + 1) << 21));
#else
    (void)size, (void)attempt;
    return NULL;
#endif
}

slm_seldom void *slm_vm_reserve_range(size_t size)
{
    const size_t unit = (size_t)2 << 20;
    const long got = map(NULL, size + unit, PROT_NONE, MAP_NORESERVE);
    if (got < 0)
        return NULL;
    slm_call(SYS_madvise, got, size + unit, MADV_DONTDUMP);
    return (void *)slm_align_up((uintptr_t)got, unit);
}

/* Fails where there are no others: fine. */
void slm_vm_keep_small(void *address, size_t size)
{
    slm_call(SYS_madvise, address, size, MADV_NOHUGEPAGE);
}

slm_seldom void *slm_vm_map_anywhere(size_t size)
{
    const long got = map(NULL, size, PROT_READ | PROT_WRITE, 0);
    return got >= 0 ? (void *)got : NULL;
}

slm_cold bool slm_vm_map(void *address, size_t size, unsigned how)
{
    const bool small = how & SLM_VM_SMALL_PAGES;
    const int flags = (how & SLM_VM_RESERVED ? MAP_FIXED : MAP_FIXED_NOREPLACE) | (small ? MAP_STACK : 0);
    long got = map(address, size, PROT_READ | PROT_WRITE, flags);
    if (got == (long)address) {
        if (small && !stacks_have_small_pages)
            slm_vm_keep_small(address, size);
        return true;
    }
    if (got >= 0) { /* before Linux 4.17 the flag is a mere hint */
        slm_call(SYS_munmap, got, size);
        got = -EEXIST;
    }
    errno = (int)-got;
    return false;
}

/* The addresses are claimed first, so that no foreign mapping is replaced. The model's second page is moved there: it
 * keeps its policy, and becomes longer on the way. The first page then grows by a new second one. */
slm_seldom bool slm_vm_map_as(void *model, void *address, size_t size, unsigned how)
{
    char *second = (char *)model + slm_page_size;
    if (!slm_vm_map(address, size, 0))
        return false;
    const bool moved = move(second, slm_page_size, size, address);
    if (moved)
        slm_call(SYS_mremap, model, slm_page_size, 2 * slm_page_size, 0);
    else
        slm_call(SYS_munmap, address, size); /* part of it may be gone */
    if (!moved)
        return slm_vm_map(address, size, how);
    if (how & SLM_VM_SMALL_PAGES)
        slm_vm_keep_small(address, size);
    return true;
}

slm_cold bool slm_vm_unmap(void *address, size_t size, bool reserved)
{
    return (reserved ? map(address, size, PROT_NONE, MAP_NORESERVE | MAP_FIXED)
                     : slm_call(SYS_munmap, address, size)) >= 0;
}

slm_cold bool slm_vm_is_mapped(const void *address)
{
    unsigned char resident;
    return slm_call(SYS_mincore, (uintptr_t)address & ~(slm_page_size - 1), (size_t)1, &resident) != -ENOMEM;
}

void slm_vm_read_only(void *address, size_t size)
{
    const uintptr_t first = slm_align_up((uintptr_t)address, slm_page_size);
    const uintptr_t end = ((uintptr_t)address + size) & ~(slm_page_size - 1);
    if (first < end)
        slm_call(SYS_mprotect, first, end - first, PROT_READ);
}

slm_seldom bool slm_vm_protect(void *address, size_t size, bool accessible)
{
    return slm_call(SYS_mprotect, address, size, accessible ? PROT_READ | PROT_WRITE : PROT_NONE) == 0;
}

static _Atomic bool locked;

static bool purge(char *address, size_t size, int how)
{
    return slm_call(SYS_madvise, address, size, how) == 0;
}

/* Programs may lock a page here and there; under mlockall both ends are locked. */
static slm_seldom __attribute__((noinline)) bool purge_locked(char *address, size_t size)
{
    if (!purge(address, slm_page_size, MADV_DONTNEED) &&
        !purge(address + size - slm_page_size, slm_page_size, MADV_DONTNEED))
        store_relaxed(&locked, true);
    return purge(address, size, MADV_DONTNEED_LOCKED);
}

bool slm_vm_purge(void *address, size_t size)
{
    return (unlikely(load_relaxed(&locked)) && purge(address, size, MADV_DONTNEED_LOCKED)) ||
           likely(purge(address, size, MADV_DONTNEED)) || purge_locked(address, size);
}

bool slm_vm_locked(void)
{
    return load_relaxed(&locked);
}

slm_for_few bool slm_vm_populate(void *address, size_t size)
{
    const long got = slm_call(SYS_madvise, address, size, MADV_POPULATE_WRITE);
    return got != -EINVAL && got != -EPERM && got != -ENOSYS;
}

bool slm_vm_bind(void *address, size_t size, unsigned node)
{
    unsigned long mask[16] = {0};
    if (node >= sizeof mask * 8)
        return false;
    mask[node / (8 * sizeof mask[0])] |= 1ul << node % (8 * sizeof mask[0]);
    return slm_call(SYS_mbind, address, size, MPOL_PREFERRED | MPOL_F_STATIC_NODES, mask, sizeof mask * 8,
                    MPOL_MF_MOVE) == 0;
}

void *slm_vm_page_wiped_on_fork(void)
{
    const long page = map(NULL, slm_page_size, PROT_READ | PROT_WRITE, 0);
    if (page >= 0 && slm_call(SYS_madvise, page, slm_page_size, MADV_WIPEONFORK) == 0)
        return (void *)page;
    if (page >= 0)
        slm_call(SYS_munmap, page, slm_page_size);
    return NULL;
}

/* Where the program has split the range (mprotect, mlock), Linux before 6.17 refuses. A newer one moves mapping by
 * mapping, and stops at one that cannot be moved (sealed, or under userfaultfd). What has been moved by then goes
 * back. mremap itself says what is mapped: sandboxes allow it. */
slm_for_few bool slm_vm_move(void *from, void *to, size_t size, size_t to_size)
{
    size_t gone = 0;
    if (likely(move(from, size, to_size, to)))
        return true;
    if (to_size > size) { /* several mappings cannot become longer on the way */
        slm_call(SYS_munmap, to, to_size);
        if (!slm_vm_map(to, to_size, 0))
            return false;
        if (move(from, size, size, to))
            return true;
    }
    while (gone < size && slm_call(SYS_mremap, (char *)from + gone, slm_page_size, slm_page_size, 0) == -EFAULT)
        gone += slm_page_size;
    if (gone > 0)
        move(to, gone, gone, from);
    return false;
}

unsigned slm_vm_resident(const void *address, size_t bytes)
{
    unsigned char pages[SLM_VM_HUGE_PAGE / 4096] = {0};
    unsigned count = 0;
    if (slm_call(SYS_mincore, address, bytes, pages) != 0) /* not all is mapped */
        return 0;
    for (size_t i = 0; i < sizeof pages; i++)
        count += pages[i] & 1;
    return count;
}

/* The first write makes all of it resident, or a small page. */
slm_seldom bool slm_vm_has_huge_pages(void)
{
    const long got = slm_page_size == 4096 ? map(NULL, 2 * SLM_VM_HUGE_PAGE, PROT_READ | PROT_WRITE, 0) : -ENOMEM;
    if (got < 0)
        return false;
    char *range = (char *)slm_align_up((uintptr_t)got, SLM_VM_HUGE_PAGE);
    slm_vm_expect_huge(range, SLM_VM_HUGE_PAGE);
    *(volatile char *)range = 1;
    const bool huge = slm_vm_resident(range, SLM_VM_HUGE_PAGE) == SLM_VM_HUGE_PAGE / 4096;
    slm_call(SYS_munmap, got, 2 * SLM_VM_HUGE_PAGE);
    return huge;
}

slm_seldom void slm_vm_expect_huge(void *address, size_t size)
{
    slm_call(SYS_madvise, address, size, MADV_HUGEPAGE);
}

slm_seldom bool slm_vm_make_huge(void *address)
{
    slm_vm_expect_huge(address, SLM_VM_HUGE_PAGE);
    const long got = slm_call(SYS_madvise, address, SLM_VM_HUGE_PAGE, MADV_COLLAPSE);
    if (got == 0 || got == -EINVAL)
        return true;
    slm_vm_keep_small(address, SLM_VM_HUGE_PAGE);
    return false;
}

/* Whatever is done to a part of a huge page splits it, and this does no more. */
slm_seldom void slm_vm_split(void *address)
{
    slm_call(SYS_madvise, address, slm_page_size, MADV_COLD);
}
