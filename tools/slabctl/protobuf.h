/* Messages of protobuf's wire format: as much of it as profile.proto needs.
 *
 *     message:  | key, value | key, value | ...      key = field number << 3 | wire type, a varint
 *     value:    a varint (type 0), or its length and that many bytes (type 2): a text, a message, a packed list
 *
 * Written by hand: Debian's libraries for C need a generator for twenty lines of messages. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* -- writing: a message grows in memory; one inside another is finished first --------------------------------- */

struct bytes {
    unsigned char *data;
    size_t count, room;
};

void bytes_add(struct bytes *bytes, const void *data, size_t count);
void bytes_free(struct bytes *bytes);

/* Fields whose value is 0 are left out, as protobuf does. */
void protobuf_number(struct bytes *message, unsigned field, uint64_t value);
/* Not left out, whatever it is. */
void protobuf_bytes(struct bytes *message, unsigned field, const void *data, size_t count);
/* Adds `inner` as a field, and empties it. */
void protobuf_message(struct bytes *message, unsigned field, struct bytes *inner);
/* To the inside of a packed list. */
void protobuf_varint(struct bytes *list, uint64_t value);

/* -- reading: fields one after the other, of bytes that may be anything --------------------------------------- */

struct protobuf_field {
    unsigned field;
    bool is_bytes; /* else a number */
    uint64_t number;
    const unsigned char *data;
    size_t count;
};

struct protobuf_reader {
    const unsigned char *at, *end;
    bool broken;
};

struct protobuf_reader protobuf_reader(const void *data, size_t count);
/* False at the end, and where the bytes are no message: then `broken` is set. */
bool protobuf_next(struct protobuf_reader *reader, struct protobuf_field *field);
/* The next number of a packed list. */
bool protobuf_next_varint(struct protobuf_reader *reader, uint64_t *value);
