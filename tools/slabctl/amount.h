/* Numbers for people. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* True: amounts are exact, in bytes (--bytes). */
extern bool amount_exact;

struct amount {
    char text[32];
};

/* "512 B", "1.5 KiB", "12.3 MiB"; or "12897484". */
struct amount amount_of(uint64_t bytes);

/* A number with K, M, G or T behind it, or without: of bytes. False: it is none. */
bool amount_parse(const char *text, uint64_t *bytes);
/* A number in decimal digits. */
bool number_parse(const char *text, uint64_t most, uint64_t *number);
