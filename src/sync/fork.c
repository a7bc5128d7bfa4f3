/* The page that is cleared, and the restart; see fork.h. */
#include "sync/fork.h"

#include <pthread.h>

#include "os/vm.h"

uint32_t slm_fork_generation = 1;

static _Atomic uint32_t no_page = 1;
slm_once _Atomic uint32_t *slm_fork_canary = &no_page;

static slm_once void (*restart)(void);
static __thread bool noticing; /* the restart and handlers that interrupt it must not wait for it */

static void child_of_fork(void)
{
    slm_fork_generation++;
    restart();
}

slm_slow void slm_fork_notice(void)
{
    uint32_t cleared = 0;
    if (noticing)
        return;
    if (atomic_compare_exchange_strong(slm_fork_canary, &cleared, 2)) {
        noticing = true;
        child_of_fork();
        noticing = false;
        store_release(slm_fork_canary, 1);
    }
    while (load_acquire(slm_fork_canary) == 2) /* pairs with the release above */
        slm_cpu_relax();
}

void slm_fork_start(void (*function)(void))
{
    _Atomic uint32_t *page = slm_vm_page_wiped_on_fork();
    restart = function;
    if (page) {
        store_relaxed(page, 1);
        slm_fork_canary = page;
    } else {
        pthread_atfork(NULL, NULL, child_of_fork);
    }
}
