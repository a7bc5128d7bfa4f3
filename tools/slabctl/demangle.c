/* libstdc++ demangles, where it is installed: it is on nearly every machine, and building slabctl does not need
 * C++. The rest here cuts. */
#include "demangle.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "message.h"

/* __cxa_demangle of C++'s ABI. */
typedef char *demangler(const char *name, char *buffer, size_t *length, int *status);

static demangler *demangler_of_cxx(void)
{
    static demangler *found;
    static bool looked;
    if (!looked) {
        void *library = dlopen("libstdc++.so.6", RTLD_NOW);
        found = library ? (demangler *)dlsym(library, "__cxa_demangle") : NULL;
        looked = true;
    }
    return found;
}

enum { NAME_MOST = 4096, REFERENCES_FEW = 20 };
static const size_t MEMORY_MORE = (size_t)16 << 20;

/* A name that refers to parts of itself may double its length with each reference. So where there are many the memory
 * that this process may take is bounded meanwhile; without memory there is no demangled name. */
static char *demangle_bounded(demangler *call, const char *name)
{
    unsigned long data = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%*u %*u %*u %*u %*u %lu", &data) != 1) // NOLINT(cert-err34-c)
        data = 0;
    if (file)
        fclose(file);
    struct rlimit old, limit;
    if (!data || getrlimit(RLIMIT_DATA, &old) != 0)
        return NULL;
    limit = old;
    limit.rlim_cur = data * (size_t)sysconf(_SC_PAGESIZE) + MEMORY_MORE;
    if (limit.rlim_cur > old.rlim_cur || setrlimit(RLIMIT_DATA, &limit) != 0)
        return NULL;
    char *found = call(name, NULL, NULL, NULL);
    setrlimit(RLIMIT_DATA, &old);
    return found;
}

static char *copy(const char *name)
{
    size_t bytes = strnlen(name, NAME_MOST);
    char *new = memory(NULL, bytes + 1, 1);
    memcpy(new, name, bytes);
    new[bytes] = '\0';
    return new;
}

/* Rust's older names end in "::h" and sixteen digits. */
static void rust_hash_cut(char *name)
{
    enum { HASH = 16 };
    size_t length = strlen(name);
    if (length <= HASH + 3 || strncmp(name + length - HASH - 3, "::h", 3) != 0)
        return;
    if (strspn(name + length - HASH, "0123456789abcdef") == HASH)
        name[length - HASH - 3] = '\0';
}

char *demangle(const char *name)
{
    size_t length = strnlen(name, NAME_MOST + 1);
    demangler *call = strncmp(name, "_Z", 2) == 0 && length <= NAME_MOST ? demangler_of_cxx() : NULL;
    if (!call)
        return copy(name);
    unsigned references = 0;
    for (const char *c = name; *c; c++)
        references += (*c == 'S' || *c == 'T') && (c[1] == '_' || isalnum((unsigned char)c[1]));
    char *found = references > REFERENCES_FEW ? demangle_bounded(call, name) : call(name, NULL, NULL, NULL);
    if (!found)
        return copy(name);
    if (strlen(found) > NAME_MOST)
        found[NAME_MOST] = '\0';
    rust_hash_cut(found);
    return found;
}

/* -- shorter names -------------------------------------------------------------------------------------------- */

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* How many characters of an operator's name stand here: its < and ( open nothing. */
static size_t operator_at(const char *name, const char *at)
{
    static const char *const symbols[] = {"()", "<<=", "<=>", "<<", "<=", "<", ">>=", ">>", ">=", ">", "->*", "->"};
    if (!starts(at, "operator") || (at > name && (isalnum((unsigned char)at[-1]) || at[-1] == '_')))
        return 0;
    size_t word = strlen("operator");
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (starts(at + word, symbols[i]))
            return word + strlen(symbols[i]);
    return word;
}

/* What is in brackets, with them; less if they are not closed. */
static size_t bracket_length(const char *at)
{
    char open = *at, close = open == '(' ? ')' : '>';
    size_t depth = 0, i = 0;
    for (; at[i]; i++) {
        depth += at[i] == open;
        if (at[i] == close && !(i && at[i - 1] == '-') && --depth == 0)
            return i + 1;
    }
    return i;
}

/* Appends to `out`, of which `used` bytes are in use. */
static void add(char *out, size_t room, size_t *used, const char *text, size_t count)
{
    if (count > room - *used)
        count = room - *used;
    memcpy(out + *used, text, count);
    *used += count;
}

/* Without parameters, and with or without what is between < and >. Returns how long it is, or the room. */
static size_t name_write(const char *name, char *out, size_t room, bool templates)
{
    size_t used = 0;
    for (const char *at = name; *at;) {
        if (starts(at, " [clone"))
            break;
        size_t operator= operator_at(name, at);
        if (operator) {
            add(out, room, &used, at, operator);
            at += operator;
        } else if (starts(at, "(anonymous namespace)") || starts(at, "{lambda(")) {
            const char *shown = *at == '{' ? "{lambda}" : "(anonymous namespace)";
            add(out, room, &used, shown, strlen(shown));
            const char *end = *at == '{' ? strchr(at, '}') : at + strlen(shown) - 1;
            at = end ? end + 1 : at + strlen(at);
        } else if (*at == '(') {
            at += bracket_length(at);
            if (starts(at, " const"))
                at += strlen(" const");
        } else if (*at == '<' && !templates) {
            add(out, room, &used, "<>", 2);
            at += bracket_length(at);
        } else {
            add(out, room, &used, at++, 1);
        }
    }
    return used;
}

/* The return type of a template's instance stands before its name. */
static const char *without_return_type(const char *name)
{
    const char *start = name;
    int depth = 0;
    for (const char *at = name; *at && (*at != '(' || depth || starts(at, "(anonymous")); at++) {
        if (!depth && operator_at(name, at))
            break;
        depth += (*at == '<' || *at == '(' || *at == '{') - (*at == '>' || *at == ')' || *at == '}');
        if (*at == ' ' && depth == 0)
            start = at + 1;
    }
    return start;
}

void name_shorten(const char *name, char *out, size_t width)
{
    bool is_cxx = (strchr(name, '(') || strchr(name, '<')) && strcmp(name, "(no stack)") != 0;
    const char *start = is_cxx ? without_return_type(name) : name;
    char text[NAME_MOST + 1];
    size_t used = is_cxx ? name_write(start, text, NAME_MOST, true) : 0;
    if (is_cxx && used > width)
        used = name_write(start, text, NAME_MOST, false);
    if (!is_cxx)
        add(text, NAME_MOST, &used, start, strlen(start));
    if (used > width) {
        used = width;
        for (size_t i = 1; i <= 2 && i < used; i++)
            text[used - i] = '.';
    }
    memcpy(out, text, used);
    out[used] = '\0';
}
