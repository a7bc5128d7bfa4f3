/* A plug-in for test_tables_reload.c: a function with a frame of ROOM bytes that calls another. Builds differ in that
 * number alone. */
void reloaded_call(void (*function)(void));

void reloaded_call(void (*function)(void))
{
    volatile char room[ROOM];
    room[0] = 1;
    function();
    room[ROOM - 1] = room[0];
}
