/* tools/slabctl/protobuf.h: the bytes are those that protobuf's encoding guide gives, and any bytes can be read. */
#include "test.h"

#include "protobuf.h"

static void bytes_are(struct bytes *message, const char *expected, size_t count)
{
    assert_int_equal(message->count, count);
    assert_memory_equal(message->data, expected, count);
    bytes_free(message);
}

static void the_guides_examples_are_written(void **state)
{
    (void)state;
    struct bytes message = {0}, inner = {0};
    protobuf_number(&message, 1, 150);
    bytes_are(&message, "\x08\x96\x01", 3);
    protobuf_bytes(&message, 2, "testing", 7);
    bytes_are(&message, "\x12\x07testing", 9);
    protobuf_number(&inner, 1, 150);
    protobuf_message(&message, 3, &inner);
    assert_int_equal(inner.count, 0);
    bytes_are(&message, "\x1a\x03\x08\x96\x01", 5);
    protobuf_varint(&inner, 3);
    protobuf_varint(&inner, 270);
    protobuf_varint(&inner, 86942);
    protobuf_message(&message, 6, &inner);
    bytes_are(&message, "\x32\x06\x03\x8e\x02\x9e\xa7\x05", 8);
    bytes_free(&inner);
}

static void zero_is_left_out_and_minus_one_is_long(void **state)
{
    (void)state;
    struct bytes message = {0};
    protobuf_number(&message, 5, 0);
    assert_int_equal(message.count, 0);
    protobuf_number(&message, 5, (uint64_t)-1);
    bytes_are(&message, "\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct bytes message = {0};
    for (unsigned shift = 0; shift < 64; shift++)
        protobuf_number(&message, 1 + shift, (uint64_t)1 << shift);
    protobuf_bytes(&message, 100, "text", 4);
    struct protobuf_reader reader = protobuf_reader(message.data, message.count);
    struct protobuf_field field;
    for (unsigned shift = 0; shift < 64; shift++) {
        assert_true(protobuf_next(&reader, &field));
        assert_int_equal(field.field, 1 + shift);
        assert_false(field.is_bytes);
        assert_int_equal(field.number, (uint64_t)1 << shift);
    }
    assert_true(protobuf_next(&reader, &field));
    assert_true(field.is_bytes && field.count == 4 && memcmp(field.data, "text", 4) == 0);
    assert_false(protobuf_next(&reader, &field));
    assert_false(reader.broken);
    bytes_free(&message);
}

static void fixed_fields_are_skipped(void **state)
{
    (void)state;
    struct protobuf_reader reader =
        protobuf_reader("\x0d\x01\x02\x03\x04\x11\x01\x02\x03\x04\x05\x06\x07\x08\x08\x07", 16);
    struct protobuf_field field;
    assert_true(protobuf_next(&reader, &field) && field.field == 0);
    assert_true(protobuf_next(&reader, &field) && field.field == 0);
    assert_true(protobuf_next(&reader, &field) && field.field == 1 && field.number == 7);
}

static void what_is_no_message_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        size_t count;
    } rows[] = {{"\x08", 1},
                {"\x12\x05"
                 "abc",
                 5},
                {"\x0f\x01", 2},
                {"\x0d\x01", 2},
                {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 11},
                {"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct protobuf_reader reader = protobuf_reader(rows[i].data, rows[i].count);
        struct protobuf_field field;
        while (protobuf_next(&reader, &field))
            ;
        assert_true(reader.broken);
    }
}

static void random_bytes_do_no_harm(void **state)
{
    (void)state;
    struct chance chance = {3};
    for (unsigned round = 0; round < 20000; round++) {
        size_t count = chance_next(&chance) % 64;
        unsigned char *data = malloc(count + 1); /* to its end, for sanitizers */
        for (size_t i = 0; i < count; i++)
            data[i] = (unsigned char)chance_next(&chance);
        struct protobuf_reader reader = protobuf_reader(data, count);
        struct protobuf_field field;
        for (size_t fields = 0; protobuf_next(&reader, &field); fields++) {
            assert_true(fields < count);
            if (field.is_bytes)
                assert_true(field.data >= data && field.data + field.count <= data + count);
        }
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_guides_examples_are_written), cmocka_unit_test(zero_is_left_out_and_minus_one_is_long),
        cmocka_unit_test(what_is_written_is_read),         cmocka_unit_test(fixed_fields_are_skipped),
        cmocka_unit_test(what_is_no_message_is_told),      cmocka_unit_test(random_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
