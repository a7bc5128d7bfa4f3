/* Frames, and the words that an unwinder needs; see stack.h. */
#include "sample/stack.h"

#include <pthread.h>
#include <string.h>

#include "os/background.h"
#include "os/sys.h"
#include "os/vm.h"
#include "page/area.h"
#include "sample/tables.h"

/* The stack is read word by word, whatever its variables are: past what AddressSanitizer lets anybody read. */
#define READS_STACKS slm_unordered __attribute__((no_sanitize("address"), no_sanitize("undefined")))

enum { WORD = sizeof(uint64_t), BLOCK = 64, COPIED = 1280, PAGES_MOST = 64 };

static const uintptr_t lowest = 64 << 10;                      /* the kernel maps nothing below */
static const uintptr_t main_bytes = 1 << 20;                   /* see stack.h */
static const size_t reach = SLM_STACK_RELATIVE * (size_t)WORD; /* of offsets */

#ifdef __aarch64__
enum { ADDRESS_BITS = 48 }; /* above them, return addresses may be signed */
#else
enum { ADDRESS_BITS = 47 };
#endif

extern void *__libc_stack_end;

/* A piece of a stack that may be unmapped at any time. */
struct piece {
    uint64_t words[COPIED / WORD];
    size_t first, bytes; /* distances from the stack pointer */
};

struct shot {
    struct slm_stack *stack;
    uintptr_t pointer;            /* the stack pointer */
    size_t certain;               /* bytes above it that can be read */
    struct piece *piece;          /* of what is above these; NULL: that cannot be had */
    size_t window;                /* bytes above it within which an address is one of this stack */
    uintptr_t range, range_bytes; /* the library's own addresses */
    unsigned words;
    unsigned behind;   /* the word, counted from the stack pointer, that lies behind a saved frame pointer */
    uint16_t *offsets; /* at the record's end, until all values are known */
    struct slm_code code;
    struct piece room; /* of piece */
    struct slm_tables_window tables_window;
};
static_assert(sizeof(struct shot) <= SLM_STACK_WORK, "a record has room for it");

/* -- what can be read ------------------------------------------------------------------------------------------- */

static size_t rest_of_page(uintptr_t pointer)
{
    return slm_page_size - (pointer & (slm_page_size - 1));
}

/* In a thread's descriptor the C library notes, in a row, where its stack begins, how many bytes that has, and how
 * many of these are guard. The descriptor lies at the stack's end. The first thread's notes no beginning. */
enum { DESCRIPTOR_WORDS = 256, NOTE_WORDS = 3 };

static slm_sampling READS_STACKS bool is_note_of_stack(const uintptr_t *note, uintptr_t descriptor)
{
    const uintptr_t least = 4 << 10, most = (uintptr_t)1 << 36, most_behind = 1 << 20;
    const uintptr_t start = note[0], bytes = note[1], guard = note[2], behind = start + bytes - descriptor;
    return start >= lowest && start < descriptor - least && bytes < most && guard < bytes &&
           behind >= DESCRIPTOR_WORDS * sizeof(uintptr_t) && behind < most_behind;
}

/* No header says where in the descriptor that is. It is looked for once. */
static slm_sampling READS_STACKS const uintptr_t *find_note_of_stack(uintptr_t descriptor)
{
    static slm_sampled_state _Atomic uint32_t place;
    const uintptr_t *words = (const void *)descriptor;
    const uint32_t known = load_relaxed(&place); /* no order: it is looked at anew */
    if (known != 0 && is_note_of_stack(&words[known], descriptor))
        return &words[known];
    if (!slm_sys_readable(&words[DESCRIPTOR_WORDS - 1]))
        return NULL;
    for (uint32_t i = 1; i <= DESCRIPTOR_WORDS - NOTE_WORDS; i++) {
        if (is_note_of_stack(&words[i], descriptor)) {
            store_relaxed(&place, i);
            return &words[i];
        }
    }
    return NULL;
}

/* Its own, that is. A program may have closed pages of it. */
static slm_sampling bool is_thread_stack(uintptr_t pointer, uintptr_t descriptor)
{
    const uintptr_t *note =
        descriptor - pointer <= PAGES_MOST * slm_page_size ? find_note_of_stack(descriptor) : NULL;
    if (!note || pointer < note[0])
        return false;
    for (uintptr_t page = pointer + rest_of_page(pointer); page < descriptor; page += slm_page_size)
        if (!slm_sys_readable((const void *)page))
            return false;
    return true;
}

slm_sampling bool slm_stack_is_roomy(const void *stack_pointer)
{
    enum { SHORT = 64 << 10 };
    return (uintptr_t)__libc_stack_end - (uintptr_t)stack_pointer < SHORT;
}

/* Bytes above the stack pointer that are this stack's. `*own`: it is the thread's own stack, which ends there. */
static slm_sampling size_t certain_bytes(uintptr_t pointer, bool *own)
{
    const uintptr_t main_end = (uintptr_t)__libc_stack_end, thread_end = (uintptr_t)pthread_self();
    *own = true;
    if (main_end - pointer <= main_bytes)
        return main_end - pointer;
    *own = slm_background_begin() && is_thread_stack(pointer, thread_end);
    slm_background_end();
    return *own ? thread_end - pointer : rest_of_page(pointer);
}

static slm_seldom void copy_piece(const struct shot *shot, size_t distance, size_t bytes)
{
    shot->piece->first = distance;
    shot->piece->bytes = slm_sys_copy(shot->piece->words, (const void *)(shot->pointer + distance), bytes);
}

/* The word at that distance from the stack pointer; false: it cannot be read. */
static slm_sampling READS_STACKS bool read_word(const struct shot *shot, size_t distance, uint64_t *word)
{
    const struct piece *piece = shot->piece;
    if (distance % WORD != 0)
        return false;
    if (distance < shot->certain && shot->certain - distance >= WORD) {
        *word = *(const uint64_t *)(shot->pointer + distance);
        return true;
    }
    if (!piece || distance >= reach)
        return false;
    if (distance - piece->first >= piece->bytes) /* what is below may be asked for next */
        copy_piece(shot, slm_max(distance - slm_min(distance, COPIED / 4), shot->certain), COPIED);
    if (distance < piece->first || distance - piece->first + WORD > piece->bytes)
        return false;
    *word = piece->words[(distance - piece->first) / WORD];
    return true;
}

/* -- what is kept ----------------------------------------------------------------------------------------------- */

static slm_sampling bool put(struct shot *shot, size_t offset, bool relative, uint64_t value)
{
    if (shot->words == SLM_STACK_WORDS)
        return false;
    shot->offsets[shot->words] = (uint16_t)(offset | (relative ? SLM_STACK_RELATIVE : 0));
    shot->stack->values[SLM_STACK_REGISTERS + shot->words++] = value;
    return true;
}

slm_inline uint64_t address_in(uint64_t word)
{
#ifdef __aarch64__
    return word >> 55 & 1 ? 0 : word & (((uint64_t)1 << ADDRESS_BITS) - 1);
#else
    return word;
#endif
}

/* Neither a number nor an address of the library's range? */
slm_inline bool is_candidate(const struct shot *shot, uint64_t address)
{
    return (address - lowest < ((uint64_t)1 << ADDRESS_BITS) - lowest) & (address - shot->range >= shot->range_bytes);
}

/* A word that is a candidate. False: there is no room. */
static slm_for_few bool sort_word(struct shot *shot, size_t offset, uint64_t address)
{
    const uintptr_t distance = address - shot->pointer;
    if (distance < shot->window) {
        if (distance <= offset * WORD || distance % WORD != 0)
            return true; /* no frame of a caller's begins there */
        shot->behind = (unsigned)offset + 1;
        return put(shot, offset, true, distance);
    }
    const enum slm_code_kind kind = slm_code_of(&shot->code, address);
    if (kind == SLM_CODE_YES || kind == SLM_CODE_UNKNOWN || (kind == SLM_CODE_NONE && shot->behind == offset))
        return put(shot, offset, false, address);
    return true;
}

/* Look at `count` words, which lie at that offset: how many there was room for. In a block candidates are found
 * without branches, which would be mispredicted. */
static slm_for_few READS_STACKS size_t sort_words(struct shot *shot, const uint64_t *words, size_t offset,
                                                  size_t count)
{
    uint8_t candidates[BLOCK];
    for (size_t first = 0; first < count; first += BLOCK) {
        const unsigned length = (unsigned)slm_min(count - first, BLOCK);
        unsigned found = 0;
        for (unsigned i = 0; i < length; i++) {
            candidates[found] = (uint8_t)i;
            found += is_candidate(shot, address_in(words[first + i]));
        }
        for (unsigned i = 0; i < found; i++) {
            const size_t at = first + candidates[i];
            if (!sort_word(shot, offset + at, address_in(words[at])))
                return at;
        }
    }
    return count;
}

/* The same of memory that may be unmapped at any time. `*all`: what lies behind these words cannot be read. */
static slm_seldom size_t sort_foreign(struct shot *shot, size_t offset, size_t count, bool *all)
{
    struct piece *piece = shot->piece;
    size_t done = 0;
    while (piece && done < count) {
        const size_t wanted = slm_min(count - done, COPIED / WORD);
        copy_piece(shot, (offset + done) * WORD, wanted * WORD);
        const size_t got = piece->bytes / WORD, sorted = sort_words(shot, piece->words, offset + done, got);
        done += sorted;
        *all = sorted == got && got < wanted;
        if (sorted < wanted)
            break;
    }
    return done;
}

/* Keep what frame pointers lead to above the window. */
static slm_for_few READS_STACKS void follow_frames(struct shot *shot, uint64_t frame, size_t certain)
{
    const size_t limit = slm_min(certain, reach);
    for (size_t at = frame - shot->pointer, next; at % WORD == 0 && at < limit && limit - at >= 2 * WORD; at = next) {
        const uint64_t *words = (const uint64_t *)(shot->pointer + at);
        const uint64_t address = address_in(words[1]);
        next = words[0] - shot->pointer;
        if (slm_code_of(&shot->code, address) != SLM_CODE_YES)
            return;
        if (at >= SLM_STACK_WINDOW) {
            if (next < limit && !put(shot, at / WORD, true, next))
                return;
            if (!put(shot, at / WORD + 1, false, address))
                return;
        }
        if (next <= at)
            return;
    }
}

static slm_sampling void keep_registers(struct shot *shot, const uint64_t *registers)
{
    struct slm_stack *stack = shot->stack;
    for (unsigned i = 0; i < SLM_STACK_REGISTERS; i++) {
        const uint64_t value = registers[i], address = address_in(value);
        stack->values[i] = 0;
        if (value - shot->pointer < shot->window) {
            stack->values[i] = value - shot->pointer;
            stack->relative |= 1u << i;
        } else if (i == 0 || (is_candidate(shot, address) && slm_code_of(&shot->code, address) == SLM_CODE_YES)) {
            stack->values[i] = address;
        }
    }
}

/* -- frame by frame ---------------------------------------------------------------------------------------------- */

struct frame {
    uintptr_t next;    /* where it goes on */
    size_t base;       /* distance of its stack pointer */
    uintptr_t pointer; /* its frame pointer, or whatever is in that register */
    bool guessed;      /* it, or one below */
};

enum outcome { STEPPED, ENDED, LOST, NOT_KNOWN };

/* What the tables say. A file without any (linkers leave their index out of static programs) may have them where only
 * tools find them. */
static slm_sampling struct slm_step step_in(struct shot *shot, const struct frame *frame)
{
    const struct slm_code_file *file = slm_code_of_frame(&shot->code, frame->next - 1, !frame->guessed);
    struct slm_step step = {.kind = SLM_STEP_NONE};
    if (file && file->table_bytes)
        step = slm_tables_step(file, frame->next - 1, &shot->tables_window);
    else if (file ? file->tables != 0 || !frame->guessed : !slm_code_told())
        step.kind = frame->guessed ? SLM_STEP_LOST : SLM_STEP_MORE;
    return step;
}

/* Not data of a file, nor of this stack? */
static slm_sampling bool may_be_code(struct shot *shot, uintptr_t address)
{
    return address - shot->pointer >= shot->window && slm_code_of(&shot->code, address) != SLM_CODE_DATA;
}

/* To the caller: as the tables say; where there are none, as frame pointers do. That is a guess, as the register may
 * have anything in it. From there on files may be closed and be read (sample/code.h). */
static slm_sampling enum outcome go_up(struct shot *shot, struct frame *frame)
{
    struct slm_step step = step_in(shot, frame);
    const bool guessed = step.kind == SLM_STEP_NONE;
    if (guessed)
        step = (struct slm_step){SLM_STEP_FRAME, SLM_STEP_AT_FRAME, 2 * WORD, 0, -WORD};
    const size_t pointed = frame->pointer - shot->pointer;
    size_t base = pointed + (size_t)step.base;
    uint64_t next, saved = frame->pointer;
    if (step.kind == SLM_STEP_END || step.kind == SLM_STEP_MORE || step.kind == SLM_STEP_LOST)
        return step.kind == SLM_STEP_END ? ENDED : step.kind == SLM_STEP_MORE ? NOT_KNOWN : LOST;
    if (step.kind == SLM_STEP_STACK)
        base = frame->base + (size_t)step.base;
    else if (step.kind == SLM_STEP_INDIRECT && !read_word(shot, base, &next))
        return LOST;
    else if (step.kind == SLM_STEP_INDIRECT)
        base = next - shot->pointer;
    if (base <= frame->base || !read_word(shot, base + (size_t)step.back, &next))
        return LOST;
    if (step.how != SLM_STEP_SAME &&
        !read_word(shot, (step.how == SLM_STEP_AT_BASE ? base : pointed) + (size_t)step.frame, &saved))
        return LOST;
    *frame = (struct frame){address_in(next), base, saved, frame->guessed || guessed};
    if (frame->next == 0)
        return ENDED;
    return is_candidate(shot, frame->next) && (!guessed || may_be_code(shot, frame->next)) ? STEPPED : LOST;
}

/* The return addresses of all frames, or of those that there is room for. False: a frame takes more to leave it than
 * this knows, or the tables cannot be read; so tools have to do it. */
static slm_sampling bool walk(struct shot *shot, const uint64_t *registers)
{
    struct slm_stack *stack = shot->stack;
    struct frame frame = {address_in(registers[0]), 0, registers[SLM_STACK_FRAME_POINTER], false};
    enum outcome outcome = STEPPED;
    for (stack->words = 0; outcome == STEPPED && stack->words < SLM_STACK_WORDS; outcome = go_up(shot, &frame))
        stack->values[stack->words++] = frame.next;
    stack->kind = SLM_STACK_FRAMES;
    stack->covered = (uint32_t)frame.base;
    stack->cut = outcome != ENDED;
    return outcome != NOT_KNOWN;
}

/* -- both -------------------------------------------------------------------------------------------------------- */

/* Stacks are equal if these are, however much was looked at. */
static slm_sampling uint32_t hash_of(const struct slm_stack *stack)
{
    uint64_t hash = stack->relative;
    const size_t bytes = slm_stack_value_bytes(stack);
    for (size_t i = 0; i < bytes / WORD; i++) /* an incomplete word of offsets is left out */
        hash = (hash ^ stack->values[i]) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(hash >> 32);
}

/* Whatever is needed of the stack, as an image. */
static slm_for_few __attribute__((noinline)) void take_image(struct shot *shot, const uint64_t *registers, bool own)
{
    struct slm_stack *stack = shot->stack;
    const size_t count = (own ? slm_min(shot->certain, SLM_STACK_WINDOW) : SLM_STACK_WINDOW) / WORD;
    const size_t direct = slm_min(shot->certain / WORD, count);
    bool all = false;
    keep_registers(shot, registers);
    size_t covered = sort_words(shot, (const uint64_t *)shot->pointer, 0, direct);
    if (own)
        all = covered * WORD == shot->certain;
    else if (covered == direct)
        covered += sort_foreign(shot, direct, count - direct, &all);
    if (own && covered == count)
        follow_frames(shot, registers[SLM_STACK_FRAME_POINTER], shot->certain);
    stack->kind = SLM_STACK_IMAGE;
    stack->registers = SLM_STACK_REGISTERS;
    stack->words = (uint16_t)shot->words;
    stack->covered = (uint32_t)(covered * WORD);
    stack->cut = !all;
    memmove(stack->values + SLM_STACK_REGISTERS + shot->words, shot->offsets, shot->words * sizeof(uint16_t));
}

static slm_sampling void take(struct shot *shot, const uint64_t *registers, bool own, bool by_tables)
{
    if (!by_tables || !walk(shot, registers))
        take_image(shot, registers, own);
    shot->stack->hash = hash_of(shot->stack);
}

/* The same of a stack that may be unmapped above its first page. */
static slm_seldom __attribute__((noinline)) void take_foreign(struct shot *shot, const uint64_t *registers,
                                                              bool by_tables)
{
    if (slm_background_begin() && !slm_sys_is_filtered())
        shot->piece = &shot->room;
    take(shot, registers, false, by_tables);
    slm_background_end();
}

slm_sampling void slm_stack_capture(union slm_stack_record *record, const uint64_t *registers,
                                    const void *stack_pointer, bool by_tables)
{
    bool own;
    struct shot *shot = (struct shot *)(void *)record->room.work;
    memset(record, 0, offsetof(struct slm_stack, values));
    memset(shot, 0, offsetof(struct shot, room));
    shot->room.first = shot->room.bytes = 0;
    shot->stack = &record->stack;
    shot->pointer = (uintptr_t)stack_pointer;
    shot->behind = UINT32_MAX;
    shot->certain = certain_bytes(shot->pointer, &own) & ~(size_t)(WORD - 1);
    shot->window = own ? slm_min(shot->certain, reach) : SLM_STACK_WINDOW;
    shot->offsets = (uint16_t *)(void *)(record->stack.values + SLM_STACK_REGISTERS + SLM_STACK_WORDS);
    shot->range = (uintptr_t)slm_range.descriptors;
    shot->range_bytes = (uintptr_t)slm_range.percpu + slm_range.percpu_bytes - shot->range;
    if (own)
        take(shot, registers, true, by_tables);
    else
        take_foreign(shot, registers, by_tables);
}
