/* What tools read in the memory of a process that runs on the library, and the mailbox in which they leave commands.
 * These structs are all that both sides know of each other (tools/slabctl has the other side).
 *
 *     ELF symbol slab_inspect -> | magic, version, bytes | where what lies ... | <- fields are only ever added
 *                                                            |
 *                 chunks of samples <---- stacks <---- mailbox, names of caches, figures
 *
 * A tool finds the symbol in the file that is mapped, and reads with process_vm_readv(2), or out of a core dump. It
 * reads while threads go on: so it takes nothing for granted, and each struct says how a torn one is seen. The
 * library trusts nothing of what it finds in the mailbox.
 *
 * Addresses are of the process. All integers have its byte order. */
#pragma once

#include <slabmalloc.h>

#include "base/atomic.h"

#define SLM_INSPECT_MAGIC "slabeyes"
enum { SLM_INSPECT_VERSION = 1 };

/* -- samples ----------------------------------------------------------------------------------------------------- */

/* A live object that was sampled. Index 1 is the first of the first chunk.
 *
 * A record is written by the thread that allocates, and ended by the one that frees: `object` is set last, and
 * cleared first. A reader copies it, and then looks whether `serial` is still the same, and even. */
struct slm_sample {
    _Atomic uint64_t object; /* its address; 0: the record is not in use */
    uint64_t asked, given;   /* bytes: what the program asked for, and what one that is not sampled may use */
    uint64_t mean;           /* of the intervals when it was sampled: it stands for 1 / (1 - exp(-weighed / mean)) */
    uint64_t time_ns;        /* CLOCK_MONOTONIC, when it was allocated */
    uint32_t stack;          /* number of its stack, 0: none was kept */
    uint32_t thread;         /* the kernel's id of the thread that allocated it */
    uint16_t cache;          /* id of its cache (classes come first); SLM_SAMPLE_LARGE: it has a span of its own */
    uint16_t unused;
    _Atomic uint32_t serial; /* raised before and after each change */
    _Atomic uint32_t next;   /* of the free records */
    uint32_t weighed;        /* what was asked for then; later it may have grown or shrunk in place. 0: it grew to all
                              * that its place has, was not sampled as what it is now, and stands for nothing */
};
static_assert(sizeof(struct slm_sample) == 64, "one line");

enum { SLM_SAMPLES_FIRST = 8, SLM_SAMPLE_DOUBLINGS = 11, SLM_SAMPLE_CHUNKS = 128, SLM_SAMPLE_LARGE = UINT16_MAX };

/* How many records a chunk has: each of the first twice as many as the one before. */
slm_inline uint32_t slm_samples_in(unsigned chunk)
{
    return (uint32_t)SLM_SAMPLES_FIRST << (chunk < SLM_SAMPLE_DOUBLINGS ? chunk : SLM_SAMPLE_DOUBLINGS);
}

struct slm_sample_counts {
    _Atomic uint32_t top;                  /* no index above this is in use */
    _Atomic uint32_t longest_mean_kib;     /* of the intervals of all samples so far */
    _Atomic uint64_t losses, stack_losses; /* samples for which there was no record, or for whose stack no room */
    _Atomic uint64_t gaps; /* not 0: there was a time when nothing was sampled, as the option said so */
};

/* -- stacks ------------------------------------------------------------------------------------------------------ */

/* Where from objects were allocated: a call stack, stored once, whose bytes never change. The counts do.
 *
 * SLM_STACK_FRAMES: values[] are return addresses, the innermost first, as the files' unwinding tables have them, or
 * frame pointers where there are no tables. There are no registers.
 *
 * SLM_STACK_IMAGE: the registers of the innermost frame, and the words at the top of the stack that an unwinder may
 * need: addresses in loaded files, and addresses in this very stretch of stack. Other words are left out; they
 * read as 0. The stack's address is not kept, so that equal stacks are equal wherever they lie: where a bit of
 * `relative` is set, or an offset has SLM_STACK_RELATIVE, the value is a distance in bytes from the stack pointer.
 *
 *     values[0..registers-1]   in the order of slm_stack_registers, the program counter first. The stack pointer is
 *                              none of them: it is what distances start from.
 *     values[registers..]      words of the stack; offsets[i] says where the i-th of them lies, in words above the
 *                              stack pointer. The offsets, 16 bits each, stand behind the values. */
enum slm_stack_kind { SLM_STACK_FRAMES = 1, SLM_STACK_IMAGE = 2 };

#define SLM_STACK_RELATIVE ((uint16_t)1 << 15)

struct slm_stack {
    uint64_t next;           /* address of the next stack in its bucket; 0: none */
    uint32_t number, hash;   /* the number that samples have; never 0 */
    uint8_t kind, registers; /* enum slm_stack_kind; how many of the values are registers */
    uint16_t words;          /* values behind the registers; of frames: all */
    uint32_t relative;       /* a bit for each register */
    uint32_t covered;        /* bytes above the stack pointer that were looked at; above them are words that frame */
    uint32_t cut;            /* pointers led to. 1: the stack goes on behind them */
    /* Of all objects that were allocated from here since start: */
    _Atomic uint64_t samples;                                     /* how many were sampled */
    _Atomic uint64_t objects_1024;                                /* how many they stand for, in 1/1024 */
    _Atomic uint64_t bytes;                                       /* how many bytes these had asked for last */
    _Atomic uint64_t live_samples, live_objects_1024, live_bytes; /* the same of those that are live */
    uint64_t values[];
};

/* DWARF's numbers of the registers that an image has, for this machine; the first is the program counter. */
#ifdef __x86_64__
enum { SLM_STACK_REGISTERS = 7 }; /* rip 16, rbx 3, rbp 6, r12, r13, r14, r15 */
#define SLM_STACK_REGISTER_NUMBERS                                                                                   \
    {                                                                                                                \
        16, 3, 6, 12, 13, 14, 15                                                                                     \
    }
#else
enum { SLM_STACK_REGISTERS = 12 }; /* pc 32, x19 to x28, x29; of arm64 */
#define SLM_STACK_REGISTER_NUMBERS                                                                                   \
    {                                                                                                                \
        32, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29                                                               \
    }
#endif

/* Stacks are found by hash: bucket hash % SLM_STACK_BUCKETS has the address of a list. */
enum { SLM_STACK_BUCKETS = 256 };

/* -- the mailbox ------------------------------------------------------------------------------------------------- */

enum slm_command_what {
    SLM_COMMAND_STATS = 1, /* answer: the bytes of a slab_stats (slabmalloc.h), at `address` */
    SLM_COMMAND_CACHES,    /* number[0]: so many are left out; answer: slm_command_cache records at `address`, and
                            * number[0]: how many there are without that, of which the answer may be a part */
    SLM_COMMAND_PURGE,     /* answer: number[0] bytes were purged */
    SLM_COMMAND_LIMIT,     /* number[0]: bytes, 0 for none; answer: number[0] as it was before */
    SLM_COMMAND_SHRINK,    /* text: caches' name, empty: all; answer: number[0] bytes of slabs were given back, by
                            * number[1] caches */
    SLM_COMMAND_TUNE,      /* text: caches' name; number[0]: rounds, number[1]: magazines; answer: number[1] caches */
    SLM_COMMAND_OPTION,    /* text: NAME or NAME=VALUE; answer: text, NAME=VALUE as it is then */
};

enum { SLM_COMMAND_TEXT = 160 };

/* A tool writes all of it but the token, then the token, a random number that is not 0. Its sum over the other words
 * shows a mixture of two tools' commands, which is not looked at. Nor is a token once more: who gets no answer, as
 * another tool came in between, or the process has forked, tries again with a new one. */
struct slm_command {
    _Atomic uint64_t token;
    uint64_t sum; /* see slm_command_sum */
    uint32_t what, unused;
    uint64_t number[2];
    char text[SLM_COMMAND_TEXT];
};

/* The library writes all of it but the token, then the token of the command that it answers. */
struct slm_answer {
    _Atomic uint64_t token;
    int32_t error; /* an errno code; 0: done. ENOSYS: no such command; ENOENT: no such cache, or option; EPERM: the
                    * option cannot change; EINVAL: what the command says is not valid, and the text may say why */
    _Atomic uint32_t begun; /* low half of the token of a command that is being carried out: it may take long */
    uint64_t number[2];
    uint64_t address, bytes; /* of what is too long for the text; it stays until the next command */
    char text[SLM_COMMAND_TEXT];
};

/* A name of a cache, and the cache. Names that share one have the same id and figures. Size classes, which have one
 * name each, are there once they have been used. */
struct slm_command_cache {
    uint32_t id, unused;
    struct slab_cache_stats stats; /* the name comes first */
};
static_assert(sizeof(struct slm_command_cache) == 176, "the same for both sides");

struct slm_mailbox {
    struct slm_command command;
    struct slm_answer answer;
};

/* Over all words of a command but the first two. The token is in it, so that an old sum does not fit a new token. */
slm_inline uint64_t slm_command_sum(const struct slm_command *command, uint64_t token)
{
    uint64_t sum = token;
    const uint64_t *word = (const uint64_t *)(const void *)command;
    for (unsigned i = 2; i < sizeof *command / sizeof *word; i++)
        sum = (sum ^ word[i]) * 0x9e3779b97f4a7c15u + (sum >> 29);
    return sum;
}

/* -- misuse that guards have stopped ----------------------------------------------------------------------------- */

/* Of an object with guards (option guard=1); written before the process ends, so it is for core dumps. */
struct slm_inspect_fault {
    uint64_t object, bytes;         /* its address; how long it is. 0: nothing has happened */
    uint64_t address;               /* of the access, or what a call was given */
    uint32_t stack, thread;         /* where it was allocated, and by whom; 0: not known */
    uint32_t end_stack, end_thread; /* the same of its free; 0: it has not been freed */
};

/* -- where all that lies ----------------------------------------------------------------------------------------- */

/* The library's slab_inspect. Pointers may be NULL where a build lacks the part. */
struct slm_inspect {
    char magic[8];
    uint32_t version, bytes;  /* of this struct: what ends behind it is not there */
    char library_version[16]; /* with a NUL if it is shorter */
    /* samples */
    const _Atomic uint64_t *sample_bytes; /* the mean interval now; 0: there is no sampling */
    const void *sample_chunks;            /* SLM_SAMPLE_CHUNKS addresses of chunks; 0: not made yet */
    const struct slm_sample_counts *sample_counts;
    const void *stack_buckets; /* the address of SLM_STACK_BUCKETS lists; 0: there is no stack yet */
    /* caches */
    const void *caches;          /* the address of each cache, by id; 0: there is none */
    uint32_t cache_ids, classes; /* how many ids there are, and how many are malloc's, which have no entry there */
    const uint16_t *class_sizes; /* of objects, by id */
    uint64_t cache_name_offset;  /* in a cache: its name, 64 bytes with the NUL */
    /* figures */
    const _Atomic uint64_t *used_bytes; /* of spans, since start: [0] taken, [1] freed. What is between is in use */
    /* the mailbox, and a word in the library's file, whose shared futex the worker waits on. FUTEX_WAKE (not
     * private, all sleepers) on the same word in a tool's own mapping of that file wakes it. As the word never
     * changes, the worker may fall asleep just after that: a tool rings again and again until there is an answer. */
    struct slm_mailbox *mailbox;
    const uint32_t *bell;
    /* misuse */
    const struct slm_inspect_fault *fault;
};

/* For files without symbols, such as programs that are linked with the archive and stripped: an ELF note of this
 * name and the second type holds how far from itself slab_inspect lies, in bytes, as 32 bits with a sign. (One of
 * the first type has the bell.) */
#define SLM_INSPECT_NOTE "slabmalloc"
enum { SLM_INSPECT_NOTE_BELL = 1, SLM_INSPECT_NOTE_DISTANCE = 2 };

/* Exported; see preload/inspect.c. */
extern slm_public const struct slm_inspect slab_inspect;
