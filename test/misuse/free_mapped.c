/* Memory that came from mmap. */
#include <sys/mman.h>

#include "misuse.h"

int main(void)
{
    void *mapped = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    announce("free", mapped, "not allocated by this library");
    free(hidden(mapped));
    return 0;
}
