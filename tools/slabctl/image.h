/* ELF files as a target has them in its memory: where one is loaded, which build it is, and a file made of that
 * memory, for those files that are not to be had any more. The memory may be hostile: sizes are checked and bounded
 * here, what is made is checked by libelf, as files are. */
#pragma once

#include "target.h"

enum { IMAGE_SEGMENTS_MOST = 64, BUILD_ID_BYTES_MOST = 64 };

struct image {
    uint64_t start; /* where the file's first byte lies, */
    uint64_t bias;  /* and what is added to the file's addresses */
    GElf_Ehdr header;
    GElf_Phdr segments[IMAGE_SEGMENTS_MOST];
};

/* The one that a mapping of code is part of. False where its headers are not in memory, or do not lead to it. */
bool image_find(struct target *target, const struct mapping *mapping, struct image *image);

/* The one whose first mapping this is; its other segments are taken to lie where they are to. */
bool image_find_first(struct target *target, const struct mapping *mapping, struct image *image);

/* The id's length; 0: there is none, or it is not in memory. */
size_t image_build_id(struct target *target, const struct image *image, unsigned char id[BUILD_ID_BYTES_MOST]);

/* Whether a file has this id. */
bool file_has_build_id(int file, const unsigned char *id, size_t bytes);

/* A file in memory with what is loaded of the ELF file, each byte at its offset, and without sections; -1 where its
 * unwind tables are not in memory. It takes what it reads off `budget`, and reads no more. The caller closes it. */
int image_file(struct target *target, const struct image *image, uint64_t *budget);
