/* Sites are made as stacks are seen; each look fills in their figures anew. */
#include "profile.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amount.h"

struct profile *profile_open(struct target *target)
{
    struct profile *profile = memory(NULL, 1, sizeof *profile);
    struct modules *modules = modules_open(target);
    *profile = (struct profile){
        .target = target, .modules = modules, .unwinder = unwinder_open(modules), .symbols = symbols_open(modules)};
    return profile;
}

void profile_close(struct profile *profile)
{
    samples_free(&profile->samples);
    symbols_close(profile->symbols);
    unwinder_close(profile->unwinder);
    modules_close(profile->modules);
    intern_free(&profile->stacks);
    intern_free(&profile->numbers);
    free(profile->sites);
    free(profile->stack_sites);
    free(profile);
}

size_t profile_site_count(const struct profile *profile)
{
    return profile->stacks.count;
}

static uint32_t site_of_frames(struct profile *profile, const uint64_t *frames, size_t depth, bool cut)
{
    bool is_new;
    size_t number = intern(&profile->stacks, frames, depth * sizeof *frames, &is_new);
    if (is_new) {
        profile->sites = array_grow(profile->sites, &profile->site_room, number + 1, sizeof *profile->sites);
        profile->sites[number] = (struct site){.frames = profile->stacks.entries[number]->bytes, .depth = depth};
    }
    profile->sites[number].cut |= cut;
    return (uint32_t)number;
}

/* The site of a stack whose number was not known. */
static uint32_t site_new(struct profile *profile, const struct stack *stack)
{
    uint64_t frames[FRAMES_MOST];
    bool cut = false;
    size_t count = unwind(profile->unwinder, stack, frames, &cut);
    size_t own = symbols_own(profile->symbols, frames, count);
    return site_of_frames(profile, frames + own, count - own, cut);
}

static bool site_find(const struct profile *profile, uint32_t stack, uint32_t *site)
{
    size_t number;
    if (!intern_find(&profile->numbers, &stack, sizeof stack, &number))
        return false;
    *site = profile->stack_sites[number];
    return true;
}

static uint32_t site_of(struct profile *profile, const struct stack *stack)
{
    uint32_t site;
    if (site_find(profile, stack->number, &site))
        return site;
    site = site_new(profile, stack);
    size_t number = intern(&profile->numbers, &stack->number, sizeof stack->number, NULL);
    profile->stack_sites =
        array_grow(profile->stack_sites, &profile->number_room, number + 1, sizeof *profile->stack_sites);
    profile->stack_sites[number] = site;
    return site;
}

static int number_order(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

/* The numbers of stacks that live samples have, in order. */
static uint32_t *live_numbers(const struct samples *samples)
{
    uint32_t *numbers = memory(NULL, samples->count, sizeof *numbers);
    for (size_t i = 0; i < samples->count; i++)
        numbers[i] = samples->samples[i].stack;
    if (samples->count)
        qsort(numbers, samples->count, sizeof *numbers, number_order);
    return numbers;
}

double profile_mean(const struct profile *profile)
{
    const double usual = 2 << 20; /* where sampling is off, and nothing is known */
    double mean = fmax((double)profile->samples.sample_bytes, (double)profile->samples.longest_mean);
    return mean > 0 ? mean : usual;
}

static void allocated_add(struct profile *profile, const struct stack *stack)
{
    struct estimate *estimate = &profile->sites[site_of(profile, stack)].allocated;
    estimate_add_sums(estimate, stack->samples, stack->objects, stack->bytes, profile_mean(profile));
    estimate_add_sums(&profile->allocated, stack->samples, stack->objects, stack->bytes, profile_mean(profile));
}

/* What has no stack, or one that could not be read, has a site without frames. */
uint32_t profile_site_of(struct profile *profile, uint32_t stack)
{
    uint32_t site;
    return site_find(profile, stack, &site) ? site : site_of_frames(profile, NULL, 0, false);
}

static void live_add(struct profile *profile, const struct sample *sample)
{
    uint32_t number = profile_site_of(profile, sample->stack);
    struct site *site = &profile->sites[number];
    sample_add(&site->live, sample);
    sample_add(&profile->live, sample);
    if (sample->time_ns < site->oldest_ns)
        site->oldest_ns = sample->time_ns;
}

void profile_look(struct profile *profile, bool all)
{
    profile->all = all;
    samples_free(&profile->samples);
    samples_read(profile->target, &profile->samples);
    const struct samples *samples = &profile->samples;
    profile->live = profile->allocated = (struct estimate){0};
    for (size_t i = 0; i < profile_site_count(profile); i++) {
        struct site *site = &profile->sites[i];
        *site = (struct site){.frames = site->frames, .depth = site->depth, .cut = site->cut};
    }
    uint32_t *live = live_numbers(samples);
    for (size_t i = 0; i < samples->stack_count; i++)
        if (all || bsearch(&samples->stacks[i].number, live, samples->count, sizeof *live, number_order))
            site_of(profile, &samples->stacks[i]);
    free(live);
    for (size_t i = 0; i < profile_site_count(profile); i++)
        profile->sites[i].oldest_ns = UINT64_MAX;
    for (size_t i = 0; i < samples->count; i++)
        live_add(profile, &samples->samples[i]);
    for (size_t i = 0; all && i < samples->stack_count; i++)
        allocated_add(profile, &samples->stacks[i]);
}

/* -- what is left out ----------------------------------------------------------------------------------------- */

static void note(struct notes *notes, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct notes *notes, const char *format, ...)
{
    if (notes->count == PROFILE_NOTES_MOST)
        return;
    va_list list;
    va_start(list, format);
    vsnprintf(notes->text[notes->count++], sizeof notes->text[0], format, list);
    va_end(list);
}

bool profile_is_short(const struct profile *profile)
{
    const struct samples *samples = &profile->samples;
    return samples->unread || samples->more || (profile->all && samples->broken);
}

static void note_short(const struct profile *profile, struct notes *notes)
{
    const struct samples *samples = &profile->samples;
    const char *cut = target_is_cut(profile->target) ? "the file is cut: " : "";
    if (samples->unread)
        note(notes, "%sup to %zu of %zu samples cannot be read; the figures are too low", cut, samples->unread,
             samples->records);
    else if (samples->more)
        note(notes, "there are more samples or stacks than slabctl reads: the figures are too low");
    else
        note(notes, "%sstacks cannot be read from some place on in %zu of %d lists; what was allocated is too low",
             cut, samples->broken, SLM_STACK_BUCKETS);
}

void profile_short_say(const struct profile *profile)
{
    struct notes notes = {0};
    if (!profile_is_short(profile))
        return;
    note_short(profile, &notes);
    fail_later("%s: %s", target_name(profile->target), notes.text[0]);
}

/* What is known of stacks, and of files. */
static void note_stacks(const struct profile *profile, struct notes *notes)
{
    uint64_t ended = 0;
    if (unwinder_problem(profile->unwinder)) {
        note(notes, "call stacks cannot be followed: %s", unwinder_problem(profile->unwinder));
        return;
    }
    for (size_t i = 0; i < profile_site_count(profile); i++)
        if (!profile->sites[i].depth && profile->sites[i].cut)
            ended += profile->all ? profile->sites[i].allocated.samples : profile->sites[i].live.samples;
    if (ended)
        note(notes, "samples whose stack cannot be followed out of the library's own code: %ju", (uintmax_t)ended);
    if (!modules_tell_library(profile->modules))
        note(notes, "frames of the library's are shown, too: it is linked into a file that is not to be had");
}

void profile_notes(const struct profile *profile, struct notes *notes)
{
    const struct samples *samples = &profile->samples;
    *notes = (struct notes){0};
    if (profile_is_short(profile))
        note_short(profile, notes);
    if (!samples->sample_bytes)
        note(notes, "sampling is off (sample_bytes=0): what was allocated since is not in the figures");
    else if (samples->gaps)
        note(notes, "sampling was off for a time: what was allocated then is not in the figures");
    if (samples->losses)
        note(notes, "samples lost, as there was no room for them: %ju; the figures are too low",
             (uintmax_t)samples->losses);
    if (samples->stack_losses)
        note(notes, "samples without a stack, as there was no room for more stacks: %ju",
             (uintmax_t)samples->stack_losses);
    note_stacks(profile, notes);
    if (samples->torn)
        note(notes, "samples left out, as they changed while they were read: %zu", samples->torn);
    if (samples->damaged)
        note(notes, "samples left out, as they make no sense: %zu", samples->damaged);
    if (samples->broken && !profile->all)
        note(notes, "lists of stacks that make no sense from some place on: %zu; samples there have no stack",
             samples->broken);
    if (target_copies(profile->target) > 1)
        note(notes, "the process has %u copies of the library: this is the one with most in use",
             target_copies(profile->target));
}
