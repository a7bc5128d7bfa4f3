/* A program with known call stacks, whose objects are sampled by sampler.c. It says what is live and what was
 * allocated where, and then does what it reads, a word a line: "grow" makes more objects in one place, "free" frees
 * those of another, "off" switches sampling off, "lose" says that some were lost. After each it says "done". */
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "sampler.h"

#define KEEP __attribute__((noinline, noclone))

namespace store
{
template <typename Key, typename Value> struct table {
    std::vector<uint64_t> objects;
    KEEP void insert(size_t bytes);
    KEEP void fill(size_t count, size_t bytes);
};

static volatile int sink;

static inline __attribute__((always_inline)) uint64_t inlined_malloc(size_t bytes)
{
    uint64_t object = sampler_malloc(bytes);
    sink = 1;
    return object;
}

template <typename Key, typename Value> void table<Key, Value>::insert(size_t bytes)
{
    objects.push_back(inlined_malloc(bytes));
    sink = 2;
}

template <typename Key, typename Value> void table<Key, Value>::fill(size_t count, size_t bytes)
{
    for (size_t i = 0; i < count; i++)
        insert(bytes);
    sink = 3;
}
} // namespace store

static volatile int done;

extern "C" {
KEEP uint64_t buffer_new(size_t bytes)
{
    uint64_t object = sampler_malloc(bytes);
    done = 1;
    return object;
}

/* Different words on the stack in each call, of which some look like code: the frames are the same. */
KEEP uint64_t session_open(size_t bytes, int round)
{
    void *volatile words[16] = {};
    words[round % 16] = round % 3 ? reinterpret_cast<void *>(&buffer_new) : const_cast<void **>(&words[round % 7]);
    uint64_t object = buffer_new(bytes);
    done = words[3] != nullptr;
    return object;
}

KEEP uint64_t huge_new(size_t bytes)
{
    uint64_t object = sampler_malloc(bytes);
    done = 2;
    return object;
}

KEEP uint64_t rarely_new(size_t bytes)
{
    uint64_t object = sampler_malloc(bytes);
    done = 3;
    return object;
}

/* A stack that is longer than what is kept of it. */
KEEP uint64_t deep(int depth)
{
    volatile char room[512];
    room[0] = static_cast<char>(depth);
    uint64_t object = depth ? deep(depth - 1) : rarely_new(100000);
    done = room[0];
    return object;
}
}

static std::map<std::string, std::pair<double, double>> truth; /* live, allocated */
static std::vector<uint64_t> sessions;

static void note(const char *where, double live, double allocated)
{
    truth[where].first += live;
    truth[where].second += allocated;
}

static void tell()
{
    for (auto &row : truth)
        std::printf("%s %.0f %.0f\n", row.first.c_str(), row.second.first, row.second.second);
    std::puts("done");
    std::fflush(stdout);
}

static void open_sessions(int count)
{
    for (int i = 0; i < count; i++)
        sessions.push_back(session_open(3000, i));
    note("buffer_new", count * 3000.0, count * 3000.0);
}

int main(int argc, char **argv)
{
    sampler_start(argc > 1 ? std::stoul(argv[1]) : 65536, argc > 2 ? std::stoul(argv[2]) : 1,
                  __builtin_frame_address(0));
    store::table<std::string, std::vector<std::pair<int, std::string>>> table;
    table.fill(200000, 48);
    note("inlined_malloc", 200000.0 * 48, 200000.0 * 48);
    open_sessions(2000);
    sampler_cache = 1;
    for (int i = 0; i < 3; i++)
        huge_new(10 << 20);
    sampler_cache = 0;
    note("huge_new", 3.0 * (10 << 20), 3.0 * (10 << 20));
    for (int i = 0; i < 20; i++)
        deep(100);
    note("rarely_new", 20 * 100000.0, 20 * 100000.0);
    tell();
    for (char line[64]; std::fgets(line, sizeof line, stdin);) {
        if (std::strcmp(line, "grow\n") == 0) {
            open_sessions(500);
        } else if (std::strcmp(line, "free\n") == 0) {
            for (uint64_t object : table.objects)
                sampler_free(object);
            table.objects.clear();
            note("inlined_malloc", -200000.0 * 48, 0);
        } else if (std::strcmp(line, "off\n") == 0) {
            sampler_off();
        } else if (std::strcmp(line, "lose\n") == 0) {
            sampler_lose(7, 11);
        }
        tell();
    }
    return 0;
}
