/* The tables of size classes, as constants: read-only data, shared by all processes. */
#include "base/size_class.h"

/* The place for n bytes, n up to 1024, as a constant expression. */
#define CLASS(n)                                                                                                     \
    ((n) == 0     ? 0                                                                                                \
     : (n) <= 128 ? ((n)-1) / 16                                                                                     \
     : (n) <= 256 ? 8 + ((n)-1 - 128) / 32                                                                           \
     : (n) <= 512 ? 12 + ((n)-1 - 256) / 64                                                                          \
                  : 16 + ((n)-1 - 512) / 128)
#define PLACE(n) ((CLASS(n) + 1) * SLM_PLACE_UNITS)
#define PLACES4(n) PLACE(n), PLACE((n) + 1), PLACE((n) + 2), PLACE((n) + 3)
#define PLACES16(n) PLACES4(n), PLACES4((n) + 4), PLACES4((n) + 8), PLACES4((n) + 12)
#define PLACES64(n) PLACES16(n), PLACES16((n) + 16), PLACES16((n) + 32), PLACES16((n) + 48)
#define PLACES256(n) PLACES64(n), PLACES64((n) + 64), PLACES64((n) + 128), PLACES64((n) + 192)

const uint16_t slm_size_place[SLM_TABLE_MAX + 1] = {
    PLACES256(0), PLACES256(256), PLACES256(512), PLACES256(768), PLACE(1024),
};

const uint16_t slm_class_size[SLM_CLASSES] = {
    16,   32,   48,   64,   80,    96,    112,   128,   160,   192,   224,   256,   320,  384,
    448,  512,  640,  768,  896,   1024,  1280,  1536,  1792,  2048,  2560,  3072,  3584, 4096,
    5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
};

unsigned slm_class_of_aligned(size_t n, size_t align)
{
    if (n > SLM_SMALL_MAX || align > SLM_SMALL_MAX)
        return SLM_CLASSES;
    unsigned class = slm_class_of_size(n);
    while (class < SLM_CLASSES && (slm_class_size[class] & (align - 1)) != 0)
        class ++;
    return class;
}
