/* Copying commands out, and answers in; see mailbox.h. */
#include "process/mailbox.h"

#include <string.h>

#include "base/errno.h"
#include "depot/cache.h"
#include "thread/ownership.h"

slm_sparse struct slm_mailbox slm_mailbox;
slm_sparse _Atomic uint64_t slm_mailbox_seen;

__attribute__((section(".note.slabmalloc"), aligned(4), used)) const struct slm_mailbox_note slm_mailbox_note = {
    .name_bytes = sizeof SLM_INSPECT_NOTE,
    .bytes = sizeof slm_mailbox_note.bell,
    .type = SLM_INSPECT_NOTE_BELL,
    .name = SLM_INSPECT_NOTE,
};

static slm_mailbox_server *_Atomic server;

slm_cold void slm_mailbox_open(slm_mailbox_server *with)
{
    store_relaxed(&server, with);
}

/* The generation of the process whose thread serves, 0: nobody does. So a fork leaves nothing locked. */
static slm_sparse _Atomic uint32_t serving;

static slm_seldom bool begin(void)
{
    uint32_t before = load_relaxed(&serving);
    return before != slm_fork_generation && atomic_compare_exchange_strong(&serving, &before, slm_fork_generation);
}

/* A destructor may have forked, and this be the child: then it has let go already, or another thread serves there. */
static slm_seldom void end(void)
{
    uint32_t mine = slm_fork_generation;
    atomic_compare_exchange_strong(&serving, &mine, 0);
}

/* Another process may write at any moment: each word is read once. False: the sum shows a mixture. */
static slm_seldom bool copy_command(struct slm_command *to, uint64_t token)
{
    uint64_t words[sizeof *to / sizeof(uint64_t)];
    const volatile uint64_t *from = (const volatile uint64_t *)(const volatile void *)&slm_mailbox.command;
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
        words[i] = from[i];
    memcpy(to, words, sizeof words);
    return to->sum == slm_command_sum(to, token);
}

static slm_seldom void answer_with(const struct slm_answer *answer, uint64_t token)
{
    const size_t first = offsetof(struct slm_answer, error);
    memcpy((char *)&slm_mailbox.answer + first, (const char *)answer + first, sizeof *answer - first);
    store_release(&slm_mailbox.answer.token, token); /* a tool reads the token, then the rest, then the token */
}

static slm_seldom void serve_next(slm_mailbox_server *with, slm_mailbox_destruct *destruct)
{
    const uint64_t token = load_acquire(&slm_mailbox.command.token); /* a tool writes it last */
    const uint32_t generation = slm_fork_generation;
    struct slm_command command;
    struct slm_answer answer = {0};
    const bool is_new = token != load_relaxed(&slm_mailbox_seen);
    store_relaxed(&slm_mailbox_seen, token);
    if (!is_new || token == 0 || !with || !copy_command(&command, token))
        return;
    store_release(&slm_mailbox.answer.begun, (uint32_t)token); /* for a tool that would give up */
    with(&command, &answer, destruct);
    slm_fork_check();
    if (slm_fork_generation == generation)
        answer_with(&answer, token);
}

/* A handler of a thread that holds the cache mutex must not wait for it: if it is free, nobody holds it whom the
 * thread would wait for in vain. */
static slm_seldom bool mutex_is_free(void)
{
    const bool is_free = slm_cache_try_lock();
    if (is_free)
        slm_cache_unlock();
    return is_free;
}

slm_seldom void slm_mailbox_serve(slm_mailbox_destruct *destruct)
{
    slm_keep_errno();
    slm_fork_check();
    if (load_relaxed(&slm_tls.busy) || !begin())
        return;
    if (destruct || mutex_is_free())
        serve_next(load_relaxed(&server), destruct);
    end();
}

/* Most processes have a page of zeros there, which stays one. */
slm_seldom void slm_mailbox_fork_child(void)
{
    if (slm_mailbox_waits())
        store_relaxed(&slm_mailbox_seen, load_relaxed(&slm_mailbox.command.token));
}
