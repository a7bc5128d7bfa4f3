/* The tables of size classes, as constants: read-only data, shared by all processes. */
#include "base/size_class.h"

/* The slot offset for n bytes, n up to 1024, as a constant expression. */
#define STEPS(n, above, id, step) ((id) + ((n)-1 - (above)) / (step))
#define CLASS(n)                                                                                                     \
    ((n) == 0     ? 0                                                                                                \
     : (n) <= 256 ? STEPS(n, 0, 0, 16)                                                                               \
     : (n) <= 272 ? 16                                                                                               \
     : (n) <= 384 ? STEPS(n, 256, 17, 32)                                                                            \
     : (n) <= 400 ? 21                                                                                               \
     : (n) <= 512 ? STEPS(n, 384, 22, 32)                                                                            \
     : (n) <= 576 ? 26                                                                                               \
     : (n) <= 608 ? 27                                                                                               \
                  : STEPS(n, 576, 28, 64))
#define OFFSET(n) ((CLASS(n) + 1) * SLM_SLOT_SIZE)
#define OFFSETS4(n) OFFSET(n), OFFSET((n) + 1), OFFSET((n) + 2), OFFSET((n) + 3)
#define OFFSETS16(n) OFFSETS4(n), OFFSETS4((n) + 4), OFFSETS4((n) + 8), OFFSETS4((n) + 12)
#define OFFSETS64(n) OFFSETS16(n), OFFSETS16((n) + 16), OFFSETS16((n) + 32), OFFSETS16((n) + 48)
#define OFFSETS256(n) OFFSETS64(n), OFFSETS64((n) + 64), OFFSETS64((n) + 128), OFFSETS64((n) + 192)

slm_always_read const uint16_t slm_size_slot_offset[SLM_TABLE_MAX + 1] = {
    OFFSETS256(0), OFFSETS256(256), OFFSETS256(512), OFFSETS256(768), OFFSET(1024),
};

slm_always_read const uint16_t slm_class_size[SLM_CLASSES] = {
    16,    32,    48,    64,    80,    96,    112,   128,   144,   160,   176,   192,   208,   224,   240,
    256,   272,   288,   320,   352,   384,   400,   416,   448,   480,   512,   576,   608,   640,   704,
    768,   832,   896,   960,   1024,  1152,  1280,  1408,  1536,  1664,  1792,  1920,  2048,  2304,  2560,
    2816,  3072,  3328,  3584,  3840,  4096,  4608,  5120,  5632,  6144,  6656,  7168,  7680,  8192,  9216,
    10240, 11264, 12288, 13312, 14336, 15360, 16384, 18432, 20480, 22528, 24576, 26624, 28672, 30720, 32768,
};
