/* Units are powers of 1024, as in the library's options. */
#include "amount.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool amount_exact;

struct amount amount_of(uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct amount amount;
    if (amount_exact) {
        snprintf(amount.text, sizeof amount.text, "%" PRIu64, bytes);
    } else if (bytes < 1024) {
        snprintf(amount.text, sizeof amount.text, "%" PRIu64 " B", bytes);
    } else {
        double number = (double)bytes / 1024;
        unsigned unit = 0;
        while (number >= 1023.95) { /* which would be printed as 1024.0 */
            number /= 1024;
            unit++;
        }
        snprintf(amount.text, sizeof amount.text, "%.1f %s", number, units[unit]);
    }
    return amount;
}

static bool digits_parse(const char *text, uint64_t *number, char **end)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    *number = strtoull(text, end, 10);
    return errno == 0;
}

bool amount_parse(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (!digits_parse(text, bytes, &end))
        return false;
    if (!*end)
        return true;
    const char *suffix = strchr(suffixes, toupper((unsigned char)*end));
    if (!suffix || end[1])
        return false;
    unsigned shift = 10 * (unsigned)(suffix - suffixes + 1);
    if (*bytes > UINT64_MAX >> shift)
        return false;
    *bytes <<= shift;
    return true;
}

bool number_parse(const char *text, uint64_t most, uint64_t *number)
{
    char *end;
    return digits_parse(text, number, &end) && !*end && *number <= most;
}
