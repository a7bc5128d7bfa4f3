/* What area.h declares; page/reservation.c sets it. */
#include "page/area.h"

slm_once struct slm_range slm_range;
size_t slm_heap_limit;
