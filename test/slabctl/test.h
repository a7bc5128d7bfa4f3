/* What these tests share. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../chance.h"

#define assert_near(a, b, distance) assert_true(fabs((double)(a) - (double)(b)) <= (distance))

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
