/* The numbers of profile.proto's fields, and what stands in them.
 *
 * Ids in the file are positions, as in memory, and texts have their numbers; that is checked when it is read. */
#include "pprof.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "message.h"
#include "protobuf.h"

enum profile_field {
    PROFILE_SAMPLE_TYPE = 1,
    PROFILE_SAMPLE = 2,
    PROFILE_MAPPING = 3,
    PROFILE_LOCATION = 4,
    PROFILE_FUNCTION = 5,
    PROFILE_STRING_TABLE = 6,
    PROFILE_TIME_NANOS = 9,
    PROFILE_PERIOD_TYPE = 11,
    PROFILE_PERIOD = 12,
    PROFILE_COMMENT = 13,
    PROFILE_DEFAULT_SAMPLE_TYPE = 14
};
enum value_type_field { VALUE_TYPE_TYPE = 1, VALUE_TYPE_UNIT = 2 };
enum sample_field { SAMPLE_LOCATION_ID = 1, SAMPLE_VALUE = 2 };
enum mapping_field {
    MAPPING_ID = 1,
    MAPPING_START = 2,
    MAPPING_LIMIT = 3,
    MAPPING_OFFSET = 4,
    MAPPING_FILENAME = 5,
    MAPPING_BUILD_ID = 6,
    MAPPING_HAS_FUNCTIONS = 7,
    MAPPING_HAS_FILENAMES = 8,
    MAPPING_HAS_LINE_NUMBERS = 9,
    MAPPING_HAS_INLINE_FRAMES = 10
};
enum location_field { LOCATION_ID = 1, LOCATION_MAPPING_ID = 2, LOCATION_ADDRESS = 3, LOCATION_LINE = 4 };
enum line_field { LINE_FUNCTION_ID = 1, LINE_LINE = 2 };
enum function_field {
    FUNCTION_ID = 1,
    FUNCTION_NAME = 2,
    FUNCTION_SYSTEM_NAME = 3,
    FUNCTION_FILENAME = 4,
    FUNCTION_START_LINE = 5
};

const char *const pprof_value_names[PPROF_VALUES] = {"alloc_objects", "alloc_space", "inuse_objects", "inuse_space"};
const char *const pprof_value_units[PPROF_VALUES] = {"count", "bytes", "count", "bytes"};

/* -- writing -------------------------------------------------------------------------------------------------- */

static void value_type_add(struct pprof *profile, struct bytes *message, unsigned field, const char *type,
                           const char *unit)
{
    struct bytes inner = {0};
    protobuf_number(&inner, VALUE_TYPE_TYPE, intern_text(&profile->texts, type));
    protobuf_number(&inner, VALUE_TYPE_UNIT, intern_text(&profile->texts, unit));
    protobuf_message(message, field, &inner);
    bytes_free(&inner);
}

static void samples_add(const struct pprof *profile, struct bytes *message)
{
    struct bytes inner = {0}, list = {0};
    for (size_t i = 0; i < profile->sample_count; i++) {
        const struct pprof_sample *sample = &profile->samples[i];
        int64_t values[PPROF_VALUES];
        bool any = false;
        for (int value = 0; value < PPROF_VALUES; value++)
            any |= (values[value] = pprof_rounded(sample->values[value])) != 0;
        if (!any)
            continue;
        for (size_t frame = 0; frame < sample->depth; frame++)
            protobuf_varint(&list, profile->stacks[sample->first_location + frame]);
        protobuf_message(&inner, SAMPLE_LOCATION_ID, &list);
        for (int value = 0; value < PPROF_VALUES; value++)
            protobuf_varint(&list, (uint64_t)values[value]);
        protobuf_message(&inner, SAMPLE_VALUE, &list);
        protobuf_message(message, PROFILE_SAMPLE, &inner);
    }
    bytes_free(&list);
    bytes_free(&inner);
}

/* All that is known is in the file: a reader is not to look for more in the files that are mapped. */
static void mappings_add(const struct pprof *profile, struct bytes *message)
{
    struct bytes inner = {0};
    for (size_t i = 0; i < profile->mapping_count; i++) {
        const struct pprof_mapping *mapping = &profile->mappings[i];
        protobuf_number(&inner, MAPPING_ID, i + 1);
        protobuf_number(&inner, MAPPING_START, mapping->start);
        protobuf_number(&inner, MAPPING_LIMIT, mapping->end);
        protobuf_number(&inner, MAPPING_OFFSET, mapping->offset);
        protobuf_number(&inner, MAPPING_FILENAME, mapping->file);
        protobuf_number(&inner, MAPPING_BUILD_ID, mapping->build_id);
        for (unsigned field = MAPPING_HAS_FUNCTIONS; field <= MAPPING_HAS_INLINE_FRAMES; field++)
            protobuf_number(&inner, field, 1);
        protobuf_message(message, PROFILE_MAPPING, &inner);
    }
    bytes_free(&inner);
}

static void locations_add(const struct pprof *profile, struct bytes *message)
{
    struct bytes inner = {0}, line = {0};
    for (size_t i = 0; i < profile->location_count; i++) {
        const struct pprof_location *location = &profile->locations[i];
        protobuf_number(&inner, LOCATION_ID, i + 1);
        protobuf_number(&inner, LOCATION_MAPPING_ID, location->mapping);
        protobuf_number(&inner, LOCATION_ADDRESS, location->address);
        for (size_t j = 0; j < location->line_count; j++) {
            protobuf_number(&line, LINE_FUNCTION_ID, profile->lines[location->first_line + j].function);
            protobuf_number(&line, LINE_LINE, (uint64_t)profile->lines[location->first_line + j].line);
            protobuf_message(&inner, LOCATION_LINE, &line);
        }
        protobuf_message(message, PROFILE_LOCATION, &inner);
    }
    bytes_free(&line);
    bytes_free(&inner);
}

static void functions_add(const struct pprof *profile, struct bytes *message)
{
    struct bytes inner = {0};
    for (size_t i = 0; i < profile->function_count; i++) {
        const struct pprof_function *function = &profile->functions[i];
        protobuf_number(&inner, FUNCTION_ID, i + 1);
        protobuf_number(&inner, FUNCTION_NAME, function->name);
        protobuf_number(&inner, FUNCTION_SYSTEM_NAME, function->system_name);
        protobuf_number(&inner, FUNCTION_FILENAME, function->file);
        protobuf_number(&inner, FUNCTION_START_LINE, (uint64_t)function->start_line);
        protobuf_message(message, PROFILE_FUNCTION, &inner);
    }
    bytes_free(&inner);
}

static bool zipped_write(const struct bytes *message, int file)
{
    int copy = dup(file); /* gzclose closes it */
    gzFile zipped = copy >= 0 ? gzdopen(copy, "wb") : NULL;
    if (!zipped) {
        if (copy >= 0)
            close(copy);
        return false;
    }
    bool written = true;
    for (size_t done = 0; done < message->count && written;) {
        unsigned part = message->count - done < INT_MAX / 2 ? (unsigned)(message->count - done) : INT_MAX / 2;
        written = gzwrite(zipped, message->data + done, part) == (int)part;
        done += part;
    }
    int error = written ? 0 : errno;
    errno = 0;
    written &= gzclose(zipped) == Z_OK; /* which writes most of it */
    errno = error ? error : errno ? errno : EIO;
    return written;
}

bool pprof_write(struct pprof *profile, int file)
{
    struct bytes message = {0}, comments = {0};
    for (int value = 0; value < PPROF_VALUES; value++)
        value_type_add(profile, &message, PROFILE_SAMPLE_TYPE, pprof_value_names[value], pprof_value_units[value]);
    value_type_add(profile, &message, PROFILE_PERIOD_TYPE, "space", "bytes");
    samples_add(profile, &message);
    mappings_add(profile, &message);
    locations_add(profile, &message);
    functions_add(profile, &message);
    for (size_t i = 0; i < profile->texts.count; i++)
        protobuf_bytes(&message, PROFILE_STRING_TABLE, profile->texts.entries[i]->bytes,
                       profile->texts.entries[i]->count - 1);
    protobuf_number(&message, PROFILE_TIME_NANOS, (uint64_t)profile->time_ns);
    protobuf_number(&message, PROFILE_PERIOD, (uint64_t)profile->period);
    for (size_t i = 0; i < profile->comment_count; i++)
        protobuf_varint(&comments, profile->comments[i]);
    protobuf_message(&message, PROFILE_COMMENT, &comments);
    protobuf_number(&message, PROFILE_DEFAULT_SAMPLE_TYPE,
                    intern_text(&profile->texts, pprof_value_names[profile->shown]));
    bool written = zipped_write(&message, file);
    bytes_free(&message);
    bytes_free(&comments);
    return written;
}

/* -- reading -------------------------------------------------------------------------------------------------- */

enum { BYTES_MOST = 1 << 30 };
static const char not_ours[] = "not a profile that slabctl has written";

static const char *unzip(int file, struct bytes *message)
{
    int copy = dup(file);
    gzFile zipped = copy >= 0 ? gzdopen(copy, "rb") : NULL;
    if (!zipped) {
        if (copy >= 0)
            close(copy);
        return strerror(errno);
    }
    char part[1 << 16];
    int count;
    while ((count = gzread(zipped, part, sizeof part)) > 0 && message->count < BYTES_MOST)
        bytes_add(message, part, (size_t)count);
    int closed = gzclose(zipped);
    return count != 0 || closed != Z_OK ? not_ours : NULL;
}

struct texts {
    size_t *numbers; /* in the profile's table, by number in the file */
    size_t count;
};

/* A text that a field has the number of. */
static bool text_number(const struct texts *texts, uint64_t number, size_t *text)
{
    if (number >= texts->count)
        return false;
    *text = texts->numbers[number];
    return true;
}

static bool texts_read(struct pprof *profile, const struct bytes *message, struct texts *texts)
{
    struct protobuf_reader reader = protobuf_reader(message->data, message->count);
    struct protobuf_field field;
    size_t room = 0;
    while (protobuf_next(&reader, &field)) {
        if (field.field != PROFILE_STRING_TABLE || !field.is_bytes)
            continue;
        texts->numbers = array_grow(texts->numbers, &room, texts->count + 1, sizeof *texts->numbers);
        char *text = strndup((const char *)field.data, field.count);
        if (!text)
            fail("no memory");
        texts->numbers[texts->count++] = intern_text(&profile->texts, text);
        free(text);
    }
    return !reader.broken && texts->count;
}

/* The numbers of a message's fields, up to `most`; others are not looked at. */
static bool numbers_read(const struct protobuf_field *message, uint64_t *numbers, unsigned most)
{
    struct protobuf_reader reader = protobuf_reader(message->data, message->count);
    struct protobuf_field field;
    memset(numbers, 0, (most + 1) * sizeof *numbers);
    while (protobuf_next(&reader, &field))
        if (field.field <= most && !field.is_bytes)
            numbers[field.field] = field.number;
    return message->is_bytes && !reader.broken;
}

static bool mapping_read(struct pprof *profile, const struct texts *texts, const struct protobuf_field *field)
{
    uint64_t numbers[MAPPING_BUILD_ID + 1];
    struct pprof_mapping mapping;
    if (!numbers_read(field, numbers, MAPPING_BUILD_ID) || numbers[MAPPING_ID] != profile->mapping_count + 1 ||
        !text_number(texts, numbers[MAPPING_FILENAME], &mapping.file) ||
        !text_number(texts, numbers[MAPPING_BUILD_ID], &mapping.build_id))
        return false;
    mapping.start = numbers[MAPPING_START];
    mapping.end = numbers[MAPPING_LIMIT];
    mapping.offset = numbers[MAPPING_OFFSET];
    pprof_add_mapping(profile, &mapping);
    return true;
}

static bool function_read(struct pprof *profile, const struct texts *texts, const struct protobuf_field *field)
{
    uint64_t numbers[FUNCTION_START_LINE + 1];
    struct pprof_function function;
    if (!numbers_read(field, numbers, FUNCTION_START_LINE) ||
        !text_number(texts, numbers[FUNCTION_NAME], &function.name) ||
        !text_number(texts, numbers[FUNCTION_SYSTEM_NAME], &function.system_name) ||
        !text_number(texts, numbers[FUNCTION_FILENAME], &function.file))
        return false;
    function.start_line = (int64_t)numbers[FUNCTION_START_LINE];
    return pprof_add_function(profile, &function) == numbers[FUNCTION_ID];
}

static bool location_read(struct pprof *profile, const struct protobuf_field *field)
{
    enum { LINES_MOST = 256 };
    struct pprof_line lines[LINES_MOST];
    size_t count = 0;
    uint64_t numbers[LOCATION_ADDRESS + 1], line[LINE_LINE + 1];
    if (!numbers_read(field, numbers, LOCATION_ADDRESS) || numbers[LOCATION_MAPPING_ID] > profile->mapping_count)
        return false;
    struct protobuf_reader reader = protobuf_reader(field->data, field->count);
    struct protobuf_field inner;
    while (protobuf_next(&reader, &inner)) {
        if (inner.field != LOCATION_LINE)
            continue;
        if (count == LINES_MOST || !numbers_read(&inner, line, LINE_LINE) || !line[LINE_FUNCTION_ID] ||
            line[LINE_FUNCTION_ID] > profile->function_count)
            return false;
        lines[count++] = (struct pprof_line){line[LINE_FUNCTION_ID], (int64_t)line[LINE_LINE]};
    }
    return pprof_add_location(profile, numbers[LOCATION_MAPPING_ID], numbers[LOCATION_ADDRESS], lines, count) ==
           numbers[LOCATION_ID];
}

static bool sample_read(struct pprof *profile, const struct protobuf_field *field)
{
    enum { DEPTH_MOST = 4096 };
    uint64_t locations[DEPTH_MOST], number;
    double values[PPROF_VALUES];
    size_t depth = 0, count = 0;
    struct protobuf_reader reader = protobuf_reader(field->data, field->count);
    struct protobuf_field inner;
    while (field->is_bytes && protobuf_next(&reader, &inner)) {
        if (!inner.is_bytes)
            return false;
        struct protobuf_reader list = protobuf_reader(inner.data, inner.count);
        while (protobuf_next_varint(&list, &number)) {
            if (inner.field == SAMPLE_VALUE && count < PPROF_VALUES)
                values[count++] = (double)(int64_t)number;
            else if (inner.field == SAMPLE_LOCATION_ID && depth < DEPTH_MOST && number &&
                     number <= profile->location_count)
                locations[depth++] = number;
            else
                return false;
        }
    }
    if (count != PPROF_VALUES || reader.broken)
        return false;
    pprof_add_sample(profile, locations, depth, values);
    return true;
}

/* One kind of the profile's fields; those that refer to others come after them. */
static bool kind_read(struct pprof *profile, const struct bytes *message, const struct texts *texts,
                      enum profile_field kind)
{
    struct protobuf_reader reader = protobuf_reader(message->data, message->count);
    struct protobuf_field field;
    uint64_t numbers[VALUE_TYPE_UNIT + 1];
    unsigned types = 0;
    size_t text;
    bool fits = true;
    while (fits && protobuf_next(&reader, &field)) {
        if (field.field != kind)
            continue;
        if (kind == PROFILE_SAMPLE_TYPE)
            fits = types < PPROF_VALUES && numbers_read(&field, numbers, VALUE_TYPE_UNIT) &&
                   text_number(texts, numbers[VALUE_TYPE_TYPE], &text) &&
                   strcmp(pprof_text(profile, text), pprof_value_names[types++]) == 0;
        else if (kind == PROFILE_MAPPING)
            fits = mapping_read(profile, texts, &field);
        else if (kind == PROFILE_FUNCTION)
            fits = function_read(profile, texts, &field);
        else if (kind == PROFILE_LOCATION)
            fits = location_read(profile, &field);
        else
            fits = sample_read(profile, &field);
    }
    return fits && (kind != PROFILE_SAMPLE_TYPE || types == PPROF_VALUES);
}

const char *pprof_read(struct pprof *profile, int file)
{
    static const enum profile_field kinds[] = {PROFILE_SAMPLE_TYPE, PROFILE_MAPPING, PROFILE_FUNCTION,
                                               PROFILE_LOCATION, PROFILE_SAMPLE};
    struct bytes message = {0};
    struct texts texts = {0};
    const char *wrong = unzip(file, &message);
    if (!wrong && !texts_read(profile, &message, &texts))
        wrong = not_ours;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !wrong; i++)
        if (!kind_read(profile, &message, &texts, kinds[i]))
            wrong = not_ours;
    free(texts.numbers);
    bytes_free(&message);
    return wrong;
}
