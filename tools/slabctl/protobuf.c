/* Varints, and what they announce. */
#include "protobuf.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

void bytes_add(struct bytes *bytes, const void *data, size_t count)
{
    if (!count)
        return;
    bytes->data = array_grow(bytes->data, &bytes->room, bytes->count + count, 1);
    memcpy(bytes->data + bytes->count, data, count);
    bytes->count += count;
}

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

void protobuf_varint(struct bytes *list, uint64_t value)
{
    unsigned char text[10];
    size_t count = 0;
    for (; value >= 0x80; value >>= 7)
        text[count++] = (unsigned char)(value | 0x80);
    text[count++] = (unsigned char)value;
    bytes_add(list, text, count);
}

static void key(struct bytes *message, unsigned field, unsigned wire)
{
    protobuf_varint(message, (uint64_t)field << 3 | wire);
}

void protobuf_number(struct bytes *message, unsigned field, uint64_t value)
{
    if (!value)
        return;
    key(message, field, WIRE_VARINT);
    protobuf_varint(message, value);
}

void protobuf_bytes(struct bytes *message, unsigned field, const void *data, size_t count)
{
    key(message, field, WIRE_BYTES);
    protobuf_varint(message, count);
    bytes_add(message, data, count);
}

void protobuf_message(struct bytes *message, unsigned field, struct bytes *inner)
{
    protobuf_bytes(message, field, inner->data, inner->count);
    inner->count = 0;
}

struct protobuf_reader protobuf_reader(const void *data, size_t count)
{
    const unsigned char *start = data;
    return (struct protobuf_reader){.at = start, .end = count ? start + count : start};
}

bool protobuf_next_varint(struct protobuf_reader *reader, uint64_t *value)
{
    if (reader->at == reader->end)
        return false;
    *value = 0;
    for (unsigned shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
        unsigned char byte = *reader->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    reader->broken = true;
    return false;
}

static bool skip(struct protobuf_reader *reader, uint64_t count)
{
    if (count > (size_t)(reader->end - reader->at)) {
        reader->broken = true;
        return false;
    }
    reader->at += count;
    return true;
}

bool protobuf_next(struct protobuf_reader *reader, struct protobuf_field *field)
{
    uint64_t header;
    if (reader->broken || !protobuf_next_varint(reader, &header))
        return false;
    *field = (struct protobuf_field){.field = header >> 3 > UINT32_MAX ? 0 : (unsigned)(header >> 3)};
    switch (header & 7) {
    case WIRE_VARINT:
        if (protobuf_next_varint(reader, &field->number))
            return true;
        break;
    case WIRE_64:
    case WIRE_32:
        if (skip(reader, (header & 7) == WIRE_64 ? 8 : 4)) {
            field->field = 0;
            return true;
        }
        break;
    case WIRE_BYTES:
        if (!protobuf_next_varint(reader, &header))
            break;
        field->is_bytes = true;
        field->data = reader->at;
        field->count = header;
        if (skip(reader, header))
            return true;
        break;
    default:
        break;
    }
    reader->broken = true;
    return false;
}
