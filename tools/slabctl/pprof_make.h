/* A target's profile as pprof's. */
#pragma once

#include "pprof.h"
#include "profile.h"

/* `pprof` is initialized. */
void pprof_make(struct pprof *pprof, struct profile *profile);

/* The heap text that google-pprof reads. False with errno. */
bool legacy_write(struct profile *profile, bool allocated, int file);
