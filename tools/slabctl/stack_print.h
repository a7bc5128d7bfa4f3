/* Call stacks and figures on the terminal. */
#pragma once

#include "amount.h"
#include "profile.h"

struct stack_style {
    unsigned indent; /* columns in front of all lines but the first */
    unsigned width;  /* columns of the terminal */
    bool full;       /* all frames, whole names, and where they are */
};

/* Columns of the terminal, or a usual number where there is none. */
unsigned terminal_width(void);

/* Call stacks, the innermost function first, a line each. The cursor stands behind the indent, and then at the
 * beginning of a line. */
void stack_print(struct profile *profile, const struct site *site, const struct stack_style *style);

/* The function whose frame is the innermost one. */
const char *site_function(struct profile *profile, const struct site *site);

/* A name, shortened to so many columns; 0: as it is. */
void name_print(const char *name, unsigned width);

struct amount amount_of_estimate(double bytes);
/* "1234", "12.3k", "4.5M". */
struct amount number_of_estimate(double number);
