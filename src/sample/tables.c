/* Reading .eh_frame; see tables.h. */
#include "sample/tables.h"

#include <string.h>

#include "base/bits.h"
#include "os/background.h"
#include "os/sys.h"

#ifdef __aarch64__
enum { STACK_POINTER = 31, FRAME_POINTER = 29, RETURN_ADDRESS = 30 }; /* DWARF's numbers */
#else
enum { STACK_POINTER = 7, FRAME_POINTER = 6, RETURN_ADDRESS = 16 };
#endif

enum { LINES = 256, IN_LINE = 4, ROWS_KEPT = 4, BASE_MOST = 1 << 23 /* words */ };

/* DWARF's instructions. The first three have an operand in their low bits. */
enum {
    ADVANCE = 1,
    OFFSET = 2,
    RESTORE = 3,
    NOP = 0,
    ADVANCE_1 = 2,
    ADVANCE_2 = 3,
    ADVANCE_4 = 4,
    OFFSET_EXTENDED = 5,
    RESTORE_EXTENDED = 6,
    UNDEFINED = 7,
    SAME_VALUE = 8,
    REMEMBER_STATE = 10,
    RESTORE_STATE = 11,
    DEFINE_BASE = 12,
    DEFINE_BASE_REGISTER = 13,
    DEFINE_BASE_OFFSET = 14,
    DEFINE_BASE_EXPRESSION = 15,
    EXPRESSION = 16,
    OFFSET_SIGNED = 17,
    DEFINE_BASE_SIGNED = 18,
    DEFINE_BASE_OFFSET_SIGNED = 19,
    NEGATE_RETURN_STATE = 0x2d, /* of arm64: return addresses are signed from here on */
    ARGUMENTS_SIZE = 0x2e,
};
enum { OP_FRAME_POINTER = 0x70 + FRAME_POINTER, OP_INDIRECT = 0x06 };

/* Encodings of pointers. */
enum { ABSOLUTE = 0x00, RELATIVE_4 = 0x1b, RELATIVE_8 = 0x1c, PLAIN_4 = 0x03, FROM_TABLES_4 = 0x3b };

/* -- bytes ------------------------------------------------------------------------------------------------------- */

/* Addresses as the file has them. */
struct reader {
    uintptr_t at, end;
    struct slm_tables_window *window; /* NULL: the file cannot be closed meanwhile */
    bool bad;                         /* something was looked for beyond the end, or is not known */
};

/* A file, and through what it is read. */
struct source {
    const struct slm_code_file *file;
    struct slm_tables_window *window;
};

static const struct reader nowhere = {.bad = true};

static slm_sampling struct reader reader_at(const struct source *source, uintptr_t address)
{
    const struct slm_code_file *file = source->file;
    if (address == 0 || address - file->segment >= file->table_bytes)
        return nowhere;
    return (struct reader){address, file->segment + file->table_bytes, source->window, false};
}

/* Where the next bytes lie now; NULL: they have gone. */
static slm_seldom const uint8_t *copy_next(const struct reader *reader, unsigned bytes)
{
    struct slm_tables_window *window = reader->window;
    const uintptr_t done = reader->at - window->from;
    if (done < window->bytes && window->bytes - done >= bytes)
        return window->copy + done;
    window->from = reader->at;
    window->bytes =
        slm_sys_copy(window->copy, (const void *)reader->at, slm_min(sizeof window->copy, reader->end - reader->at));
    return window->bytes >= bytes ? window->copy : NULL;
}

/* At most eight bytes. */
static slm_sampling uint64_t take(struct reader *reader, unsigned bytes)
{
    uint64_t value = 0;
    const uint8_t *from = NULL;
    if (!reader->bad && reader->end - reader->at >= bytes)
        from = reader->window ? copy_next(reader, bytes) : (const uint8_t *)reader->at;
    if (!from) {
        reader->bad = true;
        return 0;
    }
    memcpy(&value, from, bytes); /* little-endian */
    reader->at += bytes;
    return value;
}

static slm_sampling int64_t take_signed_4(struct reader *reader)
{
    return (int32_t)take(reader, 4);
}

/* LEB128; `sign`: the highest bit is one. */
static slm_sampling uint64_t take_number(struct reader *reader, bool sign)
{
    uint64_t value = 0, byte = 0x80;
    unsigned shift = 0;
    for (; byte & 0x80; shift += 7) {
        byte = take(reader, 1);
        if (reader->bad || shift > 56) {
            reader->bad = true;
            return 0;
        }
        value |= (byte & 0x7f) << shift;
    }
    return sign && (byte & 0x40) && shift < 64 ? value | ~(uint64_t)0 << shift : value;
}

static slm_sampling uintptr_t take_pointer(struct reader *reader, unsigned encoding)
{
    const uintptr_t here = reader->at;
    if (encoding == RELATIVE_4)
        return here + (uintptr_t)take_signed_4(reader);
    if (encoding == RELATIVE_8 || encoding == ABSOLUTE)
        return (encoding == RELATIVE_8 ? here : 0) + take(reader, 8);
    reader->bad = true;
    return 0;
}

/* The next bytes, as many as they say themselves. */
static slm_sampling struct reader take_block(struct reader *reader)
{
    const uint64_t bytes = take_number(reader, false);
    struct reader block = *reader;
    if (reader->bad || reader->end - reader->at < bytes) {
        reader->bad = true;
        return nowhere;
    }
    block.end = reader->at += bytes;
    return block;
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

struct program {
    struct reader first, second; /* instructions of the table and of the function */
    uintptr_t begin;             /* of the function */
    uint64_t code_unit;
    int64_t data_unit;
};

/* Whatever a table says, this overflows nowhere. */
static slm_sampling int64_t in_units(const struct program *program, uint64_t number)
{
    return (int64_t)(number * (uint64_t)program->data_unit);
}

/* What is known of a frame at an address. */
struct row {
    struct slm_step step;
    unsigned base_register;
};

static slm_sampling void save_register(struct row *row, uint64_t number, int64_t offset)
{
    if (number == FRAME_POINTER) {
        row->step.how = SLM_STEP_AT_BASE;
        row->step.frame = (int32_t)offset;
    } else if (number == RETURN_ADDRESS) {
        row->step.back = (int32_t)offset;
        row->step.kind = SLM_STEP_STACK;
    }
}

/* As it was before the function's first instruction. */
static slm_sampling void restore_register(struct row *row, const struct row *before, uint64_t number)
{
    if (number == FRAME_POINTER) {
        row->step.how = before->step.how;
        row->step.frame = before->step.frame;
    } else if (number == RETURN_ADDRESS) {
        row->step.back = before->step.back;
        row->step.kind = before->step.kind;
    }
}

/* Where GCC has realigned the stack, the base was saved below the frame pointer, and the caller's frame pointer lies
 * where that points to. */
static slm_sampling void take_expression(struct row *row, struct reader block, bool of_base, uint64_t number)
{
    const uint64_t first = take(&block, 1);
    const int64_t offset = (int64_t)take_number(&block, true);
    const bool plain = !block.bad && first == OP_FRAME_POINTER && offset == (int32_t)offset;
    if (of_base) {
        const bool known = plain && block.end - block.at == 1 && take(&block, 1) == OP_INDIRECT;
        row->base_register = known ? SLM_STEP_INDIRECT << 8 : UINT32_MAX;
        row->step.base = (int32_t)offset;
    } else if (number == FRAME_POINTER && plain && block.at == block.end) {
        row->step.how = SLM_STEP_AT_FRAME;
        row->step.frame = (int32_t)offset;
    } else if (number == FRAME_POINTER || number == RETURN_ADDRESS) {
        row->step.kind = SLM_STEP_MORE;
    }
}

static slm_sampling void define_base(struct row *row, uint64_t number, int64_t offset)
{
    row->base_register = (unsigned)slm_min(number, UINT32_MAX);
    row->step.base = (int32_t)offset;
}

/* An instruction that says where something lies. False: it is another, or unknown. */
static slm_sampling bool run_rule(struct reader *from, const struct program *program, struct row *row,
                                  const struct row *before, unsigned code)
{
    uint64_t number;
    switch (code) {
    case OFFSET_EXTENDED:
    case OFFSET_SIGNED:
        number = take_number(from, false);
        save_register(row, number, in_units(program, take_number(from, code == OFFSET_SIGNED)));
        return true;
    case RESTORE_EXTENDED:
        restore_register(row, before, take_number(from, false));
        return true;
    case UNDEFINED:
    case SAME_VALUE:
        number = take_number(from, false);
        if (number == RETURN_ADDRESS)
            row->step.kind = code == UNDEFINED ? SLM_STEP_END : SLM_STEP_MORE;
        else if (number == FRAME_POINTER)
            row->step.how = SLM_STEP_SAME;
        return true;
    case DEFINE_BASE:
        number = take_number(from, false);
        define_base(row, number, (int64_t)take_number(from, false));
        return true;
    case DEFINE_BASE_SIGNED:
        number = take_number(from, false);
        define_base(row, number, in_units(program, take_number(from, true)));
        return true;
    case DEFINE_BASE_REGISTER:
        define_base(row, take_number(from, false), row->step.base);
        return true;
    case DEFINE_BASE_OFFSET:
        row->step.base = (int32_t)take_number(from, false);
        return true;
    case DEFINE_BASE_OFFSET_SIGNED:
        row->step.base = (int32_t)in_units(program, take_number(from, true));
        return true;
    case DEFINE_BASE_EXPRESSION:
        take_expression(row, take_block(from), true, 0);
        return true;
    case EXPRESSION:
        number = take_number(from, false);
        take_expression(row, take_block(from), false, number);
        return true;
    default:
        return false;
    }
}

/* Run instructions until they come to what lies behind `address`. False: there is one that is not known. */
static slm_sampling bool run(struct reader from, const struct program *program, uintptr_t address, struct row *row)
{
    const struct row before = *row;
    struct row kept[ROWS_KEPT];
    unsigned depth = 0;
    uintptr_t at = program->begin;
    while (!from.bad && from.at < from.end) {
        const unsigned byte = (unsigned)take(&from, 1), low = byte & 0x3f, high = byte >> 6;
        uint64_t advance = 0;
        if (high == ADVANCE)
            advance = low;
        else if (high == OFFSET)
            save_register(row, low, in_units(program, take_number(&from, false)));
        else if (high == RESTORE)
            restore_register(row, &before, low);
        else if (low >= ADVANCE_1 && low <= ADVANCE_4)
            advance = take(&from, 1u << (low - ADVANCE_1));
        else if (low == REMEMBER_STATE && depth < ROWS_KEPT)
            kept[depth++] = *row;
        else if (low == RESTORE_STATE && depth > 0)
            *row = kept[--depth];
        else if (low == ARGUMENTS_SIZE)
            (void)take_number(&from, false);
        else if (low != NOP && low != NEGATE_RETURN_STATE && !run_rule(&from, program, row, &before, low))
            return false;
        at += advance * program->code_unit;
        if (at > address)
            break;
    }
    return !from.bad;
}

/* -- finding ----------------------------------------------------------------------------------------------------- */

/* What all functions of a table have in common. False: it has something that is not known. */
static slm_sampling bool read_common(struct reader from, struct program *program, unsigned *encoding, bool *augmented)
{
    const uint64_t bytes = take(&from, 4), id = take(&from, 4), version = take(&from, 1);
    struct reader letters = from;
    if (from.bad || bytes < 9 || bytes - 5 > from.end - from.at || id != 0 || (version != 1 && version != 3))
        return false;
    from.end = from.at + bytes - 5;
    while (take(&from, 1) != 0)
        ;
    program->code_unit = take_number(&from, false);
    program->data_unit = (int64_t)take_number(&from, true);
    const uint64_t number = version == 1 ? take(&from, 1) : take_number(&from, false);
    uint64_t letter = take(&letters, 1);
    *encoding = ABSOLUTE;
    *augmented = letter == 'z';
    if (from.bad || number != RETURN_ADDRESS || (letter != 0 && !*augmented))
        return false;
    struct reader data = *augmented ? take_block(&from) : nowhere;
    while (*augmented && (letter = take(&letters, 1)) != 0) {
        if (letter == 'R')
            *encoding = (unsigned)take(&data, 1);
        else if (letter == 'L')
            (void)take(&data, 1);
        else if (letter == 'P') /* indirect or not, four bytes or eight */
            (void)take(&data, (take(&data, 1) & 7) == 3 ? 4 : 8);
        else if (letter != 'B') /* 'S', a signal's frame: the caller's registers are anywhere */
            return false;
    }
    program->first = from;
    return (!*augmented || !data.bad) && !from.bad && !letters.bad;
}

/* The function's entry in the sorted list, the one that begins last up to the address; 0: none. */
static slm_sampling uintptr_t find_entry(const struct source *source, uintptr_t address)
{
    const uintptr_t tables = source->file->tables;
    struct reader header = reader_at(source, tables);
    const uint64_t version = take(&header, 1), pointer = take(&header, 1), counter = take(&header, 1),
                   encoding = take(&header, 1);
    if (version != 1 || pointer != RELATIVE_4 || counter != PLAIN_4 || encoding != FROM_TABLES_4)
        return 0;
    (void)take(&header, 4);
    const uint64_t count = take(&header, 4);
    const uintptr_t list = header.at;
    if (header.bad || count > (header.end - list) / 8)
        return 0;
    uint64_t low = 0, high = count;
    while (low < high) {
        const uint64_t middle = (low + high) / 2;
        header.at = list + middle * 8;
        if (tables + (uintptr_t)take_signed_4(&header) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return 0;
    header.at = list + low * 8 - 4;
    const uintptr_t entry = tables + (uintptr_t)take_signed_4(&header);
    return header.bad ? 0 : entry;
}

/* False: no function has the address; *step says MORE if one has. */
static slm_sampling bool find_program(const struct source *source, uintptr_t address, struct program *program,
                                      struct slm_step *step)
{
    struct reader entry = reader_at(source, find_entry(source, address));
    const uint64_t bytes = take(&entry, 4);
    const uintptr_t here = entry.at, common = here - take(&entry, 4);
    unsigned encoding;
    bool augmented;
    if (entry.bad || bytes < 4 || bytes > entry.end - entry.at)
        return false;
    entry.end = here + bytes;
    step->kind = SLM_STEP_MORE;
    if (!read_common(reader_at(source, common), program, &encoding, &augmented))
        return false;
    program->begin = take_pointer(&entry, encoding);
    const uint64_t length = encoding == RELATIVE_4 ? take(&entry, 4) : take(&entry, 8);
    if (augmented)
        (void)take_block(&entry);
    if (entry.bad)
        return false;
    step->kind = SLM_STEP_NONE;
    program->second = entry;
    return address - program->begin < length;
}

static slm_sampling struct slm_step look_up(const struct source *source, uintptr_t address)
{
    struct program program;
    struct row row = {.step = {.kind = SLM_STEP_NONE}};
    if (!find_program(source, address, &program, &row.step))
        return row.step;
    row.step.kind = SLM_STEP_MORE; /* until it is known where the return address is */
    if (!run(program.first, &program, UINTPTR_MAX, &row) || !run(program.second, &program, address, &row))
        return (struct slm_step){.kind = SLM_STEP_MORE};
    if (row.step.kind == SLM_STEP_STACK && row.base_register == FRAME_POINTER)
        row.step.kind = SLM_STEP_FRAME;
    else if (row.step.kind == SLM_STEP_STACK && row.base_register == SLM_STEP_INDIRECT << 8)
        row.step.kind = SLM_STEP_INDIRECT;
    else if (row.step.kind == SLM_STEP_STACK && row.base_register != STACK_POINTER)
        row.step.kind = SLM_STEP_MORE;
    return row.step;
}

/* The same in a file that may be closed meanwhile. What was not all there is not to be remembered. */
static slm_seldom struct slm_step look_up_copies(const struct slm_code_file *file, uintptr_t address,
                                                 struct slm_tables_window *window)
{
    struct slm_step step = {.kind = SLM_STEP_LOST};
    const struct source source = {file, window};
    window->bytes = 0;
    if (slm_background_begin() && !slm_sys_is_filtered())
        step = look_up(&source, address);
    slm_background_end();
    if (window->bytes == 0) /* the last copy failed, or there was none */
        step.kind = SLM_STEP_LOST;
    return step;
}

/* -- what was found before --------------------------------------------------------------------------------------- */

/* A step in 64 bits, and these with its place mixed in: whoever sees halves of two steps sees that. */
struct found {
    _Atomic uint64_t step, check;
};

static slm_sparse slm_cacheline struct found found[LINES][IN_LINE];

/* In words; 0: it does not fit. */
static slm_sampling uint64_t packed(const struct slm_step *step)
{
    const int64_t base = step->base / 8, frame = step->frame / 8, back = step->back / 8;
    if (step->base % 8 != 0 || step->frame % 8 != 0 || step->back % 8 != 0 || frame != (int16_t)frame ||
        back != (int16_t)back || base < -BASE_MOST || base >= BASE_MOST)
        return 0;
    return 1 | (uint64_t)step->kind << 1 | (uint64_t)step->how << 5 | (uint64_t)(base & 0xffffff) << 8 |
           (uint64_t)(uint16_t)frame << 32 | (uint64_t)(uint16_t)back << 48;
}

static slm_sampling struct slm_step unpacked(uint64_t step)
{
    return (struct slm_step){
        .kind = (enum slm_step_kind)(step >> 1 & 15),
        .how = (enum slm_step_frame)(step >> 5 & 7),
        .base = (int32_t)((int64_t)(step << 32) >> 40) * 8,
        .frame = (int16_t)(step >> 32) * 8,
        .back = (int16_t)(step >> 48) * 8,
    };
}

slm_sampling struct slm_step slm_tables_step(const struct slm_code_file *file, uintptr_t address,
                                             struct slm_tables_window *window)
{
    const uint64_t place = (address ^ file->tables << 20 ^ file->id) * 0x9e3779b97f4a7c15u;
    struct found *line = found[place / (UINT64_MAX / LINES + 1)], *at = &line[place % IN_LINE];
    for (unsigned i = 0; i < IN_LINE && file->id != 0; i++) {
        const uint64_t step = load_relaxed(&line[i].step); /* no order: the check says whether they belong together */
        if (step != 0 && load_relaxed(&line[i].check) == (step ^ place))
            return unpacked(step);
        at = step == 0 ? &line[i] : at;
    }
    const struct source source = {file, NULL};
    const struct slm_step looked_up = file->held ? look_up(&source, address) : look_up_copies(file, address, window);
    const uint64_t pack = packed(&looked_up);
    if (pack == 0)
        return (struct slm_step){.kind = SLM_STEP_MORE};
    /* Not what may be another file's of the same addresses, nor what the file may not have been there for. */
    if (file->id == 0 || (!file->held && looked_up.kind < SLM_STEP_END))
        return looked_up;
    store_relaxed(&at->step, pack);
    store_relaxed(&at->check, pack ^ place);
    return looked_up;
}
