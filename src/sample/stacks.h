/* stub */
#pragma once
#include "base/inspect.h"
#include "sample/interval.h"
uint32_t slm_stacks_here(void);
void slm_stacks_count_new(uint32_t number, struct slm_weight weight);
void slm_stacks_count_live(uint32_t number, struct slm_weight weight, int sign);
