/* stub */
#include "sample/stack.h"
typedef int nothing;
