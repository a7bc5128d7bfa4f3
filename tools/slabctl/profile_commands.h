/* The commands that read samples. */
#pragma once

#include "command.h"

extern const struct command profile_commands[];

extern const struct argp top_argp, profile_argp, leaks_argp;
void top_run(const struct request *request);
void profile_run(const struct request *request);
void leaks_run(const struct request *request);
