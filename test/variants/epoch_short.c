/* A mutant of epochs: stamps are one too low, so that things are freed a grace period too early. It stands in the
 * place of the library's slm_epoch_stamp. */
#include "sync/epoch.h"

uint64_t __real_slm_epoch_stamp(void);
uint64_t __wrap_slm_epoch_stamp(void);
uint64_t __wrap_slm_epoch_stamp(void)
{
    const uint64_t stamp = __real_slm_epoch_stamp();
    return stamp == 0 ? 0 : stamp - 1;
}
