/* Deferred free in C++, as programs would write it: a guard for sections, objects that are published and retired,
 * with destructors that run after the grace period, and nodes of a list that is read without a lock.
 *
 * Written in: include/slabmalloc.h ("C and C++ can include it"). What operator new has given may be retired as well:
 * any pointer that free takes. */
#include "epochs.h"

#include <atomic>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

class section
{
  public:
    section() { slab_epoch_enter(); }
    ~section() { slab_epoch_leave(); }
    section(const section &) = delete;
    section &operator=(const section &) = delete;
};

static std::atomic<unsigned> destroyed;

struct settings : slab_epoch_head {
    std::string name;
    unsigned number;

    explicit settings(unsigned number)
        : slab_epoch_head(), name("a name that does not fit into the string itself " + std::to_string(number)),
          number(number)
    {
    }
    ~settings() { destroyed++; }
    bool whole() const { return name == "a name that does not fit into the string itself " + std::to_string(number); }
};

/* `delete` after a grace period. */
static void retire(settings *old)
{
    slab_epoch_call(old, [](slab_epoch_head *head) { delete static_cast<settings *>(head); });
}

static void published_objects(const char *)
{
    constexpr unsigned versions = 3000;
    std::atomic<settings *> current{new settings(0)};
    std::atomic<bool> over{false};
    std::vector<std::thread> readers;
    for (unsigned i = 0; i < 2; i++)
        readers.emplace_back([&] {
            while (!over) {
                section inside;
                require(current.load()->whole());
            }
        });
    for (unsigned i = 1; i <= versions; i++)
        retire(current.exchange(new settings(i)));
    over = true;
    for (std::thread &reader : readers)
        reader.join();
    retire(current.exchange(nullptr));
    slab_epoch_barrier();
    require(destroyed == versions + 1);
}

/* Nodes without a destructor: their memory is all that is retired. */
struct node {
    std::atomic<node *> next;
    uint64_t key, check;
};

static void nodes_of_a_list(const char *)
{
    constexpr unsigned rounds = 300, length = 50;
    std::atomic<node *> first{nullptr};
    std::atomic<bool> over{false};
    std::thread reader([&] {
        while (!over) {
            section inside;
            for (const node *at = first; at != nullptr; at = at->next)
                require(at->check == ~at->key);
        }
    });
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t key = 0; key < length; key++)
            first = new node{{first.load()}, key, ~key};
        std::vector<void *> old;
        for (node *at = first.exchange(nullptr); at != nullptr; at = at->next)
            old.push_back(at);
        slab_free_deferred_bulk(old.size(), old.data());
    }
    over = true;
    reader.join();
    slab_epoch_barrier();
    require_nothing_waits();
}

struct deferred_free {
    void operator()(void *object) const { slab_free_deferred(object); }
};

/* All that new gives: plain, arrays, aligned, large. */
static void what_new_gives(const char *)
{
    struct alignas(256) aligned {
        char bytes[300];
    };
    parked reader;
    park_outside(&reader);
    for (unsigned i = 0; i < 1000; i++) {
        std::unique_ptr<long, deferred_free> one(new long(1));
        std::unique_ptr<char, deferred_free> many(new char[5000]), large(new char[200000]);
        std::unique_ptr<aligned, deferred_free> odd(new aligned);
        require(is_aligned(odd.get(), 256));
    }
    slab_epoch_barrier();
    require_nothing_waits();
    unpark(&reader);
}

int main(int argc, char **argv)
{
    static const epoch_scenario scenarios[] = {
        {"published_objects", published_objects, nullptr},
        {"nodes_of_a_list", nodes_of_a_list, nullptr},
        {"what_new_gives", what_new_gives, nullptr},
    };
    return run_epoch_scenarios("deferred free in C++", scenarios, COUNT(scenarios), argc, argv);
}
