/* What the tests of the mailbox share: they write commands as a tool does, but in their own process. */
#pragma once

#include "unit.h"

#include "process/mailbox.h"

/* Tokens that nobody has used. */
static inline uint64_t new_token(void)
{
    static _Atomic uint64_t last;
    return (uint64_t)getpid() << 32 | (add_relaxed(&last, 1) + 1);
}

static inline struct slm_command command_of(uint32_t what, const char *said, uint64_t first, uint64_t second)
{
    struct slm_command command = {.what = what, .number = {first, second}};
    strncpy(command.text, said, sizeof command.text);
    return command;
}

/* All but the token; then the token. */
static inline void put_command(struct slm_command *command, uint64_t sum, uint64_t token)
{
    const size_t first = offsetof(struct slm_command, sum);
    command->sum = sum;
    memcpy((char *)&slm_mailbox.command + first, (char *)command + first, sizeof *command - first);
    store_release(&slm_mailbox.command.token, token); /* pairs with serve_next */
}

static inline uint64_t post(struct slm_command command)
{
    const uint64_t token = new_token();
    put_command(&command, slm_command_sum(&command, token), token);
    return token;
}

static inline bool is_answered(uint64_t token)
{
    return load_acquire(&slm_mailbox.answer.token) == token; /* pairs with answer_with */
}

/* Post, serve, and take the answer. */
static inline const struct slm_answer *ask(uint32_t what, const char *said, uint64_t first, uint64_t second)
{
    const uint64_t token = post(command_of(what, said, first, second));
    slm_mailbox_serve(NULL);
    require(is_answered(token));
    return &slm_mailbox.answer;
}
