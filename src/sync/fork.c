/* The page that is cleared, and what happens then; see fork.h. */
#include "sync/fork.h"

#include <pthread.h>

#include "os/vm.h"

uint32_t slm_fork_generation = 1;

static _Atomic uint32_t no_page = 1;
_Atomic uint32_t *slm_fork_canary = &no_page;

static void (*in_child)(void);

static void child_of_fork(void)
{
    slm_fork_generation++;
    in_child();
}

static __thread bool noticing;

/* A second thread of the child's that comes by meanwhile waits: pairs with the release at the end. */
slm_slow void slm_fork_notice(void)
{
    uint32_t nobody = 0;
    if (noticing)
        return;
    if (atomic_compare_exchange_strong(slm_fork_canary, &nobody, 2)) {
        noticing = true;
        child_of_fork();
        noticing = false;
        store_release(slm_fork_canary, 1);
    }
    while (load_acquire(slm_fork_canary) == 2)
        slm_cpu_relax();
}

void slm_fork_start(void (*child)(void))
{
    _Atomic uint32_t *page = slm_vm_page_wiped_on_fork();
    in_child = child;
    if (page) {
        store_relaxed(page, 1);
        slm_fork_canary = page;
    } else {
        pthread_atfork(NULL, NULL, child_of_fork);
    }
}
