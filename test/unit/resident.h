/* Whether pages are resident, and kernels that cannot populate them. */
#pragma once

#include "unit.h"

#include "os/vm.h"

#define GIB ((uint64_t)1 << 30)

enum { ADVICE_POPULATE_WRITE = 23 };

static inline bool is_resident(const void *page)
{
    unsigned char resident;
    require(mincore((void *)((uintptr_t)page & ~(slm_page_size - 1)), slm_page_size, &resident) == 0);
    return resident & 1;
}

/* From here on the process's kernel answers so. */
static inline void refuse_populating(unsigned error)
{
    require(syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0); /* which the library does not see */
    refuse_argument(SYS_madvise, 2, ADVICE_POPULATE_WRITE, error);
}

/* Before Linux 5.14, in some sandboxes, and where the counts of the tests are others. */
static inline void skip_without_populating(void)
{
    char *page = mmap(NULL, slm_page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED);
    const bool populates = madvise(page, slm_page_size, ADVICE_POPULATE_WRITE) == 0;
    munmap(page, slm_page_size);
    if (!populates || slm_page_size != 4096)
        skip();
}
