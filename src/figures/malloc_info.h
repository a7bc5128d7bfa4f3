/* The figures of the process as glibc's calls show them: mallinfo2(3), malloc_stats(3), malloc_info(3). */
#pragma once

#include <malloc.h>
#include <stdio.h>

struct mallinfo2 slm_malloc_info(void);
void slm_malloc_info_print_stats(FILE *out);
void slm_malloc_info_print_xml(FILE *out);
