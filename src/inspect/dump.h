/* A profile as a file: what tools read of a process's samples (base/inspect.h), in the form of an ELF core dump, so
 * that `slabctl --core FILE` reads it as it does others.
 *
 *     ELF header, program headers | notes: who it was, NT_FILE | first pages of programs and libraries |
 *     slab_inspect | words, chunks of samples, sizes of classes, names of caches, stacks by bucket, samples
 *
 * Nothing else of the process's memory is in it. Files' first pages tell whether a file is still the same. Segments
 * without bytes tell which mappings are code. slab_inspect lies at its own address, in the library's mapping. What it
 * leads to lies at addresses that no process has (SLM_DUMP_BASE), one thing close behind the other, and all pointers
 * are of there: so the file is as long as what it says, and its parts fit each other, whatever lay where.
 *
 * A core dump begins with how long everything is, and nothing waits meanwhile for it to be written. Stacks are those
 * that were in their lists at one moment: these lists only grow at their heads. Samples whose stack came later are
 * left out, and a record that is being changed all the time is marked as torn. Of the list of mappings, which is read
 * twice, the second copy is written, with room for some that came in between. */
#pragma once

#include "base/inspect.h"

#define SLM_DUMP_BASE ((uint64_t)1 << 61)

/* Write one to a descriptor that need not be seekable; `inspect` is slab_inspect. 0 or an errno code: write(2)'s;
 * ENOMEM, there are no 128 KiB of address space to work in; ENOENT, /proc/self/maps cannot be read. It only reads
 * what is the library's, takes no lock, and has no state: any thread, signal handlers too, with 4 KiB of stack. errno
 * is kept. */
int slm_dump_write(int descriptor, const struct slm_inspect *inspect);
