/* slab_inspect, by which tools outside find their way (base/inspect.h): by its symbol, or by a note that leads to it
 * where there are none. In archives this file comes with malloc (preload/malloc.c). */
#include "base/inspect.h"

#include "base/options.h"
#include "base/size_class.h"
#include "depot/cache.h"
#include "inspect/commands.h"
#include "inspect/profile_file.h"
#include "page/demand.h"
#include "process/fault.h"
#include "sample/samples.h"
#include "sample/stacks.h"

/* A name that no other file has. */
static const struct slm_inspect here __attribute__((alias("slab_inspect"), used));

__asm__(".pushsection .note.slabmalloc, \"a\", %note\n"
        ".balign 4\n"
        ".long 11, 4, 2\n"
        ".asciz \"slabmalloc\"\n"
        ".balign 4\n"
        ".long here - .\n"
        ".popsection");
static_assert(sizeof SLM_INSPECT_NOTE == 11 && SLM_INSPECT_NOTE_DISTANCE == 2, "the first line of the note");

slm_public slm_always_read const struct slm_inspect slab_inspect = {
    .magic = SLM_INSPECT_MAGIC,
    .version = SLM_INSPECT_VERSION,
    .bytes = sizeof slab_inspect,
    .library_version = SLAB_VERSION_STRING,
    .sample_bytes = &slm_settings.sample_bytes,
    .sample_chunks = slm_samples_chunks,
    .sample_counts = &slm_sample_counts,
    .stack_buckets = &slm_stacks_buckets,
    .caches = slm_caches,
    .cache_ids = SLM_CACHE_IDS,
    .classes = SLM_CLASSES,
    .class_sizes = slm_class_size,
    .cache_name_offset = sizeof(struct slm_cache) + offsetof(struct slm_cache_own, name),
    .used_bytes = &slm_demand_sums.taken,
    .mailbox = &slm_mailbox,
    .bell = &slm_mailbox_note.bell,
    .fault = &slm_fault_facts,
};

/* The options are read by then. */
__attribute__((constructor(102))) static slm_cold void begin(void)
{
    slm_mailbox_open(slm_command_run);
    if (unlikely((uint64_t)slm_options.profile_file[0] | slm_options.profile_signal))
        slm_profile_file_start(&slab_inspect);
}

__attribute__((destructor(102))) static slm_cold void write_profile(void)
{
    if (unlikely(slm_options.profile_file[0]))
        slm_profile_file_write(&slab_inspect);
}
