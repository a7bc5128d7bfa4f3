/* stub */
#include "sample/stacks.h"
uint32_t slm_stacks_here(void)
{
    return 0;
}
void slm_stacks_count_new(uint32_t number, struct slm_weight weight)
{
    (void)number;
    (void)weight;
}
void slm_stacks_count_live(uint32_t number, struct slm_weight weight, int sign)
{
    (void)number;
    (void)weight;
    (void)sign;
}
